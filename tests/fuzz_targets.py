"""The parsers of files from outside, and a process of their own in which they read: what crashes it ends that process.

`python -m tests.fuzz_targets` is that process: it takes a target and a path in JSON, a line each, and answers what it
raised, or "".
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import safetensors.torch
import torch

from refinenet_edge import dla
from refinenet_edge.bench import read_suite
from refinenet_edge.bench.record import read_run
from refinenet_edge.bundle import MANIFEST, MODEL, open_bundle, write_bundle
from refinenet_edge.calibration.ranges import read_ranges
from refinenet_edge.cli.screen import Screen, harms_table, manifest_table
from refinenet_edge.errors import RefineNetEdgeError
from refinenet_edge.estimate import estimate
from refinenet_edge.estimate.devices import read_devices
from refinenet_edge.evaluation.masks import read_mask
from refinenet_edge.frames.images import read_image
from refinenet_edge.labels import numbered, read_label_file
from refinenet_edge.model.checkpoint import load_checkpoint
from refinenet_edge.recipe import read_recipe
from refinenet_edge.records import Budget, FrameSpec, GraphCost, Harm, Manifest, Recipe, TensorSpec, to_json
from refinenet_edge.report import markdown
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.tensorrt.engine import read_header
from tests.report.made_up import run as made_up_run
from tests.runtime.tinynet import CLASSES, tiny

ROOT = Path(__file__).parents[1]
SECONDS, PATIENCE = 10, 120  # of computing that one file may take; of waiting, on a machine that does other things
MEMORY, MOST = 1 << 20, 4 << 20  # KiB that one file may take; that it cannot take, whatever it asks for


@cache
def manifest() -> Manifest:
    harm = Harm(("layer [/]",), 0.5, True)
    budget = Budget("labels", 1.0, 2.0, 0.5, "scenes", "openvino", 3, 4, (harm,))
    return Manifest(
        *("tiny", "random", None, "fp32", "onnxruntime"),
        *((TensorSpec("image", "float32", (1, 3, 32, 48)),), (TensorSpec("logits", "float32", (1, CLASSES, 8, 12)),)),
        *(FrameSpec((32, 48)), numbered(CLASSES), {"fold": 1}, (), Recipe("engines/tiny", onnx="tiny.onnx"), "0"),
        traced_cost=GraphCost(10, 20, 3),
        budget=budget,
    )


def shown(path: Path) -> None:
    """A manifest, and everything that is printed of it."""
    folder = path.with_name("bundle")
    write_bundle(folder, manifest(), {MODEL: tiny("float32", (32, 48)).SerializeToString()})
    text = path.read_bytes()
    (folder / MANIFEST).write_bytes(text)
    found = open_bundle(folder).manifest
    screen = Screen()
    screen.file = io.StringIO()
    screen.print(manifest_table(found, str(path)))
    if found.budget:
        screen.print(harms_table(found.budget))


def judged(path: Path) -> None:
    """A graph, as dla-check and estimate see it."""
    folder = path.with_name("bundle")
    write_bundle(folder, manifest(), {MODEL: path.read_bytes()})
    dla.check(dla.read_graph(open_bundle(folder)))
    estimate(str(folder), "orin-nano")


def opened(path: Path) -> None:
    """A graph, as ONNX Runtime and OpenVINO open it."""
    folder = path.with_name("bundle")
    write_bundle(folder, manifest(), {MODEL: path.read_bytes()})
    for backend in ("onnxruntime", "openvino"):
        with contextlib.suppress(RefineNetEdgeError):
            Segmenter(folder, backend, threads=1).close()


def reported(path: Path) -> None:
    markdown([(str(path), read_run(path))])


def image(suffix: str) -> bytes:
    picture = np.random.default_rng(0).integers(0, 255, (9, 14, 3), dtype=np.uint8)
    return cv2.imencode(suffix, picture)[1].tobytes()


def torch_file(**options: Any) -> bytes:
    file = io.BytesIO()
    content = {"state_dict": {"conv.weight": torch.arange(8.0), "b": torch.ones(2)}, "best": np.float64(1), "n": [1]}
    torch.save(content, file, **options)
    return file.getvalue()


RANGES = {
    "key": dict.fromkeys(("graph", "weights", "frame", "frames", "method"), "x"),
    "source": "scenes",
    "count": 3,
    "tensors": {"a": {"amax": 1.5, "low": -1.0, "high": 2.0, "method": "minmax"}},
    "toolkit": "0",
}


@dataclass(frozen=True)
class Target:
    """A parser, what it takes, and how many inputs it costs another target: more where it starts a process for each."""

    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]
    suffix: str = ""
    cost: int = 1


TARGETS = {
    "recipe": Target(read_recipe, lambda: [(ROOT / "engines/scenes.toml").read_bytes()], ".toml"),
    "suite": Target(
        lambda path: read_suite(path, path.parent), lambda: [(ROOT / "benchmarks/suites/scenes.toml").read_bytes()]
    ),
    "device": Target(read_devices, lambda: [(ROOT / "refinenet_edge/estimate/devices.toml").read_bytes()], ".toml"),
    "labels": Target(read_label_file, lambda: [b"road\ncar #ff0000\n"]),
    "ranges": Target(read_ranges, lambda: [json.dumps(RANGES).encode()]),
    "result": Target(reported, lambda: [to_json(made_up_run()).encode()]),
    "manifest": Target(shown, lambda: [to_json(with_files()).encode()]),
    "graph": Target(judged, lambda: [tiny("float32", (32, 48)).SerializeToString()]),
    "graph to run": Target(opened, lambda: [tiny("float32", (32, 48)).SerializeToString()], cost=10),
    "checkpoint": Target(
        load_checkpoint,
        lambda: [
            torch_file(),
            torch_file(_use_new_zipfile_serialization=False),
            safetensors.torch.save({"a": torch.ones(3)}, {"format": "pt"}),
        ],
    ),
    "image": Target(read_image, lambda: [image(suffix) for suffix in (".png", ".bmp", ".jpg", ".webp")]),
    "mask": Target(read_mask, lambda: [cv2.imencode(".png", np.eye(9, dtype=np.uint8))[1].tobytes()]),
    "plan": Target(read_header, lambda: [b"ftrt" + bytes(20) + bytes([10, 3, 0, 1])]),
}


def _loop(path: Path) -> None:
    while True:
        pass


# what no file may do, to see that it is found
BROKEN: dict[str, Callable[[Path], object]] = {
    "crash": lambda path: os.kill(os.getpid(), signal.SIGSEGV),
    "loop": _loop,
    "loop in C": lambda path: sum(range(10**12)),
    "memory": lambda path: b"x" * (2048 * MEMORY),
    "all memory": lambda path: b"x" * (2048 * MOST),
    "error": lambda path: {}["missing"],
}


def with_files() -> Manifest:
    data = tiny("float32", (32, 48)).SerializeToString()
    return replace(manifest(), files={MODEL: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}})  # type: ignore[dict-item]


class Reader:
    """A process that reads files as targets do. It is started again where a file ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def read(self, target: str, path: Path, seconds: float = SECONDS) -> None:
        """Raise `AssertionError` unless `path` is read, or refused by an error of ours, in time and in memory."""
        process = self._process or self._start()
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps([target, str(path), seconds]) + "\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], PATIENCE)[0]:
            raise AssertionError(f"nothing was heard of its process for {PATIENCE} s: {self.close()}")
        if not (answer := process.stdout.readline()):
            said = self.close()
            raise AssertionError(f"its process ended with {process.returncode}: {said}")
        if said := json.loads(answer):
            raise AssertionError(said)

    def close(self) -> str:
        """End the process; the end of what it wrote to stderr."""
        if not self._process:
            return ""
        self._process.kill()
        self._process.communicate()
        self._process = None
        with self._errors:
            self._errors.seek(0)
            return self._errors.read()[-5000:]

    def _start(self) -> subprocess.Popen[str]:
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz_targets"],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == f"{json.dumps('')}\n", self.close()  # its libraries are loaded
        return self._process


def status(name: str) -> int:
    """What /proc says of this process in KiB: VmHWM, the most memory since it was asked to forget; VmData."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


def read_within_limits(target: str, path: Path, seconds: float) -> None:
    """Raise whatever is no error of ours, and where it took too long or too much."""

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    signal.signal(signal.SIGVTALRM, late)
    used = resource.getrusage(resource.RUSAGE_SELF)
    # a library that never comes back from C++ is ended by the system
    most = math.ceil(used.ru_utime + used.ru_stime + 2 * seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmHWM")
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        (BROKEN[target] if target in BROKEN else TARGETS[target].read)(path)
    except RefineNetEdgeError:
        pass
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    grown = status("VmHWM") - before
    assert grown < MEMORY, f"it took {grown} KiB"


def main() -> None:
    answers, sys.stdout = os.fdopen(os.dup(1), "w", buffering=1), sys.stderr  # whatever a library prints
    most = 1024 * (status("VmData") + MOST)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    warnings.simplefilter("error")
    answers.write(json.dumps("") + "\n")
    for line in sys.stdin:
        target, path, seconds = json.loads(line)
        try:
            read_within_limits(target, Path(path), seconds)
            said = ""
        except BaseException:
            said = traceback.format_exc()
        answers.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
