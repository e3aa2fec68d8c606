"""Power, heat and clocks while something runs, read from the machine's own sensors every 50 ms.

    with Meters(gpu=gpu_bus_id()) as meters:
        for _ in range(frames):
            segmenter.segment(frame)
    power = meters.reading("fp16", frames)

    NVML                              GPU: joules, watts, temperature, clocks, throttling
    class/hwmon, ina3221              Jetson's rails: in<n>_label, in<n>_input (mV), curr<n>_input (mA)
    class/hwmon, ina238               all that Jetson Thor draws: power1_input (µW)
    class/powercap/intel-rapl:*       CPU, Intel's and AMD's: energy_uj, which begins again at max_energy_range_uj
    class/thermal/thermal_zone*       type, temp (m°C); class/hwmon coretemp, k10temp: temp<n>_input (m°C)
    devices/system/cpu/cpufreq        scaling_cur_freq (kHz); class/devfreq, a Jetson's GPU: cur_freq (Hz)
    class/hwmon, soctherm_oc          oc<n>_event_cnt, how often a Jetson was throttled because of its supply
    class/thermal/cooling_device*     cur_state, above 0 where heat holds a clock back

The files are as the kernel documents them (hwmon/ina3221, hwmon/ina238, power/powercap, driver-api/thermal) and as
people posted those of their Jetsons; none was ever read from a Jetson by us. Which rail carries the whole device:

    VDD_IN    Orin Nano and NX: the module (labels: the kernel's tegra234-p3767.dtsi; NVIDIA's forum, topic 200883)
    VIN       Thor: module and carrier board (NVIDIA's forum, topic 366461)
    VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0
              AGX Orin: the module; the last one also feeds VDDQ_VDD2_1V8AO (tegra234-p3701.dtsi; energymon's
              JetsonPowerRails.md, which has it from NVIDIA's forum, topic 223111)

Energy is the difference of a counter where there is one, the integral of watts otherwise, and only of what was read
from the beginning to the end. What cannot be read is left out and has a note.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Generic, Literal, TypeVar

import numpy as np

from refinenet_edge.bench.nvml import Gpu
from refinenet_edge.bench.record import Power
from refinenet_edge.files import read_text
from refinenet_edge.jetson import GPU_CLOCK, read_board

PERIOD = 0.05  # seconds
CARRY_A_JETSON = (("VIN",), ("VDD_IN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))
GPU = "GPU"
CPU_PACKAGE = re.compile(r"package-\d+")
CPU_HEAT = ("coretemp", "k10temp")
HOLDS_A_CLOCK = re.compile(r"(thermal-)?(cpufreq|devfreq)-.+|.+-throttle-alert|hot-surface-alert")
SWITCHED_OFF = -50.0  # °C: below are the values with which a Jetson says that a part has no power

Kind = Literal["joules", "watts", "celsius", "mhz", "throttled"]
T = TypeVar("T")


@dataclass
class Sensor(Generic[T]):
    """What is read, and what it said: (seconds, value). `read` raises `OSError` or `ValueError` when it cannot."""

    name: str
    kind: Kind
    read: Callable[[], T]
    wraps: float | None = None  # joules, of a counter that begins again at 0
    said: list[tuple[float, T]] = field(default_factory=list)
    missed: int = 0
    why: str = ""  # of the first that was missed

    def sample(self, now: float) -> None:
        try:
            self.said.append((now, self.read()))
        except (OSError, ValueError) as exc:
            self.missed += 1
            self.why = self.why or _why(exc)

    def note(self) -> str | None:
        """What it could not say."""
        if not self.missed:
            return None
        missing = f"missing {self.missed} of {self.missed + len(self.said)} times" if self.said else "absent"
        return f"{self.name} ({self.kind}) is {missing}: {self.why}"


class Meters:
    """Reads every sensor below `root` while its one `with` block lasts, first and last thing, and between in a thread.

    `gpu` is the PCI bus id of the NVIDIA GPU that computes (`runtime.cuda.gpu_bus_id`), None: the CPU computes. A
    Jetson's GPU needs none. With `period` None nothing is read but at both ends and by `sample`.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        gpu: str | None = None,
        period: float | None = PERIOD,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._root, self._bus_id, self._period, self._clock = root, gpu, period, clock
        self._jetson = read_board(root) is not None
        self._times: list[float] = []
        self._figures: list[Sensor[float]] = []
        self._throttles: list[Sensor[frozenset[str]]] = []
        self._no_gpu = ""
        self._end = threading.Event()
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Meters:
        with contextlib.ExitStack() as stack:
            gpu = self._open_gpu()
            if gpu:
                stack.callback(gpu.close)
            found = [*_gpu_figures(gpu), *_rails(self._root), *_heat(self._root), *_clocks(self._root)]
            self._figures = _numbered(found)
            self._throttles = _throttles(self._root, gpu)
            self.sample()
            stack.callback(self.sample)
            if self._period is not None:
                thread = threading.Thread(target=self._watch, args=(self._period,), name="meters", daemon=True)
                thread.start()
                stack.callback(thread.join)
                stack.callback(self._end.set)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()

    def sample(self) -> None:
        """Read every sensor once."""
        now = self._clock()
        self._times.append(now)
        for figure in self._figures:
            figure.sample(now)
        for throttle in self._throttles:
            throttle.sample(now)

    def reading(self, subject: str, frames: int) -> Power | None:
        """After the block: what was read while `subject` made `frames` frames in it; None: no sensor said anything."""
        seconds = self._times[-1] - self._times[0]
        watts, joules = self._power()
        celsius = {name: max(values) for name, values in self._said("celsius")}
        mhz = {name: (min(values), max(values)) for name, values in self._said("mhz")}
        asked = [reasons for throttle in self._throttles for _, reasons in throttle.said]
        if not (watts or celsius or mhz or asked):
            return None
        throttled = tuple(sorted({reason for reasons in asked for reason in reasons})) if asked else None
        carrying = self._carrying()
        known = carrying and set(carrying) <= set(joules)
        energy = sum(joules[name] for name in carrying) / frames if known else None
        return Power(subject, seconds, frames, watts, energy, celsius, mhz, throttled)

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be read, and why."""
        notes = [self._no_gpu] * bool(self._no_gpu)
        sensors: list[Sensor[float] | Sensor[frozenset[str]]] = [*self._figures, *self._throttles]
        notes += [note for sensor in sensors if (note := sensor.note())]
        if not sensors:
            notes.append(
                "power, heat and clocks: this machine shows no sensor, as most containers and virtual machines"
            )
        elif not self._carrying():
            what = (
                "of this board's rails none is known to carry all of it"
                if self._jetson
                else "no RAPL counter of the CPU is here"
            )
            notes.append(f"joules of a frame: {what}")
        return tuple(notes)

    def _open_gpu(self) -> Gpu | None:
        if self._bus_id is None or self._jetson:
            return None
        try:
            return Gpu(self._bus_id)
        except OSError as exc:
            self._no_gpu = f"power, heat and clocks of the GPU: {exc}"
            return None

    def _watch(self, period: float) -> None:
        while not self._end.wait(period):
            self.sample()

    def _said(self, kind: Kind) -> Iterator[tuple[str, list[float]]]:
        for figure in self._figures:
            if figure.kind == kind and figure.said:
                yield figure.name, [value for _, value in figure.said]

    def _power(self) -> tuple[dict[str, float], dict[str, float]]:
        """Rail -> mean watts over what was read of it; rail -> joules, where that is everything."""
        watts: dict[str, float] = {}
        joules: dict[str, float] = {}
        for figure in self._figures:
            energy = _energy(figure)
            if energy is None or figure.name in joules:
                continue
            first, last = figure.said[0][0], figure.said[-1][0]
            whole = (first, last) == (self._times[0], self._times[-1])
            if whole:
                joules[figure.name] = energy
            if whole or figure.name not in watts:
                watts[figure.name] = energy / (last - first)
        return watts, joules

    def _carrying(self) -> tuple[str, ...]:
        """The rails whose sum is what the device draws that computes; empty: not known."""
        rails = [figure.name for figure in self._figures if figure.kind in ("joules", "watts")]
        if self._jetson:
            return next((names for names in CARRY_A_JETSON if set(names) <= set(rails)), ())
        if self._bus_id is not None:
            return (GPU,)
        return tuple(name for name in rails if CPU_PACKAGE.fullmatch(name))


def _energy(figure: Sensor[float]) -> float | None:
    """Joules from the first to the last reading of a rail; None: it is none, was read once, or its counter fell."""
    if figure.kind not in ("joules", "watts") or len(figure.said) < 2:
        return None
    times, values = np.array(figure.said).T
    if figure.kind == "watts":
        return float(np.sum(np.diff(times) * (values[1:] + values[:-1]) / 2))
    steps = np.diff(values)
    if figure.wraps is not None:
        steps[steps < 0] += figure.wraps
    return float(steps.sum()) if np.all(steps >= 0) else None


def _gpu_figures(gpu: Gpu | None) -> Iterator[Sensor[float]]:
    if gpu is not None:
        yield Sensor(GPU, "joules", gpu.joules)
        yield Sensor(GPU, "watts", gpu.watts)
        yield Sensor(GPU, "celsius", gpu.celsius)
        yield Sensor("GPU SM", "mhz", gpu.sm_mhz)
        yield Sensor("GPU memory", "mhz", gpu.memory_mhz)


def _rails(root: Path) -> Iterator[Sensor[float]]:
    for chip, name in _chips(root):
        if name == "ina3221":
            for path in sorted(chip.glob("in[123]_label")):
                label, channel = read_text(path), path.name[2]
                if label and label != "NC":  # not connected
                    read = partial(_product, chip / f"in{channel}_input", chip / f"curr{channel}_input")
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


def _heat(root: Path) -> Iterator[Sensor[float]]:
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        yield Sensor(read_text(zone / "type") or zone.name, "celsius", partial(_hottest, [zone / "temp"]))
    for chip, name in _chips(root):
        inputs = sorted(chip.glob("temp*_input"))
        if name in CPU_HEAT and inputs:
            yield Sensor(name, "celsius", partial(_hottest, inputs))


def _clocks(root: Path) -> Iterator[Sensor[float]]:
    """The fastest of the CPU's clocks and of a Jetson's GPU's: an idle core's says nothing."""
    cores = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*/scaling_cur_freq"))
    if cores:
        yield Sensor("CPU", "mhz", partial(_highest, cores, 1e3))
    folders = sorted((root / "sys/class/devfreq").glob("*"))
    parts = [folder / "cur_freq" for folder in folders if GPU_CLOCK.fullmatch(folder.name)]
    if parts:
        yield Sensor(GPU, "mhz", partial(_highest, parts, 1e6))


def _throttles(root: Path, gpu: Gpu | None) -> list[Sensor[frozenset[str]]]:
    found: list[Sensor[frozenset[str]]] = []
    if gpu is not None:
        found.append(Sensor(GPU, "throttled", gpu.throttled))
    for chip, name in _chips(root):
        if name == "soctherm_oc":
            for path in sorted(chip.glob("oc*_event_cnt")):
                event = f"over-current {path.name.split('_')[0]}"
                found.append(Sensor(event, "throttled", _Events(path, event)))
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        kind = read_text(device / "type") or ""
        if HOLDS_A_CLOCK.fullmatch(kind):
            found.append(Sensor(kind, "throttled", partial(_held, device / "cur_state", kind)))
    return found


class _Events:
    """Reads a count of throttle events: the reason is given from the moment on when it has risen."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        self.first: int | None = None

    def __call__(self) -> frozenset[str]:
        count = _number(self.path)
        if self.first is None:
            self.first = count
        return frozenset([self.reason] * (count > self.first))


def _held(path: Path, reason: str) -> frozenset[str]:
    return frozenset([reason] * (_number(path) > 0))


def _chips(root: Path) -> Iterator[tuple[Path, str]]:
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        yield chip, read_text(chip / "name") or ""


def _numbered(figures: list[Sensor[float]]) -> list[Sensor[float]]:
    """The same, the second of a name as "acpitz 2"."""
    count: dict[tuple[str, str], int] = {}
    for figure in figures:
        key = figure.name, figure.kind
        count[key] = count.get(key, 0) + 1
        if count[key] > 1:
            figure.name = f"{figure.name} {count[key]}"
    return figures


def _number(path: Path) -> int:
    text = path.read_text(errors="replace")
    try:
        return int(text)
    except ValueError as exc:
        raise ValueError(f"{path} says {text.strip()[:40]!r}") from exc


def _scaled(path: Path, unit: float) -> float:
    """What a file says, in which `unit` is 1."""
    return _number(path) / unit


def _product(millivolts: Path, milliamperes: Path) -> float:
    return _number(millivolts) * _number(milliamperes) / 1e6


def _hottest(paths: list[Path]) -> float:
    celsius = _highest(paths, 1e3)
    if celsius < SWITCHED_OFF:
        raise ValueError(f"{paths[0]} says {celsius:g} °C: what it measures is switched off")
    return celsius


def _highest(paths: list[Path], unit: float) -> float:
    """The highest of those that can be read; cores go offline."""
    values: list[float] = []
    why: OSError | ValueError | None = None
    for path in paths:
        try:
            values.append(_scaled(path, unit))
        except (OSError, ValueError) as exc:
            why = why or exc
    if why is not None and not values:
        raise why
    return max(values)


def _why(exc: OSError | ValueError) -> str:
    if isinstance(exc, PermissionError):
        return f"{exc.filename} may not be read; until the next start: sudo chmod a+r {exc.filename}"
    if isinstance(exc, OSError) and exc.filename is not None:
        return f"{exc.filename}: {exc.strerror}"
    return str(exc)
