"""What a benchmark leaves behind: a `BenchmarkRun`, frozen, with everything needed to judge it and to compare it.

BenchmarkRun            one `refinenet-edge bench`: where, what, how, and everything that was measured
  Machine      device, system, versions, power mode
  Subject      what was timed: a bundle, or a baseline
  Measurement  one subject in one case (frame size, batch, streams): ms of every run, in the order in which they ran
  Start        a subject in a process of its own: loading, first frame, memory
  Screen       a subject on a live source: how old what is shown is
  Power        a subject running alone: watts, joules a frame, temperatures, clocks
  Layer        one layer of a subject's profile, and the block of the model that it belongs to
  Example      a frame, its truth, and what each subject made of it

Measurements of the same case were made in turn, round by round: run i of one belongs to run i of the other. What a
machine cannot say is None, never a guess.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from refinenet_edge.errors import BundleError, InputError, RefineNetEdgeError
from refinenet_edge.files import read_utf8, write_atomically
from refinenet_edge.records import Identity, Labels, Size, from_json, to_json

MAX_RUN = 64 << 20  # bytes of a file

# stages of a frame, in order; a subject has those that its path has
STAGES = ("read", "upload", "prepare", "engine", "head", "download", "draw")


@dataclass(frozen=True)
class Machine:
    """Where a run was made. `device` is the board or GPU that computed, or the CPU."""

    device: str
    cpu: str
    cores: int
    memory_bytes: int | None
    system: str
    python: str
    power_mode: str | None  # nvpmodel's mode, the CPU's frequency governor, None where neither is
    versions: Mapping[str, str]  # of what computed: refinenet_edge, numpy, openvino, torch, tensorrt, driver ...


@dataclass(frozen=True)
class Subject:
    """What was timed, by `backend`. `name` is unique in a run.

    `miou` in [0, 1] on `judge`, None: not asked. `iou` is of each of the run's classes, None: nowhere to be seen.
    """

    name: str
    kind: Literal["bundle", "peer"]  # peer: a baseline
    identity: Identity
    backend: str
    miou: float | None = None
    judge: str | None = None
    iou: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Case:
    """One point of a sweep: frames of `size` (height, width), `batch` of them at once, in `streams` threads."""

    size: Size
    batch: int = 1
    streams: int = 1

    def __str__(self) -> str:
        extra = [f"batch {self.batch}"] * (self.batch > 1) + [f"{self.streams} streams"] * (self.streams > 1)
        return ", ".join([f"{self.size[0]}x{self.size[1]}", *extra])


@dataclass(frozen=True)
class Measurement:
    """`ms`: frame to labels of each counted run by the host's clock; with a batch, of the whole batch.

    `stages` are the same runs, or, on a GPU where a frame is one CUDA graph, runs of their own in which each stage is
    waited for. With several streams the runs of all of them are here, and `frames_per_second` is what they made
    together.
    """

    subject: str
    case: Case
    ms: tuple[float, ...]
    stages: Mapping[str, tuple[float, ...]]
    warm_ups: tuple[float, ...]  # ms, not counted
    frames_per_second: float
    ended: str  # the rule that ended it


@dataclass(frozen=True)
class Start:
    """A subject in a process of its own, files cached. `load_ms`: until it can run, its library's import included."""

    subject: str
    load_ms: float
    first_frame_ms: float
    peak_process_bytes: int | None
    peak_device_bytes: int | None


@dataclass(frozen=True)
class LiveRun:
    """A subject on a live `source`, the newest frame first. `age_ms`: of each picture, from capture until it is drawn.

    `drops`: frames that were replaced by newer ones before they were segmented.
    """

    subject: str
    source: str
    size: Size
    age_ms: tuple[float, ...]
    frames_per_second: float
    drops: int


@dataclass(frozen=True)
class Power:
    """A subject running alone for `seconds`, `frames` frames. Each mapping: sensor -> figure."""

    subject: str
    seconds: float
    frames: int
    watts: Mapping[str, float]  # mean of each rail
    joules_per_frame: float | None  # of the rail that carries the device
    celsius: Mapping[str, float]  # the highest
    mhz: Mapping[str, tuple[float, float]]  # lowest and highest
    throttled: tuple[str, ...] | None  # reasons given, () for none, None: the machine cannot say


@dataclass(frozen=True)
class Layer:
    """One layer as the backend ran it, median `ms` of a frame."""

    subject: str
    name: str
    kind: str  # as the backend calls it, with its precision where it says so
    block: str  # "encoder.layer3", "refine2.crp" ...
    ms: float


@dataclass(frozen=True)
class Example:
    """A frame that mIoU is judged on, made smaller, in base64: a JPEG, and PNGs of class numbers of its size."""

    frame: str
    truth: str
    labels: Mapping[str, str]  # subject -> PNG


@dataclass(frozen=True)
class BenchmarkRun:
    """One benchmark. The first subject is what the others are compared with. Raises `BundleError`."""

    started: str  # ISO 8601, UTC
    command: str
    commit: str | None  # of the toolkit, None where it is not a checkout
    machine: Machine
    rule: str  # when measuring stops, in words
    frames: str  # what was segmented
    subjects: tuple[Subject, ...]
    measurements: tuple[Measurement, ...]
    starts: tuple[Start, ...] = ()
    screens: tuple[LiveRun, ...] = ()
    power: tuple[Power, ...] = ()
    layers: tuple[Layer, ...] = ()
    notes: tuple[str, ...] = ()  # what was asked and could not be had, and why
    classes: Labels | None = None  # of the judge
    examples: tuple[Example, ...] = ()
    schema: int = 2

    def __post_init__(self) -> None:
        names = [subject.name for subject in self.subjects]
        if not names or len(set(names)) != len(names):
            raise BundleError(f"subjects {names}: at least one, each with a name of its own")
        parts = self.measurements, self.starts, self.screens, self.power, self.layers
        for part in (part for kind in parts for part in kind):
            if part.subject not in names:
                raise BundleError(f"{type(part).__name__} of {part.subject!r}, which is no subject")
        classes = len(self.classes.names) if self.classes else 0
        if any(len(subject.iou) not in (0, classes) for subject in self.subjects):
            raise BundleError(f"a subject's IoU is not of the run's {classes} classes")
        if (self.examples and not classes) or any(example.labels.keys() - {*names} for example in self.examples):
            raise BundleError("examples need classes, and are of what is no subject")
        for measurement in self.measurements:
            if not measurement.ms or not all(0 < ms < float("inf") for ms in measurement.ms):
                raise BundleError(f"{measurement.subject} at {measurement.case}: times must be positive and finite")
        for case in self.cases():
            if len({len(measurement.ms) for measurement in self.of(case).values()}) > 1:
                raise BundleError(f"{case}: not every subject ran as often as the others")

    def cases(self) -> tuple[Case, ...]:
        """The cases in the order in which they were measured."""
        return tuple(dict.fromkeys(measurement.case for measurement in self.measurements))

    def of(self, case: Case) -> dict[str, Measurement]:
        """Subject name -> its measurement of `case`, in the order of the subjects."""
        return {m.subject: m for m in self.measurements if m.case == case}

    def subject(self, name: str) -> Subject:
        return next(subject for subject in self.subjects if subject.name == name)


@dataclass(frozen=True)
class LatencySummary:
    """Figures of a measurement's runs, ms. `jitter` is p99 - p50: what a schedule must allow for."""

    least: float
    p50: float
    p90: float
    p99: float
    most: float
    jitter: float
    count: int


def summary(samples: tuple[float, ...]) -> LatencySummary:
    """Percentiles by linear interpolation, as numpy's default."""
    p50, p90, p99 = (float(value) for value in np.percentile(samples, [50, 90, 99]))
    return LatencySummary(min(samples), p50, p90, p99, max(samples), p99 - p50, len(samples))


def write_run(path: Path, run: BenchmarkRun) -> None:
    """Write `run` to `path`: the old file or the new one is there, never a part. Raises `InputError`."""
    write_atomically(path, to_json(run).encode(), InputError)


def read_run(path: Path) -> BenchmarkRun:
    """The run in `path`. Raises `InputError` naming what does not fit."""
    try:
        text = read_utf8(path, MAX_RUN, "benchmark result")
    except InputError as exc:
        raise InputError(f"{exc}; measure with refinenet-edge bench -o {shlex.quote(str(path))}") from exc
    try:
        return from_json(BenchmarkRun, text)
    except RefineNetEdgeError as exc:
        raise InputError(f"{path} is not a benchmark result: {exc}") from exc
