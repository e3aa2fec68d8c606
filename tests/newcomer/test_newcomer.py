"""From a bare Debian with Python to an overlay of one's own photo and one's own model (`make newcomer`).

What is typed are README's lines, three to the photo and two to the model; apt's packages are unpacked, not installed.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import onnx_model, weights
from tests.debian import BUILD, Debian

pytestmark = pytest.mark.newcomer

CHECKOUT = Path(__file__).parents[2]
README = (CHECKOUT / "README.md").read_text("utf-8")
# apt needs libstdc++6, so every Debian has it
BARE = (
    "bash",
    "coreutils",
    "python3",
    "ca-certificates",
    "sed",
    "grep",
    "findutils",
    "tar",
    "gzip",
    "libc-bin",
    "libstdc++6",
)
DEBIAN = Debian(BUILD / "newcomer", "amd64")
PHOTO = CHECKOUT / "refinenet_edge/photos/people"
SIZE = (64, 96)


def line(start: str) -> str:
    """The one line of README's code that begins so."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
    (found,) = {each for each in blocks.splitlines() if each.startswith(start)}
    return found.partition("#")[0].strip()


@pytest.fixture(scope="module")
def home() -> Path:
    """The folder that the newcomer works in, with a photo and a model of theirs."""
    wanted = [word for word in shlex.split(line("sudo apt install git"))[3:] if not word.startswith("-")]
    DEBIAN.install([*BARE, *wanted])
    if reason := DEBIAN.missing():
        pytest.fail(reason)
    shutil.rmtree(DEBIAN.work)
    DEBIAN.work.mkdir()
    subprocess.run(["git", "clone", "-q", "--bare", CHECKOUT, DEBIAN.work / "published.git"], check=True)
    body = """
        a = Conv<pads = [1, 1, 1, 1]>(x, k0) b = Relu(a) y = Conv<pads = [1, 1, 1, 1]>(b, k1)
    """
    kernels = {"k0": weights(8, 3, 3, 3) / np.float32(5), "k1": weights(4, 8, 3, 3) / np.float32(8)}
    shape = f"{SIZE[0]},{SIZE[1]}"
    model = onnx_model(body, f"float[1,3,{shape}] x", f"float[1,4,{shape}] y", **kernels)
    (DEBIAN.work / "model.onnx").write_bytes(model.SerializeToString())
    shutil.copy(next(PHOTO.glob("*.jpg")), DEBIAN.work / "photo.jpg")
    return DEBIAN.work


def typed(*lines: str) -> str:
    """What the lines say one after the other; each must succeed."""
    done = DEBIAN.run("-c", "\n".join(["set -e", "sudo() { :; }", *lines]))
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "Traceback" not in done.stdout
    return done.stdout


def overlay(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture


def test_from_a_clone_to_an_overlay_of_ones_own_photo_in_three_commands(home: Path) -> None:
    clone = line("git clone").replace(" URL ", " /work/published.git ")
    mine = line(".venv/bin/refinenet-edge run").replace("photo.jpg", "../photo.jpg")
    said = typed(line("sudo apt install git"), clone, line("make demo"), mine)
    folder = home / "refinenet_edge" / shlex.split(mine)[-1]
    assert overlay(folder / "photo_overlay.jpg").shape == overlay(home / "photo.jpg").shape
    labels = cv2.imread(str(folder / "photo_labels.png"), cv2.IMREAD_UNCHANGED)
    assert len(np.unique(labels)) > 2  # a person is seen
    assert "1 of 1 images segmented" in said
    assert len(list((home / "refinenet_edge/demo-out/people").glob("*_overlay.jpg"))) >= 3


def test_to_ones_own_model_in_two_more(home: Path) -> None:
    build = ".venv/bin/" + line("build-engine --onnx").replace("model.onnx", "../model.onnx")
    folder = shlex.split(build)[-1]
    run = f".venv/bin/refinenet-edge run {folder} ../photo.jpg --out theirs"
    typed("cd refinenet_edge", build, run)
    assert overlay(home / "refinenet_edge/theirs/photo_overlay.jpg").size
