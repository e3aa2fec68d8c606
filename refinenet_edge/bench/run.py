"""Measure entries side by side, and everything else that a report shows -> a `BenchmarkRun`.

    per entry   mIoU, start (a process of its own), camera to screen, power (running alone), layers
    per case    all entries in turn, round by round, each on the same frame

Frames are `FRAMES` different ones, drawn scenes or the first of a folder, at the case's size.
"""

import contextlib
import datetime
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from refinenet_edge.bench.alone import measure_power, measure_screen, measure_start
from refinenet_edge.bench.blocks import block_of
from refinenet_edge.bench.entry import WHOLE, BundleEntry, Entry, Runner
from refinenet_edge.bench.judge import Judge, examples
from refinenet_edge.bench.machine import commit, describe
from refinenet_edge.bench.measure import RULE, WARM_UPS, Contender, Stages, take_turns
from refinenet_edge.bench.record import (
    STAGES,
    BenchmarkRun,
    Case,
    Example,
    Layer,
    LiveRun,
    Measurement,
    Power,
    Start,
    Subject,
)
from refinenet_edge.errors import InputError, RefineNetEdgeError
from refinenet_edge.evaluation import DataSet
from refinenet_edge.frames import Scenes, open_frames, parse
from refinenet_edge.opencv import cv2
from refinenet_edge.records import Frame, LabelMap, Labels, Size
from refinenet_edge.runtime.cuda import gpu_bus_id, gpu_name
from refinenet_edge.scenes import scene

FRAMES = 8
BURST = 4  # frames of each stream in a run
STAGED = 20  # runs of a GPU's stages

Step = Callable[[str], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What to measure. `rounds` end a case instead of the rule.

    `judge` is the data set that mIoU is measured on, `source` what camera to screen is measured with, as of the demo;
    `brief`: nothing about start, screen, power and layers.
    """

    cases: tuple[Case, ...]
    frames: str = "scenes"  # or images, or a video
    rounds: int | None = None
    judge: DataSet | None = None
    source: str | None = None
    brief: bool = False


def run(entries: Sequence[Entry], options: Options, command: str, step: Step = lambda _: None) -> BenchmarkRun:
    """Measure `entries`; the first is what the others are compared with. Nothing is written.

    Raises `InputError` for names that are not unique or frames that cannot be read; what an entry cannot do in one case
    is left out there and noted, unless it is the first.
    """
    names = [entry.subject.name for entry in entries]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two subjects are named {twice}: rename a bundle's folder, or leave one out")
    started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    notes: list[str] = []
    subjects, classes, shown = _judged(entries, options.judge, notes, step)  # first: it may not fit the classes
    measurements: list[Measurement] = []
    for case in options.cases:
        measurements += _measure(entries, case, options, notes, step)
    frames = _frames(options.frames, options.cases[0].size)
    starts: list[Start] = []
    screens: list[LiveRun] = []
    power: list[Power | None] = []
    layers: list[Layer] = []
    for entry in () if options.brief else entries:
        name = entry.subject.name
        with _noted(f"start of {name}", notes):
            step(f"start {name} by itself")
            starts.append(measure_start(entry, Case(options.cases[0].size), frames))
        with _noted(f"power of {name}", notes):
            step(f"run {name} alone")
            gpu = gpu_bus_id() if entry.on_gpu else None
            power.append(measure_power(entry, Case(options.cases[0].size), frames, gpu, notes))
        if isinstance(entry, BundleEntry):
            if options.source is not None:
                step(f"show what {name} sees")
                screens.append(measure_screen(entry, options.source))
            with _noted(f"layers of {name}", notes):
                step(f"profile {name}")
                layers += _layers(entry, frames[0])
    return BenchmarkRun(
        started=started,
        command=command,
        commit=commit(Path(__file__).parent),
        machine=describe(device=gpu_name(), gpu=gpu_bus_id()) if any(entry.on_gpu for entry in entries) else describe(),
        rule=RULE if options.rounds is None else f"{WARM_UPS} warm-ups, then {options.rounds} rounds",
        frames=f"{options.frames}, {len(frames)} different ones in turn",
        subjects=subjects,
        measurements=tuple(measurements),
        starts=tuple(starts),
        screens=tuple(screens),
        power=tuple(filter(None, power)),
        layers=tuple(layers),
        notes=tuple(dict.fromkeys(notes)),
        classes=classes,
        examples=shown,
    )


def _measure(
    entries: Sequence[Entry], case: Case, options: Options, notes: list[str], step: Step
) -> Iterator[Measurement]:
    frames = _frames(options.frames, case.size)
    with ExitStack() as stack:
        runners: dict[str, Runner] = {}
        for entry in entries:
            step(f"load {entry.subject.name} for {case}")
            try:
                runners[entry.subject.name] = stack.enter_context(_opened(entry, case))
            except RefineNetEdgeError as exc:
                if entry is entries[0]:  # nothing can be compared without it
                    raise
                notes.append(f"{entry.subject.name} at {case}: {exc}")
        step(f"time {case}")
        contenders = {name: _in_turn(runner, frames, case.batch) for name, runner in runners.items()}
        timing = take_turns(contenders, options.rounds)
    for entry in entries:
        name = entry.subject.name
        if name not in runners:
            continue
        ms = tuple(timing.samples(name))
        yield Measurement(
            subject=name,
            case=case,
            ms=ms,
            stages=_stages(entry, case, timing.runs[name], frames),
            warm_ups=tuple(sum(stages.values()) for stages in timing.warm_ups[name]),
            frames_per_second=1000 * case.batch * case.streams / statistics.median(ms),
            ended=timing.ended,
        )


@contextmanager
def _opened(entry: Entry, case: Case) -> Iterator[Runner]:
    """The runner of `entry`. Several streams have one each: a run is `BURST` frames of every stream, in ms a frame."""
    if case.streams == 1:
        with entry.open(case) as run:
            yield run
        return
    with ExitStack() as stack:
        runs = [stack.enter_context(entry.open(case)) for _ in range(case.streams)]
        pool = stack.enter_context(ThreadPoolExecutor(case.streams))

        def run_all(frames: Sequence[Frame]) -> Stages:
            def burst(run: Runner) -> None:
                for _ in range(BURST):
                    run(frames)

            started = time.perf_counter()
            for _ in pool.map(burst, runs):
                pass
            return {WHOLE: 1000 * (time.perf_counter() - started) / BURST}

        yield run_all


def _in_turn(run: Runner, frames: Sequence[Frame], batch: int) -> Contender:
    """A contender that takes the next `batch` of `frames` every time."""
    place = count(step=batch)

    def contender() -> Stages:
        start = next(place)
        return run([frames[(start + index) % len(frames)] for index in range(batch)])

    return contender


def _stages(entry: Entry, case: Case, runs: Sequence[Stages], frames: Sequence[Frame]) -> dict[str, tuple[float, ...]]:
    """The stages of `runs`; where they are one, on a GPU, of runs of their own."""
    if WHOLE in runs[0]:
        if not isinstance(entry, BundleEntry) or (case.batch, case.streams) != (1, 1):
            return {}
        with entry.segmenter() as segmenter:
            segmenter.segment(frames[0])
            runs = [segmenter.staged(frames[index % len(frames)])[1] for index in range(1 + STAGED)][1:]
    return {stage: tuple(run[stage] for run in runs) for stage in STAGES if stage in runs[0]}


def _frames(source: str, size: Size) -> list[Frame]:
    """`FRAMES` frames of `size`: drawn ones, or images of a folder, resized."""
    address = parse(source, count=FRAMES)
    if isinstance(address, Scenes):
        return [scene(address.seed, index, size)[0] for index in range(min(FRAMES, address.count))]
    frames = open_frames(address)
    read = (frames.read(index) for index in range(min(FRAMES, len(frames))))
    return [np.asarray(cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA), np.uint8) for frame in read]


def _judged(
    entries: Sequence[Entry], data: DataSet | None, notes: list[str], step: Step
) -> tuple[tuple[Subject, ...], Labels | None, tuple[Example, ...]]:
    """The subjects with their mIoU on `data`, the classes and examples; of baselines where they can be judged."""
    first = entries[0]
    if data is None or not isinstance(first, BundleEntry):
        return tuple(entry.subject for entry in entries), None, ()
    judge = Judge(data, first.manifest.labels, first.manifest.frame)
    subjects: list[Subject] = []
    labels: dict[str, list[LabelMap]] = {}
    for entry in entries:
        name = entry.subject.name
        if isinstance(entry, BundleEntry) and len(entry.manifest.labels.names) != len(judge.labels.names):
            raise InputError(f"{name} has other classes than {first.subject.name}: judge them in runs of their own")
        step(f"segment {data.name} with {name}")
        subjects.append(entry.subject)
        with contextlib.nullcontext() if isinstance(entry, BundleEntry) else _noted(f"mIoU of {name}", notes):
            subjects[-1], labels[name] = judge.judge(entry)
    return tuple(subjects), judge.labels, examples(judge, labels)


def _layers(entry: BundleEntry, frame: Frame) -> list[Layer]:
    """The layers of `entry`, the slowest first."""
    with entry.segmenter() as segmenter:
        session = segmenter.session
        images = segmenter.image(frame).repeat(segmenter.batch.least, axis=0)
        times = session.layer_times({session.inputs[0].name: images})
    times.sort(key=lambda layer: -layer.ms)
    return [Layer(entry.subject.name, layer.name, layer.kind, block_of(layer.name), layer.ms) for layer in times]


@contextmanager
def _noted(what: str, notes: list[str]) -> Iterator[None]:
    """Notes why the block failed; the rest goes on."""
    try:
        yield
    except RefineNetEdgeError as exc:
        logger.info("%s: %s", what, exc)
        notes.append(f"{what}: {exc}")
