"""An empty environment with the device side in it: what `pip install .[device]` brings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
PACKAGE = "refinenet_edge"


def make_environment(folder: Path, python: str = sys.executable, pins: Sequence[str] = ()) -> Path:
    """A virtual environment of `python` in `folder`, with `pins` instead of constraints.txt; the path of its Python."""
    source = copy_source(folder / "source")
    subprocess.run([python, "-m", "venv", folder / "env"], check=True, env=clean())
    own = folder / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{source}[device]"]
    subprocess.run([*install, *(pins or ("--constraint", ROOT / "constraints.txt"))], check=True, env=clean())
    return own


def copy_source(folder: Path) -> Path:
    """What is installed from, in `folder`: a build in the checkout would take in what an earlier one left there."""
    shutil.copytree(ROOT / PACKAGE, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in PROJECT:
        shutil.copy(ROOT / name, folder / name)
    return folder


def clean() -> dict[str, str]:
    """The environment variables, without what would let Python see more than is installed."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
