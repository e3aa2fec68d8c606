"""What calibration saw, and what quantising cost and gained."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from refinenet_edge.errors import BundleError

INT8_LEVELS = 127  # the largest |q| of symmetric INT8


@dataclass(frozen=True)
class Range:
    """One tensor over all calibration frames: symmetric INT8 covers [-amax, amax], values from `low` to `high` came.

    Raises `BundleError` where these are not finite or in order.
    """

    amax: float
    low: float
    high: float
    method: str  # how amax was chosen: "entropy", "percentile 99.99" ...

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.amax, self.low, self.high))) or self.amax < 0 or self.low > self.high:
            raise BundleError(f"range {self.low}..{self.high} with amax {self.amax} is not a range of finite numbers")
        if self.amax == 0 and (self.low or self.high):
            raise BundleError(f"amax 0 would make zeros of all of {self.low}..{self.high}")


@dataclass(frozen=True)
class RangesKey:
    """What the ranges hold for: sha256 of the fused graph without its weights, of the weights, of the FrameSpec, and of
    the frames in order; and the method asked for.
    """

    graph: str
    weights: str
    frame: str
    frames: str
    method: str


@dataclass(frozen=True)
class Ranges:
    """What calibration saw: tensor name -> range. `source` is where the `count` frames came from.

    Raises `BundleError` for a `schema` other than this release's.
    """

    key: RangesKey
    source: str
    count: int
    tensors: Mapping[str, Range]
    toolkit: str
    warnings: tuple[str, ...] = ()
    schema: int = 1


@dataclass(frozen=True)
class Harm:
    """What rounding `layers` alone does to the logits: the error's power over their variance.

    One layer, or several that it was not worth telling apart. `kept`: they went back to float. Raises `BundleError`
    for none.
    """

    layers: tuple[str, ...]
    harm: float
    kept: bool

    def __post_init__(self) -> None:
        if not self.layers:
            raise BundleError("a harm of no layer")


@dataclass(frozen=True)
class Budget:
    """What quantising was allowed to cost, and what it costs.

    `loss` is in points of mIoU, or in percent of the pixels whose label is not float's: with every layer quantised at
    `full`, with those in `harms` kept that are marked so at `reached`. `judged` candidates ran on `judge` by `backend`;
    the harms took `runs` runs of the network.
    """

    loss: Literal["miou", "labels"]
    allowed: float
    full: float
    reached: float
    judge: str
    backend: str
    judged: int
    runs: int
    harms: tuple[Harm, ...]  # the greatest first

    @property
    def kept(self) -> tuple[str, ...]:
        """The layers that went back to float."""
        return tuple(layer for harm in self.harms if harm.kept for layer in harm.layers)


@dataclass(frozen=True)
class Speed:
    """How many times as fast as the same network in precision `than` it ran, with a 95 % interval, both in turn."""

    than: str
    times: float
    low: float
    high: float
