"""Video files, decoded by OpenCV: the one place that opens, counts, seeks and reads them."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from pathlib import Path

import numpy as np

from refinenet_edge.errors import InputError
from refinenet_edge.frames.readers import CapturedFrames, Clock, Frames, LiveSource, capture, repeated, usable
from refinenet_edge.opencv import cv2
from refinenet_edge.records import Frame

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")  # what video files are called
OVERSTATED = 32  # frames that a container may count and not have
DAMAGED = 30  # reads that fail in a row are the end of a file that plays: what is damaged inside it is shorter
USUAL_RATE = 25.0  # frames per second, of a file that does not say


class VideoFile:
    """An open video file. `name`: what errors call it. Raises `InputError` when it cannot be opened."""

    def __init__(self, path: Path, name: str = "") -> None:
        self.name = name or str(path)
        if not path.is_file():
            raise InputError(f"there is no video {self.name}")
        self._path = os.path.abspath(path)  # FFmpeg takes 12:30.mp4 for an address
        self._open()
        if not self.capture.isOpened():
            raise self._unreadable()

    def _open(self) -> None:
        self.capture = cv2.VideoCapture(self._path)
        self._next = 0  # the place of the frame that is decoded next

    def close(self) -> None:
        self.capture.release()

    @property
    def rate(self) -> float:
        """Frames per second."""
        rate = float(self.capture.get(cv2.CAP_PROP_FPS))
        return rate if 1 <= rate <= 240 else USUAL_RATE

    def count(self) -> int:
        """How many frames can be read, which may be fewer than the container says. Raises `InputError` for none."""
        stated = self._stated()
        for place in range(stated - 1, max(stated - 1 - OVERSTATED, -1), -1):
            with suppress(InputError):
                self.read(place)
                return place + 1
        return stated

    def read(self, place: int) -> Frame:
        """Frame `place`, HxWx3 BGR uint8. Successive ones are decoded in order, to others it seeks.

        Raises `InputError` when it cannot be decoded.
        """
        self._stated()
        if place < self._next:
            self.close()
            self._open()  # some decoders do not leave the end of a file again
        if place != self._next:
            self.capture.set(cv2.CAP_PROP_POS_FRAMES, place)
        self._next = place + 1
        decoded, frame = self.capture.read()
        if not decoded or not usable(frame):
            raise InputError(f"frame {place} of video {self.name} cannot be read")
        return np.asarray(frame, np.uint8)

    def _stated(self) -> int:
        """What the container counts."""
        frames = int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if frames < 1:
            raise self._unreadable()
        return frames

    def _unreadable(self) -> InputError:
        if not self.name.lower().endswith(VIDEOS):
            return InputError(f"{self.name} is not a whole PNG, JPEG, BMP or WebP file, and no video that OpenCV plays")
        return InputError(f"video {self.name} cannot be read: give one that OpenCV plays, or a folder of its frames")


def frames_of(path: Path, most: int | None = None) -> Frames:
    """Every frame, or `most` evenly spread. Raises `InputError` where there is none."""
    video = VideoFile(path)
    count = video.count()
    places = np.unique(np.linspace(0, count - 1, min(most or count, count)).round().astype(int)).tolist()
    return Frames(str(path), tuple(f"frame_{place:06d}" for place in places), lambda index: video.read(places[index]))


def source_of(path: Path, *, every_frame: bool, repeat: bool) -> LiveSource:
    """At its own rate, or as fast as they are taken every frame; what is damaged is left out."""
    with closing(VideoFile(path)) as video:
        rate = video.rate
    clock = Clock(0.0 if every_frame else 1 / rate)

    def once() -> CapturedFrames:
        with closing(VideoFile(path)) as video:
            yield from capture(video.capture, DAMAGED, clock)

    missing = f"video {path} has no frame that can be read"
    return LiveSource(str(path), lambda: repeated(once, repeat, missing), not every_frame, False, rate=rate)
