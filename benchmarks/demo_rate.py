"""Frames per second of the demo, end to end, beside the plain loop over `Segmenter.segment` of the same bundle.

    python benchmarks/demo_rate.py engines/scenes engines/scenes_int8   -> benchmarks/results/<cpu>/demo_rate.json

The loop has its frames in memory. The demo decodes the same frames from a video file as fast as they are taken, draws
overlay, figures and legend, encodes the JPEG and sends it to a viewer in another process on the same machine. It runs
all the time, and waits while the loop has its turn: turns are short, because machines get faster and slower by the
minute, and the share is taken round by round, with its interval (bench/measure.py).
"""

from __future__ import annotations

import contextlib
import http.client
import multiprocessing
import queue
import tempfile
import threading
import time
import urllib.request
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path
from typing import Any, cast

import click
import cv2
from machine import cpu, save
from rich.console import Console
from rich.table import Table

from refinenet_edge.bench.measure import Estimate, Stages, take_turns
from refinenet_edge.demo import Figures, Model, Show, open_source
from refinenet_edge.demo.web import Web
from refinenet_edge.overlay import OverlayStyle
from refinenet_edge.records import Frame, Mask
from refinenet_edge.runtime import Segmenter
from refinenet_edge.scenes import VALIDATION, World, render

FRAMES = 48  # of the video
WARM_UPS = 4  # frames of each turn that are not counted
SETTLE = 0.3  # seconds for what is on its way after the demo's turn


class InTurn:
    """The demo's segmenter: it computes while `turn` is set, and the demo waits for it."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter, self.turn = segmenter, threading.Event()
        self.labels, self.session = segmenter.labels, segmenter.session

    def segment(self, frame: Frame) -> Mask:
        self.turn.wait()
        return self._segmenter.segment(frame)


class Clock:
    """A `View` that notes when a picture was through, the web page included: it is the last to be shown it."""

    written = False

    def __init__(self) -> None:
        self._times: queue.SimpleQueue[float] = queue.SimpleQueue()
        self.figures: Figures | None = None

    def wanted(self) -> bool:
        return True

    def show(self, picture: Frame | None, figures: Figures) -> None:
        if picture is not None:
            self.figures = figures
            self._times.put(time.perf_counter())

    def next(self) -> float:
        return self._times.get(timeout=60)

    def clear(self) -> None:
        while not self._times.empty():
            self._times.get()

    def close(self) -> None: ...


def watch(address: str) -> None:
    """A viewer that reads all it is sent."""
    with contextlib.suppress(http.client.IncompleteRead), urllib.request.urlopen(f"{address}stream") as stream:
        while stream.read1(1 << 16):
            pass


def write_video(path: Path) -> list[Frame]:
    """A drive in drawn streets, and its frames as the file gives them back."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (512, 512))
    drive = World.draw((VALIDATION,))
    for number in range(FRAMES):
        writer.write(render(drive, number / 30)[0])
    writer.release()
    return [item.frame for item in open_source(str(path), every_frame=True).frames()]


class Sides:
    """The loop and the demo of one bundle, as contenders: milliseconds a frame over so many frames of a turn."""

    def __init__(self, model: Model, kept: list[Frame], video: Path, count: int) -> None:
        self._segmenter, self._kept, self._count = model.segmenter, kept, count
        self._gate, self.clock = InTurn(model.segmenter), Clock()
        gated = Model(model.name, model.precision, cast(Segmenter, self._gate))
        self._show = Show([open_source(str(video), every_frame=True, repeat=True)], [gated], OverlayStyle())
        web = Web(self._show)
        web.start()
        self._viewer = multiprocessing.get_context("spawn").Process(target=watch, args=(web.address,), daemon=True)
        self._viewer.start()
        while not web.wanted():
            time.sleep(0.01)
        self._show.views += [web, self.clock]
        self._thread = threading.Thread(target=self._show.run, daemon=True)
        self._thread.start()

    def loop(self) -> Stages:
        for frame in self._kept[:WARM_UPS]:
            self._segmenter.segment(frame)
        began = time.perf_counter()
        for frame in islice(cycle(self._kept), self._count):
            self._segmenter.segment(frame)
        return {"frame": 1000 * (time.perf_counter() - began) / self._count}

    def demo(self) -> Stages:
        self._gate.turn.set()
        for _ in range(WARM_UPS):
            began = self.clock.next()
        for _ in range(self._count):
            ended = self.clock.next()
        self._gate.turn.clear()
        time.sleep(SETTLE)
        self.clock.clear()
        return {"frame": 1000 * (ended - began) / self._count}

    def close(self) -> None:
        self._show.stop()
        self._gate.turn.set()
        self._thread.join()
        self._viewer.join(5)


@click.command(help=__doc__)
@click.argument("bundles", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--rounds", default=40, show_default=True)
@click.option("--frames", default=24, show_default=True, help="Of a turn.")
@click.option("--out", type=click.Path(path_type=Path))
def main(bundles: tuple[Path, ...], rounds: int, frames: int, out: Path | None) -> None:
    console, cells = Console(), []
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "drive.mp4"
        kept = write_video(video)
        for path in bundles:
            with Model.open(path) as model:
                cell = measure(model, kept, video, rounds, frames)
            cells.append(cell)
            console.print(row(cell))
    console.print(save({"cpu": cpu(), "cells": cells}, "demo_rate.json", out))


def measure(model: Model, kept: list[Frame], video: Path, rounds: int, count: int) -> dict[str, Any]:
    sides = Sides(model, kept, video, count)
    timing = take_turns({"loop": sides.loop, "demo": sides.demo}, rounds)
    sides.close()
    figures = sides.clock.figures
    assert figures
    return {
        "bundle": model.name,
        "precision": model.precision,
        "backend": model.segmenter.session.name,
        "loop_fps": 1000 / timing.ms("loop"),
        "demo_fps": 1000 / timing.ms("demo"),
        "share": asdict(timing.ratio("loop", "demo")),
        "stages_ms": dict(figures.speed.stages_ms),
        "loop_ms": [round(ms, 2) for ms in timing.samples("loop")],
        "demo_ms": [round(ms, 2) for ms in timing.samples("demo")],
    }


def row(cell: dict[str, Any]) -> Table:
    table = Table("bundle", "backend", "loop fps", "demo fps", "demo of loop", title=f"on {cpu()}")
    share = Estimate(**{name: 100 * value for name, value in cell["share"].items()})
    numbers = (f"{cell['loop_fps']:.1f}", f"{cell['demo_fps']:.1f}", f"{share} %")
    table.add_row(f"{cell['bundle']} ({cell['precision']})", cell["backend"], *numbers)
    return table


if __name__ == "__main__":
    main()
