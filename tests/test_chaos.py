"""kill -9 at random points of what writes: the old or the new is there, whole, the next run works and leaves no litter.

`make chaos` makes `KILLS` of them for each command, and lets every write fail where a file may not grow.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import pytest

from refinenet_edge.bench.record import read_run
from refinenet_edge.bundle import open_bundle
from refinenet_edge.calibration.ranges import read_ranges
from refinenet_edge.frames.images import read_image
from tests.conftest import onnx_model, weights
from tests.demo.fakes import write_video

pytestmark = pytest.mark.chaos

KILLS = int(os.environ.get("KILLS", "40"))
LONGEST = 300  # seconds that a command may take
MAIN = (sys.executable, "-m", "refinenet_edge.cli")


@dataclass(frozen=True)
class Command:
    """What writes `out`; `check` raises where it is not whole, and is asked only where it is there."""

    line: str
    out: str
    check: Callable[[Path], object]


def plays(path: Path) -> None:
    video = cv2.VideoCapture(str(path))
    assert video.read()[0], f"{path} does not play"
    video.release()


def labelled(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        read_image(path)


def counted(folder: Path) -> None:
    if (whole := folder / "coco.json").exists():
        assert len(json.loads(whole.read_bytes())["images"]) == 6
    for path in folder.rglob("*.coco.json"):
        assert len(json.loads(path.read_bytes())["images"]) == 1


BUILD = "build --onnx net.onnx --size 32x48 --backend onnxruntime --output net"
BENCH = "bench net --brief --rounds 2 --frames scenes:1:1 --out r.json"
RECORD = "demo net --source scenes:1:9 --frames 9 --rate full --view none --record r.webm"
IN_PIECES = "demo net --source drive.avi --frames 60 --rate full --view none --record r.mp4"  # three, in two files
COMMANDS = {
    "build": Command(BUILD, "net", open_bundle),
    "calibrate": Command("calibrate net --frames scenes:1:3 --out r.ranges.json", "r.ranges.json", read_ranges),
    "bench": Command(BENCH, "r.json", read_run),
    "batch": Command("batch net scenes:1:6 --out labels", "labels", labelled),
    "batch coco": Command("batch net scenes:1:6 --out labels --format coco", "labels", counted),
    "record": Command(RECORD, "r.webm", plays),
    "record in pieces": Command(IN_PIECES, "r.mp4", plays),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small network and a bundle of it."""
    import onnx

    folder = tmp_path_factory.mktemp("chaos")
    body = "a = Conv<strides=[4, 4]>(x, w) y = Relu(a)"
    model = onnx_model(body, "float[1,3,32,48] x", "float[1,4,8,12] y", w=weights(4, 3, 4, 4))
    onnx.save(model, folder / "net.onnx")
    write_video(folder / "drive.avi", range(0, 240, 4))
    assert run(folder, COMMANDS["build"]).returncode == 0
    return folder


def run(
    folder: Path, command: Command, seconds: float | None = None, largest: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it, killed after `seconds`, with no file longer than `largest` bytes."""

    def limit() -> None:
        if largest is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    started = subprocess.Popen(
        (*MAIN, *command.line.split()),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
    )
    try:
        out, err = started.communicate(timeout=LONGEST if seconds is None else seconds)
    except subprocess.TimeoutExpired:
        started.kill()
        out, err = started.communicate()
    return subprocess.CompletedProcess(command.line, started.returncode, out, err)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_leaves_the_old_or_the_new(name: str, place: Path, tmp_path: Path) -> None:
    command, draw = COMMANDS[name], random.Random(name)
    shutil.copytree(place, tmp_path / "work")
    folder = tmp_path / "work"
    killed = 0
    duration, clean = whole(folder, command), names(folder)
    for _ in range(3 * KILLS):  # some end before they are killed
        if name.startswith("batch"):  # it goes on where it was: from the beginning, too
            shutil.rmtree(folder / command.out)
        done = run(folder, command, seconds=draw.uniform(0, duration))
        killed += done.returncode == -signal.SIGKILL
        if (folder / command.out).exists():
            command.check(folder / command.out)
        else:
            assert name.startswith("batch"), f"{command.out} is gone; {done.stderr}"
        duration = whole(folder, command)
        command.check(folder / command.out)
        assert names(folder) == clean, "a kill left something"
        if killed == KILLS:
            return
    pytest.fail(f"{killed} of {KILLS} kills came before the command's end")


def whole(folder: Path, command: Command) -> float:
    """Run it to its end: the seconds that it takes on this machine, now."""
    started = time.monotonic()
    done = run(folder, command)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - started


@pytest.mark.parametrize("largest", [0, 300, 4096])
@pytest.mark.parametrize("name", [name for name in COMMANDS if not name.startswith("record")])
def test_a_write_that_fails_leaves_what_was_there(name: str, largest: int, place: Path, tmp_path: Path) -> None:
    command, folder = COMMANDS[name], tmp_path / "work"
    shutil.copytree(place, folder)
    assert run(folder, command).returncode == 0
    clean = names(folder)
    done = run(folder, command, largest=largest)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 2)
    command.check(folder / command.out)
    assert names(folder) == clean
