"""The device side installed alone into an empty environment: what comes with it, and that it works there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from device_environment import clean, make_environment

MAY_COME = {
    *("refinenet-edge", "numpy", "click", "rich", "markdown-it-py", "mdurl", "pygments"),
    *("cuda-bindings", "cuda-pathfinder", "opencv-python-headless"),
    *("pip", "setuptools"),  # a new environment has them
}
MEMORY = 100_000  # kB, at the peak

IMPORT = r"""
import refinenet_edge.runtime
# not ru_maxrss: that is inherited from the process that started this one
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
print(status["VmHWM"].removesuffix(" kB"))
"""
SEGMENT = """
import numpy as np
from refinenet_edge.records import FrameSpec, Labels, TensorSpec
from refinenet_edge.runtime import FakeSession, Segmenter

logits = np.stack([np.zeros((8, 8)), np.eye(8)])[None].astype(np.float32)
ends = (TensorSpec("image", "float32", (1, 3, 32, 32)),), (TensorSpec("logits", "float32", (1, 2, 8, 8)),)
labels = Labels("two", ("a", "b"), ((0, 0, 0), (255, 0, 0)))
with Segmenter.from_session(FakeSession(lambda feeds: {"logits": logits}, *ends), FrameSpec((32, 32)), labels) as s:
    frame = np.zeros((50, 70, 3), np.uint8)
    mask = s.segment(frame)
    print(mask.labels[0, 0], mask.labels[0, -1], mask.overlay(frame).shape)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("device"))


def output(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=clean(), cwd=Path(command[0]).parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_heavy_comes_along(python: Path) -> None:
    listed = json.loads(output(python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"))
    assert {package["name"].lower() for package in listed} <= MAY_COME


def test_the_runtime_imports_in_little_memory(python: Path) -> None:
    assert int(output(python, "-W", "error", "-c", IMPORT)) < MEMORY


def test_the_commands_of_a_device_are_there(python: Path) -> None:
    command = python.with_name("refinenet-edge")
    assert "overlay and" in output(command, "run", "--help")
    assert "plan" in output(command, "--help")


def test_a_frame_is_segmented(python: Path) -> None:
    assert output(python, "-W", "error", "-c", SEGMENT).split() == ["1", "0", "(50,", "70,", "3)"]


def test_what_is_missing_is_named(python: Path, mobile_bundle: Path, photos: Path, tmp_path: Path) -> None:
    command = [python.with_name("refinenet-edge"), "run", mobile_bundle, photos, "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, env=clean())
    assert done.returncode == 2
    assert "pip install 'refinenet-edge[cpu]'" in done.stderr
