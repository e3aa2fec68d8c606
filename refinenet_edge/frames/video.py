"""Video files, decoded by OpenCV: the one place that opens, counts and reads them.

Frame n is the n-th that the decoder gives from the start. Nothing is believed that a container says of counts and
times, and nothing is sought: where a second is missing, the rate changes or the count is wrong, OpenCV's place of a
frame is another frame's.
"""

import os
import shlex
from contextlib import closing
from pathlib import Path

import numpy as np

from refinenet_edge.errors import InputError
from refinenet_edge.files import is_there
from refinenet_edge.frames.ffmpeg import opening
from refinenet_edge.frames.readers import CapturedFrames, Frames, LiveSource, Pacer, capture, repeated, usable
from refinenet_edge.opencv import cv2
from refinenet_edge.records import Frame

# what video files are called
VIDEOS = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".avi", ".mkv", ".webm", ".wmv", ".flv", ".ogv"),
    *(".ts", ".mts", ".m2ts", ".mpg", ".mpeg"),
    *(".h264", ".264", ".h265", ".265", ".hevc", ".mjpeg", ".mjpg"),
)
DAMAGED = 30  # reads that fail in a row are the end of a file: what is damaged inside it is shorter
# it reads one frame more than the container counts, and says that that is the end
STOPS_AT_STATED = tuple(map(int, cv2.__version__.split(".")[:2])) < (4, 14)
USUAL_RATE = 25.0  # frames per second, of a file that does not say


class VideoFile:
    """An open video file. `name`: what errors call it. Raises `InputError` when it cannot be opened."""

    def __init__(self, path: Path, name: str = "") -> None:
        self.name = name or str(path)
        if not is_there(path) or not path.is_file():
            raise InputError(f"there is no video {self.name}")
        self._path = os.path.abspath(path)  # FFmpeg takes 12:30.mp4 for an address
        self._open()
        if not self.capture.isOpened():
            raise self._unreadable()

    def _open(self) -> None:
        with opening():
            self.capture = cv2.VideoCapture(self._path)
        self._next = 0  # the place of the frame that is decoded next, also how many were

    def close(self) -> None:
        self.capture.release()

    @property
    def rate(self) -> float:
        """Frames per second."""
        rate = float(self.capture.get(cv2.CAP_PROP_FPS))
        return rate if 1 <= rate <= 240 else USUAL_RATE

    def count(self) -> int:
        """How many frames there are: all are decoded. Raises `InputError` for none."""
        if self._next:
            self._rewind()
        while self._grab():
            pass
        count, stated = self._next, self.capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._rewind()
        if not count:
            raise self._unreadable()
        if count == stated + 1 and STOPS_AT_STATED:
            raise InputError(
                f"video {self.name} says that it has {stated:.0f} frames and has more, which OpenCV {cv2.__version__} "
                f"does not read: write its header anew, ffmpeg -i {shlex.quote(self.name)} -c copy NEW"
            )
        return count

    def read(self, place: int) -> Frame:
        """Frame `place`, HxWx3 BGR uint8: all before it are decoded, too, those that were not yet.

        Raises `InputError` when it cannot be decoded, or there are fewer.
        """
        if place < self._next:
            self._rewind()
        while self._next <= place:
            if not self._grab():
                count = self._next
                self._rewind()
                raise InputError(f"frame {place} of video {self.name} cannot be read: it has {count}")
        decoded, frame = self.capture.retrieve()
        if not decoded or not usable(frame):
            raise InputError(f"frame {place} of video {self.name} cannot be read")
        return np.asarray(frame, np.uint8)

    def _grab(self) -> bool:
        """Decode the next frame; False at the end."""
        for _ in range(DAMAGED):
            if self.capture.grab():
                self._next += 1
                return True
        return False

    def _rewind(self) -> None:
        """Begin again: some decoders do not leave the end of a file."""
        self.close()
        self._open()

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
    clock = Pacer(0.0 if every_frame else 1 / rate)

    def once() -> CapturedFrames:
        with closing(VideoFile(path)) as video:
            yield from capture(video.capture, DAMAGED, clock)

    missing = f"video {path} has no frame that can be read"
    return LiveSource(str(path), lambda: repeated(once, repeat, missing), not every_frame, False, rate=rate)
