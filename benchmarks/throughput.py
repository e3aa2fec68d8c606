"""Frames per second of `eval`, `batch` and `calibrate` in this process, beside those of another commit, in turn.

    python benchmarks/throughput.py   -> benchmarks/results/<cpu>-<cores>/throughput.json, docs/measurements.md

Each tree has a process of its own, which has the bundle open and does one short turn after the other: machines get
faster and slower by the minute, so the ratio is taken round by round, with its interval (bench/measure.py). A turn
reads, segments and compares, or writes the labels of, the same files, or finds the ranges of a quarter of them; opening
the bundle is not in it. Each tree has built its own bundle by the same recipe, and both must find the same confusion
matrix and the same ranges. Memory is the largest that a process had in a turn, its libraries and the weights included.
`cores_busy` is the share of all cores' time that a process used: what was not used is all that doing things side by
side can win. `engine` is what OpenVINO's several requests in flight bring by themselves, against its one request on all
cores: nothing else runs there.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "3c1800a"  # the last commit that had one frame at a time
RECIPES = {"fp32": "scenes", "int8": "scenes_int8"}
TASKS: dict[str, tuple[str, ...]] = {"fp32": ("eval", "batch", "calibrate"), "int8": ("eval", "batch")}
ALL_TASKS = TASKS["fp32"]
PAGE = ROOT / "docs/measurements.md"
ALONE = "The network alone, with several requests in flight, makes"
TABLE = re.compile(r"(\| precision, command \|.*\n\|[-|]+\|\n)(?:\|.*\n)*")


def taken(task: str, frames: int) -> int:
    """Of so many frames: one takes calibrate as long as several take the others."""
    return frames // 4 if task == "calibrate" else frames


def tasks(bundle: Path, data: Path) -> Iterator[dict[str, Callable[[], Any]]]:
    """A turn of each task, by the tree that this process imports."""
    from refinenet_edge.bundle import open_bundle
    from refinenet_edge.cluster import batch
    from refinenet_edge.cluster.work import everywhere, find, pieces_of
    from refinenet_edge.evaluation import evaluate, open_dataset
    from refinenet_edge.runtime import Segmenter

    opened, images = open_bundle(bundle), str(data / "images")
    jobs: list[batch.LabellingJob] = []

    class Noting(batch.Labeller):
        def __init__(self, job: batch.LabellingJob) -> None:
            jobs.append(job)
            super().__init__(job)

    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as out:
        several = {"throughput": True} if "throughput" in inspect.signature(Segmenter).parameters else {}
        by = stack.enter_context(Segmenter(opened, **several))  # as eval opens it
        dataset = open_dataset(f"plain:{data}")
        labeller, batch.Labeller = batch.Labeller, Noting  # type: ignore[misc]
        batch.label(opened, images, out)
        worker = stack.enter_context(contextlib.closing(labeller(jobs[0])))
        where = everywhere(images)
        (piece,) = pieces_of(where, find(where))
        each = getattr(worker, "each", lambda pieces: map(worker, pieces))  # trees before had none

        def ranges() -> Any:
            import onnx  # here: the other tasks' memory is without it
            import onnx_ir

            from refinenet_edge.calibration import calibrate
            from refinenet_edge.frames import open_frames, parse

            frames = open_frames(parse(images))
            some = replace(frames, names=frames.names[: taken("calibrate", len(frames))])
            model = onnx_ir.from_proto(onnx.load(bundle / "model.onnx"))
            found = calibrate(model, opened.manifest.frame, some).tensors
            return sorted((name, tensor.amax, tensor.low, tensor.high) for name, tensor in found.items())

        yield {
            "eval": lambda: evaluate(by, dataset).confusion,
            "batch": lambda: next(each([piece])).labelled,
            "calibrate": ranges,
        }


def serve(bundle: Path, data: Path) -> None:
    """Do the turn that a line of stdin names; its seconds, the cores' in it, its most memory in MB and its result."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for turns in tasks(bundle, data):
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            Path("/proc/self/clear_refs").write_text("5")  # forget the largest memory
            began, worked = time.perf_counter(), time.process_time()
            result = turns[line.strip()]()
            seconds, working = time.perf_counter() - began, time.process_time() - worked
            most = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
            megabytes = int(most[1]) / 1024 if most else 0.0
            print(json.dumps([seconds, working, megabytes, result]), file=answers, flush=True)


class Tree:
    """A process of one tree that does turns."""

    def __init__(self, tree: Path, bundle: Path, data: Path, frames: int) -> None:
        command = [sys.executable, __file__, "--serve", str(bundle), str(data)]
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=tree, env=environment)
        self._frames = frames
        self.megabytes = dict.fromkeys(ALL_TASKS, 0.0)
        self.busy: dict[str, list[float]] = {task: [] for task in ALL_TASKS}  # a share of a turn
        self.found: dict[str, Any] = {}
        self._answer()

    def turn(self, task: str) -> dict[str, float]:
        assert self.process.stdin
        print(task, file=self.process.stdin, flush=True)
        seconds, working, megabytes, self.found[task] = json.loads(self._answer())
        self.busy[task].append(working / seconds / (os.cpu_count() or 1))
        self.megabytes[task] = max(self.megabytes[task], megabytes)
        return {"frame": 1000 * seconds / taken(task, self._frames)}

    def _answer(self) -> str:
        assert self.process.stdout
        if line := self.process.stdout.readline():
            return line
        raise SystemExit("a tree's process ended: see above")

    def close(self) -> None:
        self.process.communicate()


def rows(cells: list[dict[str, Any]]) -> list[str]:
    """The lines of the table in docs/measurements.md."""
    lines = []
    for cell in cells:
        rates, sizes, times = cell["frames_per_second"], cell["megabytes"], cell["times_the_frames"]
        ratio = f"{times['value']:.2f} ({times['low']:.2f} to {times['high']:.2f})"
        busy = " | ".join(f"{100 * share:.0f} %" for share in cell["cores_busy"].values())
        numbers = f"{rates['before']:.1f} | {rates['now']:.1f} | {ratio} | {busy} | {sizes['before']} | {sizes['now']}"
        lines.append(f"| {cell['precision']}, `{cell['task']}` | {numbers} |")
    return lines


def bound(engines: dict[str, Any]) -> str:
    """The sentence about the network alone in docs/measurements.md."""
    said = []
    for precision, alone in engines.items():
        times = alone["times_the_frames"]
        said.append(f"{times['value']:.2f} times ({times['low']:.2f} to {times['high']:.2f}) in {precision}")
    return f"{ALONE} {' and '.join(said)}."


def write_page(cells: list[dict[str, Any]], engines: dict[str, Any]) -> None:
    text = PAGE.read_text("utf-8")
    text = TABLE.sub(lambda found: found[1] + "".join(f"{line}\n" for line in rows(cells)), text)
    PAGE.write_text(re.sub(f"^{ALONE}.*$", bound(engines), text, flags=re.MULTILINE), "utf-8")


def write_data(folder: Path, frames: int) -> None:
    """Drawn streets and their truth as files."""
    from refinenet_edge.frames.images import write_image
    from refinenet_edge.scenes import VALIDATION, scene

    for number in range(frames):
        frame, truth = scene(VALIDATION, number)
        for kind, image in (("images", frame), ("masks", truth)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            write_image(folder / kind / f"{number:03d}.png", image)


def checkout(commit: str, into: Path) -> Path:
    """The tree of `commit`, with the compiled head of this one: its source is the same."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(into)], input=archive, check=True)
    kernels = "refinenet_edge/runtime/kernels"
    if (into / kernels / "head.cpp").read_bytes() != (ROOT / kernels / "head.cpp").read_bytes():
        raise SystemExit("the head is another in that commit: build it there")
    for built in (ROOT / kernels).glob("_head*.so"):
        shutil.copy(built, into / kernels)
    return into


def engine(bundle: Path, frames: int, rounds: int) -> dict[str, Any]:
    """How many times the frames several requests in flight make, of one on all cores; the network alone."""
    from concurrent.futures import ThreadPoolExecutor
    from dataclasses import asdict

    import numpy as np

    from refinenet_edge.bench.measure import take_turns
    from refinenet_edge.runtime.openvino import OpenVinoSession

    with contextlib.ExitStack() as stack:
        model = bundle / "model.onnx"
        sessions = {name: OpenVinoSession(model, throughput=name == "several") for name in ("one", "several")}
        threads = {}
        for name, session in sessions.items():
            stack.callback(session.close)
            threads[name] = stack.enter_context(ThreadPoolExecutor(session.requests))
        (image,) = sessions["one"].inputs
        feeds = {image.name: np.random.default_rng(0).standard_normal(image.shape).astype(image.dtype)}

        def turn(name: str) -> dict[str, float]:
            began = time.perf_counter()
            for done in [threads[name].submit(sessions[name].run, feeds) for _ in range(frames)]:
                done.result()
            return {"frame": 1000 * (time.perf_counter() - began) / frames}

        timing = take_turns({name: functools.partial(turn, name) for name in sessions}, rounds)
    return {
        "times_the_frames": asdict(timing.ratio("one", "several")),
        "ms": {name: round(timing.ms(name), 2) for name in sessions},
    }


def measure(
    precision: str, before: Path, folder: Path, data: Path, frames: int, rounds: int
) -> Iterator[dict[str, Any]]:
    from dataclasses import asdict

    from refinenet_edge.bench.measure import take_turns

    build = [sys.executable, "-m", "refinenet_edge.cli", "build", f"engines/{RECIPES[precision]}.toml", "--out"]
    trees = {}
    for name, tree in (("before", before), ("now", ROOT)):
        bundle = folder / name / precision
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        subprocess.run([*build, str(bundle)], cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)
        trees[name] = Tree(tree, bundle, data, frames)
    for task in TASKS[precision]:
        timing = take_turns({name: functools.partial(tree.turn, task) for name, tree in trees.items()}, rounds)
        found = [tree.found[task] for tree in trees.values()]
        if found[0] != found[1]:
            raise SystemExit(f"{task} in {precision} gives something else than before")
        yield {
            "precision": precision,
            "task": task,
            "times_the_frames": asdict(timing.ratio("before", "now")),
            "frames_per_second": {name: round(1000 / timing.ms(name), 2) for name in trees},
            "cores_busy": {name: round(statistics.median(tree.busy[task]), 3) for name, tree in trees.items()},
            "megabytes": {name: round(tree.megabytes[task]) for name, tree in trees.items()},
            "ms_per_frame": {name: [round(ms, 2) for ms in timing.samples(name)] for name in trees},
        }
    for tree in trees.values():
        tree.close()


@click.command(help=__doc__)
@click.argument("served", nargs=-1, type=click.Path(path_type=Path))
@click.option("--serve", "serving", is_flag=True, hidden=True)
@click.option("--rounds", default=15, show_default=True)
@click.option("--frames", default=64, show_default=True, help="Of a turn.")
@click.option("--before", "commit", default=BEFORE, show_default=True, help="Of this repository, to compare with.")
@click.option("--out", type=click.Path(path_type=Path))
def main(served: tuple[Path, ...], serving: bool, rounds: int, frames: int, commit: str, out: Path | None) -> None:
    if serving:
        serve(*served)
        return
    sys.path.insert(0, str(ROOT))
    from machine import cpu, save
    from rich.console import Console
    from rich.table import Table

    from refinenet_edge.bench.measure import Estimate

    cells, engines = [], {}
    columns = ("before, frames/s", "now", "times the frames", "cores busy before", "now", "MB before", "MB now")
    table = Table("bundle", "task", *columns, title=cpu())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "tree").mkdir()
        before = checkout(commit, folder / "tree")
        write_data(folder / "data", frames)
        for precision in RECIPES:
            for cell in measure(precision, before, folder, folder / "data", frames, rounds):
                cells.append(cell)
                rates, sizes = cell["frames_per_second"], cell["megabytes"]
                numbers = *rates.values(), Estimate(**cell["times_the_frames"]), *cell["cores_busy"].values()
                table.add_row(precision, cell["task"], *map(str, (*numbers, *sizes.values())))
            engines[precision] = engine(folder / "now" / precision, frames, rounds)
    Console().print(table)
    for precision, alone in engines.items():
        times = Estimate(**alone["times_the_frames"])
        print(f"{precision}, the network alone: {times} times the frames, {alone['ms']} ms")
    record = {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "before": commit,
        "frames": frames,
        "cells": cells,
        "engine": engines,
    }
    Console().print(save(record, "throughput.json", out))
    if out is None:
        write_page(cells, engines)


if __name__ == "__main__":
    main()
