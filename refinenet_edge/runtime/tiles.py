"""A frame larger than the network -> mask: the network slides over it, its logits become one map, labels follow that.

Where tiles overlap, the logits of one give way to those of the next over the middle half of the overlap. What is
nearer to a tile's border than a quarter of it is taken from the other tile, so where no logit depends on more than
that, all are those of the whole frame. The map has the whole frame's geometry, and its labels are made as those of a
whole frame, a band of rows at a time: in memory are the frame, its labels and the logits of a row of tiles.

Tiles begin at multiples of `ALIGNED` pixels. The last ones end with the frame where the network's sides are free; where
they are fixed, zeros (of the network's input) lie beyond it.

A network that sees further than a quarter of the overlap has other logits in a tile than in the whole. How much that
matters is measured on the frame itself: in the middle of each overlap two tiles have labels, and the share of those
that differ is said once where it is more than `SEAMS`.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from refinenet_edge.errors import BundleError, InputError
from refinenet_edge.records import ALIGNED, Frame, Mask, Tiles
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.frame_path import Network
from refinenet_edge.runtime.gather import gathered
from refinenet_edge.runtime.head import Logits, label_rows, lowest_needed
from refinenet_edge.runtime.host_path import HostPath
from refinenet_edge.runtime.in_flight import Workers

if TYPE_CHECKING:
    from refinenet_edge.runtime.frame import DeviceImage


logger = logging.getLogger(__name__)


class TiledPath(HostPath):
    """`FramePath` of `Tiles`. Raises `InputError` where the network's size is fixed to another than the tiles'."""

    whole = False

    def __init__(self, network: Network, tiles: Tiles) -> None:
        super().__init__(network)
        self._tiles, size = tiles, network.frame_spec.size
        self._beside = Workers(network.session.requests)  # for the tiles of a row
        self._seams, self._warned = _Seams(), False
        if size is not None and size != tiles.size:
            raise InputError(f"{network.origin} takes {size[0]}x{size[1]} only (height x width): --tiles that")

    @property
    def in_flight(self) -> int:
        """`FramePath.in_flight`: one frame, which may be large; its tiles are what runs at once."""
        return 1

    def close(self) -> None:
        self._beside.close()
        super().close()

    def _segment(self, frame: Frame | DeviceImage) -> Mask:
        if not isinstance(frame, np.ndarray):
            raise InputError(f"this frame is on the GPU, {self.network.session.name} takes numpy arrays: download it")
        network, how = self.network, self.network.frame_spec.upsample
        labels = np.empty(frame.shape[:2], np.uint8)
        confidence = np.empty(frame.shape[:2], np.uint8) if network.confidence else None
        done, waiting, above = 0, None, 0
        try:
            for strip, top, total, final in self._strips(frame):
                waiting = strip if waiting is None else _blend(waiting, strip, top - above, 1, self._seams)
                ready = int(np.searchsorted(lowest_needed(total, len(labels), how), final))
                if ready > done:
                    label_rows(waiting, above, total, how, labels, slice(done, ready), confidence)
                    done = ready
                keep = max(above, min(final, total) - MARGIN)
                waiting, above = waiting[:, keep - above :], keep
        except BundleError as exc:
            raise BundleError(f"{network.origin}: {exc}") from exc
        if self._seams.differing > SEAMS * self._seams.compared and not self._warned:
            self._warned = True
            logger.warning(
                "where two tiles meet, %.1f %% of their labels differ: the network sees further than an overlap of %d "
                "pixels lets it; larger --tiles, or a larger --overlap, give labels nearer to the whole picture's",
                100 * self._seams.differing / self._seams.compared,
                self._tiles.overlap,
            )
        return Mask(labels, network.labels, confidence)

    def staged(self, frame: Frame | DeviceImage) -> tuple[Mask, dict[str, float]]:
        """`FramePath.staged`: all tiles together."""
        started = time.perf_counter()
        mask = self._segment(frame)
        return mask, {"tiles": 1000 * (time.perf_counter() - started)}

    def _strips(self, frame: Frame) -> Iterator[tuple[Logits, int, int, int]]:
        """The logits of each row of tiles as one strip, CxkxW, where it begins among how many rows of logits, and how
        many of these no later strip changes.
        """
        sides = zip(frame.shape[:2], self._tiles.size, strict=True)
        down, across = (_starts(length, side, self._tiles.overlap) for length, side in sides)
        stride = None
        count = 0
        for row, (top, following) in enumerate(itertools.pairwise([*down, frame.shape[0] + ALIGNED])):
            strip = None
            tiles = self._beside.in_order(partial(self._logits_of, frame, top), gathered(across, self.network.together))
            for left, logits in zip(across, itertools.chain.from_iterable(tiles), strict=True):
                if stride is None:
                    stride = _stride(self._sides(frame, top, left), logits)
                strip = logits if strip is None else _blend(strip, logits, left // stride, 2, self._seams)
                count += 1
                if self.network.progress:
                    self.network.progress(count, len(down) * len(across))
            assert strip is not None
            assert stride is not None
            total, width = (-(-side // stride) for side in frame.shape[:2])
            last = row == len(down) - 1
            strip = strip[:, : total - top // stride, :width]
            yield strip, top // stride, total, total if last else following // stride

    def _sides(self, frame: Frame, top: int, left: int) -> tuple[int, int]:
        """Of the tile there, in pixels of the network's input."""
        height, width = self._tiles.size
        if self.network.frame_spec.size is not None:
            return height, width
        return min(height, frame.shape[0] - top), min(width, frame.shape[1] - left)

    def _logits_of(self, frame: Frame, top: int, lefts: Sequence[int]) -> list[Logits]:
        """Of the tiles that begin there."""
        return list(self.views(self._image_of(frame, top, left) for left in lefts))

    def _image_of(self, frame: Frame, top: int, left: int) -> npt.NDArray[Any]:
        network, (height, width) = self.network, self._sides(frame, top, left)
        network.check_range((height, width))
        part = frame[top : top + height, left : left + width]
        image = prepare(
            np.ascontiguousarray(part),
            replace(network.frame_spec, size=None),
            network.session.inputs[0].dtype,
            network.channels,
        )
        if part.shape[:2] != (height, width):
            within = np.zeros((*image.shape[:2], height, width), image.dtype)
            within[:, :, : part.shape[0], : part.shape[1]] = image
            image = within
        return image


SEAMS = 0.05  # of the labels where tiles meet: more is said
MARGIN = 4  # rows of logits above those that are still to change: what cubic interpolation reaches, and one


def _starts(length: int, side: int, overlap: int) -> list[int]:
    """Where tiles of `side` pixels begin along `length` pixels."""
    if length <= side:
        return [0]
    last = -(-(length - side) // ALIGNED) * ALIGNED
    step = (side - overlap) // ALIGNED * ALIGNED
    return [*range(0, last, step), last]


def _stride(sides: tuple[int, int], logits: Logits) -> int:
    """How many pixels of the network's input each logit stands for. Raises `BundleError` for no power of two."""
    for stride in (1, 2, 4, 8, 16, 32):
        if all(-(-side // stride) == n for side, n in zip(sides, logits.shape[1:], strict=True)):
            return stride
    raise BundleError(
        f"logits of {logits.shape[1]}x{logits.shape[2]} for a tile of {sides[0]}x{sides[1]} pixels: only those of one "
        "for every 1, 2, 4 ... 32 pixels can be put together"
    )


@dataclass
class _Seams:
    """Labels in the middle of overlaps, and those of them that are not the same in both tiles."""

    compared: int = 0
    differing: int = 0

    def add(self, one: Logits, other: Logits) -> None:
        differ = one.argmax(axis=0) != other.argmax(axis=0)
        self.compared += differ.size
        self.differing += int(differ.sum())


def _blend(before: Logits, after: Logits, start: int, axis: int, seams: _Seams) -> Logits:
    """`before` and `after` as one, `after` beginning at `start` of `axis`; where both are, one turns into the other."""
    common = before.shape[axis] - start
    first, second = (np.moveaxis(logits, axis, -1) for logits in (before, after))
    # 0 over the first quarter, 1 over the last: there the one or the other is near its border
    t = np.clip((np.arange(common, dtype=np.float32) + 0.5) * 2 / max(common, 1) - 0.5, 0, 1)
    old, new = first[..., start:], second[..., :common]
    if common > 0:
        seams.add(old[..., common // 2], new[..., common // 2])
    between = np.where(t == 1, new, old + t * (new - old))  # this way equal logits stay as they are
    whole = np.concatenate([first[..., :start], between, second[..., common:]], axis=-1)
    return np.ascontiguousarray(np.moveaxis(whole, -1, axis))
