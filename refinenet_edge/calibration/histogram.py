"""How often each magnitude came, in constant memory, whatever the order of the frames.

|x| falls into `BINS` bins of width 2^exponent. When a larger value comes the width doubles and neighbours are added:
floor(floor(|x| / w) / 2) = floor(|x| / 2w), so nothing is lost but resolution, and the end result depends only on what
was seen. So adding is associative, and any number of workers gives the same bits as one. Exact zeros (half of what a
ReLU gives) are counted apart, as are NaN and infinities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

try:
    from refinenet_edge.runtime.kernels import _histogram
except ImportError:  # installed without a compiler
    _histogram = None  # type: ignore[assignment]

BINS = 2048
BLOCK = 1 << 18  # values at a time: what stays in a cache
SMALLEST = -100  # exponent: a narrower bin would not be told from zero, and 2^100 is still a float32


@dataclass
class Histogram:
    """What was seen of one tensor; `exponent` is None while that was only zeros."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    exponent: int | None = None
    zeros: int = 0
    low: float = math.inf
    high: float = -math.inf
    not_finite: int = 0

    @property
    def amax(self) -> float:
        """The largest |x|; 0 when nothing was seen."""
        return max(abs(self.low), abs(self.high)) if self.low <= self.high else 0.0

    @property
    def width(self) -> float:
        """Of a bin."""
        return math.ldexp(1.0, SMALLEST if self.exponent is None else self.exponent)

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count `values` (any shape, float32 or float16)."""
        flat = np.ascontiguousarray(values).reshape(-1)
        for start in range(0, flat.size, BLOCK):
            self._add(flat[start : start + BLOCK].astype(np.float32, copy=False))

    def _add(self, block: npt.NDArray[np.float32]) -> None:
        low, high, zeros, not_finite = _extent(block)
        # + 0.0: of -0.0 and 0.0 the first to come would stay, and the order of the frames would show
        self.low, self.high = min(self.low, low) + 0.0, max(self.high, high) + 0.0
        self.zeros += zeros
        self.not_finite += not_finite
        if zeros + not_finite == block.size:
            return
        self._widen(_exponent(max(abs(low), abs(high))))
        _count(block[np.isfinite(block)] if not_finite else block, self.width, self.counts)
        self.counts[0] -= zeros

    def _widen(self, exponent: int) -> None:
        if self.exponent is None:
            self.exponent = exponent
        while self.exponent < exponent:
            self.counts[: BINS // 2] = self.counts.reshape(-1, 2).sum(1)
            self.counts[BINS // 2 :] = 0
            self.exponent += 1

    def __add__(self, other: Histogram) -> Histogram:
        """Both together, as if one histogram had seen everything."""
        total = Histogram(
            self.counts.copy(),
            self.exponent,
            self.zeros + other.zeros,
            min(self.low, other.low),
            max(self.high, other.high),
            self.not_finite + other.not_finite,
        )
        if other.exponent is not None:
            narrow = Histogram(other.counts.copy(), other.exponent)
            wide = other.exponent if total.exponent is None else max(total.exponent, other.exponent)
            total._widen(wide)
            narrow._widen(wide)
            total.counts += narrow.counts
        return total


def is_compiled() -> bool:
    """Whether C++ counts, without Python's lock; else numpy does: the counts are the same."""
    return _histogram is not None


def _exponent(amax: float) -> int:
    """The narrowest bins, a power of two, that hold `amax`."""
    return max(SMALLEST, math.frexp(amax)[1] - (BINS.bit_length() - 1))


def _extent(block: npt.NDArray[np.float32]) -> tuple[float, float, int, int]:
    """The lowest and the highest finite value, inf and -inf where there is none; how many are zero, and not finite."""
    if _histogram is not None:
        return _histogram.extent(block)
    finite = block
    low, high = float(block.min()), float(block.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        finite = block[np.isfinite(block)]
        low, high = float(finite.min(initial=math.inf)), float(finite.max(initial=-math.inf))
    return low, high, finite.size - int(np.count_nonzero(finite)), block.size - finite.size


def _count(block: npt.NDArray[np.float32], width: float, counts: npt.NDArray[np.int64]) -> None:
    """Add each value's magnitude to its bin."""
    if _histogram is not None:
        _histogram.count(block, 1 / width, counts)
        return
    places = np.abs(block)
    places *= np.float32(1 / width)
    counts += np.bincount(places.astype(np.int32), minlength=BINS)
