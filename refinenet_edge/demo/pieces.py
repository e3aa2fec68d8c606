"""VP9 that ends soon: encoded in pieces of a few pictures, whose packets become one video.

The encoder looks 25 frames ahead, whatever it is asked, and encodes these when it is told to end: seconds, on a CPU. It
cannot look beyond a piece, and what is left at the end is at most two of them.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from refinenet_edge.opencv import cv2

Open = Callable[..., Any]  # (path, parameters of OpenCV's) -> a `cv2.VideoWriter`


class Pieces:
    """A writer of the video `path` like OpenCV's, of pieces of `length` pictures that lie in `places` by turns.

    A piece is encoded in a thread while the next one's pictures come. Ctrl-C at any moment loses none.
    """

    def __init__(self, open_writer: Open, path: Path, places: tuple[Path, Path], length: int) -> None:
        self._open, self._places, self._length = open_writer, places, length
        raw = getattr(cv2, "VIDEOWRITER_PROP_RAW_VIDEO", None)  # OpenCV before 4.8 has no such writer
        settings = (raw, 1, getattr(cv2, "VIDEOWRITER_PROP_KEY_INTERVAL", None), length)
        self._whole = cv2.VideoWriter() if None in settings else open_writer(path, settings)
        self._thread = ThreadPoolExecutor(1)
        self._encoding: Future[None] | None = None
        self._piece: Any = None
        self._begun = self._encoded = 0  # pieces
        self._left = 0  # pictures, until the piece is full

    def isOpened(self) -> bool:  # noqa: N802 (OpenCV's name)
        return bool(self._whole.isOpened())

    def write(self, picture: Any) -> None:
        if not self._left:
            self._finish_piece()
            self._piece = self._open(self._places[self._begun % 2])
            self._begun, self._left = self._begun + 1, self._length
        self._piece.write(picture)
        self._left -= 1

    def release(self) -> None:
        """Encode what is left, and end the video."""
        if self._begun:
            self._finish_piece()
        self._thread.shutdown()
        if self._encoding:
            self._encoding.result()
        self._whole.release()

    def _finish_piece(self) -> None:
        """Have the piece encoded, once the one before it is: this one's place is then free again."""
        if self._encoding:
            self._encoding.result()
        if self._begun > self._encoded:
            self._encoding = self._thread.submit(self._encode, self._begun, self._piece)

    def _encode(self, number: int, piece: Any) -> None:
        if number == self._encoded:  # asked for again, after Ctrl-C
            return
        self._encoded = number
        piece.release()
        for packet in packets_of(self._places[(number - 1) % 2]):
            self._whole.write(packet)


def packets_of(path: Path) -> Iterator[npt.NDArray[np.uint8]]:
    """The frames of a video as they are in its file, not decoded: 1xN bytes each; none of what does not open."""
    # the whole path: FFmpeg takes 12:30.mp4 for an address
    file = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    while True:
        found, packet = file.read()
        if not found:
            break
        yield np.asarray(packet, np.uint8).reshape(1, -1)
    file.release()
