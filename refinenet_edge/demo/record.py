"""Pictures -> an MP4 that plays: written beside its place, and renamed when it is whole."""

import contextlib
import os
import secrets
import time
from pathlib import Path
from typing import Any

from refinenet_edge.errors import InputError
from refinenet_edge.opencv import cv2
from refinenet_edge.records import Frame

RATE = 25  # frames per second, of a live recording
LONGEST_STILL = 10 * RATE  # frames that one picture is repeated for: a laptop may have slept


class Recording:
    """An MP4 at `path`, of the first picture's size: others are fitted into it.

    It plays as fast as it happened, whenever pictures come: one is repeated until the next is there. `rate`: every
    picture is instead one frame, so many a second. `close` puts the file in its place; after a kill it is not there.
    """

    def __init__(self, path: Path, rate: float | None = None) -> None:
        """Raises `InputError` unless a file can be written at `path`, an .mp4."""
        if path.suffix.lower() != ".mp4":
            raise InputError(f"{path}: recordings are written as .mp4")
        self.path = path
        self.frames = 0
        self._rate = rate
        self._beside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.mp4")
        self._writer: Any = None
        self._size = (0, 0)  # (width, height)
        self._started = 0.0
        try:
            self._beside.touch()
        except OSError as exc:
            raise InputError(f"{path} cannot be written: {exc.strerror}; name another place") from exc

    def write(self, picture: Frame) -> None:
        """Add `picture` (HxWx3 BGR uint8), for as long as it takes until the next. Raises `InputError`."""
        now = time.monotonic()
        if self._writer is None:
            height, width = (side // 2 * 2 or 2 for side in picture.shape[:2])  # the codec halves both for colour
            self._size, self._started = (width, height), now
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._beside), cv2.CAP_FFMPEG, code, self._rate or RATE, self._size)
            if not self._writer.isOpened():
                raise InputError(f"this OpenCV ({cv2.__version__}) writes no MP4: it was built without FFmpeg")
        picture = _fitted(picture, self._size)
        due = self.frames + 1 if self._rate else int((now - self._started) * RATE) + 1
        for _ in range(min(due - self.frames, LONGEST_STILL)):
            self._writer.write(picture)
        self.frames = max(due, self.frames)

    def close(self) -> None:
        """Finish the file and put it at `path`; a second call does nothing. Nothing written: no file.

        Raises `InputError` when it cannot be put there.
        """
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.release()
            try:
                os.replace(self._beside, self.path)
            except OSError as exc:
                raise InputError(f"{self.path} cannot be written: {exc.strerror}; it is {self._beside}") from exc
        with contextlib.suppress(OSError):
            self._beside.unlink()


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
