"""The device side installed alone into empty environments: what comes with it, what it asks for, that it works then."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from device_environment import clean, copy_source, make_environment

from refinenet_edge.frames.images import read_image

MAY_COME = {
    *("refinenet-edge", "numpy", "click", "rich", "markdown-it-py", "mdurl", "pygments"),
    *("cuda-bindings", "cuda-pathfinder", "nvidia-cuda-nvrtc", "opencv-python-headless"),
    *("pip", "setuptools"),  # a new environment has them
}
MEMORY = 100_000  # kB, at the peak

IMPORT = r"""
import pathlib
import refinenet_edge.runtime
# not ru_maxrss: that is inherited from the process that started this one
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
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
NVRTC = """
from refinenet_edge.runtime.cuda_bindings import Nvrtc
from refinenet_edge.runtime.kernels.device import compile_kernels

print(compile_kernels(Nvrtc(), "head.cu", ("LOGIT=Half",), "sm_87")[0][:4])
"""


def python_310() -> str:
    """JetPack 6's Python, where this machine has one; else this one, which is near enough."""
    names = [*Path.home().glob(".pyenv/versions/3.10.*/bin/python"), shutil.which("python3.10")]
    works = (str(name) for name in names if name and not subprocess.run([name, "-c", ""]).returncode)
    return next(works, sys.executable)


@dataclass(frozen=True)
class Environment:
    """An empty environment after `pip install .[device]`; `listed` is what came then."""

    python: Path
    listed: frozenset[str]

    def call(self, *command: str | Path, code: int = 0, path: str | Path = "") -> str:
        """What a Python command line prints, on both streams together; it ends with `code`."""
        env = {**clean(), "COLUMNS": "300", "PYTHONPATH": str(path)}
        done = subprocess.run([self.python, *command], capture_output=True, text=True, env=env, cwd=self.python.parent)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        return done.stdout + done.stderr

    def edge(self, *words: str | Path, code: int = 0, path: str | Path = "") -> str:
        """The same of `refinenet-edge`."""
        return self.call("-m", "refinenet_edge.cli", *words, code=code, path=path)


def make(
    factory: pytest.TempPathFactory, name: str, python: str = sys.executable, pins: Sequence[str] = ()
) -> Environment:
    """The environment `name`, which the first worker that asks for it makes: none of them changes it."""
    place = factory.getbasetemp()
    folder = (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        own, packages = folder / "env" / "bin" / "python", folder / "packages.json"
        if not packages.exists():
            shutil.rmtree(folder, ignore_errors=True)  # another worker died while it made it
            make_environment(folder, python, pins)
            packages.write_text(
                subprocess.check_output([own, "-m", "pip", "list", "--format", "json"], text=True, env=clean())
            )
    return Environment(own, frozenset(package["name"].lower() for package in json.loads(packages.read_text())))


def copied(there: Environment, folder: Path) -> Environment:
    """An environment of one's own, to install into: the files are shared until one is replaced."""
    shutil.copytree(there.python.parents[1], folder, symlinks=True, copy_function=os.link)
    return Environment(folder / "bin" / "python", there.listed)


@pytest.fixture(scope="module")
def desktop(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return make(tmp_path_factory, "desktop")


@pytest.fixture(scope="module")
def jetpack_6(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What a Jetson with JetPack 6 has: Python 3.10, numpy 1 and OpenCV 4.8."""
    return make(tmp_path_factory, "jetpack6", python_310(), ("numpy<2", "opencv-python-headless==4.8.*"))


def test_nothing_heavy_comes_along(desktop: Environment) -> None:
    assert desktop.listed <= MAY_COME


def test_the_runtime_imports_in_little_memory(desktop: Environment) -> None:
    assert int(desktop.call("-W", "error", "-c", IMPORT)) < MEMORY


def test_the_commands_of_a_device_are_there(desktop: Environment) -> None:
    command = desktop.python.with_name("refinenet-edge")
    assert "overlay and" in subprocess.check_output([command, "run", "--help"], text=True, env=clean())
    assert "plan" in desktop.edge("plan", "--help")


def test_a_type_checker_finds_the_types(desktop: Environment) -> None:
    package = desktop.call("-c", "import refinenet_edge; print(refinenet_edge.__path__[0])").strip()
    assert Path(package, "py.typed").is_file()


def test_a_frame_is_segmented(desktop: Environment) -> None:
    assert desktop.call("-W", "error", "-c", SEGMENT).split() == ["1", "0", "(50,", "70,", "3)"]


def test_the_kernels_are_compiled(desktop: Environment) -> None:
    assert desktop.call("-c", NVRTC).strip() == repr(b"\x7fELF")


@pytest.mark.parametrize("name", ["desktop", "jetpack_6"])
def test_a_bundle_runs_after_what_the_message_asks_for(
    request: pytest.FixtureRequest, name: str, mobile_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    there = copied(request.getfixturevalue(name), tmp_path / "env")
    run = ("run", mobile_bundle, photos, "--out", tmp_path / "out")
    asked = re.search("pip (install .+)", there.edge(*run, code=3))
    assert asked
    assert "no backend works" in there.edge("doctor", code=1)
    assert "rf_lw_mbv2" in there.edge("inspect", mobile_bundle)
    there.call("-m", "pip", *shlex.split(asked[1]), "--quiet", "--disable-pip-version-check")
    assert "2 of 2 images segmented" in there.edge(*run)
    assert read_image(tmp_path / "out" / "a_overlay.jpg").shape == (50, 70, 3)
    for backend in ("openvino", "onnxruntime"):
        there.edge(*run, "--backend", backend)
    assert "wrong" not in there.edge("doctor")


def test_jetpack_6_has_numpy_1(jetpack_6: Environment) -> None:
    versions = jetpack_6.call("-c", "import sys, numpy, cv2; print(numpy.__version__, cv2.__version__)")
    assert re.fullmatch(r"1\.26\.\d+ 4\.8\.\d+\n", versions)


def test_an_opencv_of_numpy_1_under_numpy_2_says_which_fix(
    jetpack_6: Environment, mobile_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    newer = tmp_path / "newer"
    jetpack_6.call("-m", "pip", "install", "--quiet", "--target", newer, "numpy==2.2.*")
    run = ("run", mobile_bundle, photos, "--out", tmp_path)
    (line,) = jetpack_6.edge(*run, code=3, path=newer).splitlines()
    assert line.startswith("error: OpenCV does not import (ImportError: numpy.core.multiarray failed to import): ")
    assert line.endswith(": pip install 'numpy<2'")
    (finding,) = (line for line in jetpack_6.edge("doctor", code=1, path=newer).splitlines() if "OpenCV" in line)
    assert "pip install 'numpy<2'" in finding


def test_an_install_without_a_compiler_says_so_on_the_terminal(tmp_path: Path) -> None:
    """pip shows nothing of what a build prints, unless it fails."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--wheel-dir",
        tmp_path,
        copy_source(tmp_path / "src"),
    ]
    child, terminal = pty.fork()
    if not child:
        os.environ.update(clean() | {"CC": "false", "CXX": "false"})
        os.execv(sys.executable, command)
    said = bytearray()
    with contextlib.suppress(OSError):  # how a terminal that was left ends
        while part := os.read(terminal, 4096):
            said += part
    assert os.waitpid(child, 0)[1] == 0, said
    assert said.count(b"THE C++ PARTS WERE NOT BUILT") == 1
    assert b"sudo apt install python3-dev g++" in said
    (wheel,) = tmp_path.glob("*.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]
