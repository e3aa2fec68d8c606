"""How a frame goes through the network: whole, at several scales and mirrored, or tile by tile."""

import math
from dataclasses import dataclass
from typing import Literal

from refinenet_edge.errors import InputError, require
from refinenet_edge.records.frame import MAX_SIDE, Size

MAX_SCALES = 16
OVERLAP = 256  # pixels: docs/measurements.md says what less costs
ALIGNED = 32  # pixels: tiles begin at multiples, so that no stride of a network sees another grid than in the whole


@dataclass(frozen=True)
class Whole:
    """The frame once, as it is or brought to the network's size."""

    kind: Literal["whole"] = "whole"


@dataclass(frozen=True)
class MultiScale:
    """The frame at each of `scales`, and with `flip` mirrored, too: the class scores (softmax) of all are averaged.

    `short_side`: the least and the most pixels that the frame's shorter side is brought to first, None: it stays.
    `bundles`: what computed the scales after the first, where each has a network of its own; digests of those bundles.
    Raises `InputError` for scales that there cannot be.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    short_side: tuple[int, int] | None = None
    bundles: tuple[str, ...] = ()
    kind: Literal["multi-scale"] = "multi-scale"

    def __post_init__(self) -> None:
        if not 1 <= len(self.scales) <= MAX_SCALES or not all(0 < s <= 16 and math.isfinite(s) for s in self.scales):
            raise InputError(f"scales {self.scales}: 1 to {MAX_SCALES} numbers above 0, to 16, are expected")
        if len(set(self.scales)) != len(self.scales) and not self.bundles:
            raise InputError(f"scales {self.scales}: one is there twice")
        if self.short_side is not None and not 1 <= self.short_side[0] <= self.short_side[1] <= MAX_SIDE:
            raise InputError(f"a short side of {self.short_side}: expected the least and the most pixels, 450,800")

    def sizes(self, frame: Size) -> list[Size]:
        """What a frame of that (height, width) is brought to, for each of `scales`; halves of pixels are rounded up."""
        short = min(frame)
        least, most = self.short_side or (short, short)
        factor = min(max(short, least), most) / short
        return [(int(frame[0] * factor * s + 0.5), int(frame[1] * factor * s + 0.5)) for s in self.scales]


@dataclass(frozen=True)
class Tiles:
    """The frame in tiles of `size` (height, width) that overlap by at least `overlap` pixels.

    Without `overlap` it is 256, at most half a tile's shorter side. Where a frame is no larger than a tile, it is one.
    Raises `InputError` for tiles that would not move on.
    """

    size: Size
    overlap: int = None  # type: ignore[assignment]  # never None once it is made: see below
    kind: Literal["tiles"] = "tiles"

    def __post_init__(self) -> None:
        if self.overlap is None:
            object.__setattr__(self, "overlap", min(OVERLAP, min(self.size) // 2, min(self.size) - ALIGNED))
        require(self.overlap, int, "overlap")
        if not all(ALIGNED <= side <= MAX_SIDE for side in self.size):
            raise InputError(f"tiles of {self.size[0]}x{self.size[1]} pixels: {ALIGNED} to {MAX_SIDE} a side")
        if not 0 <= self.overlap <= min(self.size) - ALIGNED:
            raise InputError(
                f"tiles of {self.size[0]}x{self.size[1]} pixels overlap by 0 to {min(self.size) - ALIGNED} pixels, "
                f"not {self.overlap}"
            )


Inference = Whole | MultiScale | Tiles
WHOLE = Whole()
