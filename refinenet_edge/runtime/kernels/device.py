"""The CUDA kernels beside an engine: compiled for the device at first use, kept on disk, queued on the engine's stream.

    head = DeviceHead(scope, "float16", (21, 128, 128), (512, 512), Bilinear(align_corners=True))
    head.label(address of the logits, address of 512x512 bytes for labels, and of as many for their confidence)

Nothing is allocated or waited for after the constructor, so both can be captured in a CUDA graph. The tests compile the
kernels for every architecture, and run the same sources and the same calls on the CPU; `make gpu` runs them on a GPU.
runtime/device_path.py puts an engine between them.
"""

import ctypes
import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from refinenet_edge.errors import MissingExtra, RefineNetEdgeError
from refinenet_edge.records import Bilinear, FrameSpec, Size, Span
from refinenet_edge.runtime.cache import cache_folder, keep
from refinenet_edge.runtime.cuda import Compiler, Cuda, Scope
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.head import bilinear_axis

FOLDER = Path(__file__).parent
HEADER = "pixel.h"
LOGITS = {"float32": "Float", "float16": "Half", "bfloat16": "BFloat16"}
ELEMENTS = {"float32": "unsigned", "float16": "unsigned short"}
THREADS = 128  # of a block

logger = logging.getLogger(__name__)


def compile_kernels(compiler: Compiler, file: str, defines: tuple[str, ...], arch: str) -> tuple[bytes, str]:
    """The cubin of `file` for `arch`, such as "sm_87", and the log: registers and spills of each kernel."""
    options = [f"--gpu-architecture={arch}", "--std=c++17", "--fmad=false", "--ptxas-options=-v"]
    options += [f"-D{define}" for define in defines]
    source, header = ((FOLDER / name).read_text("utf-8") for name in (file, HEADER))
    try:
        return compiler.compile(file, source, {HEADER: header}, options)
    except MissingExtra:
        raise
    except RefineNetEdgeError as exc:
        raise RefineNetEdgeError(f"for {arch}: {exc}") from exc


def cached_kernels(compiler: Compiler, file: str, defines: tuple[str, ...], arch: str) -> bytes:
    """`compile_kernels`, or the same cubin from an earlier call, which any process of this user may have made."""
    sources = [(FOLDER / name).read_bytes() for name in (HEADER, file)]
    key = hashlib.sha256(repr((sources, defines, arch, compiler.version())).encode()).hexdigest()
    path = cache_folder() / f"{Path(file).stem}-{arch}-{key[:32]}.cubin"
    if path.is_file():
        return path.read_bytes()
    image, log = compile_kernels(compiler, file, defines, arch)
    logger.debug("%s for %s: %s", file, arch, log)
    keep(path, image)
    return image


def try_kernels() -> str:
    """Compile a kernel for the GPU here and load it; by what it was compiled. Raises as `Module` does."""
    cuda = Cuda()
    try:
        with cuda.use():
            compiler = cuda.provider.compiler
            version = compiler.version()
            cuda.scope().module(compile_kernels(compiler, "head.cu", ("LOGIT=Half",), cuda.capability)[0])
            return version
    finally:
        cuda.close()


class Module:
    """One compiled source on the device.

    A kernel runs a thread for every column (x) and row (blockIdx.y), of every frame (blockIdx.z).
    """

    def __init__(self, scope: Scope, file: str, defines: tuple[str, ...]) -> None:
        self._cuda = scope.cuda
        self._module = scope.module(cached_kernels(self._cuda.provider.compiler, file, defines, self._cuda.capability))

    def launch(self, kernel: str, columns: int, rows: int, *args: Any, frames: int = 1) -> None:
        """Queue `kernel`; `args` are ctypes values, as the source declares them."""
        grid, block = (-(-columns // THREADS), rows, frames), (THREADS, 1, 1)
        self._cuda.provider.launch(self._module, kernel, grid, block, args, self._cuda.stream)


class _Logits(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("classes", "height", "width")),
        *((name, ctypes.c_longlong) for name in ("class_stride", "row_stride", "column_stride", "frame_stride")),
    )


class _Grid(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("row_starts", "row_t", "first_column", "column_t")),
        ("width", ctypes.c_int),
    )


class FrameOfBatch(ctypes.Structure):
    """`Frame` of frame.cu: one of several frames, and how it is sampled."""

    _fields_ = (
        ("pixels", ctypes.c_void_p),
        ("pitch", ctypes.c_longlong),
        *((name, ctypes.c_void_p) for name in ("first_row", "row_t", "first_column", "column_t")),
        *((name, ctypes.c_int) for name in ("top", "left", "rows", "columns")),
    )


class TargetOfBatch(ctypes.Structure):
    """`Target` of head.cu: where the labels of one of several frames go."""

    _fields_ = (("grid", _Grid), ("labels", ctypes.c_void_p), ("confidence", ctypes.c_void_p))


def _logits_of(shape: tuple[int, int, int], channels: int | None) -> _Logits:
    """Where logits of `shape` (CxHxW) lie: in planes, or in pixels that are padded to `channels`, frame after frame."""
    count, height, width = shape
    strides = (height * width, width, 1) if channels is None else (1, width * channels, channels)
    return _Logits(None, count, height, width, *strides, (channels or count) * height * width)


def _grid_of(
    scope: Scope, shape: tuple[int, int, int], size: Size, how: Bilinear, spans: tuple[Span, Span] | None
) -> _Grid:
    """Where the pixels of a frame of `size` lie between logits of `shape`."""
    (_, height, width), (rows, columns) = shape, spans or (None, None)
    down, across = bilinear_axis(height, size[0], how, rows), bilinear_axis(width, size[1], how, columns)
    return _Grid(*(scope.put(array) for array in (down.starts, down.t, across.first, across.t)), size[1])


class _Sampling:
    """How a frame of `size` is sampled for the network's input: tables on the device, and where it lies in there."""

    def __init__(self, scope: Scope, spec: FrameSpec, size: Size) -> None:
        self.total = rows, columns = spec.size or size
        self.spans = spec.spans(size) or (Span(0, rows, rows), Span(0, columns, columns))
        self.tables: list[int] = []
        for side, span in zip(size, self.spans, strict=True):
            axis = bilinear_axis(side, span.length, Bilinear())
            inside = slice(max(0, -span.start), max(0, -span.start) + min(span.length, span.total))
            self.tables += [scope.put(np.ascontiguousarray(array[inside])) for array in (axis.first, axis.t)]
        self.top, self.left = (max(0, span.start) for span in self.spans)
        self.rows, self.columns = (min(span.length, span.total) for span in self.spans)

    @property
    def fills(self) -> bool:
        """Whether the frame's pixels fill the network's input, none of them left out."""
        return self.spans == tuple(Span(0, side, side) for side in self.total)


def _frame_module(scope: Scope, spec: FrameSpec, dtype: str, channels: int | None) -> Module:
    return Module(
        scope,
        "frame.cu",
        (f"ELEMENT={ELEMENTS[dtype]}", f"CHANNELS={channels or 3}", f"BGR={int(spec.order == 'bgr')}"),
    )


def _normalised(scope: Scope, spec: FrameSpec, dtype: str) -> int:
    """The address of what the 256 values of a byte become, for each channel."""
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    return scope.put(prepare(ramp, replace(spec, size=None), dtype))


class DeviceHead:
    """`upsample_argmax` on the GPU, for logits and frames of one shape. What it holds is `scope`'s.

    `channels` is None for NCHW logits, else how many channels NHWC ones are padded to. Non-finite logits are not
    refused: a NaN never wins.
    """

    def __init__(
        self,
        scope: Scope,
        dtype: str,
        shape: tuple[int, int, int],
        size: Size,
        how: Bilinear,
        channels: int | None = None,
        spans: tuple[Span, Span] | None = None,
    ) -> None:
        self._module = Module(scope, "head.cu", (f"LOGIT={LOGITS[dtype]}",))
        self._logits = _logits_of(shape, channels)
        self._grid = _grid_of(scope, shape, size, how, spans)
        self._codes = scope.memory(2 * shape[1] * shape[2])

    def label(self, logits: int, labels: int, confidence: int | None = None) -> None:
        """Queue logits -> HxW bytes at `labels`, and as many at `confidence`, where it is given."""
        self._logits.data = logits
        columns, rows, result = self._grid.width, self._logits.height, ctypes.c_void_p(labels)
        if confidence is not None:
            both = (result, ctypes.c_void_p(confidence))
            self._module.launch("confident_labels", columns, rows, self._logits, self._grid, *both)
            return
        codes = ctypes.c_void_p(self._codes)
        self._module.launch("corners", self._logits.width, rows, self._logits, codes)
        self._module.launch("labels", columns, rows, self._logits, codes, self._grid, result)


class DeviceFrame:
    """`prepare` on the GPU, for frames of one size: the same bits, up to the last one of a byte where it resizes.

    The result at `address` is NCHW, or with `channels` NHWC padded to that many (a multiple of 8). Bilinear only. What
    it holds is `scope`'s.
    """

    def __init__(
        self, scope: Scope, spec: FrameSpec, size: Size, dtype: str = "float32", channels: int | None = None
    ) -> None:
        if not isinstance(spec.resize, Bilinear) and spec.size not in (None, size):
            raise ValueError("frames are resized bilinearly on the GPU")
        self._module = _frame_module(scope, spec, dtype, channels)
        self._sampling = sampling = _Sampling(scope, spec, size)
        self._table = _normalised(scope, spec, dtype)
        rows, columns = sampling.total
        if sampling.fills:
            self.address = scope.memory((channels or 3) * rows * columns * np.dtype(dtype).itemsize)
        else:  # around the frame it stays zero
            self.address = scope.put(np.zeros((channels or 3) * rows * columns, dtype))
        bytes_of_pixel = (channels or 1) * np.dtype(dtype).itemsize  # that lie together
        self._first = self.address + (sampling.top * columns + sampling.left) * bytes_of_pixel

    def prepare(self, frame: int, pitch: int) -> None:
        """Queue the frame (HxWx3 BGR bytes on the device, rows `pitch` bytes apart) -> the input at `address`."""
        sampling = self._sampling
        rows, stride = sampling.total
        tables = (ctypes.c_void_p(table) for table in (*sampling.tables, self._table))
        layout = (ctypes.c_int(number) for number in (sampling.columns, stride, stride * rows))
        result = *layout, ctypes.c_void_p(self._first)
        pixels = ctypes.c_void_p(frame), ctypes.c_longlong(pitch)
        self._module.launch("prepare", sampling.columns, sampling.rows, *pixels, *tables, *result)


class DeviceFrames:
    """`prepare` on the GPU for up to `most` frames of any sizes, in one launch; they lie one after the other.

    The network's input is `sides` (height, width) large. As `DeviceFrame` otherwise.
    """

    def __init__(
        self, scope: Scope, spec: FrameSpec, sides: Size, most: int, dtype: str = "float32", channels: int | None = None
    ) -> None:
        self._module = _frame_module(scope, spec, dtype, channels)
        self._spec, self._sides = spec, sides
        self._table = _normalised(scope, spec, dtype)
        # zero: of frames that do not come the engine computes something, too
        self.address = scope.put(np.zeros(most * (channels or 3) * sides[0] * sides[1], dtype))

    def sampled(self, scope: Scope, size: Size) -> FrameOfBatch:
        """How frames of `size` are sampled, with tables of `scope`; where one lies is still to be said."""
        sampling = _Sampling(scope, self._spec, size)
        return FrameOfBatch(None, 0, *sampling.tables, sampling.top, sampling.left, sampling.rows, sampling.columns)

    def prepare(self, frames: int, count: int) -> None:
        """Queue `count` frames, as the `FrameOfBatch`es at `frames` on the device say -> the inputs at `address`."""
        rows, columns = self._sides
        pointers = ctypes.c_void_p(frames), ctypes.c_void_p(self._table)
        result = ctypes.c_int(columns), ctypes.c_void_p(self.address)
        self._module.launch("prepare_together", columns, rows, *pointers, *result, frames=count)


class DeviceHeads:
    """`upsample_argmax` on the GPU for the logits of up to `most` frames of any sizes, in one launch for all.

    Logits of `shape` lie one after the other. As `DeviceHead` otherwise.
    """

    def __init__(
        self,
        scope: Scope,
        dtype: str,
        shape: tuple[int, int, int],
        how: Bilinear,
        most: int,
        channels: int | None = None,
    ) -> None:
        self._module = Module(scope, "head.cu", (f"LOGIT={LOGITS[dtype]}",))
        self._shape, self._how = shape, how
        self._logits = _logits_of(shape, channels)
        self._codes = scope.memory(2 * most * shape[1] * shape[2])

    def target(self, scope: Scope, size: Size, spans: tuple[Span, Span] | None) -> TargetOfBatch:
        """Where the pixels of frames of `size` lie, with tables of `scope`; where labels go is still to be said."""
        return TargetOfBatch(_grid_of(scope, self._shape, size, self._how, spans), None, None)

    def label(self, logits: int, targets: int, count: int, widest: int, confident: bool) -> None:
        """Queue the logits of `count` frames -> their labels, as the `TargetOfBatch`es at `targets` on the device say.

        No frame is wider than `widest`. `confident`: they say where to put how sure each label is, too.
        """
        self._logits.data = logits
        rows, target = self._logits.height, ctypes.c_void_p(targets)
        if confident:
            self._module.launch("confident_labels_together", widest, rows, self._logits, target, frames=count)
            return
        codes = ctypes.c_void_p(self._codes)
        self._module.launch("corners", self._logits.width, rows, self._logits, codes, frames=count)
        self._module.launch("labels_together", widest, rows, self._logits, codes, target, frames=count)
