"""Camera to screen: the age of shown pictures, measured in the demo's own loop."""

from __future__ import annotations

import time
from contextlib import closing

from refinenet_edge.bench.entry import BundleEntry
from refinenet_edge.bench.measure import WARM_UPS
from refinenet_edge.bench.record import Screen
from refinenet_edge.demo import OverlayStyle, draw, live, open_source
from refinenet_edge.errors import InputError

SECONDS = 5.0


def measure_screen(entry: BundleEntry, source: str) -> Screen:
    """The ages of `entry`'s pictures of a live `source`, each drawn; the first frames warm up and do not count.

    Raises `InputError` for a source that does not open or ends at once.
    """
    ages: list[float] = []
    began = drops = 0.0
    with entry.segmenter() as segmenter, closing(live(open_source(source, repeat=True), segmenter)) as results:
        for number, result in enumerate(results):
            draw(result.frame, result.mask, OverlayStyle(), [], [])
            now = time.monotonic()
            if number == WARM_UPS:
                began, drops = now, result.drops
            elif number > WARM_UPS and result.signal:
                ages.append(1000 * (now - result.captured))
                if now - began > SECONDS:
                    break
    if not ages:
        raise InputError(f"{source} gave fewer than {WARM_UPS + 2} frames: camera to screen needs more")
    size = (result.frame.shape[0], result.frame.shape[1])
    return Screen(entry.subject.name, source, size, tuple(ages), len(ages) / (now - began), int(result.drops - drops))
