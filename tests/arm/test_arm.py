"""The device side on ARM64 (`make arm`): README's Jetson lines as they stand, and the same results as here."""

from __future__ import annotations

import re
import shlex
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from device_environment import copy_source

from refinenet_edge import __version__
from refinenet_edge.build import build
from refinenet_edge.evaluation.masks import read_mask
from refinenet_edge.frames.images import read_image, write_image
from refinenet_edge.recipe import Recipe
from refinenet_edge.runtime import Segmenter
from refinenet_edge.scenes import VALIDATION, scene
from tests.arm import exact
from tests.debian import BUILD, NEEDS, QEMU, Debian

pytestmark = pytest.mark.arm

CHECKOUT = Path(__file__).parents[2]
README = (CHECKOUT / "README.md").read_text("utf-8")
LINES = re.search(r"## On a Jetson\n.*?```bash\n(.*?)```", README, re.DOTALL)[1].splitlines()  # type: ignore[index]
JETPACK = ("bash", "coreutils", "python3", "python3-opencv")  # what is there before the first line
SIZE = (64, 96)
ARM = Debian(BUILD / "arm", "arm64")
WORK = ARM.work
WHEELS = {"PIP_FIND_LINKS": "/work/dist"}

# the exit code of each line, and what it says: JetPack is Debian here, so there is no TensorRT
EXPECTED = {
    "sudo apt": (0, ""),
    "/usr/bin/python3 -m venv": (0, ""),
    "pip install": (0, "Successfully installed .*refinenet-edge"),
    "refinenet-edge doctor": (1, r"ok .*Linux aarch64, Python 3\.11(?s:.*)ok .*cv2 4\.6(?s:.*)ok .*by C\+\+"),
    "refinenet-edge plan": (3, "tensorrt .*JetPack"),
    "refinenet-edge run": (3, r"onnxruntime is not installed: pip install 'refinenet-edge\[cpu\]'"),
}


@pytest.fixture(scope="module")
def said() -> list[tuple[str, int, str]]:
    """README's lines, each with its exit code and what it said, in a Debian where nothing of ours was before."""
    assert Path(QEMU).exists(), NEEDS
    wanted = [word for line in LINES if line.startswith("sudo apt") for word in shlex.split(line, comments=True)[3:]]
    ARM.install([*JETPACK, *(word for word in wanted if not word.startswith("-"))])
    if reason := ARM.missing():
        pytest.fail(reason)
    shutil.rmtree(WORK)
    shutil.rmtree(ARM.root / "root/.cache/pip/wheels", ignore_errors=True)  # an earlier one of ours
    (WORK / "dist").mkdir(parents=True)
    source = copy_source(WORK / "source")
    with tarfile.open(WORK / f"dist/refinenet_edge-{__version__}.tar.gz", "w:gz") as sdist:
        sdist.add(source, f"refinenet_edge-{__version__}")
    build(Recipe(str(WORK / "engines/voc50"), "rf_lw_mbv2", "scenes", size=SIZE, backend="onnxruntime"))
    (WORK / "photos").mkdir()
    for number in range(2):
        write_image(WORK / f"photos/{number}.png", scene(VALIDATION, number, SIZE)[0])
    script = ["sudo() { :; }"]  # apt's packages are unpacked
    script += [f"echo '>>>'; {line}\ncode=$?; echo; echo \"<<< $code\"" for line in LINES]
    (WORK / "lines.sh").write_text("\n".join(script) + "\n")
    output = ARM.run("lines.sh", **WHEELS).stdout
    print(output)
    parts = re.findall(r">>>\n(.*?)\n<<< (\d+)\n", output, re.DOTALL)
    return [(line, int(code), text) for line, (text, code) in zip(LINES, parts, strict=True)]


@pytest.mark.parametrize("number", range(len(LINES)), ids=lambda number: LINES[number].split("#")[0].strip())
def test_a_line_of_the_readme(said: list[tuple[str, int, str]], number: int) -> None:
    line, code, text = said[number]
    (expected,) = (found for start, found in EXPECTED.items() if line.startswith(start))
    assert code == expected[0], text
    assert re.search(expected[1], text), text
    assert "Traceback" not in text


def arm(command: str) -> str:
    """What `command` says in the environment that README's lines made; it must succeed."""
    done = ARM.run("-c", f"set -e; . .venv/bin/activate; {command}", **WHEELS)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_its_opencv_and_numpy_are_the_systems(said: object) -> None:
    found = arm('python -c "import cv2, numpy; print(cv2.__file__, numpy.__file__, numpy.__version__)"').split()
    assert found[0].startswith("/usr/lib/python3/dist-packages/")
    assert found[1].startswith("/usr/lib/python3/dist-packages/")
    assert found[2].startswith("1.24.")


def test_exact_results_are_the_same_bits(said: object) -> None:
    exact.main(WORK / "exact.npz")
    arm("pip install --quiet pytest")
    shutil.copytree(CHECKOUT / "tests", WORK / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    text = arm("python -m tests.arm.exact exact.npz")
    assert re.search(r"(\d{2,}) of \1 results are the same bits on aarch64", text)


def test_a_bundle_runs_on_onnx_runtime_after_what_its_message_asks_for(said: list[tuple[str, int, str]]) -> None:
    asked = re.search("pip install .*", said[-1][2])
    assert asked
    arm(asked[0])
    run = next(line for line in LINES if line.startswith("refinenet-edge run"))
    assert "2 of 2 images segmented" in arm(run)
    assert "by C++" in arm("refinenet-edge doctor")
    with Segmenter(WORK / "engines/voc50", "onnxruntime") as segmenter:
        for number in range(2):
            here = segmenter.segment(read_image(WORK / f"photos/{number}.png")).labels
            there = read_mask(WORK / f"overlays/{number}_labels.png")
            assert np.mean(here == there) > 0.999  # the network's sums are in another order there
