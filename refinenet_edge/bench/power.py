"""What an entry takes: it runs alone for a while, and the machine's sensors are read."""

from __future__ import annotations

import time
from collections.abc import Sequence

from refinenet_edge.bench.entry import Entry
from refinenet_edge.bench.record import Case, Power
from refinenet_edge.records import Frame
from refinenet_edge.sensors import Meters

SECONDS = 3.0


def measure_power(entry: Entry, case: Case, frames: Sequence[Frame], gpu: str | None, notes: list[str]) -> Power | None:
    """Watts, joules, heat and clocks while `entry` segments `frames` again and again; `gpu`: its bus id, None: the CPU.

    What cannot be read is appended to `notes`. None: nothing can be, and `entry` did not run.
    """
    with Meters(gpu=gpu) as meters:
        pass
    if meters.reading() is None:
        notes += meters.notes
        return None
    with entry.open(case) as run:
        run(frames[:1])
        done = 0
        with Meters(gpu=gpu) as meters:
            started = time.perf_counter()
            while time.perf_counter() - started < SECONDS:
                run([frames[done % len(frames)]])
                done += 1
    notes += meters.notes
    if (reading := meters.reading()) is None:
        return None
    joules = None if reading.joules is None else reading.joules / done
    heat = reading.celsius, reading.mhz, reading.throttled
    return Power(entry.subject.name, reading.seconds, done, reading.watts, joules, *heat)
