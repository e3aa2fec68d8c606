"""The sensors of a machine: files below a root folder, and the driver of its GPU.

    NVML                              GPU: joules, watts, temperature, clocks, throttling
    class/hwmon, ina3221              Jetson's rails: in<n>_label, in<n>_input (mV), curr<n>_input (mA)
    class/hwmon, ina238               all that Jetson Thor draws: power1_input (µW)
    class/powercap/intel-rapl:*       CPU, Intel's and AMD's: energy_uj, which begins again at max_energy_range_uj
    class/thermal/thermal_zone*       type, temp (m°C); class/hwmon coretemp, k10temp: temp<n>_input (m°C)
    devices/system/cpu/cpufreq        scaling_cur_freq (kHz); class/devfreq, a Jetson's GPU: cur_freq (Hz)
    class/hwmon, soctherm_oc          oc<n>_event_cnt, how often a Jetson was throttled because of its supply
    class/thermal/cooling_device*     cur_state, above 0 where heat holds a clock back

The files are as the kernel documents them (hwmon/ina3221, hwmon/ina238, power/powercap, driver-api/thermal) and as
people posted those of their Jetsons; none was ever read from a Jetson by us.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from refinenet_edge.files import read_text
from refinenet_edge.jetson import GPU_CLOCK
from refinenet_edge.sensors.nvml import Gpu

GPU = "GPU"
CPU_HEAT = ("coretemp", "k10temp")
HOLDS_A_CLOCK = re.compile(r"(thermal-)?(cpufreq|devfreq)-.+|.+-throttle-alert|hot-surface-alert")
SWITCHED_OFF = -50.0  # °C: below are the values with which a Jetson says that a part has no power

Kind = Literal["joules", "watts", "celsius", "mhz", "throttled"]


@dataclass
class Sensor:
    """`read` gives joules, watts, °C or MHz, or the set of reasons that throttle; or `OSError` or `ValueError`."""

    name: str
    kind: Kind
    read: Callable[[], Any]
    wraps: float | None = None  # joules, of a counter that begins again at 0
    samples: list[tuple[float, Any]] = field(default_factory=list)  # seconds, value
    missed: int = 0
    why: str = ""  # of the first that was missed

    def sample(self, now: float) -> None:
        """Read it; one that cannot be read is counted."""
        try:
            self.samples.append((now, self.read()))
        except (OSError, ValueError) as exc:
            self.missed += 1
            self.why = self.why or _why(exc)

    def note(self) -> str | None:
        """How often it could not be read, and why; None: it always could."""
        if not self.missed:
            return None
        missing = f"missing {self.missed} of {self.missed + len(self.samples)} times" if self.samples else "absent"
        return f"{self.name} ({self.kind}) is {missing}: {self.why}"


def _why(exc: OSError | ValueError) -> str:
    if isinstance(exc, PermissionError):
        return f"{exc.filename} may not be read; until the next start: sudo chmod a+r {exc.filename}"
    if isinstance(exc, OSError) and exc.filename is not None:
        return f"{exc.filename}: {exc.strerror}"
    return str(exc)


def find_sensors(root: Path, gpu: Gpu | None) -> list[Sensor]:
    """All sensors of the machine; the second of a name and kind is called "acpitz 2"."""
    sensors = [*_gpu(gpu), *_rails(root), *_heat(root), *_clocks(root), *_throttles(root)]
    count: Counter[tuple[str, Kind]] = Counter()
    for sensor in sensors:
        count[key] = number = count[key := (sensor.name, sensor.kind)] + 1
        if number > 1:
            sensor.name = f"{sensor.name} {number}"
    return sensors


def _gpu(gpu: Gpu | None) -> Iterator[Sensor]:
    if gpu is not None:
        yield Sensor(GPU, "joules", gpu.joules)
        yield Sensor(GPU, "watts", gpu.watts)
        yield Sensor(GPU, "celsius", gpu.celsius)
        yield Sensor("GPU SM", "mhz", partial(gpu.mhz, "SM"))
        yield Sensor("GPU memory", "mhz", partial(gpu.mhz, "MEM"))
        yield Sensor(GPU, "throttled", gpu.throttled)


def _rails(root: Path) -> Iterator[Sensor]:
    for chip, name in _chips(root):
        if name == "ina3221":
            for path in sorted(chip.glob("in[123]_label")):
                label, channel = read_text(path), path.name[2]
                if label and label != "NC":  # not connected
                    read = partial(_watts, chip / f"in{channel}_input", chip / f"curr{channel}_input")
                    yield Sensor(label, "watts", read)
        elif name == "ina238":
            yield Sensor(read_text(chip / "label") or "VIN", "watts", partial(_scaled, chip / "power1_input", 1e6))
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        package = zone.with_name(":".join(zone.name.split(":")[:2]))
        parts = [read_text(folder / "name") or folder.name for folder in dict.fromkeys((package, zone))]
        try:
            wraps = _scaled(zone / "max_energy_range_uj", 1e6)
        except (OSError, ValueError):
            wraps = None
        yield Sensor(" ".join(parts), "joules", partial(_scaled, zone / "energy_uj", 1e6), wraps)


def _heat(root: Path) -> Iterator[Sensor]:
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        yield Sensor(read_text(zone / "type") or zone.name, "celsius", partial(_hottest, [zone / "temp"]))
    for chip, name in _chips(root):
        inputs = sorted(chip.glob("temp*_input"))
        if name in CPU_HEAT and inputs:
            yield Sensor(name, "celsius", partial(_hottest, inputs))


def _clocks(root: Path) -> Iterator[Sensor]:
    """The fastest of the CPU's clocks and of a Jetson's GPU's: an idle core's is no measure."""
    cores = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*/scaling_cur_freq"))
    if cores:
        yield Sensor("CPU", "mhz", partial(_highest, cores, 1e3))
    folders = sorted((root / "sys/class/devfreq").glob("*"))
    parts = [folder / "cur_freq" for folder in folders if GPU_CLOCK.fullmatch(folder.name)]
    if parts:
        yield Sensor(GPU, "mhz", partial(_highest, parts, 1e6))


def _chips(root: Path) -> Iterator[tuple[Path, str]]:
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        yield chip, read_text(chip / "name")


def _throttles(root: Path) -> Iterator[Sensor]:
    for chip, name in _chips(root):
        if name == "soctherm_oc":
            for path in sorted(chip.glob("oc*_event_cnt")):
                event = f"over-current {path.name.split('_')[0]}"
                yield Sensor(event, "throttled", _Events(path, event))
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        kind = read_text(device / "type")
        if HOLDS_A_CLOCK.fullmatch(kind):
            yield Sensor(kind, "throttled", partial(_held_back, device / "cur_state", kind))


class _Events:
    """Reads a counter of throttle events; gives `reason` when it has risen since it was last read."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        self.before: int | None = None

    def __call__(self) -> frozenset[str]:
        before, self.before = self.before, _number(self.path)
        return frozenset([self.reason] * (before is not None and self.before > before))


def _held_back(path: Path, reason: str) -> frozenset[str]:
    return frozenset([reason] * (_number(path) > 0))


def _number(path: Path) -> int:
    text = path.read_text(errors="replace")
    try:
        return int(text)
    except ValueError as exc:
        raise ValueError(f"{path} says {text.strip()[:40]!r}") from exc


def _scaled(path: Path, unit: float) -> float:
    """The number in a file, divided by `unit`."""
    return _number(path) / unit


def _watts(millivolts: Path, milliamperes: Path) -> float:
    return _number(millivolts) * _number(milliamperes) / 1e6


def _hottest(paths: list[Path]) -> float:
    celsius = _highest(paths, 1e3)
    if celsius < SWITCHED_OFF:
        raise ValueError(f"{paths[0]} says {celsius:g} °C: what it measures is switched off")
    return celsius


def _highest(paths: list[Path], unit: float) -> float:
    """The highest of those that can be read; cores go offline."""
    values: list[float] = []
    errors: list[Exception] = []
    for path in paths:
        try:
            values.append(_scaled(path, unit))
        except (OSError, ValueError) as exc:
            errors.append(exc)
    if not values:
        raise errors[0]
    return max(values)
