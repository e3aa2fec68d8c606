"""The two ways to read: `Frames` by their number, as often as wanted; a `LiveSource`, as they come."""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from refinenet_edge.errors import InputError
from refinenet_edge.records import MAX_SIDE, Frame, LabelMap, Labels


@dataclass(frozen=True)
class Frames:
    """A sequence of frames (HxWx3 BGR uint8); `read(i)` raises `InputError` naming what cannot be read.

    `source`: what they come from, with seed and count of scenes. `names`: unique, of each frame.
    """

    source: str
    names: tuple[str, ...]
    read: Callable[[int], Frame]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Captured:
    """A frame, `at` which time.monotonic() it was taken, and its truth where the source knows it."""

    frame: Frame
    at: float
    truth: LabelMap | None = None


CapturedFrames = Generator[Captured, None, None]


@dataclass(frozen=True)
class LiveSource:
    """`frames()` opens the source and closes it with the iterator; it raises `InputError` when it fails.

    One thread opens, reads and closes it; what ends or fails may be opened again.

    `live`: frames come at their own time, and one that is not taken is lost to the next. Otherwise they wait.
    `lasting`: it has no end, so what ends or fails is to be opened again.
    `labels`: what the truth's numbers are the classes of.
    """

    name: str  # without a password
    frames: Callable[[], CapturedFrames]
    live: bool
    lasting: bool
    labels: Labels | None = None
    rate: float | None = None  # frames per second, of a file


class Pacer:
    """Waits until the next frame is due, `seconds` after the last; after a delay it does not hurry."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due = 0.0

    def wait(self) -> None:
        now = time.monotonic()
        time.sleep(max(self._due - now, 0.0))
        self._due = max(self._due, now) + self._seconds


def repeated(once: Callable[[], CapturedFrames], repeat: bool, missing: str) -> CapturedFrames:
    """What `once` gives, and with `repeat` again and again. Raises `InputError(missing)` when it gives nothing."""
    while True:
        empty = True
        for captured in once():
            empty = False
            yield captured
        if empty:
            raise InputError(missing)
        if not repeat:
            return


def capture(device: Any, tries: int, clock: Pacer | None = None) -> CapturedFrames:
    """The frames of an opened `cv2.VideoCapture`, until `tries` reads in a row fail; what is damaged is left out."""
    failed = 0
    while failed < tries:
        failed += 1
        if not device.grab():
            continue
        if clock:
            clock.wait()
        at = time.monotonic()
        decoded, frame = device.retrieve()
        if decoded and usable(frame):
            failed = 0
            yield Captured(frame, at)


def usable(frame: Any) -> bool:
    """Whether a decoder's `frame` is an image at all: HxWx3 uint8, of a size that is taken here."""
    return (
        isinstance(frame, np.ndarray)
        and frame.dtype == np.uint8
        and frame.ndim == 3
        and frame.shape[2] == 3
        and all(1 <= side <= MAX_SIDE for side in frame.shape[:2])
    )
