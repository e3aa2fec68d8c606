"""The pictures of several cameras in one: each has its place, and keeps it whatever the others do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refinenet_edge.demo.stream import SegmentedFrame
from refinenet_edge.opencv import cv2
from refinenet_edge.overlay import OverlayStyle, draw, no_signal, write
from refinenet_edge.records import RGB, Frame, Mask

WIDTH = 1280  # pixels of all columns together, about
LONGEST = 44  # letters of a name: more do not fit


@dataclass(frozen=True)
class Tile:
    """What is shown of a camera: its name, its last result (None: none came yet), why it is not live ("": it is)."""

    name: str
    result: SegmentedFrame | None
    state: str = ""
    lines: tuple[str, ...] = ()  # of figures, under the name


def columns_of(count: int) -> int:
    """How many of `count` tiles are beside each other: as many as above each other, or one more."""
    return math.ceil(math.sqrt(count))


class CameraGrid:
    """`count` tiles of 16:9; a frame of another shape is fitted into the middle of its own."""

    def __init__(self, count: int) -> None:
        self._columns = columns_of(count)
        self._width = WIDTH // self._columns // 16 * 16 or 16
        self._height = self._width * 9 // 16
        rows = math.ceil(count / self._columns)
        self._canvas: Any = np.zeros((rows * self._height, self._columns * self._width, 3), np.uint8)
        self._drawn: list[tuple[Tile, OverlayStyle] | None] = [None] * count

    def picture(self, tiles: Sequence[Tile], style: OverlayStyle, legend: Sequence[tuple[str, RGB]] = ()) -> Frame:
        """The whole, new: what has changed of `tiles` is drawn again; `legend` is at the bottom left."""
        for place, tile in enumerate(tiles):
            if self._drawn[place] != (tile, style):
                self._drawn[place] = (tile, style)
                row, column = divmod(place, self._columns)
                top, left = row * self._height, column * self._width
                self._draw(self._canvas[top : top + self._height, left : left + self._width], tile, style)
        picture: Frame = self._canvas.copy()
        write(picture, legend=legend)
        return picture

    def _draw(self, into: Any, tile: Tile, style: OverlayStyle) -> None:
        into[:] = 0
        if tile.result is not None:
            picture = self._fitted(tile.result, style)
            height, width = picture.shape[:2]
            top, left = (self._height - height) // 2, (self._width - width) // 2
            into[top : top + height, left : left + width] = picture
        if tile.state:
            into[:] = no_signal(into, tile.state.upper())
        # twice the tile's height: it is read on a phone, too
        write(into, (_shortened(tile.name), *tile.lines), height=2 * self._height)

    def _fitted(self, result: SegmentedFrame, style: OverlayStyle) -> Frame:
        """`result` as large as there is place for it: drawn at that size, which costs less than at its own."""
        height, width = result.frame.shape[:2]
        beside = 2 if style.side_by_side else 1
        scale = min(self._width / (beside * width), self._height / height)
        size = (max(int(width * scale), 1), max(int(height * scale), 1))
        frame: Any = cv2.resize(result.frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        labels: Any = cv2.resize(result.mask.labels, size, interpolation=cv2.INTER_NEAREST)
        return draw(frame, Mask(labels, result.mask.classes), style)


def _shortened(name: str) -> str:
    """`name` without its middle where it is long: cameras of a host differ at the end."""
    return name if len(name) <= LONGEST else f"{name[:14]}...{name[17 - LONGEST :]}"
