"""Histogram -> amax: the magnitude at which symmetric INT8 saturates, scale = amax / 127.

MinMax       the largest magnitude seen
Percentile   what a share of all values stays below
Entropy      least information lost (Kullback-Leibler), TensorRT's classic choice
Mse          least expected squared error of rounding and saturating
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from refinenet_edge.calibration.histogram import BINS, Histogram
from refinenet_edge.errors import InputError
from refinenet_edge.records import INT8_LEVELS

STRIDE = 8  # bins between the thresholds that are tried


@dataclass(frozen=True)
class MinMax:
    """The largest magnitude seen: nothing saturates, an outlier costs everything else resolution."""

    def __str__(self) -> str:
        return "minmax"

    def amax(self, histogram: Histogram) -> float:
        return histogram.amax


@dataclass(frozen=True)
class Percentile:
    """The end of the bin below which `percent` of the values that are not zero lie; at most the largest seen.

    Zeros take no part: any scale holds them, and a map that is nearly all zeros would be cut to nothing.
    """

    percent: float = 99.99

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise InputError(f"percentile {self.percent} is outside 0 to 100")

    def __str__(self) -> str:
        return f"percentile:{float(self.percent)!r}".removesuffix(".0")

    def amax(self, histogram: Histogram) -> float:
        below = np.cumsum(histogram.counts)
        if not below[-1]:
            return 0.0
        reached = int(np.searchsorted(below, below[-1] * (self.percent / 100) * (1 - 1e-12)))
        return min((reached + 1) * histogram.width, histogram.amax)


@dataclass(frozen=True)
class Entropy:
    """The threshold whose 128 levels tell most about the values (S. Migacz, 8-bit Inference with TensorRT, 2017).

    For each number of bins i from 128 up, every eighth: P is the first i bins, all beyond added to the last of them; Q
    spreads the same bins, without what is beyond, over 128 levels, each level evenly over its bins that are not empty.
    The i with the least KL(P || Q) wins, the larger of equals. Exact zeros take no part: every threshold keeps them.
    """

    def __str__(self) -> str:
        return "entropy"

    def amax(self, histogram: Histogram) -> float:
        def loss(bins: int) -> float:
            inside = histogram.counts[:bins]
            reference = inside.astype(np.float64)
            reference[-1] += int(histogram.counts[bins:].sum())
            level = np.arange(bins) * (INT8_LEVELS + 1) // bins
            sums = np.bincount(level, inside, INT8_LEVELS + 1)
            occupied = np.bincount(level, inside > 0, INT8_LEVELS + 1)
            spread = np.where(inside > 0, (sums / np.maximum(occupied, 1))[level], 0.0)
            return _divergence(reference, spread)

        return _threshold(histogram, loss)


@dataclass(frozen=True)
class Mse:
    """The threshold with the least sum of (x - Q(x))² over the middles of the bins; Q rounds and saturates."""

    def __str__(self) -> str:
        return "mse"

    def amax(self, histogram: Histogram) -> float:
        middles = (np.arange(BINS) + 0.5) * histogram.width

        def loss(bins: int) -> float:
            step = min(bins * histogram.width, histogram.amax) / INT8_LEVELS
            error = middles - np.minimum(np.rint(middles / step), INT8_LEVELS) * step
            return float(histogram.counts @ (error * error))

        return _threshold(histogram, loss)


Method = MinMax | Percentile | Entropy | Mse


def parse_method(text: str) -> Method:
    """The method of "minmax", "percentile:99.99", "entropy" or "mse". Raises `InputError`."""
    name, _, value = text.partition(":")
    try:
        if name == "percentile":
            return Percentile(float(value)) if value else Percentile()
        if not value:
            plain: dict[str, Method] = {"minmax": MinMax(), "entropy": Entropy(), "mse": Mse()}
            return plain[name]
    except (KeyError, ValueError):
        pass
    raise InputError(f"no method {text!r}; there are minmax, percentile:99.99, entropy and mse")


def parse_overrides(texts: Sequence[str]) -> dict[str, Method]:
    """Glob of tensor names -> method, of "GLOB=METHOD" each. Raises `InputError`."""
    pairs = [text.rpartition("=") for text in texts]
    if wrong := next((method for glob, _, method in pairs if not glob), None):
        raise InputError(f"--method-for {wrong}: expected GLOB=METHOD, such as '*relu*=percentile:99.9'")
    return {glob: parse_method(method) for glob, _, method in pairs}


def name_of(method: Method, overrides: Mapping[str, Method]) -> str:
    """How a key says it: "entropy, *relu*=mse"."""
    return ", ".join([str(method), *(f"{glob}={special}" for glob, special in overrides.items())])


def _threshold(histogram: Histogram, loss: Callable[[int], float]) -> float:
    """The threshold, of a number of bins, with the least `loss`; the largest of equals."""
    occupied = np.flatnonzero(histogram.counts)
    if not occupied.size:
        return histogram.amax
    last = int(occupied[-1]) + 1
    tried = sorted({*range(INT8_LEVELS + 1, last, STRIDE), max(last, INT8_LEVELS + 1)}, reverse=True)
    least: int = min(tried, key=loss)
    return min(least * histogram.width, histogram.amax)


def _divergence(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    """KL(p || q) of two histograms; infinite where q has nothing of what p has."""
    seen = p > 0
    if not q[seen].all():
        return math.inf
    p, q = p[seen] / p.sum(), q[seen] / q.sum()
    return float((p * np.log(p / q)).sum())
