"""Logits -> labels at the frame's size: upsample, then argmax, without ever holding the full-size logits.

**The arithmetic** of bilinear interpolation is fixed, so that numpy, C++ (kernels/head.cpp) and CUDA (kernels/head.cu)
give the same bits. All of it is float32, every operation rounded to nearest, none fused:

    lerp(a, b, t) = (1 - t)·a + t·b
    logit         = lerp(lerp(a00, a01, tx), lerp(a10, a11, tx), ty)      along the rows first

t is the fraction of the exact, rational source position, rounded once to a multiple of 2^-24; then 1 - t is exact, too.
The label is the lowest class with the largest logit, "largest" after rounding: a near-tie that rounding makes a tie
goes to the lower class. Finite logits stay finite, as lerp(m, m, t) <= m for the largest number m and every t; others
are refused here. The GPU does not look: there a NaN never wins, and where there is nothing else class 0 does.

**The short cut** of the C++ code: where one class k is the largest at all four corners of a cell, the cell is k without
looking. It changes no bit. Each rounded operation above is monotone in a and b, because t and 1 - t are not negative
(a + (b - a)·t is not monotone). So where k is at least j at the four corners, it is at least j after rounding anywhere
between. That settles every j > k, which loses ties. A j < k wins ties, so k must stay strictly larger: a logit is the
sum of four corners, each times a weight w, the weights adding up to exactly 1, and each term off by a factor within
(1 ± 2^-24)^4. So k - j is at least the sum of w·(k - j - 2^-21.9·(|k| + |j|)), less what underflow takes, which is
positive when k - j > 2^-21·(|k| + |j|) + 2^-120 at every corner. Of the classes below k the largest is the one to look
at. A cell with a corner nearer to a tie than that is evaluated pixel by pixel like those whose corners disagree.

**The confidence** of a label is its softmax over the interpolated logits in 255ths, rounded half to even: 255 over the
sum of e^(logit - winner's), the classes in their order. The exponential is one of ours, of additions and products that
round as above (`exponential` in kernels/pixel.h), so it has the same bits everywhere; it is off by less than 0.01 %.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from refinenet_edge.errors import BundleError, require
from refinenet_edge.records import Bilinear, Confidence, Cubic, Interpolation, LabelMap, Nearest, Size, Span
from refinenet_edge.runtime.in_flight import cores

try:
    from refinenet_edge.runtime.kernels import _head
except ImportError:  # installed without a compiler
    _head = None  # type: ignore[assignment]

Logits = npt.NDArray[np.float32]
Taps = list[tuple[npt.NDArray[np.int32], Logits]]  # per output pixel an index and its weight; their sum is the pixel
Spans = tuple[Span, Span] | None  # down and across; None: the frame fills the network's input
A = -0.75  # the cubic kernel's parameter in OpenCV and torch
BLOCK = 128 * 1024  # logits that numpy upsamples at a time: what stays in a cache
THREADS = min(8, cores())


def implementation() -> Literal["c++", "numpy"]:
    """What makes labels of bilinear logits here; the labels are the same."""
    return "numpy" if _head is None else "c++"


def one_frame(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The CxHxW logits of a network's output, 1xCxHxW. Raises `BundleError` for another shape."""
    require(logits, np.ndarray, "logits")
    if logits.ndim != 4 or logits.shape[0] != 1:
        raise _no_logits(logits, "1 x classes x h x w")
    first: npt.NDArray[Any] = logits[0]
    return first


def upsample_argmax(
    logits: npt.NDArray[Any], size: Size, how: Interpolation, spans: Spans = None, threads: int = THREADS
) -> LabelMap:
    """The class of each pixel of a frame of `size`, from `logits` (CxHxW, any float dtype).

    `spans`: where the frame lies in what the network was fed, down and across; None: it fills it. `threads` share it.
    Raises `BundleError` for logits of another shape, of more than 256 classes, or NaN or infinite ones.
    """
    return _upsample(logits, size, how, spans, None, threads)


def upsample_softmax(
    logits: npt.NDArray[Any], size: Size, how: Interpolation, spans: Spans = None, threads: int = THREADS
) -> tuple[LabelMap, Confidence]:
    """`upsample_argmax`, and how sure each label is: its softmax over the interpolated logits, in 255ths (slower)."""
    confidence = np.empty(size, np.uint8)
    return _upsample(logits, size, how, spans, confidence, threads), confidence


def label_rows(
    logits: Logits,
    above: int,
    total: int,
    how: Interpolation,
    labels: LabelMap,
    rows: slice,
    confidence: Confidence | None,
    spans: Spans = None,
    threads: int = THREADS,
) -> None:
    """`rows` of `labels`, and of `confidence` where it is asked for, of a frame whose logits come piece by piece.

    `logits` (CxkxW) are k of its `total` rows, beneath `above` others; `lowest_needed` says which of them are needed.
    `spans`, `threads`: as of `upsample_argmax`.
    """
    height, width = labels.shape
    sure = None if confidence is None else confidence[rows]
    rows_in, columns_in = spans or (None, None)
    if _head is not None and isinstance(how, Bilinear):
        down = bilinear_axis(total, height, how, rows_in)
        across = bilinear_axis(logits.shape[2], width, how, columns_in)
        starts = np.clip(down.starts[above : above + logits.shape[1] + 1] - rows.start, 0, rows.stop - rows.start)
        source, more = np.ascontiguousarray(logits), () if sure is None else (sure,)
        axes = starts, down.t[rows], across.starts, across.t
        if not _head.fill(source, len(source), *axes, labels[rows], threads, *more):
            raise _not_finite(source)
        return
    if not np.isfinite(logits).all():
        raise _not_finite(logits)
    down_taps = [(index[rows] - above, weight[rows]) for index, weight in _taps(total, height, how, rows_in)]
    for part, block in _blocks(logits, down_taps, _taps(logits.shape[2], width, how, columns_in)):
        labels[rows][part] = block.argmax(axis=2)
        if sure is not None:
            sure[part] = _confidence(block)


def lowest_needed(total: int, height: int, how: Interpolation) -> npt.NDArray[np.int32]:
    """For each of the `height` rows of a frame, the last of the `total` rows of its logits that it depends on."""
    lowest: npt.NDArray[np.int32] = np.max([index for index, _ in _taps(total, height, how, None)], axis=0)
    return lowest


def _upsample(
    logits: npt.NDArray[Any],
    size: Size,
    how: Interpolation,
    spans: Spans,
    confidence: Confidence | None,
    threads: int,
) -> LabelMap:
    require(logits, np.ndarray, "logits")
    require(how, (Bilinear, Cubic, Nearest), "the interpolation")
    if logits.ndim != 3 or not 1 <= logits.shape[0] <= 256 or 0 in logits.shape:
        raise _no_logits(logits, "classes x h x w")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused as that
        source = np.ascontiguousarray(logits, np.float32)
    labels = np.empty(size, np.uint8)
    label_rows(source, 0, source.shape[1], how, labels, slice(0, size[0]), confidence, spans, threads)
    return labels


@dataclass(frozen=True)
class Pass:
    """One look of the network at a frame: its logits (CxHxW, float32), and how they reach the frame's size.

    `mirrored`: the network saw the frame mirrored from left to right.
    """

    logits: Logits
    how: Interpolation
    spans: Spans = None
    mirrored: bool = False


def average_softmax(passes: Sequence[Pass], size: Size) -> Iterator[tuple[slice, Logits]]:
    """Rows of a frame of `size` and their class scores, C x rows x width: the softmax of each pass, averaged.

    Never more than a block of rows at the frame's size. Raises `BundleError` for NaN or infinite logits.
    """
    for one in passes:
        if not np.isfinite(one.logits).all():
            raise _not_finite(one.logits)
    for blocks in zip(*(_upsampled(one.logits, size, one.how, one.spans) for one in passes), strict=True):
        total = np.zeros(np.moveaxis(blocks[0][1], 2, 0).shape, np.float32)
        for one, (_, block) in zip(passes, blocks, strict=True):
            planes = np.ascontiguousarray(block.transpose(2, 0, 1))  # numpy reduces planes fastest
            with np.errstate(over="ignore"):  # the difference of the largest numbers
                planes -= planes.max(axis=0)
            np.exp(planes, out=planes)
            planes /= planes.sum(axis=0)
            total += planes[:, :, ::-1] if one.mirrored else planes
        total /= np.float32(len(passes))
        yield blocks[0][0], total


def _confidence(logits: Logits) -> Confidence:
    """Of the largest of `logits`, HxWxC."""
    total = np.zeros(logits.shape[:2], np.float32)
    with np.errstate(over="ignore"):  # the difference of the largest numbers
        for one in np.moveaxis(logits - logits.max(axis=2, keepdims=True), 2, 0):
            total += _exponential(one)
    confidence: Confidence = np.rint(np.minimum(np.float32(255) / total, 255)).astype(np.uint8)
    return confidence


def _exponential(x: Logits) -> Logits:
    """`exponential` of kernels/pixel.h, operation by operation."""
    x = np.maximum(x, np.float32(-24))
    to_whole = np.float32(1.5 * 2**23)
    shifted = x * np.float32(1.44269504) + to_whole
    r = x + (shifted - to_whole) * np.float32(-0.693147181)
    power = np.full_like(x, 1 / 24)
    for term in (1 / 6, 0.5, 1, 1):
        power = power * r + np.float32(term)
    scale = (shifted.view(np.uint32) << np.uint32(23)) + np.uint32(0x3F800000)
    return power * scale.view(np.float32)


def _upsampled(logits: Logits, size: Size, how: Interpolation, spans: Spans = None) -> Iterator[tuple[slice, Logits]]:
    """Rows of the frame and their interpolated logits, rows x width x C, block by block; a block is the caller's."""
    rows_in, columns_in = spans or (None, None)
    down = _taps(logits.shape[1], size[0], how, rows_in)
    return _blocks(logits, down, _taps(logits.shape[2], size[1], how, columns_in))


def _blocks(logits: Logits, down: Taps, taps: Taps) -> Iterator[tuple[slice, Logits]]:
    classes = len(logits)
    source = np.ascontiguousarray(logits.transpose(1, 2, 0))  # numpy takes pixels and finds their argmax fastest so
    across = [(index, np.repeat(weight[:, None], classes, axis=1)) for index, weight in taps]
    height, width = len(down[0][0]), len(taps[0][0])
    block = max(1, BLOCK // (classes * width))
    for top in range(0, height, block):
        rows = slice(top, min(top + block, height))
        first, last = min(index[top] for index, _ in down), max(index[rows][-1] for index, _ in down)
        wide = _mix(source[first : last + 1], across, axis=1)
        yield rows, _mix(wide, [(index[rows] - first, weight[rows, None, None]) for index, weight in down], axis=0)


def _mix(source: Logits, taps: Taps, axis: int) -> Logits:
    total: Logits | None = None
    for index, weight in taps:
        part = source.take(index, axis=axis)
        part *= weight
        total = part if total is None else np.add(total, part, out=total)
    assert total is not None
    return total


@dataclass(frozen=True)
class Axis:
    """Where the output pixels of an axis lie: pixel j between the samples first[j] and second[j], at the fraction t[j].

    `starts` says it by sample: the pixels whose first sample is i are starts[i] to starts[i + 1]. int32 and float32,
    read-only.
    """

    first: npt.NDArray[np.int32]
    second: npt.NDArray[np.int32]
    t: npt.NDArray[np.float32]
    starts: npt.NDArray[np.int32]


@lru_cache(maxsize=32)
def bilinear_axis(n_in: int, n_out: int, how: Bilinear, span: Span | None = None) -> Axis:
    """The positions of torch's F.interpolate, from whole numbers: exact up to the one rounding of t.

    With a `span` the pixels lie on it with half-pixel centres, and the samples on all of its `total` as `how` says.
    """
    pixel = np.arange(n_out, dtype=np.int64)
    if span is not None:
        place = (
            2 * n_out * span.start + (2 * pixel + 1) * span.length
        )  # in 2 n_outths of a pixel, from the first's edge
        if how.align_corners:
            position, unit = (place - n_out) * (n_in - 1), 2 * n_out * max(1, span.total - 1)
        else:
            position, unit = place * n_in - n_out * span.total, 2 * n_out * span.total
        position = np.maximum(position, 0)
    elif how.align_corners:
        position, unit = pixel * (n_in - 1), max(1, n_out - 1)
    else:
        position, unit = np.maximum((2 * pixel + 1) * n_in - n_out, 0), 2 * n_out
    first = np.minimum(position // unit, n_in - 1)
    t = np.rint((position - first * unit) * 2.0**24 / unit) / 2**24
    t[first == n_in - 1] = 0  # beyond the last sample it is repeated
    starts = np.searchsorted(first, np.arange(n_in + 1))
    second = np.minimum(first + 1, n_in - 1)
    axis = Axis(first.astype(np.int32), second.astype(np.int32), t.astype(np.float32), starts.astype(np.int32))
    for array in (axis.first, axis.second, axis.t, axis.starts):
        array.flags.writeable = False  # shared
    return axis


def nearest_axis(n_in: int, n_out: int, span: Span | None = None) -> npt.NDArray[np.int64]:
    """The sample that is nearest to each of `n_out` pixels, half-pixel centres; `span` as in `bilinear_axis`."""
    start, length, total = (span.start, span.length, span.total) if span else (0, n_out, n_out)
    place = 2 * n_out * start + (2 * np.arange(n_out, dtype=np.int64) + 1) * length
    return np.clip(place * n_in // (2 * n_out * total), 0, n_in - 1)


def _taps(n_in: int, n_out: int, how: Interpolation, span: Span | None) -> Taps:
    if isinstance(how, Nearest):
        return [(nearest_axis(n_in, n_out, span).astype(np.int32), np.ones(n_out, np.float32))]
    if isinstance(how, Bilinear):
        axis = bilinear_axis(n_in, n_out, how, span)
        return [(axis.first, 1 - axis.t), (axis.second, axis.t)]
    # cv2.INTER_CUBIC: half-pixel centres, edge samples repeated
    start, length, total = (span.start, span.length, span.total) if span else (0, 1, 1)
    place = (start + (np.arange(n_out) + 0.5) * (length / n_out)) * (n_in / total) - 0.5
    left = np.floor(place)
    t = place - left
    near = {k: ((A + 2) * d - (A + 3)) * d * d + 1 for k, d in ((0, t), (1, 1 - t))}
    far = {k: ((A * d - 5 * A) * d + 8 * A) * d - 4 * A for k, d in ((-1, 1 + t), (2, 2 - t))}
    return [
        (np.clip(left + offset, 0, n_in - 1).astype(np.int32), weight.astype(np.float32))
        for offset, weight in (near | far).items()
    ]


def _no_logits(logits: npt.NDArray[Any], meant: str) -> BundleError:
    return BundleError(f"the network's output is {'x'.join(map(str, logits.shape))}, logits are {meant}")


def _not_finite(logits: Logits) -> BundleError:
    label, row, column = (int(i) for i in np.argwhere(~np.isfinite(logits))[0])
    return BundleError(
        f"the logits of this frame are not all finite: {logits[label, row, column]} for class {label} at row {row}, "
        f"column {column} (in float16, sums beyond 65504 become infinite): build it again with another precision"
    )
