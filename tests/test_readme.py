"""The README's command lines are typed: each does what the README says it does, here or in the test that is named.

Networks are smaller here than in the README, and run on the CPU; `SMALLER` has what is typed instead.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

from refinenet_edge.bundle import open_bundle
from refinenet_edge.frames.images import write_image
from refinenet_edge.scenes import scene
from tests.conftest import onnx_model, weights
from tests.evaluation import data
from tests.ports import lw_shapes, random_state

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BEFORE, JETSON, AFTER = re.split(r"^## (?:On a Jetson|Read on)\n", README, flags=re.MULTILINE)
BLOCKS = re.findall(r"```bash\n(.*?)```", BEFORE, re.DOTALL)  # those of a Jetson are typed by tests/arm, in qemu
LINES = [
    line
    for block in BLOCKS
    for text in re.sub(r"\\\n +", "", block).splitlines()
    if (line := text.partition(" #")[0].rstrip()) and not line.startswith("#")
]
SMALLER = {"512x352": "64x96", "512x512": "64x64", "tensorrt-rtx": "openvino", "demo": "demo --port 0"}

# where the other lines are typed, and why not here
ELSEWHERE = {
    "sudo apt install git make python3-venv": "tests/newcomer",  # a bare Debian
    "git clone URL refinenet_edge && cd refinenet_edge": "tests/newcomer",
    "make demo": "tests/newcomer",  # minutes
    ".venv/bin/refinenet-edge run engines/people photo.jpg --legend --out mine": "tests/newcomer",
    ".venv/bin/refinenet-edge demo": "tests/test_readme.py",  # further down without the folder
    "make test": "Makefile",  # this is it
    "pip install '.[cpu,demo]'": "tests/test_wheel.py",  # environments of their own
    "pip install '.[cpu,demo,export]'": "Makefile",
    # half a gigabyte; that test has such files for all data sets and both depths
    "build-engine --checkpoint refinenet_res101_voc2012.mat --labels voc --out engines/voc101": "tests/model",
}
HERE = [line for line in LINES if line not in ELSEWHERE]
TYPED = ("build-engine ", "refinenet-edge ")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README's user has: photos, a checkpoint, an ONNX file, VOC; and then `said` of each line."""
    home = tmp_path_factory.mktemp("home")
    (home / "photos").mkdir()
    for number in range(2):
        write_image(home / f"photos/{number}.png", scene(5, number, (64, 96))[0])
    torch.save(random_state(lw_shapes(50, 21)), home / "rf_lw50_voc.pth.tar")
    data.voc(home / "VOC2012")
    body = "a = Conv<pads = [1, 1, 1, 1]>(x, k0) b = Relu(a) y = Conv<pads = [1, 1, 1, 1]>(b, k1)"
    kernels = {"k0": weights(8, 3, 3, 3) / np.float32(5), "k1": weights(4, 8, 3, 3) / np.float32(8)}
    onnx.save(onnx_model(body, "float[1,3,64,96] x", "float[1,4,64,96] y", **kernels), home / "model.onnx")
    return home


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}


def typed(line: str) -> str:
    for word, small in SMALLER.items():
        line = re.sub(rf"(?<=[ ]){word}(?= |$)", small, line)
    return line


@pytest.fixture(scope="module")
def said(home: Path) -> dict[str, str]:
    """The lines that end by themselves, one after the other as the README has them, and what each said."""
    outputs = {}
    for line in HERE:
        if not line.endswith(" demo"):
            done = subprocess.run(
                ["bash", "-c", typed(line)], cwd=home, env=environment(), capture_output=True, text=True, timeout=240
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            assert "Traceback" not in done.stderr
            outputs[line] = done.stdout + done.stderr
    return outputs


def test_every_line_is_typed_somewhere() -> None:
    assert set(ELSEWHERE) <= set(LINES)
    assert len(HERE) >= 7
    assert all(line.startswith(TYPED) for line in HERE)
    newcomer = (ROOT / "tests/newcomer/test_newcomer.py").read_text("utf-8")
    for line, place in ELSEWHERE.items():
        assert (ROOT / place).exists()
        if place == "tests/newcomer":
            starts = re.findall(r'line\("([^"]+)"\)', newcomer)
            assert any(line.startswith(start) for start in starts), line
    assert 'r"## On a Jetson\\n' in (ROOT / "tests/arm/test_arm.py").read_text("utf-8")
    assert JETSON.count("```bash") == 1 and "```bash" not in AFTER


def test_they_leave_what_they_are_for(home: Path, said: dict[str, str]) -> None:
    people, voc50, theirs = (open_bundle(home / "engines" / name) for name in ("people", "voc50", "theirs"))
    assert people.manifest.labels.name == "people"
    assert (voc50.manifest.labels.name, voc50.manifest.precision) == ("voc", "fp16")
    assert len(theirs.manifest.labels.names) == 4
    (overlays,) = {line for line in said if line.startswith("refinenet-edge run engines/people")}
    assert "2 of 2 images segmented" in said[overlays]
    assert cv2.imread(str(home / "overlays/0_overlay.jpg")).shape == (64, 96, 3)
    (scores,) = (text for line, text in said.items() if line.startswith("refinenet-edge eval"))
    assert re.search(rf"mIoU \d+\.\d\d %, .*, {data.COUNT} of {data.COUNT} samples on", scores), scores


def test_the_demo_shows_pictures_until_it_is_interrupted(home: Path) -> None:
    (line,) = (line for line in HERE if line.endswith(" demo"))
    words = typed(line).split()
    demo = subprocess.Popen(
        words, cwd=home, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert demo.stdout
        read = []
        for text in demo.stdout:
            read.append(text)
            if address := re.search(r"http://\S+", text):
                break
        assert address, read
        with urllib.request.urlopen(address[0] + "stream", timeout=60) as stream:
            assert b"image/jpeg" in stream.read(2000)
        demo.send_signal(signal.SIGINT)
        rest, _ = demo.communicate(timeout=60)
    finally:
        demo.kill()
    assert demo.returncode == 0, rest
    assert "frames in" in rest and "Traceback" not in rest
