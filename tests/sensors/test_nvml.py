from __future__ import annotations

import pynvml
import pytest

from refinenet_edge.sensors.nvml import THROTTLES, Gpu
from tests.sensors.fake_nvml import Nvml


def test_another_bus_id_is_no_gpu(nvml: Nvml) -> None:
    with pytest.raises(OSError, match="nvmlDeviceGetHandleByPciBusId: Not Found"):
        Gpu("0000:01:00.0")


def test_the_reasons_are_those_of_the_bindings() -> None:
    bits = {getattr(pynvml, f"nvmlClocksEventReason{name}") for name in THROTTLES}
    assert bits == {0x4, 0x8, 0x20, 0x40, 0x80}
