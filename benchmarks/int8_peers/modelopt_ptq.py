"""nvidia-modelopt's PTQ, in build/modelopt-venv: it pins an older onnx and onnxruntime than ours."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path
from typing import Literal

from int8_peers.terms import Quantiser, Unavailable

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements-modelopt.txt"
ENVIRONMENT = HERE.parents[1] / "build" / "modelopt-venv"
PYTHON = ENVIRONMENT / "bin" / "python"


def modelopt(method: Literal["entropy", "max"], around: Literal["fp32", "fp16"]) -> Quantiser:
    """`method` of calibration (entropy is its default), `around`: what is not INT8 (fp16 is its default)."""

    def quantiser(plain: Path, frames: Path, target: Path) -> None:
        _make_environment()
        partial = target.with_name(f"partial-{target.name}")
        _run(PYTHON, HERE / "quantize_modelopt.py", plain, frames, partial, method, around)
        partial.rename(target)

    return quantiser


def _make_environment() -> None:
    """Install `REQUIREMENTS`, unless what is there was finished and is of the same."""
    ready = ENVIRONMENT / "ready"
    if ready.exists() and ready.read_bytes() == REQUIREMENTS.read_bytes():
        return
    try:
        venv.create(ENVIRONMENT, clear=True, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise Unavailable(f"{ENVIRONMENT} cannot be made: {exc}") from exc
    install = (PYTHON, "-m", "pip", "install", "--quiet")
    _run(*install, "--constraint", REQUIREMENTS, "torch")
    _run(*install, "--no-deps", "--requirement", REQUIREMENTS)
    ready.write_bytes(REQUIREMENTS.read_bytes())


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        raise Unavailable(said[-1])
