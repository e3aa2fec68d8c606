"""Frames per second of the demo, end to end, beside the plain loop over `Segmenter.segment` of the same bundle.

    python benchmarks/demo_rate.py engines/demo engines/scenes_int8   -> benchmarks/results/<cpu>/demo_rate.json

The loop has its frames in memory. The demo decodes the same frames from a video file as fast as they are taken, draws
overlay, figures and legend, encodes the JPEG and sends it to a viewer in another process on the same machine. Both take
turns on one segmenter, a second or two each, in a new order every round (bench/measure.py): figures are medians, the
share is taken round by round, with its interval.
"""

from __future__ import annotations

import contextlib
import http.client
import multiprocessing
import statistics
import tempfile
import time
import urllib.request
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import click
import cv2
from machine import cpu, save
from rich.console import Console
from rich.table import Table

from refinenet_edge.bench.measure import Estimate, Stages, take_turns
from refinenet_edge.bundle import open_bundle
from refinenet_edge.demo import Figures, Look, Model, Show, open_source
from refinenet_edge.demo.web import Web
from refinenet_edge.records import Frame
from refinenet_edge.runtime import Segmenter
from refinenet_edge.scenes import VALIDATION, video_frame

FRAMES = 48  # of the video
WARM_UPS = 8  # frames of each turn that are not counted


class Clock:
    """A `View` that notes when a picture was through, the web page included: it is the last to be shown it."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.figures: Figures | None = None

    def wanted(self) -> bool:
        return True

    def show(self, picture: Frame | None, figures: Figures) -> None:
        if picture is not None:
            self.times.append(time.perf_counter())
            self.figures = figures

    def close(self) -> None: ...


def watch(address: str) -> None:
    """A viewer that reads all it is sent."""
    with contextlib.suppress(http.client.IncompleteRead), urllib.request.urlopen(f"{address}stream") as stream:
        while stream.read1(1 << 16):
            pass


def write_video(path: Path) -> list[Frame]:
    """A drive in drawn streets, and its frames as the file gives them back."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (512, 512))
    for number in range(FRAMES):
        writer.write(video_frame(VALIDATION, number)[0])
    writer.release()
    return [item.frame for item in open_source(str(path), every_frame=True).frames()]


def loop(segmenter: Segmenter, frames: list[Frame], count: int) -> Stages:
    """Milliseconds a frame of the plain loop."""
    for frame in frames[:WARM_UPS]:
        segmenter.segment(frame)
    began = time.perf_counter()
    for frame in islice(cycle(frames), count):
        segmenter.segment(frame)
    return {"frame": 1000 * (time.perf_counter() - began) / count}


def demo(model: Model, video: Path, count: int) -> tuple[Stages, Figures]:
    """Milliseconds a frame of the demo with a viewer, and its own figures."""
    show, clock = Show([open_source(str(video), every_frame=True, repeat=True)], [model], Look()), Clock()
    web = Web(show)
    viewer = multiprocessing.get_context("spawn").Process(target=watch, args=(web.address,), daemon=True)
    viewer.start()
    while not web.wanted():
        time.sleep(0.01)
    show.views += [web, clock]
    show.run(WARM_UPS + count)
    viewer.join(5)
    times = clock.times[WARM_UPS:]
    assert clock.figures
    return {"frame": 1000 * (times[-1] - times[0]) / (len(times) - 1)}, clock.figures


@click.command(help=__doc__)
@click.argument("bundles", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--rounds", default=20, show_default=True)
@click.option("--frames", default=40, show_default=True, help="Of a turn.")
@click.option("--out", type=click.Path(path_type=Path))
def main(bundles: tuple[Path, ...], rounds: int, frames: int, out: Path | None) -> None:
    console, cells = Console(), []
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "drive.mp4"
        kept = write_video(video)
        for path in bundles:
            bundle = open_bundle(path)
            cell = measure(Model(path.name, bundle.manifest.precision, Segmenter(bundle)), kept, video, rounds, frames)
            cells.append(cell)
            console.print(row(cell))
    console.print(save({"cpu": cpu(), "cells": cells}, "demo_rate.json", out))


def measure(model: Model, kept: list[Frame], video: Path, rounds: int, count: int) -> dict[str, Any]:
    stages: list[Stages] = []

    def shown() -> Stages:
        took, figures = demo(model, video, count)
        stages.append(dict(figures.stages_ms))
        return took

    with model.segmenter as segmenter:
        timing = take_turns({"loop": lambda: loop(segmenter, kept, count), "demo": shown}, rounds)
        backend = segmenter.session.name
    return {
        "bundle": model.name,
        "precision": model.precision,
        "backend": backend,
        "loop_fps": 1000 / timing.ms("loop"),
        "demo_fps": 1000 / timing.ms("demo"),
        "share": asdict(timing.ratio("loop", "demo")),
        "stages_ms": {name: statistics.median(item[name] for item in stages) for name in stages[0]},
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
