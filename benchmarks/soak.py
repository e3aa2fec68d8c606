"""The demo for a long time, with a camera faster than the network: does the delay grow, does the memory?

    python benchmarks/soak.py engines/scenes_int8   -> benchmarks/results/<cpu>/soak.json
    python benchmarks/soak.py --minutes 2           # a made-up network of 20 ms

20 minutes or 20 000 shown frames, whichever is first. The camera gives 100 frames a second, changes its resolution
every 1000, and is unplugged for three seconds twice. A web page is served; one viewer reads it, another stops reading.
Every second the ages of the masks, the memory and the drops are noted; lines are fitted after the first tenth. Exits
with 1 if the age drifts, if memory grows, if a frame is neither shown nor counted as dropped, or if the camera takes
longer than 5 seconds to be back.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import statistics
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import click
import numpy as np
from machine import cpu, save
from rich.console import Console

from refinenet_edge.bundle import open_bundle
from refinenet_edge.demo import Captured, Figures, LiveSource, Model, Show
from refinenet_edge.demo.web import Web
from refinenet_edge.errors import InputError
from refinenet_edge.frames import CapturedFrames
from refinenet_edge.labels import SCENES
from refinenet_edge.overlay import OverlayStyle
from refinenet_edge.records import Frame, FrameSpec, TensorSpec
from refinenet_edge.runtime import FakeSession, Segmenter
from refinenet_edge.runtime.session import Feeds, Outputs
from refinenet_edge.scenes import VALIDATION, video_frame

RATE = 100  # frames per second of the camera
SIZES = ((512, 512), (360, 640))
EVERY = 1000  # frames between changes of the resolution
UNPLUGGED = 3.0  # seconds, at a third and at two thirds
MS_PER_MINUTE, MB_PER_MINUTE = 1.0, 0.5  # drift and growth that count as none


class Camera:
    """100 frames a second but for two outages in so many `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.given = 0
        began = time.monotonic()
        self.outages = [(began + at, began + at + UNPLUGGED) for at in (seconds / 3, 2 * seconds / 3)]
        self._kept = [[video_frame(VALIDATION, number, size)[0] for number in range(8)] for size in SIZES]

    def frames(self) -> CapturedFrames:
        due = time.monotonic()
        while True:
            due = max(due + 1 / RATE, time.monotonic() - 1 / RATE)
            time.sleep(max(due - time.monotonic(), 0))
            at = time.monotonic()
            if any(start <= at < end for start, end in self.outages):
                raise InputError("it is unplugged")
            kept = self._kept[self.given // EVERY % len(SIZES)]
            self.given += 1
            yield Captured(kept[self.given % len(kept)], at)


class Log:
    """A `View` that notes each second what there is to note."""

    written = False

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.signals: list[tuple[float, bool]] = []
        self._ages: list[float] = []
        self._began = self._second = time.monotonic()

    def wanted(self) -> bool:
        return True

    def show(self, picture: Frame | None, figures: Figures) -> None:
        now = time.monotonic()
        if not self.signals or self.signals[-1][1] != (figures.state == "live"):
            self.signals.append((now, figures.state == "live"))
        if figures.state == "live":
            self._ages.append(figures.speed.age_ms)
        if now - self._second >= 1 and self._ages:
            self._second = now
            self.rows.append(
                {
                    "minute": (now - self._began) / 60,
                    "age_ms": statistics.median(self._ages),
                    "oldest_ms": max(self._ages),
                    "rss_mb": rss_mb(),
                    "fps": figures.speed.fps,
                    "frames": figures.speed.frames,
                    "drops": figures.speed.drops,
                }
            )
            self._ages = []

    def close(self) -> None: ...


def rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def made_up(seconds: float = 0.02) -> Segmenter:
    logits = np.random.default_rng(0).standard_normal((1, len(SCENES.names), 128, 128)).astype(np.float32)

    def handler(feeds: Feeds) -> Outputs:
        time.sleep(seconds)
        return {"logits": logits}

    ends = (TensorSpec("image", "float32", (1, 3, 512, 512)),), (TensorSpec("logits", "float32", logits.shape),)
    return Segmenter.from_session(FakeSession(handler, *ends), FrameSpec((512, 512)), SCENES)


def watch(address: str, forever: bool) -> None:
    """A viewer; not `forever`: it reads for a moment, and stays there."""
    with urllib.request.urlopen(f"{address}stream") as stream:
        for _ in itertools.count() if forever else range(10):
            if not stream.read1(1 << 16):
                return
        time.sleep(86_400)


def slope(rows: list[dict[str, float]], name: str) -> float:
    """Per minute."""
    return float(np.polyfit([row["minute"] for row in rows], [row[name] for row in rows], 1)[0])


@click.command(help=__doc__)
@click.argument("bundle", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--minutes", default=20.0, show_default=True)
@click.option("--frames", default=20_000, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(bundle: Path | None, minutes: float, frames: int, out: Path | None) -> None:
    opened = open_bundle(bundle) if bundle else None
    segmenter = Segmenter(opened) if opened else made_up()
    model = Model(bundle.name if bundle else "made up", opened.manifest.precision if opened else "fp32", segmenter)
    rate = measure_rate(segmenter)
    camera = Camera(min(60 * minutes, frames / rate))
    log = Log()
    show = Show([LiveSource("camera", camera.frames, live=True, lasting=True)], [model], OverlayStyle())
    web = Web(show)
    web.start()
    context = multiprocessing.get_context("spawn")
    viewers = [context.Process(target=watch, args=(web.address, forever), daemon=True) for forever in (True, False)]
    for viewer in viewers:
        viewer.start()
    show.views += [web, log, Until(show, time.monotonic() + 60 * minutes)]
    with segmenter:
        show.run(frames)
    for viewer in viewers:
        viewer.kill()
    record = judged(camera, log, show.summary().frames, show.summary().drops)
    record = {"cpu": cpu(), "network": model.name, "precision": model.precision, **record, "rows": log.rows[::10]}
    console = Console()
    console.print({name: value for name, value in record.items() if name != "rows"})
    console.print(save(record, "soak.json", out))
    sys.exit(0 if all(record["flat"].values()) else 1)


class Until:
    """A `View` that ends the show at a time."""

    written = False

    def __init__(self, show: Show, end: float) -> None:
        self._show, self._end = show, end

    def wanted(self) -> bool:
        return False

    def show(self, picture: Frame | None, figures: Figures) -> None:
        if time.monotonic() >= self._end:
            self._show.stop()

    def close(self) -> None: ...


def measure_rate(segmenter: Segmenter) -> float:
    """About how many frames a second it takes."""
    frame = video_frame(VALIDATION, 0)[0]
    segmenter.segment(frame)
    began = time.perf_counter()
    for _ in range(10):
        segmenter.segment(frame)
    return 10 / (time.perf_counter() - began)


def judged(camera: Camera, log: Log, frames: int, drops: int) -> dict[str, Any]:
    steady = log.rows[len(log.rows) // 10 :]
    live_again = [at for (_, before), (at, after) in itertools.pairwise(log.signals) if after and not before]
    recoveries = [min((at - back for at in live_again if at >= back), default=math.inf) for _, back in camera.outages]
    age, memory = slope(steady, "age_ms"), slope(steady, "rss_mb")
    unaccounted = camera.given - frames - drops
    median_age = statistics.median(row["age_ms"] for row in steady)
    on_their_way = 2 + 2 * RATE * median_age / 1000  # when it ended: what the camera gives in two ages of a mask
    return {
        "minutes": log.rows[-1]["minute"],
        "camera_frames": camera.given,
        "shown": frames,
        "drops": drops,
        "unaccounted": unaccounted,
        "fps": statistics.median(row["fps"] for row in steady),
        "age_ms": {
            "median": median_age,
            "oldest": max(row["oldest_ms"] for row in steady),
            "per_minute": age,
        },
        "rss_mb": {"first": steady[0]["rss_mb"], "last": steady[-1]["rss_mb"], "per_minute": memory},
        "recovered_after_s": recoveries,
        "flat": {
            "age": abs(age) < MS_PER_MINUTE,
            "memory": memory < MB_PER_MINUTE,
            "drops": 0 <= unaccounted <= on_their_way,
            "recovery": max(recoveries) < 5,
        },
    }


if __name__ == "__main__":
    main()
