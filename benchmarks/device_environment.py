"""An empty environment with the device side in it: what `pip install .[device]` brings, and OpenCV.

On a Jetson OpenCV and TensorRT come with JetPack; here opencv-python-headless stands in, and there is no TensorRT.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
PACKAGE = "refinenet_edge"


def make_environment(folder: Path) -> Path:
    """A virtual environment in `folder`, of the Python that runs this; the path of its own Python."""
    root, source = Path(__file__).parents[1], folder / "source"
    # a copy: a build in the checkout would take in what an earlier one left there
    shutil.copytree(root / PACKAGE, source / PACKAGE, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in PROJECT:
        shutil.copy(root / name, source / name)
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    python = folder / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    install += ["--constraint", root / "constraints.txt"]
    subprocess.run([*install, f"{source}[device]", "opencv-python-headless"], check=True, env=clean())
    return python


def clean() -> dict[str, str]:
    """The environment variables, without what would let Python see more than is installed."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
