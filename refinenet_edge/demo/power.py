"""How many watts the machine takes while the demo runs."""

from __future__ import annotations

import time

from refinenet_edge.sensors import Meters

SECONDS = 2.0  # that a figure is the mean of


class RecentWatts:
    """Call it for the mean watts of the device that computes over the last two seconds; None: no sensor says."""

    def __init__(self, meters: Meters) -> None:
        """`meters` are opened and closed by the caller."""
        self._meters: Meters | None = meters
        self._watts: float | None = None
        self._began = time.monotonic()

    def __call__(self) -> float | None:
        now = time.monotonic()
        if self._meters is not None and now - self._began >= SECONDS:
            reading = self._meters.lap()
            self._began, self._watts = now, reading.mean_watts if reading else None
            if self._watts is None:
                self._meters = None  # what says nothing once is not asked again
        return self._watts
