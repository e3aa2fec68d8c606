"""Energy, heat and clocks of an NVIDIA GPU, from its driver by NVML (package nvidia-ml-py).

Not of a Jetson's GPU: there NVML answers "Not Supported".
"""

import contextlib
import importlib
from typing import Any, Literal

# what holds the clocks back; the other bits are idleness and clocks that somebody asked for
THROTTLES = ("SwPowerCap", "HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")


class Gpu:
    """The GPU at a PCI bus id, such as "0000:65:00.0". Everything raises `OSError` when the driver does not say."""

    def __init__(self, bus_id: str) -> None:
        try:
            self._nvml = importlib.import_module("pynvml")
        except ImportError as exc:
            raise OSError("pynvml is not installed: pip install 'refinenet-edge[power]'") from exc
        self._ask("nvmlInit")
        try:
            self._handle = self._ask("nvmlDeviceGetHandleByPciBusId", bus_id)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._ask("nvmlShutdown")

    def driver(self) -> str:
        return str(self._ask("nvmlSystemGetDriverVersion"))

    def limit(self) -> float:
        """Watts that it may draw."""
        return float(self._ask("nvmlDeviceGetEnforcedPowerLimit", self._handle)) / 1000

    def joules(self) -> float:
        """What it has drawn since the driver was loaded; since Volta."""
        return float(self._ask("nvmlDeviceGetTotalEnergyConsumption", self._handle)) / 1000

    def watts(self) -> float:
        """What it draws; since Ampere, except A100, averaged over the last second."""
        return float(self._ask("nvmlDeviceGetPowerUsage", self._handle)) / 1000

    def celsius(self) -> float:
        return float(self._ask("nvmlDeviceGetTemperature", self._handle, self._nvml.NVML_TEMPERATURE_GPU))

    def mhz(self, clock: Literal["SM", "MEM"]) -> float:
        return float(self._ask("nvmlDeviceGetClockInfo", self._handle, getattr(self._nvml, f"NVML_CLOCK_{clock}")))

    def throttled(self) -> frozenset[str]:
        """Which of `THROTTLES` hold the clocks back now."""
        bits = int(self._ask("nvmlDeviceGetCurrentClocksEventReasons", self._handle))
        return frozenset(name for name in THROTTLES if bits & getattr(self._nvml, f"nvmlClocksEventReason{name}"))

    def _ask(self, call: str, *args: Any) -> Any:
        try:
            return getattr(self._nvml, call)(*args)
        except (self._nvml.NVMLError, AttributeError) as exc:  # AttributeError: bindings that do not have the call
            raise OSError(f"{call}: {exc}") from exc
