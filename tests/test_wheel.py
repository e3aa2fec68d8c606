"""What `make wheel` puts into dist/: what is inside, and that it works where there is no compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from device_environment import clean

from refinenet_edge import __version__
from tests.arm import exact
from tests.debian import BUILD, NEEDS, QEMU, Debian
from tests.test_empty_environment import SEGMENT

pytestmark = pytest.mark.wheel

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "refinenet_edge"
HEAD = "from refinenet_edge.runtime.head import implementation; print(implementation())"


@pytest.fixture(scope="module")
def wheel() -> Path:
    (path,) = (ROOT / "dist").glob("*_x86_64.whl")
    return path


@pytest.fixture(scope="module")
def arm_wheel() -> Path:
    (path,) = (ROOT / "dist").glob("*_aarch64.whl")
    return path


@pytest.fixture(scope="module")
def sdist() -> Path:
    (path,) = (ROOT / "dist").glob("*.tar.gz")
    return path


def packed() -> set[str]:
    """Every file of the package that belongs into it."""
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in files if path.suffix not in (".so", ".pyc")}


@pytest.mark.parametrize("kind", ["wheel", "arm_wheel"])
def test_a_wheel_is_of_this_version_and_for_many_linuxes(kind: str, request: pytest.FixtureRequest) -> None:
    start = f"refinenet_edge-{__version__}-cp311-abi3-manylinux"  # JetPack 6's Ubuntu 22.04 has glibc 2.35
    name = request.getfixturevalue(kind).name
    assert name.startswith(start)
    assert max(int(minor) for minor in re.findall(r"manylinux_2_(\d+)_", name)) <= 35


@pytest.mark.parametrize("kind", ["wheel", "arm_wheel"])
def test_a_wheel_has_the_package_with_its_head_and_nothing_else(kind: str, request: pytest.FixtureRequest) -> None:
    with zipfile.ZipFile(request.getfixturevalue(kind)) as archive:
        names = {
            name
            for name in archive.namelist()
            if name[-1] != "/" and not name.startswith(f"refinenet_edge-{__version__}.dist-info/")
        }
    heads = {name for name in names if name.endswith(".so")}
    assert heads == {f"refinenet_edge/runtime/kernels/_{name}.abi3.so" for name in ("head", "histogram")}
    assert names - heads == packed()


def test_the_sdist_has_what_builds_it(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE"} <= names
    assert packed() <= names


@pytest.mark.parametrize(("kind", "head"), [("wheel", "c++"), ("sdist", "numpy")])
def test_it_works_in_an_empty_environment_without_a_compiler(
    kind: str, head: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The head comes with the wheel; the sdist, which cannot build it here, does the same in numpy."""
    file = request.getfixturevalue(kind)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True, env=clean())
    python = tmp_path / "env" / "bin" / "python"
    environment = clean() | {"PATH": str(python.parent), "CC": "no-compiler", "CXX": "no-compiler"}
    options = ["--quiet", "--disable-pip-version-check", "--no-cache-dir", "--constraint", ROOT / "constraints.txt"]
    install = [python, "-m", "pip", "install", *options, f"{file}[cpu]"]
    subprocess.run(install, check=True, env=environment, cwd=tmp_path)

    def said(code: str) -> str:
        command = [python, "-c", code]
        return subprocess.run(command, check=True, env=environment, cwd=tmp_path, capture_output=True, text=True).stdout

    assert head in said(HEAD)
    assert said(SEGMENT).split() == ["1", "0", "(50,", "70,", "3)"]
    command = [os.fspath(python.parent / "refinenet-edge"), "--version"]
    assert __version__ in subprocess.check_output(command, env=environment, text=True)


LOAD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("_head", sys.argv[1])
head = importlib.util.module_from_spec(spec)
spec.loader.exec_module(head)
try:
    head.fill(b"", 3, b"", b"", b"", b"", bytearray(2), 1)
except ValueError as exc:
    print(sys.version_info[1], exc)
"""


def test_later_pythons_take_the_head_of_the_wheel(wheel: Path, tmp_path: Path) -> None:
    minors = range(sys.version_info[1] + 1, 20)
    here = [path for minor in minors for path in Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python")]
    here += [Path(path) for minor in minors if (path := shutil.which(f"python3.{minor}"))]
    found = [python for python in here if not subprocess.run([python, "-c", ""], capture_output=True).returncode]
    if not found:
        pytest.skip("no later Python is here")
    with zipfile.ZipFile(wheel) as archive:
        head = archive.extract("refinenet_edge/runtime/kernels/_head.abi3.so", tmp_path)
    for python in found:
        said = subprocess.run([python, "-c", LOAD, head], capture_output=True, text=True, env=clean())
        assert said.stdout.endswith("logits, axes and labels do not fit together\n"), said.stderr


def test_the_wheel_for_arm64_in_qemu(arm_wheel: Path) -> None:
    """Installed where there is no compiler; its head makes the same bits there as here."""
    assert Path(QEMU).exists(), NEEDS
    arm = Debian(BUILD / "arm", "arm64")
    arm.install(("bash", "coreutils", "python3", "python3-venv", "python3-opencv", "g++"))  # `exact` compiles kernels
    if reason := arm.missing():
        pytest.fail(reason)
    work = arm.work / "wheel"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    shutil.copy(arm_wheel, work)
    shutil.copytree(ROOT / "tests", work / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    exact.main(work / "exact.npz")
    script = f"""set -e; cd wheel
        /usr/bin/python3 -m venv --system-site-packages env
        CC=none CXX=none env/bin/pip install --quiet "./{arm_wheel.name}[device]" pytest
        env/bin/python -c '{HEAD}'
        env/bin/python -m tests.arm.exact exact.npz"""
    done = arm.run("-c", script)
    assert done.returncode == 0, done.stdout
    assert "c++" in done.stdout
    assert re.search(r"(\d{2,}) of \1 results are the same bits on aarch64", done.stdout)
