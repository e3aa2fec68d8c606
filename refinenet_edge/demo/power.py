"""How many watts the machine takes while the demo runs, from the sensors that benchmarks read."""

from __future__ import annotations

import time
from pathlib import Path

from refinenet_edge.bench.meters import Meters
from refinenet_edge.runtime.cuda import gpu_bus_id

SECONDS = 2.0  # that a figure is the mean of


class Watts:
    """A call gives the mean of the last two seconds or so, of what computes; None where no sensor says."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root, self._gpu = root, gpu_bus_id()
        self._watts: float | None = None
        self._meters: Meters | None = self._open()

    def __call__(self) -> float | None:
        if self._meters is not None and time.monotonic() - self._began >= SECONDS:
            self._watts = self._read(self._meters)
            # what says nothing once is not asked again
            self._meters = None if self._watts is None else self._open()
        return self._watts

    def close(self) -> None:
        """Give the sensors back; a second call does nothing."""
        meters, self._meters = self._meters, None
        if meters is not None:
            meters.__exit__(None, None, None)

    def _open(self) -> Meters:
        self._began = time.monotonic()
        # read at both ends only: the meters keep all that they read
        return Meters(self._root, self._gpu, period=None).__enter__()

    def _read(self, meters: Meters) -> float | None:
        meters.__exit__(None, None, None)
        power = meters.reading("demo", 1)
        return power.joules_per_frame / power.seconds if power and power.joules_per_frame is not None else None
