"""The running demo: results become one picture and one set of figures, for all who look.

What is shown can be changed while it runs, from any thread.

live(source, segmenter) ──> Show ──> Recording
                             │  └──> View ...   a window, a web page
                             └────── change({"opacity": 0.7})
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from refinenet_edge.demo.overlay import OverlayStyle, draw, no_signal
from refinenet_edge.demo.record import Recording
from refinenet_edge.demo.stream import SegmentedFrame, live
from refinenet_edge.errors import InputError
from refinenet_edge.evaluation.confusion import Confusion
from refinenet_edge.frames import LiveSource
from refinenet_edge.opencv import cv2
from refinenet_edge.records import RGB, Frame, Labels, Mask
from refinenet_edge.runtime import Segmenter

FRESH = 0.25  # seconds that figures are shown before they are taken anew
HELD = 0.2  # seconds between pictures while paused: a window has to be kept alive
WINDOW = 2.0  # seconds that the frame rate is counted over
SAID = 15.0  # seconds that a message is shown
SAMPLES = 300  # frames that percentiles are of
JUDGED = 100  # frames that mIoU is of
SMOOTH = 0.15  # weight of a frame's shares in the shown ones
LEGEND = 10  # classes
LEAST = 0.005  # of the frame, for a class to be in the legend

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded bundle: what it is called, its precision, and what runs it."""

    name: str
    precision: str
    segmenter: Segmenter


@dataclass(frozen=True)
class ClassFigure:
    name: str
    colour: RGB
    share: float  # of the frame, smoothed
    hidden: bool


@dataclass(frozen=True)
class Figures:
    """What is said beside the picture. Durations are ms; None: not known here.

    `fps` is of the pictures shown in the last two seconds; `p50_ms` and `p99_ms` are of "segment", from frame to
    labels, of the last 300 frames; `age_ms` is of the newest mask, from its capture until it was shown.
    """

    source: int
    sources: tuple[str, ...]
    model: int
    models: tuple[str, ...]
    precision: str
    backend: str
    state: str  # opening, live, paused, no signal
    message: str
    fps: float
    p50_ms: float
    p99_ms: float
    age_ms: float
    stages_ms: Mapping[str, float]
    frames: int
    drops: int
    size: tuple[int, int]  # (height, width) of the frame
    miou: float | None
    judged: int  # frames that `miou` is of
    classes: tuple[ClassFigure, ...]
    opacity: float
    side_by_side: bool
    figures: bool
    power_w: float | None

    def lines(self) -> list[str]:
        """The most important ones, for the picture."""
        miou = [f"mIoU {100 * self.miou:.1f} %"] if self.miou is not None else []
        return [
            f"{self.fps:.1f} fps",
            f"p50 {self.p50_ms:.1f}  p99 {self.p99_ms:.1f} ms",
            f"{self.precision}, {self.backend}",
            f"age {self.age_ms:.0f} ms, {self.drops} dropped",
            *miou,
        ]

    def legend(self) -> list[tuple[str, RGB]]:
        """The classes that are seen, in their order."""
        seen = [item for item in self.classes if item.share >= LEAST and not item.hidden]
        largest = sorted(seen, key=lambda item: -item.share)[:LEGEND]
        return [(item.name, item.colour) for item in seen if item in largest]


class View(Protocol):
    """Somewhere pictures are looked at."""

    def wanted(self) -> bool:
        """Whether anybody looks: otherwise nothing is drawn."""

    def show(self, picture: Frame | None, figures: Figures) -> None:
        """Take a picture, which stays as it is, and figures. Called by the thread that runs the show."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class DemoSummary:
    """What a show was: `frames` shown in `seconds`, `drops` live frames replaced unseen."""

    frames: int
    drops: int
    seconds: float


@dataclass(frozen=True)
class Controls:
    """What is asked for; `source` and `model` are indices."""

    style: OverlayStyle
    paused: bool = False
    source: int = 0
    model: int = 0


class Show:
    """Plays `sources` one at a time through one of `models`; `views` may be added until it runs."""

    def __init__(
        self,
        sources: Sequence[LiveSource],
        models: Sequence[Model],
        style: OverlayStyle,
        recording: Recording | None = None,
        power: Callable[[], float | None] = lambda: None,
    ) -> None:
        """`power` says how many watts the machine takes, where that can be known."""
        self.views: list[View] = []
        self._sources, self._models = sources, models
        self._recording, self._power = recording, power
        self._lock = threading.Lock()  # of the controls
        self.controls = Controls(style)
        self._woken, self._ended = threading.Event(), threading.Event()
        self._began = self._resumed = 0.0
        self._said = ("", 0.0)  # and when
        self._frames = self._drops = 0
        self._statistics = _Statistics()
        self._made_by: deque[int] = deque()  # models, of the results on their way
        self._figures: Figures | None = None
        self._figured = 0.0

    def run(self, frames: int | None = None) -> None:
        """Play until `stop`, the source's end or so many `frames`; then everything that was shown on is closed.

        Raises what `live` raises; a source that was changed to and does not open is a message instead.
        """
        self._began = time.monotonic()
        try:
            before = None
            while not self._ended.is_set():
                playing = self.controls.source
                try:
                    if not self._play(playing, frames):
                        break
                    before = playing
                except InputError as exc:
                    if before is None or self._statistics.frames:
                        raise
                    self._said = (str(exc), time.monotonic())
                    self._change_controls(source=before)
                    before = None
        finally:
            self.close()

    def close(self) -> None:
        """Close the recording and all views; a second call does nothing."""
        with contextlib.ExitStack() as stack:
            for view in self.views:
                stack.callback(view.close)
            if self._recording:
                stack.callback(self._recording.close)  # the first to be closed
        self.views.clear()

    def summary(self) -> DemoSummary:
        """Of `run` until now."""
        return DemoSummary(self._frames, self._drops + self._statistics.drops, time.monotonic() - self._began)

    def stop(self) -> None:
        """End `run` after the frame it is at; for any thread."""
        self._ended.set()
        self._woken.set()

    def wake(self) -> None:
        """Show the picture again soon, if there is no other: somebody new is looking."""
        self._woken.set()

    def change(self, asked: Mapping[str, Any]) -> None:
        """Change what is shown: opacity, hidden (class indices), side_by_side, figures, paused, source, model.

        For any thread. `asked` is not to be trusted: `InputError` says what of it cannot be, and nothing is changed.
        """
        classes = len(self._labels().names)
        rules: dict[str, tuple[Callable[[Any], bool], str]] = {
            "opacity": (lambda v: _is_number(v) and 0 <= v <= 1, "0 to 1"),
            "hidden": (lambda v: isinstance(v, list) and all(_is_index(i, classes) for i in v), "class numbers"),
            "side_by_side": (lambda v: isinstance(v, bool), "true or false"),
            "figures": (lambda v: isinstance(v, bool), "true or false"),
            "paused": (lambda v: isinstance(v, bool), "true or false"),
            "source": (lambda v: _is_index(v, len(self._sources)), f"0 to {len(self._sources) - 1}"),
            "model": (lambda v: _is_index(v, len(self._models)), f"0 to {len(self._models) - 1}"),
        }
        for name, value in asked.items():
            if name not in rules:
                raise InputError(f"{name[:40]!r} cannot be changed; {', '.join(rules)} can")
            fits, meant = rules[name]
            if not fits(value):
                raise InputError(f"{name}: {meant} is meant")
        given = dict(asked)
        if "hidden" in given:
            given["hidden"] = frozenset(given["hidden"])
        self._change_controls(**given)

    def _change_controls(self, **given: Any) -> None:
        own = {field.name for field in dataclasses.fields(Controls)}
        with self._lock:
            old = self.controls
            style = {name: value for name, value in given.items() if name not in own}
            new = dataclasses.replace(
                old,
                style=dataclasses.replace(old.style, **style),
                **{name: value for name, value in given.items() if name in own},
            )
            if self._models[new.model].segmenter.labels != self._models[old.model].segmenter.labels:
                new = dataclasses.replace(new, style=dataclasses.replace(new.style, hidden=frozenset()))
            if old.paused and not new.paused:
                self._resumed = time.monotonic()
            self.controls = new
        self._figured = 0.0
        self._woken.set()

    def _labels(self) -> Labels:
        return self._models[self.controls.model].segmenter.labels

    def segment(self, frame: Frame) -> Mask:
        """By the model that is chosen now: `live` takes a show for a segmenter."""
        model = self.controls.model
        mask = self._models[model].segmenter.segment(frame)
        self._made_by.append(model)
        return mask

    def _play(self, playing: int, limit: int | None) -> bool:
        """Show source `playing`; whether another is wished for."""
        source = self._sources[playing]
        self._drops += self._statistics.drops
        self._statistics = _Statistics()
        self._made_by.clear()
        self._announce("opening")
        with contextlib.closing(live(source, self)) as results:
            for result in results:
                if self._ended.is_set() or self.controls.source != playing:
                    break
                if result.signal:
                    model = self._made_by.popleft()
                    if source.live and result.captured < self._resumed:
                        continue  # it waited while the show was paused
                    self._statistics.add(result, source, model)
                    self._frames += 1
                else:
                    self._statistics.no_signal()
                self._show(result)
                if self._frames == limit:
                    return False
                while self.controls.paused and not self._ended.is_set() and self.controls.source == playing:
                    self._woken.wait(HELD)
                    self._woken.clear()
                    self._show(result)
        return self.controls.source != playing and not self._ended.is_set()

    def _announce(self, state: str) -> None:
        self._figures = self._take_figures(state, (0, 0))
        for view in self.views:
            view.show(None, self._figures)

    def _show(self, result: SegmentedFrame) -> None:
        statistics, controls = self._statistics, self.controls
        started = time.monotonic()
        if self._figures is None or started - self._figured >= FRESH:
            self._figured = started
            state = "paused" if controls.paused else "live" if result.signal else "no signal"
            self._figures = self._take_figures(state, (result.frame.shape[0], result.frame.shape[1]))
        figures, picture = self._figures, None
        if self._recording or any(view.wanted() for view in self.views):
            picture = draw(result.frame, result.mask, controls.style, figures.lines(), figures.legend())
            if not result.signal:
                picture = no_signal(picture)
        drawn = time.monotonic()
        if self._recording and picture is not None:
            self._recording.write(picture)
        for view in self.views:
            view.show(picture, figures)
        done = time.monotonic()
        if result.signal and not controls.paused:
            statistics.shown(done, 1000 * (done - result.captured))
            statistics.stage("draw", 1000 * (drawn - started))
            statistics.stage("encode", 1000 * (done - drawn))
        elif not result.signal:
            statistics.age_ms = 1000 * (done - result.captured)

    def _take_figures(self, state: str, size: tuple[int, int]) -> Figures:
        controls, statistics = self.controls, self._statistics
        model, style = self._models[controls.model], controls.style
        labels = model.segmenter.labels
        shares = statistics.shares if len(statistics.shares) == len(labels.names) else [0.0] * len(labels.names)
        classes = zip(labels.names, labels.palette, shares, strict=True)
        p50, p99 = statistics.percentiles()
        return Figures(
            source=controls.source,
            sources=tuple(source.name for source in self._sources),
            model=controls.model,
            models=tuple(f"{item.name} ({item.precision})" for item in self._models),
            precision=model.precision,
            backend=model.segmenter.session.name,
            state=state,
            message=self._said[0] if time.monotonic() - self._said[1] < SAID else "",
            fps=statistics.fps(),
            p50_ms=p50,
            p99_ms=p99,
            age_ms=statistics.age_ms,
            stages_ms=statistics.stages(),
            frames=self._frames,
            drops=self._drops + statistics.drops,
            size=size,
            miou=statistics.miou(),
            judged=len(statistics.judged),
            classes=tuple(
                ClassFigure(name, colour, float(share), index in style.hidden)
                for index, (name, colour, share) in enumerate(classes)
            ),
            opacity=style.opacity,
            side_by_side=style.side_by_side,
            figures=style.figures,
            power_w=self._power(),
        )


class _Statistics:
    """Of one source, by one model: another starts anew, except for drops."""

    def __init__(self) -> None:
        self.frames = self.drops = 0
        self.age_ms = 0.0
        self._model: int | None = None
        self._forget()

    def _forget(self) -> None:
        self.shares: Any = np.zeros(0)
        self.judged: deque[Confusion] = deque(maxlen=JUDGED)
        self._times: deque[float] = deque()
        self._stages: dict[str, deque[float]] = {}

    def add(self, result: SegmentedFrame, source: LiveSource, model: int) -> None:
        self.drops = result.drops
        if model != self._model:
            self._model = model
            self._forget()
        self.frames += 1
        for name, ms in result.stages_ms.items():
            self.stage(name, ms)
        labels, classes = result.mask.labels, result.mask.classes
        count = len(classes.names)
        shares = cv2.calcHist([labels], [0], None, [count], [0, count]).ravel() / labels.size
        self.shares = shares if len(self.shares) != count else (1 - SMOOTH) * self.shares + SMOOTH * shares
        if result.truth is not None and source.labels is not None and source.labels.names == classes.names:
            self.judged.append(Confusion.of(result.truth, labels, count))

    def no_signal(self) -> None:
        self._times.clear()

    def stage(self, name: str, ms: float) -> None:
        self._stages.setdefault(name, deque(maxlen=SAMPLES)).append(ms)

    def shown(self, at: float, age_ms: float) -> None:
        self.age_ms = age_ms
        self._times.append(at)
        while self._times[0] < at - WINDOW:
            self._times.popleft()

    def fps(self) -> float:
        times = self._times
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0

    def percentiles(self) -> tuple[float, float]:
        samples = self._stages.get("segment")
        if not samples:
            return 0.0, 0.0
        p50, p99 = np.percentile(samples, [50, 99])
        return float(p50), float(p99)

    def stages(self) -> dict[str, float]:
        """The median of each stage."""
        return {name: float(np.median(samples)) for name, samples in self._stages.items()}

    def miou(self) -> float | None:
        if not self.judged:
            return None
        found = Confusion(sum(item.matrix for item in self.judged)).miou  # type: ignore[arg-type]
        return None if math.isnan(found) else found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_index(value: Any, count: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count
