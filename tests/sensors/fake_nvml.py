# ruff: noqa: N802, N803 - NVML's names
"""An H100 behind the functions of pynvml that are called: it says what it is told to."""

from __future__ import annotations

import pynvml

BUS_ID = "0000:65:00.0"


class Nvml:
    """Installed function by function into the real module, whose names, constants and errors are used."""

    def __init__(self) -> None:
        self.millijoules, self.milliwatts, self.sm, self.reasons, self.open = 5_000, 100_000, 1980, 0, 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByPciBusId(self, pciBusId: str) -> str:
        assert self.open > 0
        if pciBusId != BUS_ID:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return "handle"

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.65.06"

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:
        return 700_000

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return self.millijoules

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return self.milliwatts

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return {pynvml.NVML_TEMPERATURE_GPU: 61}[sensor]

    def nvmlDeviceGetClockInfo(self, handle: str, type: int) -> int:
        return {pynvml.NVML_CLOCK_SM: self.sm, pynvml.NVML_CLOCK_MEM: 2619}[type]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return self.reasons


CALLS = [name for name in vars(Nvml) if name.startswith("nvml")]


def fails(*args: object) -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
