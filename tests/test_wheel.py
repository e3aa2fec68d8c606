"""What `make wheel` puts into dist/: what is inside, and that it works where there is no compiler."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from device_environment import clean

from refinenet_edge import __version__
from tests.test_empty_environment import SEGMENT

pytestmark = pytest.mark.wheel

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "refinenet_edge"
HEAD = "from refinenet_edge.runtime.head import implementation; print(implementation())"


@pytest.fixture(scope="module")
def wheel() -> Path:
    (path,) = (ROOT / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sdist() -> Path:
    (path,) = (ROOT / "dist").glob("*.tar.gz")
    return path


def packed() -> set[str]:
    """Every file of the package that belongs into it."""
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in files if path.suffix not in (".so", ".pyc")}


def test_the_wheel_is_of_this_version_and_for_many_linuxes(wheel: Path) -> None:
    assert wheel.name.startswith(f"refinenet_edge-{__version__}-cp{sys.version_info[0]}{sys.version_info[1]}-")
    assert "manylinux" in wheel.name and wheel.name.endswith("_x86_64.whl")


def test_the_wheel_has_the_package_with_its_head_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {
            name
            for name in archive.namelist()
            if name[-1] != "/" and not name.startswith(f"refinenet_edge-{__version__}.dist-info/")
        }
    heads = {name for name in names if name.endswith(".so")}
    assert len(heads) == 1
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
