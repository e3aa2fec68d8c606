"""NVML as the driver of a GPU would have it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pynvml
import pytest

from tests.sensors.fake_nvml import CALLS, Nvml


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nvml]:
    made = Nvml()
    for call in CALLS:
        fake = getattr(made, call)
        assert list(inspect.signature(getattr(pynvml, call)).parameters) == list(inspect.signature(fake).parameters)
        monkeypatch.setattr(pynvml, call, fake)
    yield made
    assert made.open == 0, "NVML is open still"
