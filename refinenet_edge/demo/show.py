"""The running demo: plays sources through models, and shows one picture and one set of figures to all who look.

Cameras(sources, segmenter) ──> Show ──> Recording
                                 │  └──> View ...   a window, a web page
                                 └────── change({"opacity": 0.7})

The thread that calls `run` reads results, draws, and calls the recording and the views. `change`, `wake` and `stop` are
for any thread: controls are never changed but replaced whole. `segment` is called by the inference thread of `Cameras`.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from refinenet_edge.bundle import open_bundle
from refinenet_edge.demo.controls import Controls
from refinenet_edge.demo.figures import Figures, Playing, Statistics
from refinenet_edge.demo.grid import CameraGrid, Tile, columns_of
from refinenet_edge.demo.record import Recording
from refinenet_edge.demo.stream import Cameras, SegmentedFrame
from refinenet_edge.errors import InputError, RefineNetEdgeError
from refinenet_edge.frames import LiveSource
from refinenet_edge.overlay import OverlayStyle, draw, no_signal
from refinenet_edge.records import Frame, Mask
from refinenet_edge.runtime import Segmenter

FIGURES_PERIOD = 0.25  # seconds that figures are shown before they are taken anew
GRID_PERIOD = 1 / 30  # seconds between pictures of a grid, at least: each is of all cameras that have something new
PAUSED_PERIOD = 0.2  # seconds between pictures while paused: a window has to be kept alive
MESSAGE_SECONDS = 15.0


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded bundle: what it is called, its precision, and what runs it."""

    name: str
    precision: str
    segmenter: Segmenter

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path, backend: str = "auto", allow_host_code: bool = False) -> Iterator[Model]:
        """The bundle at `path`, named after its folder. Raises what `open_bundle` and `Segmenter` raise."""
        bundle = open_bundle(path)
        with Segmenter(bundle, backend, allow_host_code=allow_host_code) as segmenter:
            yield cls(path.name, bundle.manifest.precision, segmenter)


class View(Protocol):
    """A place where the show is seen: a window, a web page. `written`: its pictures have figures and legend in them."""

    written: bool

    def wanted(self) -> bool:
        """Whether anybody looks: otherwise nothing is drawn."""

    def show(self, picture: Frame | None, figures: Figures) -> None:
        """Take a picture, which stays as it is, and figures. Called by the thread that runs the show."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class DemoSummary:
    """A whole show: `frames` shown in `seconds`, `drops` live frames replaced unseen."""

    frames: int
    drops: int
    seconds: float


class Show:
    """Plays `sources`, one at a time or `together`, through one of `models`; `views` may be added until it runs."""

    def __init__(
        self,
        sources: Sequence[LiveSource],
        models: Sequence[Model],
        style: OverlayStyle,
        recording: Recording | None = None,
        power: Callable[[], float | None] = lambda: None,
        model_of_source: Sequence[int] = (),
        together: bool = False,
    ) -> None:
        """`power` says how many watts the machine takes, where that can be known.

        `model_of_source` has for each source the index of the model it is shown with, unless a viewer chooses another;
        empty: changing the source keeps the model. `together`: what is played first, and can be chosen beside each
        source alone, is all of them in a grid, each in its turn, with the first one's model.
        """
        self.views: list[View] = []
        self.controls = Controls(style, model=model_of_source[0] if model_of_source else 0)
        self._sources, self._models = sources, models
        self._names = _distinct([source.name for source in sources])
        self._choices: list[tuple[int, ...]] = [(source,) for source in range(len(sources))]  # what can be played
        if together and len(sources) > 1:
            self._choices.insert(0, tuple(range(len(sources))))
        self._model_of_choice = [model_of_source[choice[0]] for choice in self._choices] if model_of_source else []
        self._chosen = self._choices[0]
        self._cameras: Cameras | None = None  # that play
        self._last: dict[int, SegmentedFrame] = {}  # of each camera
        self._unseen: dict[int, SegmentedFrame] = {}  # those of them that no picture has yet
        self._pictured = -math.inf  # when the last picture was made
        self._grids: dict[bool, CameraGrid] = {}  # with figures in them, and without
        self._recording, self._power = recording, power
        self._lock = threading.Lock()  # of replacing the controls
        # a queue of C's: Ctrl-C leaves an event's lock behind (see handover.py)
        self._woken: SimpleQueue[None] = SimpleQueue()
        self._ended = False
        self._began = self._resumed = 0.0
        self._message = ("", 0.0)  # and since when
        self._statistics = Statistics()
        self._made_by: deque[int] = deque()  # models, of the results on their way
        self._figures: Figures | None = None
        self._figures_at = 0.0

    def run(self, frames: int | None = None) -> None:
        """Play until `stop`, the source's end or so many `frames`; then everything that was shown on is closed.

        Raises what `live` raises; a source that was changed to and does not open is a message instead.
        """
        self._began = time.monotonic()
        try:
            before = None
            while not self._ended:
                playing = self.controls.source
                try:
                    if not self._play(playing, frames):
                        break
                    before = playing
                except InputError as exc:
                    if before is None or self._statistics.source_frames:
                        raise
                    self._message = (str(exc), time.monotonic())
                    self.change({"source": before})
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
        """Frames, drops and seconds since `run` began."""
        return DemoSummary(self._statistics.frames, self._statistics.drops, time.monotonic() - self._began)

    def stop(self) -> None:
        """End `run` after the frame it is at."""
        self._ended = True
        self.wake()

    def wake(self) -> None:
        """Show the picture again soon, if there is no other: somebody new is looking."""
        if self._woken.empty():
            self._woken.put(None)

    def change(self, asked: Mapping[str, Any]) -> None:
        """Change what is shown, as `Controls.changed` does: where it raises `InputError`, nothing is changed."""
        classes = [model.segmenter.labels for model in self._models]
        with self._lock:
            old = self.controls
            changed = old.changed(asked, len(self._choices), classes)
            if self._model_of_choice and changed.source != old.source and "model" not in asked:
                changed = changed.changed({"model": self._model_of_choice[changed.source]}, len(self._choices), classes)
            self.controls = changed
            if old.paused and not self.controls.paused:
                self._resumed = time.monotonic()
        self._figures_at = 0.0
        self.wake()

    def segment(self, frame: Frame) -> Mask:
        """Segment with the model that is chosen now; `Cameras` uses the show as its segmenter."""
        model = self.controls.model
        mask = self._models[model].segmenter.segment(frame)
        self._made_by.append(model)
        return mask

    @property
    def at_once(self) -> int:
        """`Segmenter.at_once` of that model."""
        return self._models[self.controls.model].segmenter.at_once

    def segment_batch(self, frames: Sequence[Frame]) -> list[Mask | RefineNetEdgeError]:
        """`segment` for frames of several cameras."""
        model = self.controls.model
        answers = self._models[model].segmenter.segment_batch(frames)
        self._made_by.extend([model] * len(answers))
        return answers

    def _play(self, playing: int, limit: int | None) -> bool:
        """Play choice `playing`; returns whether another was chosen."""
        self._chosen = self._choices[playing]
        sources = [self._sources[source] for source in self._chosen]
        self._statistics.begin(len(sources))
        for kept in (self._made_by, self._last, self._unseen, self._grids):
            kept.clear()
        self._cameras, self._pictured = None, -math.inf
        self._figures = self._take_figures("opening")
        for view in self.views:
            view.show(None, self._figures)
        with contextlib.closing(Cameras(sources, self)) as self._cameras:
            for result in self._cameras.results():
                if not self._goes_on(playing):
                    break
                source = sources[result.camera]
                if result.signal:
                    model = self._made_by.popleft()
                    if source.live and result.captured < self._resumed:
                        continue  # it waited while the show was paused
                    self._statistics.add(result, source, model)
                self._show(result)
                if self._statistics.frames == limit:
                    return False
                while self.controls.paused and self._goes_on(playing):
                    with contextlib.suppress(Empty):
                        self._woken.get(timeout=PAUSED_PERIOD)
                    self._show(result)
        return self.controls.source != playing and not self._ended

    def _goes_on(self, playing: int) -> bool:
        return self.controls.source == playing and not self._ended

    def _show(self, result: SegmentedFrame) -> None:
        statistics, controls = self._statistics, self.controls
        started = time.monotonic()
        self._last[result.camera] = result
        if not result.signal:
            statistics.no_signal(result.camera, 1000 * (started - result.captured))
            self._unseen.pop(result.camera, None)
        elif not controls.paused:
            self._unseen[result.camera] = result
        if len(self._chosen) > 1 and not self._recording and started - self._pictured < GRID_PERIOD:
            return  # it is in the next picture
        self._pictured = started
        if self._figures is None or started - self._figures_at >= FIGURES_PERIOD:
            self._figures_at = started
            some = any(last.signal for last in self._last.values())
            self._figures = self._take_figures("paused" if controls.paused else "live" if some else "no signal")
        figures = self._figures
        kinds = {view.written for view in self.views if view.wanted()} | ({True} if self._recording else set())
        pictures = self._pictures(result, kinds, figures)
        drawn = time.monotonic()
        if self._recording:
            self._recording.write(pictures[True])
        for view in self.views:
            view.show(pictures.get(view.written), figures)
        done = time.monotonic()
        took = {"draw": 1000 * (drawn - started), "encode": 1000 * (done - drawn)}
        for camera, seen in self._unseen.items():
            statistics.shown(camera, done, 1000 * (done - seen.captured), took)
        self._unseen.clear()

    def _pictures(self, result: SegmentedFrame, kinds: Collection[bool], figures: Figures) -> dict[bool, Frame]:
        """What is seen of `result`, or of all cameras; of each of `kinds`: with figures and the legend in it or not."""
        style = self.controls.style
        if len(self._chosen) == 1:
            return {written: _picture(result, style, figures, written) for written in kinds}
        self._grids = {written: self._grids.get(written) or CameraGrid(len(self._chosen)) for written in kinds}
        pictures = {}
        for written, grid in self._grids.items():
            told = written and style.figures
            tiles = [
                Tile(
                    camera.name,
                    self._last.get(place),
                    "" if camera.state == "live" else camera.state,
                    camera.lines() if told and camera.frames else (),
                )
                for place, camera in enumerate(figures.cameras)
            ]
            pictures[written] = grid.picture(tiles, style, figures.legend() if told else ())
        return pictures

    def _states(self) -> list[tuple[str, str, str]]:
        """Name and state of each camera that plays, and why it is silent."""
        states = []
        for place, source in enumerate(self._chosen):
            why = self._cameras.why_silent(place) if self._cameras else None
            last = self._last.get(place)
            state = "live" if last and last.signal else "no signal" if last or why else "opening"
            if state == "no signal" and self._cameras and self._cameras.has_ended(place):
                state = "ended"
            states.append((self._names[source], state, why or "" if state == "no signal" else ""))
        return states

    def _take_figures(self, state: str) -> Figures:
        controls, statistics = self.controls, self._statistics
        model = self._models[controls.model]
        message, since = self._message
        return Figures(
            state=state,
            message=message if time.monotonic() - since < MESSAGE_SECONDS else "",
            controls=controls,
            playing=Playing(
                sources=tuple(_called([self._names[source] for source in choice]) for choice in self._choices),
                models=tuple(f"{item.name} ({item.precision})" for item in self._models),
                precision=model.precision,
                backend=model.segmenter.session.name,
            ),
            speed=statistics.speed(),
            score=statistics.score(),
            classes=statistics.classes(model.segmenter.labels),
            power_w=self._power(),
            cameras=statistics.cameras(self._states(), time.monotonic()),
            columns=columns_of(len(self._chosen)),
        )


def _picture(result: SegmentedFrame, style: OverlayStyle, figures: Figures, written: bool) -> Frame:
    """What is seen of `result`; `written`: with `figures` and the legend in it."""
    writing = (figures.lines(), figures.legend()) if written else ((), ())
    picture = draw(result.frame, result.mask, style, *writing)
    return picture if result.signal else no_signal(picture)


def _distinct(names: Sequence[str]) -> list[str]:
    """`names` with a number behind those that were there before: sources of one address differ in their options."""
    found: list[str] = []
    for name in names:
        numbered = (name, *(f"{name} ({number})" for number in range(2, len(names) + 2)))
        found.append(next(item for item in numbered if item not in found))
    return found


def _called(names: Sequence[str]) -> str:
    """What is played, as it is chosen."""
    return names[0] if len(names) == 1 else f"all {len(names)} together"
