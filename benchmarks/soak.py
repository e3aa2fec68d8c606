"""The demo for a long time, with a camera faster than the network: does the delay grow, does the memory?

    python benchmarks/soak.py engines/scenes_int8   -> benchmarks/results/<cpu>/soak.json
    python benchmarks/soak.py --minutes 2           # a made-up network of 20 ms
    python benchmarks/soak.py engines/scenes_int8 --cameras 4 --minutes 10 --frames 60000   -> .../soak_cameras.json

20 minutes or 20 000 shown frames, whichever is first. The camera gives 100 frames a second, changes its resolution
every 1000, and is unplugged for three seconds twice. A web page is served; one viewer reads it, another stops reading.
Every second the ages of the masks, the memory (`rss_mb`: what the process holds, `used_mb`: without what malloc keeps
free) and the drops are noted; lines are fitted after the first tenth. Exits with 1 if the age drifts, if memory grows,
if a frame is neither shown nor counted as dropped, or if the camera takes longer than 5 seconds to be back.

With --cameras so many HTTP cameras of different rates and sizes are looked at together. Two of them are unplugged, one
after the other, for a twentieth of the time. Also noted are each camera's share, and how long its pictures took until
they were read; it exits with 1, too, if a camera has less than nine tenths of what is fair (where all that can would
have the same), or if the others notice that one is away.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import multiprocessing
import os
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from http_cameras import HttpCamera
from machine import cpu, save
from rich.console import Console

from refinenet_edge.bundle import open_bundle
from refinenet_edge.demo import Captured, Figures, LiveSource, Model, Show
from refinenet_edge.demo.figures import CameraFigures
from refinenet_edge.demo.web import Web
from refinenet_edge.errors import InputError
from refinenet_edge.frames import CapturedFrames
from refinenet_edge.labels import SCENES
from refinenet_edge.overlay import OverlayStyle
from refinenet_edge.records import Frame, FrameSpec, TensorSpec
from refinenet_edge.runtime import FakeSession, Segmenter
from refinenet_edge.runtime.session import Feeds, Outputs
from refinenet_edge.scenes import VALIDATION, World, render

RATE = 100  # frames per second of the camera
SIZES = ((512, 512), (360, 640))
EVERY = 1000  # frames between changes of the resolution
UNPLUGGED = 3.0  # seconds, at a third and at two thirds
ON_THE_WAY = 60  # frames that a camera may have given since the last second's figures, and the newest ones
MS_PER_MINUTE, MB_PER_MINUTE = 1.0, 0.5  # drift and growth that count as none


class Camera:
    """100 frames a second but for two outages in so many `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.given = 0
        began = time.monotonic()
        self.outages = [(began + at, began + at + UNPLUGGED) for at in (seconds / 3, 2 * seconds / 3)]
        drive = World.draw((VALIDATION,))
        self._kept = [[render(drive, number / 30, size)[0] for number in range(8)] for size in SIZES]

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

    def __init__(self, cameras: Sequence[HttpCamera] = ()) -> None:
        self.rows: list[dict[str, float]] = []
        self.signals: list[tuple[float, bool]] = []
        self.of_cameras = [CameraLog(camera) for camera in cameras]
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
        for log, camera in zip(self.of_cameras, figures.cameras, strict=False):
            log.note(now, camera)
        if now - self._second >= 1 and self._ages:
            self._second = now
            self.rows.append(
                {
                    "minute": (now - self._began) / 60,
                    "age_ms": statistics.median(self._ages),
                    "oldest_ms": max(self._ages),
                    "rss_mb": rss_mb(),
                    "used_mb": used_mb(),
                    "fps": figures.speed.fps,
                    "frames": figures.speed.frames,
                    "drops": figures.speed.drops,
                }
            )
            for log in self.of_cameras:
                log.end_second(self.rows[-1]["minute"])
            self._ages = []

    def close(self) -> None: ...


class CameraLog:
    """What there is to note each second of one of several cameras."""

    def __init__(self, camera: HttpCamera) -> None:
        self.camera = camera
        self.rows: list[dict[str, float]] = []
        self.signals: list[tuple[float, bool]] = []
        self._newest: CameraFigures | None = None
        self._ages: list[float] = []

    def note(self, now: float, figures: CameraFigures) -> None:
        if not self.signals or self.signals[-1][1] != (figures.state == "live"):
            self.signals.append((now, figures.state == "live"))
        if figures.state == "live" and figures is not self._newest:
            self._ages.append(figures.age_ms)
        self._newest = figures

    def end_second(self, minute: float) -> None:
        newest, ages, self._ages = self._newest, self._ages, []
        lag = self.camera.lag_ms()
        if newest is None or not ages:
            return
        self.rows.append(
            {
                "minute": minute,
                "age_ms": statistics.median(ages),
                "oldest_ms": max(ages),
                "fps": newest.fps,
                "share": newest.share,
                "frames": newest.frames,
                "drops": newest.drops,
                "lag_ms": lag,
            }
        )


def rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Mallinfo(ctypes.Structure):
    """`mallinfo2` of malloc.h."""

    _fields_ = (
        ("before", ctypes.c_size_t * 4),
        ("hblkhd", ctypes.c_size_t),
        ("between", ctypes.c_size_t * 2),
        ("uordblks", ctypes.c_size_t),
        ("after", ctypes.c_size_t * 2),
    )


def used_mb() -> float:
    """Of that what malloc has given out; the rest of it is free, and kept for what comes."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Mallinfo
    found = mallinfo()
    return float(found.uordblks + found.hblkhd) / 1e6


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


def of_memory(rows: list[dict[str, float]], name: str) -> dict[str, float]:
    return {"first": rows[0][name], "last": rows[-1][name], "per_minute": slope(rows, name)}


@click.command(help=__doc__)
@click.argument("bundle", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--minutes", default=20.0, show_default=True)
@click.option("--frames", default=20_000, show_default=True)
@click.option("--cameras", "count", default=0, help="HTTP cameras together, in place of the one.")
@click.option("--out", type=click.Path(path_type=Path))
def main(bundle: Path | None, minutes: float, frames: int, count: int, out: Path | None) -> None:
    opened = open_bundle(bundle) if bundle else None
    segmenter = Segmenter(opened) if opened else made_up()
    model = Model(bundle.name if bundle else "made up", opened.manifest.precision if opened else "fp32", segmenter)
    seconds = min(60 * minutes, frames / measure_rate(segmenter))
    cameras = [HttpCamera(number) for number in range(count)]
    log, camera = Log(cameras), None
    if cameras:
        sources, outages = [camera.source() for camera in cameras], unplug_two(cameras, seconds)
    else:
        camera = Camera(seconds)
        sources = [LiveSource("camera", camera.frames, live=True, lasting=True)]
    show = Show(sources, [model], OverlayStyle(), together=bool(cameras))
    watched(show, log, segmenter, seconds if cameras else 60 * minutes, frames)
    if camera:
        record = judged(camera, log, show.summary().frames, show.summary().drops)
    else:
        record = judged_together(log, outages)
    record = {"cpu": cpu(), "network": model.name, "precision": model.precision, **record, "rows": log.rows[::10]}
    console = Console()
    console.print(without_rows(record))
    console.print(save(record, "soak_cameras.json" if cameras else "soak.json", out))
    sys.exit(0 if all(record["flat"].values()) else 1)


def without_rows(record: Any) -> Any:
    if isinstance(record, dict):
        return {name: without_rows(value) for name, value in record.items() if name != "rows"}
    return [without_rows(item) for item in record] if isinstance(record, list) else record


def watched(show: Show, log: Log, segmenter: Segmenter, seconds: float, frames: int) -> None:
    """Run `show` in a web page with two viewers."""
    web = Web(show)
    web.start()
    print(f"{web.address} for {seconds / 60:.1f} minutes", flush=True)
    context = multiprocessing.get_context("spawn")
    viewers = [context.Process(target=watch, args=(web.address, forever), daemon=True) for forever in (True, False)]
    for viewer in viewers:
        viewer.start()
    show.views += [web, log, Until(show, time.monotonic() + seconds)]
    with segmenter:
        show.run(frames)
    for viewer in viewers:
        viewer.kill()


Outage = tuple[int, float, float]  # which camera, from when to when


def unplug_two(cameras: list[HttpCamera], seconds: float) -> list[Outage]:
    """Unplug the second camera after a third, the last after two thirds, for a twentieth of so many `seconds`."""
    outages: list[Outage] = []
    for number, at in ((1, seconds / 3), (len(cameras) - 1, 2 * seconds / 3)):
        outages.append((number, time.monotonic() + at, time.monotonic() + at + seconds / 20))
        for after, act in ((at, cameras[number].unplug), (at + seconds / 20, cameras[number].plug)):
            timer = threading.Timer(after, act)
            timer.daemon = True
            timer.start()
    return outages


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
    frame = render(World.draw((VALIDATION,)), 0.0)[0]
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
        **{name: of_memory(steady, name) for name in ("rss_mb", "used_mb")},
        "recovered_after_s": recoveries,
        "flat": {
            "age": abs(age) < MS_PER_MINUTE,
            "memory": memory < MB_PER_MINUTE,
            "drops": 0 <= unaccounted <= on_their_way,
            "recovery": max(recoveries) < 5,
        },
    }


def judged_together(log: Log, outages: list[Outage]) -> dict[str, Any]:
    steady = log.rows[len(log.rows) // 10 :]
    found = [of_camera(item, len(log.rows)) for item in log.of_cameras]
    fair = fair_shares([item["read_fps"] for item in found], sum(item["fps"] for item in found))
    recoveries = []
    for number, _, back in outages:
        again = [at for at, live in log.of_cameras[number].signals if live and at >= back]
        recoveries.append(min(again, default=math.inf) - back)
    memory = slope(steady, "rss_mb")
    lost = [sum(not live for _, live in item.signals[1:]) for item in log.of_cameras]
    unplugged = [sum(number == camera for camera, _, _ in outages) for number in range(len(lost))]
    return {
        "minutes": log.rows[-1]["minute"],
        "shown": log.rows[-1]["frames"],
        "drops": log.rows[-1]["drops"],
        "fps": statistics.median(row["fps"] for row in steady),
        "cameras": [{**item, "fair_fps": fps} for item, fps in zip(found, fair, strict=True)],
        **{name: of_memory(steady, name) for name in ("rss_mb", "used_mb")},
        "recovered_after_s": recoveries,
        "flat": {
            "age": all(abs(item["age_ms"]["per_minute"]) < MS_PER_MINUTE for item in found),
            "memory": memory < MB_PER_MINUTE,
            "drops": all(0 <= item["unaccounted"] <= ON_THE_WAY for item in found),
            "recovery": max(recoveries) < 5,
            "fair": all(item["fps"] >= 0.9 * fps for item, fps in zip(found, fair, strict=True)),
            "others": lost == unplugged,
        },
    }


def of_camera(log: CameraLog, seconds: int) -> dict[str, Any]:
    """What became of a camera's frames, after the first tenth of so many `seconds`."""
    rows = [row for row in log.rows if row["minute"] * 60 > seconds / 10]
    last, camera = rows[-1], log.camera
    return {
        "rate": camera.rate,
        "size": camera.size,
        "read": camera.read,
        "shown": last["frames"],
        "drops": last["drops"],
        "unaccounted": camera.read - last["frames"] - last["drops"],
        "fps": statistics.median(row["fps"] for row in rows),
        "read_fps": camera.read / len(log.rows),
        "share": statistics.median(row["share"] for row in rows),
        "age_ms": {
            "median": statistics.median(row["age_ms"] for row in rows),
            "oldest": max(row["oldest_ms"] for row in rows),
            "per_minute": slope(rows, "age_ms"),
        },
        "lag_ms": {"median": statistics.median(row["lag_ms"] for row in rows), "per_minute": slope(rows, "lag_ms")},
        "rows": log.rows[::10],
    }


def fair_shares(wanted: Sequence[float], there: float) -> list[float]:
    """What each gets of what is `there`, so that nobody has less than another unless he wants no more."""
    given = dict.fromkeys(range(len(wanted)), 0.0)
    for done, number in enumerate(sorted(given, key=lambda number: wanted[number])):
        given[number] = min(wanted[number], there / (len(wanted) - done))
        there -= given[number]
    return list(given.values())


if __name__ == "__main__":
    main()
