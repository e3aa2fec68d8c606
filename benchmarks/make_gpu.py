"""What `make gpu` does: doctor, the tests' contracts on this GPU, the measurements, and a list of how each ended.

    python benchmarks/make_gpu.py    -> benchmarks/results/<device>/: doctor.txt, tests.xml, frame_to_labels.json, and
                                        gpu_kernels.json where torch has CUDA

Each goes on whatever became of the others. It ends with 1 when something failed, or when nothing was tested.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as Tree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from machine import folder_of, gpu

ROOT = Path(__file__).parents[1]
DOCTOR, TESTS, TIMES, KERNELS = "doctor.txt", "tests.xml", "frame_to_labels.json", "gpu_kernels.json"
Line = tuple[str, str]  # "passed", "failed" or "skipped", and what


def tested(results: Path) -> Iterator[Line]:
    """How the tests ended, by the JUnit file that pytest wrote."""
    if not results.exists():
        yield "failed", "the tests did not run to their end: see above"
        return
    cases = list(Tree.parse(results).iter("testcase"))
    skipped = Counter(found.get("message", "") for case in cases for found in case.findall("skipped"))
    failed = [(case, found) for case in cases for kind in ("failure", "error") for found in case.findall(kind)]
    passed = len(cases) - sum(skipped.values()) - len({id(case) for case, _ in failed})
    yield ("passed" if passed else "failed"), f"{passed} of {len(cases)} tests"
    for case, found in failed:
        reason = found.get("message", "").partition("\n")[0]
        yield "failed", f"{case.get('classname')}::{case.get('name')}: {reason}"
    for reason, count in skipped.items():
        yield "skipped", f"{count} tests: {reason}"


def timed(results: Path) -> Iterator[Line]:
    """How the measurements ended."""
    if not results.exists():
        yield "failed", "nothing was measured: see above"
        return
    for run in json.loads(results.read_text("utf-8"))["runs"]:
        if "error" in run:
            yield "failed", f"{run['backend']}: {run['error']}"
        else:
            yield "passed", f"{run['backend']} {run['engine']}: {run['ms']['p50']:.2f} ms a frame of {run['frame']}"


def beside_torch(results: Path) -> Iterator[Line]:
    """How the kernels' measurement ended."""
    if not results.exists():
        yield "skipped", "the kernels beside torch's operators: see above"
        return
    for case in json.loads(results.read_text("utf-8"))["cases"]:
        took = case["contenders"]["ours"]["us"][1]
        yield "passed", f"{case['kernel']}, {case.get('logits', case.get('input'))}, {case['frame']}: {took:.1f} us"


def main() -> None:
    folder = folder_of(gpu()["name"])
    folder.mkdir(parents=True, exist_ok=True)
    for name in (TESTS, TIMES, KERNELS):
        (folder / name).unlink(missing_ok=True)
    python = [sys.executable, "-m"]
    with (folder / DOCTOR).open("w") as said:
        wide = {**os.environ, "COLUMNS": "200"}
        subprocess.run([*python, "refinenet_edge.cli", "doctor"], cwd=ROOT, stdout=said, stderr=said, env=wide)
    print((folder / DOCTOR).read_text(), flush=True)
    # the others need packages that a device may not have
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    subprocess.run([*python, "pytest", "-m", "gpu", f"--junitxml={folder / TESTS}", *files], cwd=ROOT)
    subprocess.run([sys.executable, ROOT / "benchmarks/on_gpu.py", "--out", folder / TIMES], cwd=ROOT)
    subprocess.run([sys.executable, ROOT / "benchmarks/gpu_kernels.py", "--out", folder / KERNELS], cwd=ROOT)
    lines = [*tested(folder / TESTS), *timed(folder / TIMES), *beside_torch(folder / KERNELS)]
    print(f"\nmake gpu on {folder.name}:")
    print("\n".join(f"  {state:8}{what}" for state, what in lines))
    print(f"Send us {os.path.relpath(folder)}: {', '.join(path.name for path in sorted(folder.iterdir()))}")
    sys.exit(any(state == "failed" for state, _ in lines))


if __name__ == "__main__":
    main()
