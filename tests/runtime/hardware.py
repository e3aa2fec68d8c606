"""What a test on real hardware needs."""

from __future__ import annotations

import importlib.util

import pytest

from refinenet_edge.runtime import backends
from refinenet_edge.runtime.libraries import MODULES


def need(backend: str) -> None:
    """Skip without `backend`, or a GPU that it is made for; one that is installed and does not work is a failure."""
    module = MODULES[backend]
    if reason := backends.gpu_problem():
        pytest.skip(f"{backend} needs an NVIDIA GPU: {reason}")
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    if reason := backends.available()[backend]:
        (pytest.skip if "this GPU is" in reason else pytest.fail)(reason)
