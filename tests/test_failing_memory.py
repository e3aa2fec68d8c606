"""Each large allocation, and each write to a file, fails once: the old or the new is there, whole, with one error.

Both are made to fail below Python, in a library that the process is started with (memory.c), so that those of OpenCV,
numpy and ONNX Runtime are among them. Here a few of each command's, all of them in `make chaos` (`EACH=1`).
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from refinenet_edge.cli import main
from refinenet_edge.frames.images import write_image
from refinenet_edge.frames.video import VideoFile
from tests.demo.fakes import write_video
from tests.runtime.tinynet import tiny
from tests.test_failing_writes import COMMANDS, typed

SOURCE = Path(__file__).with_name("memory.c")
FEW = 8
LARGE = (640, 640)  # pixels: more than a megabyte of them
KINDS = ("allocations", "writes")
LINES = {
    "build": "build --onnx net.onnx --backend onnxruntime --out net",
    "calibrate": "calibrate net --frames photos --out r.ranges.json",
    "batch": "batch net photos --out labels",
    "run": "run net photos --out masks",
    "record": "demo net --source drive.avi --frames 4 --rate full --view none --record r.mp4",
}
WRONG = ("Traceback", "terminate called")
DECODING = "in decode_image"  # OpenCV's PNG decoder does not look at what malloc returns


def tried(line: str, kind: int, at: int) -> dict[str, Any]:
    """What becomes of `line` where step `at` of a kind fails; in a fork, as no library is to have been used before."""
    steps = ctypes.CDLL(None)
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as count:
        if not (child := os.fork()):
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            faulthandler.enable(2)
            signal.alarm(60)
            code = 70
            steps.fail_at(kind, ctypes.c_long(at))
            try:
                main(shlex.split(line))
            except SystemExit as exc:
                code = int(exc.code or 0)
            except BaseException:
                traceback.print_exc()
            seen = steps.steps(kind)
            steps.fail_at(kind, ctypes.c_long(0))
            sys.stdout.flush()
            sys.stderr.flush()
            os.pwrite(count.fileno(), str(seen).encode(), 0)
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        text = os.pread(said.fileno(), 1 << 20, 0).decode(errors="replace")
        return {"at": at, "code": code, "seen": int(os.pread(count.fileno(), 20, 0) or 0), "said": text}


def plays(path: Path) -> None:
    """What came before the failure is a whole recording, too."""
    with contextlib.closing(VideoFile(path)) as video:
        assert video.count()


def tried_all(name: str, kind: int, most: int) -> list[dict[str, Any]]:
    """`tried` at up to `most` steps of what writes, with what is wrong with what lies there afterwards."""
    line, (_, out, read) = LINES[name], COMMANDS[name]
    read = plays if name == "record" else read
    folder = Path.cwd()
    clean = sorted(folder.rglob("*"))

    def once(at: int) -> dict[str, Any]:
        if name == "batch":  # or there is nothing to do
            for path in (folder / out).glob("**/*.png"):
                path.unlink()
        found = tried(line, kind, at)
        try:
            read(folder / out)
        except Exception as exc:
            found["said"] += f"Traceback: {out} is not whole: {exc}"
        left = sorted(folder.rglob("*"))
        if (name != "batch" or not found["code"]) and [p for p in left if ".partial" not in p.name] != clean:
            found["said"] += f"Traceback: {sorted(set(left) ^ set(clean))}"
        return found

    steps = int(once(0)["seen"])
    chosen = sorted({1 + index * steps // most for index in range(most)}) if steps > most else range(1, steps + 1)
    return [once(at) for at in chosen]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (compiler := shutil.which("gcc")):
        pytest.skip("needs gcc")
    made = tmp_path_factory.mktemp("library") / "memory.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", made, SOURCE, "-ldl"], check=True)
    return made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    onnx.save(tiny("float32", (512, 512)), "net.onnx")
    write_video(Path("drive.avi"), range(0, 40, 10))
    for index in range(2):
        picture = np.random.default_rng(index).integers(0, 255, (*LARGE, 3), np.uint8)
        write_image(Path("photos", f"{index}.png"), picture)
    return tmp_path / "work"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LINES)
def test_each_fails_once(name: str, kind: str, library: Path, folder: Path) -> None:
    for line in dict.fromkeys((LINES["build"], LINES[name])):
        done = typed(line)
        assert done.exit_code == 0, done.output
    program = [sys.executable, "-m", "tests.test_failing_memory", name, str(KINDS.index(kind))]
    root = Path(__file__).parents[1]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    env = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(root), **threads}
    done_ = subprocess.run(program, env=env, capture_output=True, text=True, check=False, timeout=1200)
    assert done_.returncode == 0, done_.stderr
    found = json.loads(done_.stdout)
    assert len(found) > 1
    for each in found:
        assert not [wrong for wrong in WRONG if wrong in each["said"]], each
        if each["code"] == -signal.SIGSEGV and DECODING in each["said"]:
            continue
        assert each["code"] in (0, 2, 4), each
        errors = [text for text in each["said"].splitlines() if text.startswith("error: ")]
        assert len(errors) == bool(each["code"]), each
    assert any(each["code"] for each in found), "nothing was made to fail"
    assert typed(LINES[name]).exit_code == 0


if __name__ == "__main__":
    json.dump(tried_all(sys.argv[1], int(sys.argv[2]), 10**6 if os.environ.get("EACH") else FEW), sys.stdout)
