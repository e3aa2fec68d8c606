"""Reads all sensors while something runs; what cannot be read is left out and has a note."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from refinenet_edge.jetson import read_board
from refinenet_edge.sensors.discovery import Sensor, find_sensors
from refinenet_edge.sensors.nvml import Gpu
from refinenet_edge.sensors.reading import Reading, reading_of, total_power_rails

PERIOD = 0.05  # seconds


class Meters:
    """Reads every sensor below `root` while its one `with` block lasts, first and last thing, and between in a thread.

    `gpu` is the PCI bus id of the NVIDIA GPU that computes (`runtime.cuda.gpu_bus_id`), None: the CPU computes. A
    Jetson's GPU needs none. With `period` None nothing is read but at both ends and by `sample` and `lap`.
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
        self._sensors: list[Sensor] = []
        self._no_gpu = ""
        self._lock = threading.RLock()  # of the samples
        self._end = threading.Event()
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Meters:
        with contextlib.ExitStack() as stack:
            gpu = self._open_gpu()
            if gpu:
                stack.callback(gpu.close)
            self._sensors = find_sensors(self._root, gpu)
            self.sample()
            stack.callback(self.sample)
            if self._period is not None:
                thread = threading.Thread(target=self._watch, args=(self._period,), name="meters", daemon=True)
                thread.start()
                stack.callback(thread.join)
                stack.callback(self._end.set)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    def sample(self) -> None:
        """Read every sensor once."""
        with self._lock:
            now = self._clock()
            self._times.append(now)
            for sensor in self._sensors:
                sensor.sample(now)

    def lap(self) -> Reading | None:
        """Read every sensor once: the reading since the last lap, or the beginning; what is older is forgotten."""
        with self._lock:
            self.sample()
            reading = self.reading()
            del self._times[:-1]
            for sensor in self._sensors:
                del sensor.samples[:-1]
            return reading

    def reading(self) -> Reading | None:
        """From the first to the last sample. None: no sensor gave anything."""
        return reading_of(self._sensors, self._times[0], self._times[-1], self._rails)

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be read, and why."""
        notes = [self._no_gpu] * bool(self._no_gpu)
        notes += [note for sensor in self._sensors if (note := sensor.note())]
        if not self._sensors:
            no_sensor = "this machine shows no sensor, as most containers and virtual machines"
            notes.append(f"power, heat and clocks: {no_sensor}")
        elif not self._rails:
            of_a_jetson = "of this board's rails none is known to carry all of it"
            notes.append(f"joules of a frame: {of_a_jetson if self._jetson else 'no RAPL counter of the CPU is here'}")
        return tuple(notes)

    @property
    def _rails(self) -> tuple[str, ...]:
        return total_power_rails(self._sensors, self._jetson, self._bus_id is not None)

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
