"""Sources and networks that need no camera and no model."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from refinenet_edge.demo import Captured, Figures, LiveSource
from refinenet_edge.errors import InputError
from refinenet_edge.frames import CapturedFrames
from refinenet_edge.records import Frame, FrameSpec, Labels, TensorSpec
from refinenet_edge.runtime import FakeSession, Segmenter
from refinenet_edge.runtime.session import Feeds, Outputs

THREE = Labels("three", ("dark", "grey", "light"), ((10, 20, 30), (40, 200, 60), (250, 80, 90)))


def segmenter(seconds: float = 0.0, labels: Labels = THREE, before: Callable[[], None] = lambda: None) -> Segmenter:
    """Takes so long for a frame, and calls the k-th part of all brightness class k."""
    count = len(labels.names)

    def handler(feeds: Feeds) -> Outputs:
        before()
        time.sleep(seconds)
        brightness = 0.225 * feeds["image"][0].mean(0).reshape(8, 4, 8, 4).mean((1, 3)) + 0.449
        middles = (np.arange(count) + 0.5) / count
        return {"logits": -np.abs(middles[:, None, None] - brightness).astype(np.float32)[None]}

    ends = (TensorSpec("image", "float32", (1, 3, 32, 32)),), (TensorSpec("logits", "float32", (1, count, 8, 8)),)
    return Segmenter.from_session(FakeSession(handler, *ends), FrameSpec((32, 32)), labels)


def several(frames: int, before: Callable[[np.ndarray], None]) -> Segmenter:
    """`segmenter` with a network of exactly so many frames."""

    def handler(feeds: Feeds) -> Outputs:
        before(feeds["image"])
        brightness = 0.225 * feeds["image"].mean((1, 2, 3)) + 0.449
        logits = -np.abs(np.array([1, 3, 5]) / 6 - brightness[:, None]).astype(np.float32)
        return {"logits": np.broadcast_to(logits[:, :, None, None], (frames, 3, 8, 8)).copy()}

    image, logits = (
        TensorSpec(name, "float32", (frames, 3, side, side)) for name, side in (("image", 32), ("logits", 8))
    )
    return Segmenter.from_session(FakeSession(handler, (image,), (logits,)), FrameSpec((32, 32)), THREE)


def grey(level: int, size: tuple[int, int] = (48, 64)) -> Frame:
    return np.full((*size, 3), level, np.uint8)


def source(
    frames: Callable[[], CapturedFrames], *, live: bool = True, lasting: bool = True, labels: Labels | None = None
) -> LiveSource:
    return LiveSource("fake", frames, live, lasting, labels)


def ticking(
    seconds: float = 0.005, count: int | None = None, size: tuple[int, int] = (48, 64)
) -> Callable[[], CapturedFrames]:
    """A camera: a frame every so often; its brightness goes round."""

    def frames() -> CapturedFrames:
        number = 0
        while count is None or number < count:
            time.sleep(seconds)
            yield Captured(grey(number % 256, size), time.monotonic())
            number += 1

    return frames


def given(frames: Sequence[Frame]) -> Callable[[], CapturedFrames]:
    """These frames, at once."""

    def all_of_them() -> CapturedFrames:
        for frame in frames:
            yield Captured(frame, time.monotonic())

    return all_of_them


def write_video(path: Path, levels: Sequence[int], rate: float = 20.0, size: tuple[int, int] = (48, 64)) -> Path:
    """Grey frames as Motion JPEG in AVI: each stands for itself."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, size[::-1])
    assert writer.isOpened()
    for level in levels:
        writer.write(grey(level, size))
    writer.release()
    return path


def levels(source: LiveSource, count: int | None = None) -> list[int]:
    """The brightness of its frames, to the nearest ten: JPEG changes it a little."""
    return [round(float(item.frame.mean()), -1) for item in itertools.islice(source.frames(), count)]  # type: ignore[misc]


def read_video(path: Path) -> list[Frame]:
    video = cv2.VideoCapture(str(path))
    frames = []
    while True:
        found, frame = video.read()
        if not found:
            return frames
        frames.append(np.asarray(frame, np.uint8))


class Audience:
    """A `View` that keeps what it is shown."""

    def __init__(self, looks: bool = True, written: bool = True) -> None:
        self.looks, self.written, self.closed = looks, written, False
        self.pictures: list[Frame] = []
        self.figures: list[Figures] = []
        self._changed = threading.Condition()

    def wanted(self) -> bool:
        return self.looks

    def show(self, picture: Frame | None, figures: Figures) -> None:
        with self._changed:
            self.figures.append(figures)
            if picture is not None:
                self.pictures.append(picture)
            self._changed.notify_all()

    def close(self) -> None:
        self.closed = True

    def wait(self, until: Callable[[], object], seconds: float = 60.0) -> None:
        """Until `until` holds; what is shown next is looked at each time."""
        with self._changed:
            assert self._changed.wait_for(until, seconds), self.figures[-1:]


class Paced:
    """A camera that gives frames of one level when it is told to, and can be unplugged."""

    def __init__(self, level: int = 0, size: tuple[int, int] = (48, 64)) -> None:
        self.level, self.size = level, size
        self.unplugged = False
        self.frames_made: list[weakref.ref[Frame]] = []
        self._changed = threading.Condition()
        self._due, self._waits = 0, False

    def frames(self) -> CapturedFrames:
        while True:
            with self._changed:
                self._waits = True
                self._changed.notify_all()
                assert self._changed.wait_for(lambda: self._due or self.unplugged, 60)
                if self.unplugged:
                    raise InputError("it is unplugged")
                self._due -= 1
                self._waits = False
            frame = grey(self.level, self.size)
            self.frames_made.append(weakref.ref(frame))
            yield Captured(frame, time.monotonic())
            del frame

    def give(self, count: int = 1) -> None:
        """Give so many frames; returns when the reader has taken the last and asks for another, or it is unplugged."""
        with self._changed:
            self._due += count
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self.unplugged or (not self._due and self._waits), 60)

    def unplug(self, unplugged: bool = True) -> None:
        """Fail to open and to read until it is plugged in again; frames are then waited for as before."""
        with self._changed:
            self.unplugged = unplugged
            self._changed.notify_all()

    def source(self, name: str = "fake") -> LiveSource:
        return LiveSource(name, self.frames, live=True, lasting=True)
