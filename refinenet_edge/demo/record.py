"""Pictures -> a video that plays, in browsers too: written beside its place, renamed when it reads again."""

import contextlib
import itertools
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from refinenet_edge.demo.pieces import Pieces, packets_of
from refinenet_edge.errors import InputError
from refinenet_edge.files import claim
from refinenet_edge.frames.video import VideoFile
from refinenet_edge.opencv import cv2, stderr_to
from refinenet_edge.records import Frame

# the first that this OpenCV has; browsers do not play MPEG-4 (mp4v)
CODECS = {".webm": ("VP80",), ".mp4": ("avc1", "vp09", "mp4v")}
PIECED = "vp09"
RATE, SLOWEST = 25, 2  # frames per second of a live recording, at most and at least
SHARE = 0.5  # of the time that a live recording may take: at a lower rate where its codec is slow
TRIED = 4  # frames
END = 0.5  # seconds that a piece of VP9 takes to encode, where it is more than one frame
LARGEST_PIECE = 25  # frames
LONGEST_STILL = 10  # seconds that one picture is repeated for: a laptop may have slept

logger = logging.getLogger(__name__)


class Recording:
    """A video at `path`, of the first picture's size: others are fitted into it.

    It plays as fast as it happened, whenever pictures come: one is repeated until the next is there. `rate`: every
    picture is instead one frame, so many a second. `close` puts the file in its place once it is whole; after a kill it
    is not there, and what was there before is.
    """

    def __init__(self, path: Path, rate: float | None = None) -> None:
        """Raises `InputError` unless a file can be written at `path`, a .webm or .mp4."""
        kind = path.suffix.lower()
        if kind not in CODECS:
            raise InputError(f"{path}: recordings are written as .webm or .mp4")
        self.path = path
        self.frames = 0
        self._live = rate is None
        self._rate = rate or float(RATE)
        self._codecs = CODECS[kind]
        self._beside = path.with_name(f".{path.name}.refinenet-edge{kind}")  # FFmpeg goes by its end
        self._writer: Any = None
        self._size = (0, 0)  # (width, height)
        self._started = 0.0
        self._due = 0
        self._last: Any = None  # picture
        pieces = [path.with_name(f".{path.name}.{turn}.refinenet-edge{kind}") for turn in (1, 2)]
        self._pieces = (pieces[0], pieces[1])
        self._claimed: dict[Path, int] = {}  # the files that are written, locked
        try:
            for place in (self._beside, *(self._pieces if PIECED in CODECS[kind] else ())):
                self._claimed[place] = claim(place)
        except OSError as exc:
            self._give_up()
            raise InputError(f"{path} cannot be written: {exc.strerror}; name another place") from exc

    def write(self, picture: Frame) -> None:
        """Add `picture` (HxWx3 BGR uint8), for as long as it takes until the next. Raises `InputError`."""
        if self._writer is None:
            height, width = (side // 2 * 2 or 2 for side in picture.shape[:2])  # the codec halves both for colour
            self._size = (width, height)
            self._writer = self._begin(_fitted(picture, self._size))
            self._started = time.monotonic()
        self._last = _fitted(picture, self._size)
        self._repeat(self._due_now() if self._live else self._due + 1)

    def _due_now(self) -> int:
        """How many frames the recording has by now where it is live."""
        return int((time.monotonic() - self._started) * self._rate) + 1

    def _repeat(self, due: int) -> None:
        for _ in range(min(due - self._due, int(LONGEST_STILL * self._rate))):
            self._writer.write(self._last)
            self.frames += 1  # each by itself: Ctrl-C comes at any moment
            self._due += 1
        self._due = max(due, self._due)

    def close(self) -> None:
        """Finish the file and put it at `path`; a second call does nothing. Nothing written: no file.

        Raises `InputError` when it is not whole, or cannot be put there; what was there is there still.
        """
        if self._writer is not None and self._live:
            self._repeat(max(self._due_now(), 2))  # the last picture was seen until now; one frame is no video
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                writer.release()
                if (found := _frames_in(self._beside)) < self.frames:  # one more, if Ctrl-C came before it was counted
                    raise InputError(
                        f"{self.path} was not written: {found} of its {self.frames} frames can be read again; is the "
                        "disk full?"
                    )
                with self._beside.open("rb") as file:
                    os.fsync(file.fileno())
                os.replace(self._beside, self.path)
        except OSError as exc:
            raise InputError(f"{self.path} cannot be written: {exc.strerror}; name another place") from exc
        finally:
            self._give_up()

    def _give_up(self) -> None:
        """Remove what was written beside."""
        while self._claimed:
            place, descriptor = self._claimed.popitem()
            with contextlib.suppress(OSError):
                place.unlink()
            os.close(descriptor)

    def _begin(self, picture: Any) -> Any:
        """A writer of the first codec that takes pictures of this size and rate: what it writes reads again."""
        rates = dict.fromkeys((self._rate, round(self._rate, 2), float(max(round(self._rate), 1))))
        for code, rate in itertools.product(self._codecs, rates):
            if (seconds := self._try(code, rate, picture)) is None:
                continue
            if code == "mp4v":
                better = self.path.with_suffix(".webm")
                logger.warning("%s is MPEG-4, which browsers do not play: record %s, which they do", self.path, better)
            self._rate = float(min(max(SHARE // seconds, SLOWEST), RATE)) if self._live else rate
            return self._writer_of(code, self._rate, int(min(max(END / seconds, 1), LARGEST_PIECE)))
        width, height = self._size
        raise InputError(
            f"{self.path}: no codec of this OpenCV ({cv2.__version__}) writes {height}x{width} pixels at "
            f"{self._rate:g} a second, or the disk is full"
        )

    def _try(self, code: str, rate: float, picture: Any) -> float | None:
        """The seconds that a frame takes; None: it cannot be written so."""
        writer = self._writer_of(code, rate, TRIED)
        if not writer.isOpened():
            return None
        started = time.perf_counter()
        for _ in range(TRIED):
            writer.write(picture)
        writer.release()
        seconds = (time.perf_counter() - started) / TRIED
        return seconds if _frames_in(self._beside) == TRIED else None

    def _writer_of(self, code: str, rate: float, length: int) -> Any:
        """`length`: of a piece, where it is written in pieces."""

        def open_writer(path: Path, settings: Sequence[int] = ()) -> Any:
            # the whole path: FFmpeg takes 12:30.mp4 for an address
            where, fourcc = os.path.abspath(path), cv2.VideoWriter.fourcc(*code)
            with _quiet():
                return cv2.VideoWriter(where, cv2.CAP_FFMPEG, fourcc, rate, self._size, settings)

        if code == PIECED:
            pieces = Pieces(open_writer, self._beside, self._pieces, length)
            if pieces.isOpened():
                return pieces
        return open_writer(self._beside)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """OpenCV complains of every codec that it does not have, and of VP8 in WebM past its own log."""
    before = cv2.utils.logging.setLogLevel(0)
    try:
        with open(os.devnull, "wb") as nothing, stderr_to(nothing.fileno()):
            yield
    finally:
        cv2.utils.logging.setLogLevel(before)


def _frames_in(path: Path) -> int:
    """How many frames the file has, which are not decoded but the first; 0: it does not open."""
    with _quiet(), contextlib.suppress(InputError):
        with contextlib.closing(VideoFile(path)) as video:
            video.read(0)
        return sum(1 for _ in packets_of(path))
    return 0


def _fitted(picture: Frame, size: tuple[int, int]) -> Any:
    """`picture` scaled to fit `size` (width, height), in the middle, on black."""
    height, width = picture.shape[:2]
    if (width // 2 * 2 or 2, height // 2 * 2 or 2) == size:
        return picture[: size[1], : size[0]] if min(width, height) > 1 else cv2.resize(picture, size)
    scale = min(size[0] / width, size[1] / height)
    inner = (max(round(width * scale), 1), max(round(height * scale), 1))
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    scaled = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA)
    return cv2.copyMakeBorder(
        scaled, top, size[1] - inner[1] - top, left, size[0] - inner[0] - left, cv2.BORDER_CONSTANT, value=(0, 0, 0)
    )
