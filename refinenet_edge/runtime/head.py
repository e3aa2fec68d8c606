"""Logits -> labels at the frame's size: upsample, then argmax.

Upsampling is separable: rows @ logits @ columns.T, with one interpolation matrix per axis. The frame is done in blocks
of rows, so that the full-size logits (174 MB in float32 for 21 classes at 1080p) never exist at once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from refinenet_edge.errors import BundleError
from refinenet_edge.records import Bilinear, Interpolation, LabelMap, Size

Matrix = npt.NDArray[np.float32]

A = -0.75  # the cubic kernel's parameter in OpenCV and torch
BLOCK = 4 * 1024 * 1024  # logits upsampled at a time


def upsample(logits: npt.NDArray[Any], size: Size, how: Interpolation) -> npt.NDArray[np.float32]:
    """`logits` (CxHxW, any float dtype, finite) interpolated to Cx`size`, float32, a new array."""
    classes, height, _ = logits.shape
    rows = np.ascontiguousarray(logits.transpose(1, 0, 2), np.float32)
    up = interpolation(height, size[0], how) @ _widen(rows, size[1], how).reshape(height, -1)
    return np.ascontiguousarray(up.reshape(size[0], classes, size[1]).transpose(1, 0, 2))


def labels_of(logits: npt.NDArray[Any], size: Size, how: Interpolation) -> LabelMap:
    """The class of each pixel of a frame of `size`: argmax of the upsampled `logits` (1xCxhxw, any float dtype).

    Of equal logits the lowest class wins. Raises `BundleError` for logits of another shape, or NaN or infinite ones.
    """
    if logits.ndim != 4 or logits.shape[0] != 1 or not 1 <= logits.shape[1] <= 256 or 0 in logits.shape:
        raise BundleError(f"the network's output is {'x'.join(map(str, logits.shape))}, logits are 1 x classes x h x w")
    if not np.isfinite(logits).all():
        raise BundleError(
            "the logits of this frame are not all finite (in float16, sums beyond 65504 become infinite): "
            "build it again with another precision"
        )
    _, classes, height, _ = logits.shape
    # h x C x w: each of the two products below is then one large matrix product instead of one per class
    source = np.ascontiguousarray(logits[0].transpose(1, 0, 2), np.float32)
    rows = interpolation(height, size[0], how)
    labels = np.empty(size, np.uint8)
    block = max(1, BLOCK // (classes * size[1]))
    for top in range(0, size[0], block):
        part = rows[top : top + block]
        used = np.flatnonzero(part.any(axis=0))
        first, last = used[0], used[-1] + 1  # a block of rows needs a few source rows only
        wide = _widen(source[first:last], size[1], how)
        up = part[:, first:last] @ wide.reshape(last - first, -1)
        labels[top : top + block] = _argmax(up.reshape(-1, classes, size[1]))
    return labels


@lru_cache(maxsize=16)
def interpolation(n_in: int, n_out: int, how: Interpolation) -> Matrix:
    """The n_out x n_in matrix that resizes an axis as torch's F.interpolate (bilinear) or cv2.INTER_CUBIC does.

    Edge samples are repeated. Read-only: it is shared.
    """
    place = np.arange(n_out, dtype=np.float64)
    if isinstance(how, Bilinear):
        if how.align_corners:
            place *= (n_in - 1) / (n_out - 1) if n_out > 1 else 0.0
        else:
            place = np.maximum((place + 0.5) * (n_in / n_out) - 0.5, 0.0)
        left = np.minimum(np.floor(place), n_in - 1)
        t = place - left
        taps = {0: 1 - t, 1: t}
    else:
        place = (place + 0.5) * (n_in / n_out) - 0.5
        left = np.floor(place)
        t = place - left
        near = {k: ((A + 2) * d - (A + 3)) * d * d + 1 for k, d in ((0, t), (1, 1 - t))}
        far = {k: ((A * d - 5 * A) * d + 8 * A) * d - 4 * A for k, d in ((-1, 1 + t), (2, 2 - t))}
        taps = near | far
    matrix = np.zeros((n_out, n_in))
    for offset, weight in taps.items():
        np.add.at(matrix, (np.arange(n_out), np.clip(left + offset, 0, n_in - 1).astype(int)), weight)
    result = matrix.astype(np.float32)
    result.flags.writeable = False
    return result


def _widen(rows: npt.NDArray[np.float32], width: int, how: Interpolation) -> npt.NDArray[np.float32]:
    """`rows` (h x C x w) to h x C x `width`."""
    if rows.shape[2] == width:  # every mode is the identity then, and the matrix would be the largest
        return rows
    height, classes, n_in = rows.shape
    wide = rows.reshape(-1, n_in) @ interpolation(n_in, width, how).T
    return np.asarray(wide.reshape(height, classes, width), np.float32)


def _argmax(logits: npt.NDArray[np.float32]) -> LabelMap:  # h x C x w -> h x w
    # numpy's own argmax copies the array to bring the classes last
    best = logits[:, 0].copy()
    labels = np.zeros(best.shape, np.uint8)
    for label in range(1, logits.shape[1]):
        np.copyto(labels, np.uint8(label), where=logits[:, label] > best)
        np.maximum(best, logits[:, label], out=best)
    return labels
