"""Counts what is shown, and makes the figures of it."""

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refinenet_edge.demo.controls import Controls
from refinenet_edge.demo.stream import SegmentedFrame
from refinenet_edge.evaluation.confusion import Confusion
from refinenet_edge.frames import LiveSource
from refinenet_edge.opencv import cv2
from refinenet_edge.overlay import legend
from refinenet_edge.records import RGB, Labels
from refinenet_edge.sensors import Meters

FPS_WINDOW = 2.0  # seconds that the frame rate is counted over
TIMED = 300  # frames that percentiles are of
SCORED = 100  # frames that mIoU is of
SMOOTHING = 0.15  # weight of a frame's shares in the shown ones
WATTS_SECONDS = 2.0  # that the watts are the mean of


@dataclass(frozen=True)
class Playing:
    """The sources and models to choose from; precision and backend of the chosen model."""

    sources: tuple[str, ...]
    models: tuple[str, ...]
    precision: str
    backend: str


@dataclass(frozen=True)
class LiveSpeed:
    """How fast it is. Durations are ms.

    `fps` is of the pictures shown in the last two seconds; `p50_ms` and `p99_ms` are of "segment", from frame to
    labels, of the last 300 frames; `age_ms` is of the newest mask, from its capture until it was shown: of several
    cameras that of the one whose masks are oldest.
    """

    fps: float
    p50_ms: float
    p99_ms: float
    age_ms: float
    stages_ms: Mapping[str, float]
    frames: int
    drops: int


@dataclass(frozen=True)
class Score:
    """mIoU over the last `frames` whose truth is known."""

    miou: float
    frames: int


@dataclass(frozen=True)
class ClassShare:
    """A class, and its share of the frame, smoothed."""

    name: str
    colour: RGB
    share: float


@dataclass(frozen=True)
class CameraFigures:
    """A source that plays: `state` is opening, live, no signal (`why` says why) or ended.

    `fps` and `age_ms` as in `LiveSpeed`. `share`: of the frames segmented in the last two seconds, how many were its
    own.
    """

    name: str
    state: str
    why: str
    fps: float
    age_ms: float
    frames: int
    drops: int
    share: float

    def lines(self) -> tuple[str, ...]:
        """The most important ones, for its tile."""
        return (
            f"{self.fps:.1f} fps, age {self.age_ms:.0f} ms",
            f"{100 * self.share:.0f} % of the frames, {self.drops} dropped",
        )


@dataclass(frozen=True)
class Figures:
    """What is shown beside the picture. None: not known here.

    `cameras` are the sources that play, in the order of their tiles, of which `columns` are beside each other.
    """

    state: str  # opening, live, paused, no signal
    message: str
    controls: Controls
    playing: Playing
    speed: LiveSpeed
    score: Score | None
    classes: tuple[ClassShare, ...]
    power_w: float | None
    cameras: tuple[CameraFigures, ...] = ()
    columns: int = 1

    def lines(self) -> list[str]:
        """The most important ones, for the picture."""
        speed = self.speed
        return [
            f"{speed.fps:.1f} fps",
            f"p50 {speed.p50_ms:.1f}  p99 {speed.p99_ms:.1f} ms",
            f"{self.playing.precision}, {self.playing.backend}",
            f"age {speed.age_ms:.0f} ms, {speed.drops} dropped",
            *([f"mIoU {100 * self.score.miou:.1f} %"] if self.score else []),
        ]

    def legend(self) -> list[tuple[str, RGB]]:
        """The classes that are seen, in their order."""
        return legend([(item.name, item.colour, item.share) for item in self.classes], self.controls.style.hidden)


class _Camera:
    """Counts of one of the sources that play."""

    def __init__(self) -> None:
        self.frames = self.drops = 0
        self.age_ms = 0.0
        self.silent = False
        self.times: deque[float] = deque()  # when it was shown
        self.shares: Any = np.zeros(0)  # of classes

    def recent(self, now: float) -> int:
        """How often it was shown in the last two seconds."""
        while self.times and self.times[0] < now - FPS_WINDOW:
            self.times.popleft()
        return len(self.times)

    def fps(self) -> float:
        times = self.times
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


class Statistics:
    """Counts of the sources and the model that play; `frames` and `drops` are of the whole show."""

    def __init__(self) -> None:
        self.frames = self.drops = 0  # of all sources
        self.begin(1)

    def begin(self, cameras: int) -> None:
        """Count anew, for so many other sources."""
        self._earlier_drops = self.drops
        self.source_frames = 0
        self._cameras = [_Camera() for _ in range(cameras)]
        self._begin_model(None)

    def _begin_model(self, model: int | None) -> None:
        self._model = model
        self._confusions: deque[Confusion] = deque(maxlen=SCORED)
        self._stages: dict[str, deque[float]] = {}
        for camera in self._cameras:
            camera.shares = np.zeros(0)
            camera.times.clear()

    def add(self, result: SegmentedFrame, source: LiveSource, model: int) -> None:
        """Count a frame of `source` that `model`, an index, segmented."""
        if model != self._model:
            self._begin_model(model)
        camera = self._cameras[result.camera]
        if camera.silent:  # until it is shown its age is not that of its last mask before
            camera.age_ms, camera.silent = result.age_ms, False
        camera.frames += 1
        camera.drops = result.drops
        self.drops = self._earlier_drops + sum(camera.drops for camera in self._cameras)
        self.frames += 1
        self.source_frames += 1
        self._count_stages(result.stages_ms)
        labels, classes = result.mask.labels, result.mask.classes
        count = len(classes.names)
        shares = cv2.calcHist([labels], [0], None, [count], [0, count]).ravel() / labels.size
        before = camera.shares if len(camera.shares) == count else shares
        camera.shares = (1 - SMOOTHING) * before + SMOOTHING * shares
        if result.truth is not None and source.labels is not None and source.labels.names == classes.names:
            self._confusions.append(Confusion.of(result.truth, labels, count))

    def shown(self, camera: int, at: float, age_ms: float, stages_ms: Mapping[str, float]) -> None:
        """Count a picture of `camera` shown `at` (seconds) with a mask so old, and the stages after segmenting."""
        counted = self._cameras[camera]
        counted.age_ms, counted.silent = age_ms, False
        counted.times.append(at)
        counted.recent(at)
        self._count_stages(stages_ms)

    def no_signal(self, camera: int, age_ms: float) -> None:
        """The source gives nothing: its last mask is so old by now, and it has no frame rate."""
        counted = self._cameras[camera]
        counted.age_ms, counted.silent = age_ms, True
        counted.times.clear()

    def _count_stages(self, stages_ms: Mapping[str, float]) -> None:
        for name, ms in stages_ms.items():
            self._stages.setdefault(name, deque(maxlen=TIMED)).append(ms)

    def speed(self) -> LiveSpeed:
        segment = self._stages.get("segment")
        p50, p99 = map(float, np.percentile(segment, [50, 99])) if segment else (0.0, 0.0)
        live = [camera for camera in self._cameras if not camera.silent] or self._cameras
        return LiveSpeed(
            fps=sum(camera.fps() for camera in self._cameras),
            p50_ms=p50,
            p99_ms=p99,
            age_ms=max(camera.age_ms for camera in live),
            stages_ms={name: float(np.median(samples)) for name, samples in self._stages.items()},
            frames=self.frames,
            drops=self.drops,
        )

    def cameras(self, states: Sequence[tuple[str, str, str]], now: float) -> tuple[CameraFigures, ...]:
        """The figures of each source, whose name, state and why it is so `states` has, at `now` (seconds)."""
        recent = [camera.recent(now) for camera in self._cameras]
        return tuple(
            CameraFigures(*state, camera.fps(), camera.age_ms, camera.frames, camera.drops, count / max(sum(recent), 1))
            for state, camera, count in zip(states, self._cameras, recent, strict=True)
        )

    def score(self) -> Score | None:
        """mIoU; None where no truth is known."""
        if not self._confusions:
            return None
        miou = sum(self._confusions, Confusion.zero(len(self._confusions[0].matrix))).miou
        return None if math.isnan(miou) else Score(miou, len(self._confusions))

    def classes(self, labels: Labels) -> tuple[ClassShare, ...]:
        """The share of each class, the mean of the cameras'; 0 until a frame with these `labels` was counted."""
        known = [camera.shares for camera in self._cameras if len(camera.shares) == len(labels.names)]
        shares = np.mean(known, axis=0) if known else np.zeros(len(labels.names))
        rows = zip(labels.names, labels.palette, map(float, shares), strict=True)
        return tuple(ClassShare(*row) for row in rows)


class RecentWatts:
    """Call it for the mean watts of the device that computes over the last two seconds; None: no sensor says."""

    def __init__(self, meters: Meters) -> None:
        """`meters` are opened and closed by the caller."""
        self._meters: Meters | None = meters
        self._watts: float | None = None
        self._began = time.monotonic()

    def __call__(self) -> float | None:
        now = time.monotonic()
        if self._meters is not None and now - self._began >= WATTS_SECONDS:
            reading = self._meters.lap()
            self._began, self._watts = now, reading.mean_watts if reading else None
            if self._watts is None:
                self._meters = None  # what says nothing once is not asked again
        return self._watts
