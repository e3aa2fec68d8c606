"""Frame -> network input, beside the graph.

In the graph (uint8 in; cast, channel order and normalisation as nodes) it is slower (docs/measurements.md). On the GPU
a kernel does it (kernels/frame.cu).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from refinenet_edge.errors import InputError, require
from refinenet_edge.records import MAX_SIDE, Cubic, Frame, FrameSpec

DTYPES = ("float32", "float16")
DEFAULT_STREAM = 1  # CUDA's handle of the legacy default stream


def prepare(frame: Frame, spec: FrameSpec, dtype: str = "float32", channels: int = 3) -> npt.NDArray[Any]:
    """`frame` (HxWx3 BGR uint8, any size) as `spec` says: a new 1x`channels`xhxw array of `dtype`, C-contiguous.

    It is resized as uint8 to `spec.size` (None: not at all), or into it where it is letterboxed, with zeros around it,
    or over it where it is cropped, to its middle; then every value is (x / scale - mean) / std rounded once.
    Its first three channels are in `spec.order`, those that a network is padded with are zero. Raises `InputError` if
    `frame` is not such an image.
    """
    from refinenet_edge.opencv import cv2  # here: the GPU's path runs without it

    check_frame(frame)
    require(spec, FrameSpec, "spec")
    require(channels, int, "channels")
    tables = _tables(spec.scale, spec.mean, spec.std, dtype)
    spans = spec.spans(frame.shape[:2])
    size = spec.size or frame.shape[:2]
    rows, columns = (span.length for span in spans) if spans else size
    if frame.shape[:2] != (rows, columns):
        how = cv2.INTER_CUBIC if isinstance(spec.resize, Cubic) else cv2.INTER_LINEAR
        frame = np.asarray(cv2.resize(frame, (columns, rows), interpolation=how), np.uint8)
    if spans and spec.fit == "crop":
        frame = frame[tuple(slice(-span.start, span.total - span.start) for span in spans)]
        rows, columns, spans = *size, None
    batch = (np.zeros if spans else np.empty)((1, channels, *size), dtype)
    batch[:, 3:] = 0
    # a byte has 256 values: one table per channel. The tables and planes are looked up as unsigned integers of the same
    # width, because not every OpenCV knows float16
    bits = batch.view(np.uint16 if dtype == "float16" else np.int32)
    top, left = (span.start for span in spans) if spans else (0, 0)
    for channel, table in enumerate(tables):
        plane = cv2.extractChannel(frame, channel if spec.order == "bgr" else 2 - channel)
        inside: npt.NDArray[Any] = bits[0, channel, top : top + rows, left : left + columns]
        cv2.LUT(plane, table.view(bits.dtype), dst=inside)
    return batch


@dataclass(frozen=True)
class DeviceImage:
    """A frame on the GPU: HxWx3 BGR bytes at `address`, rows `pitch` bytes apart. `owner` keeps them there.

    `stream` is a CUDA stream whose queued work writes it, None where nothing needs to be waited for.
    """

    shape: tuple[int, int, int]
    address: int
    pitch: int
    stream: int | None
    owner: Any

    def __post_init__(self) -> None:
        _check_sides(self.shape)


def on_device(frame: Any) -> DeviceImage | None:
    """What `frame` is on the GPU: a `cv2.cuda.GpuMat`, or anything with `__cuda_array_interface__`; else None.

    Raises `InputError` unless it is HxWx3 BGR uint8 with whole pixels beside each other.
    """
    if hasattr(frame, "cudaPtr"):
        from refinenet_edge.opencv import cv2

        width, height = frame.size()
        if frame.type() != cv2.CV_8UC3:
            raise InputError(f"a frame on the GPU is a GpuMat of CV_8UC3, this one has type {frame.type()}")
        return DeviceImage((height, width, 3), frame.cudaPtr(), frame.step, DEFAULT_STREAM, frame)
    interface = getattr(frame, "__cuda_array_interface__", None)
    if interface is None:
        return None
    shape = tuple(interface["shape"])
    strides = interface.get("strides") or (3 * shape[1] if len(shape) == 3 else 0, 3, 1)
    fits = interface["typestr"] in ("|u1", "<u1") and len(shape) == 3 and shape[2] == 3 and strides[1:] == (3, 1)
    if not fits or strides[0] < 3 * shape[1]:
        raise InputError(
            f"a frame on the GPU is HxWx3 BGR uint8, pixel beside pixel; this is {interface['typestr']} {shape}, "
            f"strides {strides}"
        )
    # version 2, torch's, says nothing of streams
    return DeviceImage(shape, interface["data"][0], strides[0], interface.get("stream", DEFAULT_STREAM), frame)


def check_frame(frame: Frame) -> None:
    """Raise `InputError` unless `frame` is HxWx3 uint8 with sides of 1 to `MAX_SIDE` pixels."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        given = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise InputError(f"a frame is a HxWx3 BGR uint8 array, as cv2.imread gives it; this is {given}")
    _check_sides(frame.shape)


def check_size(height: int, width: int) -> None:
    """Raise `InputError` unless a frame may be so large, `TypeError` for what is no number of pixels."""
    require(height, int, "height")
    require(width, int, "width")
    _check_sides((height, width))


def _check_sides(shape: tuple[int, ...]) -> None:
    if not all(1 <= side <= MAX_SIDE for side in shape[:2]):
        raise InputError(f"a frame has 1 to {MAX_SIDE} pixels a side, this one is {shape[0]}x{shape[1]}")


@lru_cache(maxsize=8)
def _tables(scale: float, mean: tuple[float, ...], std: tuple[float, ...], dtype: str) -> tuple[npt.NDArray[Any], ...]:
    if dtype not in DTYPES:
        raise InputError(f"a frame becomes {' or '.join(DTYPES)}, not {dtype}: build the network with such an input")
    values = np.arange(256) / scale
    return tuple(((values - m) / s).astype(dtype) for m, s in zip(mean, std, strict=True))
