"""Frame -> network input, beside the graph.

In the graph (uint8 in; cast, channel order and normalisation as nodes) it was measured slower: 0.4 % of the frame on
OpenVINO, 1.5 % on ONNX Runtime (benchmarks/frame_in_graph.py). On the GPU a kernel does it (kernels/frame.cu).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from refinenet_edge.errors import InputError
from refinenet_edge.records import MAX_SIDE, Cubic, Frame, FrameSpec

DTYPES = ("float32", "float16")


def prepare(frame: Frame, spec: FrameSpec, dtype: str = "float32", channels: int = 3) -> npt.NDArray[Any]:
    """`frame` (HxWx3 BGR uint8, any size) as `spec` says: a new 1x`channels`xhxw array of `dtype`, C-contiguous.

    It is resized as uint8 to `spec.size` (None: not at all); then every value is (x / 255 - mean) / std rounded once.
    Its first three channels are RGB, those that a network is padded with are zero. Raises `InputError` if `frame` is
    not such an image.
    """
    check_frame(frame)
    tables = _tables(spec.mean, spec.std, dtype)
    if spec.size is not None and frame.shape[:2] != spec.size:
        how = cv2.INTER_CUBIC if isinstance(spec.resize, Cubic) else cv2.INTER_LINEAR
        frame = np.asarray(cv2.resize(frame, spec.size[::-1], interpolation=how), np.uint8)
    batch = np.empty((1, channels, *frame.shape[:2]), dtype)
    batch[:, 3:] = 0
    # a byte has 256 values: one table per channel. The tables and planes are looked up as unsigned integers of the same
    # width, because not every OpenCV knows float16
    bits = batch.view(np.uint16 if dtype == "float16" else np.int32)
    for channel, table in enumerate(tables):
        cv2.LUT(cv2.extractChannel(frame, 2 - channel), table.view(bits.dtype), dst=bits[0, channel])
    return batch


def check_frame(frame: Frame) -> None:
    """Raise `InputError` unless `frame` is HxWx3 uint8 with sides of 1 to `MAX_SIDE` pixels."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise InputError(f"a frame is a HxWx3 BGR uint8 array, as cv2.imread gives it; this is {found}")
    if not all(1 <= side <= MAX_SIDE for side in frame.shape[:2]):
        raise InputError(f"a frame has 1 to {MAX_SIDE} pixels a side, this one is {frame.shape[1]}x{frame.shape[0]}")


@lru_cache(maxsize=8)
def _tables(mean: tuple[float, ...], std: tuple[float, ...], dtype: str) -> tuple[npt.NDArray[Any], ...]:
    if dtype not in DTYPES:
        raise InputError(f"a frame becomes {' or '.join(DTYPES)}, not {dtype}: build the network with such an input")
    values = np.arange(256) / 255
    return tuple(((values - m) / s).astype(dtype) for m, s in zip(mean, std, strict=True))
