"""What sensors gave -> a `Reading`: watts and joules, temperatures, clocks, throttling.

Energy is the difference of a counter where there is one, the integral of watts otherwise, and only of what was read
from the beginning to the end. Which rails carry the whole of a Jetson:

    VDD_IN    Orin Nano and NX: the module (labels: the kernel's tegra234-p3767.dtsi; NVIDIA's forum, topic 200883)
    VIN       Thor: module and carrier board (NVIDIA's forum, topic 366461)
    VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0
              AGX Orin: the module; the last one also feeds VDDQ_VDD2_1V8AO (tegra234-p3701.dtsi; energymon's
              JetsonPowerRails.md, which has it from NVIDIA's forum, topic 223111)
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refinenet_edge.sensors.discovery import GPU, Kind, Sensor

TOTAL_POWER_RAILS = (("VIN",), ("VDD_IN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))
CPU_PACKAGE = re.compile(r"package-\d+")


@dataclass(frozen=True)
class Reading:
    """What sensors gave in `seconds`. Each mapping: sensor -> figure."""

    seconds: float
    watts: Mapping[str, float]  # mean of each rail
    joules: float | None  # of all of the device that computes, None: no rails are known to carry that
    celsius: Mapping[str, float]  # the highest
    mhz: Mapping[str, tuple[float, float]]  # lowest and highest
    throttled: tuple[str, ...] | None  # reasons given, () for none, None: the machine cannot say

    @property
    def mean_watts(self) -> float | None:
        """Mean watts of the device that computes; None: not known."""
        return None if self.joules is None else self.joules / self.seconds


def reading_of(sensors: Sequence[Sensor], first: float, last: float, rails: Sequence[str]) -> Reading | None:
    """The reading from `first` to `last` (seconds), where `rails` carry the device; None: no sensor gave anything."""

    def values(kind: Kind) -> dict[str, list[Any]]:
        return {s.name: [value for _, value in s.samples] for s in sensors if s.kind == kind and s.samples}

    watts, joules = _power(sensors, first, last)
    celsius = {name: max(degrees) for name, degrees in values("celsius").items()}
    mhz = {name: (min(clocks), max(clocks)) for name, clocks in values("mhz").items()}
    reasons = [given for throttle in values("throttled").values() for given in throttle]
    if not (watts or celsius or mhz or reasons):
        return None
    energy = sum(joules[name] for name in rails) if rails and set(rails) <= set(joules) else None
    throttled = tuple(sorted(frozenset().union(*reasons))) if reasons else None
    return Reading(last - first, watts, energy, celsius, mhz, throttled)


def total_power_rails(sensors: Sequence[Sensor], jetson: bool, on_gpu: bool) -> tuple[str, ...]:
    """The rails that together carry the device that computes; empty: not known."""
    rails = [sensor.name for sensor in sensors if sensor.kind in ("joules", "watts")]
    if jetson:
        return next((names for names in TOTAL_POWER_RAILS if set(names) <= set(rails)), ())
    return (GPU,) if on_gpu else tuple(name for name in rails if CPU_PACKAGE.fullmatch(name))


def _power(sensors: Sequence[Sensor], first: float, last: float) -> tuple[dict[str, float], dict[str, float]]:
    """Rail -> mean watts while it was read; rail -> joules, of those read from `first` to `last`."""
    watts: dict[str, float] = {}
    joules: dict[str, float] = {}
    for rail in sensors:
        energy = _energy(rail)
        if energy is None or rail.name in joules:
            continue
        begun, ended = rail.samples[0][0], rail.samples[-1][0]
        whole = (begun, ended) == (first, last)
        if whole:
            joules[rail.name] = energy
        if whole or rail.name not in watts:
            watts[rail.name] = energy / (ended - begun)
    return watts, joules


def _energy(sensor: Sensor) -> float | None:
    """Joules from the first to the last sample of a rail; None: it is none, was read once, or its counter fell."""
    if sensor.kind not in ("joules", "watts") or len(sensor.samples) < 2:
        return None
    times, values = np.array(sensor.samples).T
    if sensor.kind == "watts":
        return float(np.sum(np.diff(times) * (values[1:] + values[:-1]) / 2))
    steps = np.diff(values)
    if sensor.wraps is not None:
        steps[steps < 0] += sensor.wraps
    return float(steps.sum()) if np.all(steps >= 0) else None
