"""The CUDA kernels beside an engine: compiled for the device at first use, kept on disk, queued on the engine's stream.

    head = DeviceHead(cuda, "float16", (21, 128, 128), (512, 512), Bilinear(align_corners=True))
    head.label(address of the logits)        -> head.labels, 512x512 bytes on the device

Nothing is allocated or waited for after the constructor, so both can be captured in a CUDA graph. This file has not run
on hardware: the tests compile the kernels for every architecture, run the same sources and the same calls on the CPU,
and hold the driver's calls to the real bindings' names. runtime/pipeline.py puts an engine between them.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import logging
import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from refinenet_edge.errors import MissingExtra, RefineNetEdgeError
from refinenet_edge.files import write_atomically
from refinenet_edge.records import Bilinear, FrameSpec, Labels, Size
from refinenet_edge.runtime.cuda import Cuda
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.head import bilinear_axis

FOLDER = Path(__file__).parent
LOGITS = {"float32": "Float", "float16": "Half", "bfloat16": "BFloat16"}
ELEMENTS = {"float32": "unsigned", "float16": "unsigned short"}
THREADS = 128  # of a block

logger = logging.getLogger(__name__)


def compile_kernels(file: str, defines: tuple[str, ...], arch: str) -> tuple[bytes, str]:
    """The cubin of `file` for `arch`, such as "sm_87", and the log: registers and spills of each kernel."""
    nvrtc = _bindings("nvrtc")
    header = (FOLDER / "pixel.h").read_bytes()
    source = (FOLDER / file).read_bytes()
    program = _call(nvrtc, "nvrtcCreateProgram", source, file.encode(), 1, [header], [b"pixel.h"])
    try:
        options = [f"--gpu-architecture={arch}", "--std=c++17", "--fmad=false", "--ptxas-options=-v"]
        options += [f"-D{define}" for define in defines]
        status = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])[0]
        log = bytearray(_call(nvrtc, "nvrtcGetProgramLogSize", program))
        _call(nvrtc, "nvrtcGetProgramLog", program, log)
        text = log.rstrip(b"\0").decode(errors="replace")
        if int(status):
            raise RefineNetEdgeError(f"{file} does not compile for {arch}: {text}")
        image = bytearray(_call(nvrtc, "nvrtcGetCUBINSize", program))
        _call(nvrtc, "nvrtcGetCUBIN", program, image)
        return bytes(image), text
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def cached_kernels(file: str, defines: tuple[str, ...], arch: str) -> bytes:
    """`compile_kernels`, or the same cubin from an earlier call, which any process of this user may have made."""
    version = _call(_bindings("nvrtc"), "nvrtcVersion")
    sources = [(FOLDER / name).read_bytes() for name in ("pixel.h", file)]
    key = hashlib.sha256(repr((sources, defines, arch, version)).encode()).hexdigest()
    path = cache_folder() / f"{Path(file).stem}-{arch}-{key[:32]}.cubin"
    if path.is_file():
        return path.read_bytes()
    image, log = compile_kernels(file, defines, arch)
    logger.debug("%s for %s: %s", file, arch, log)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, image, RefineNetEdgeError)
    except (OSError, RefineNetEdgeError) as exc:
        logger.info("the compiled kernels are not kept: %s", exc)
    return image


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refinenet-edge" / "kernels"


class Module:
    """One compiled source on the device. A kernel runs a thread for every column (x) and row (blockIdx.y)."""

    def __init__(self, cuda: Cuda, file: str, defines: tuple[str, ...]) -> None:
        image = cached_kernels(file, defines, cuda.capability())
        self._driver = _bindings("driver")
        self._stream = cuda.stream
        self._module = _call(self._driver, "cuModuleLoadData", image)

    def launch(self, kernel: str, columns: int, rows: int, *args: Any) -> None:
        """Queue `kernel`; `args` are ctypes values, as the source declares them."""
        function = _call(self._driver, "cuModuleGetFunction", self._module, kernel.encode())
        pointers = (ctypes.c_void_p * len(args))(*(ctypes.addressof(arg) for arg in args))
        grid = (-(-columns // THREADS), rows, 1)
        block = (THREADS, 1, 1)
        _call(self._driver, "cuLaunchKernel", function, *grid, *block, 0, self._stream, ctypes.addressof(pointers), 0)

    def close(self) -> None:
        """Unload it."""
        _call(self._driver, "cuModuleUnload", self._module)


class _Logits(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("classes", "height", "width")),
        *((name, ctypes.c_longlong) for name in ("class_stride", "row_stride", "column_stride")),
    )


class _Grid(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("row_starts", "row_t", "first_column", "column_t")),
        ("width", ctypes.c_int),
    )


class _Step:
    """A kernel with its tables on the device."""

    def __init__(self, cuda: Cuda, file: str, defines: tuple[str, ...]) -> None:
        self._cuda = cuda
        self._held = ExitStack()
        self._module = Module(cuda, file, defines)
        self._held.callback(self._module.close)

    def _room(self, size: int) -> int:
        address = self._cuda.allocate(size)
        self._held.callback(self._cuda.free, address)
        return address

    def _put(self, array: npt.NDArray[Any]) -> int:
        address = self._room(array.nbytes)
        self._cuda.to_device(address, array)
        self._cuda.synchronize()  # the array may go
        return address

    def close(self) -> None:
        """Give back the device memory; a second call does nothing."""
        self._held.close()


class DeviceHead(_Step):
    """`upsample_argmax` on the GPU, for logits and frames of one shape; `labels` is where the labels are.

    `channels` is None for NCHW logits, else how many channels NHWC ones are padded to. Non-finite logits are not
    refused: a NaN never wins.
    """

    def __init__(
        self,
        cuda: Cuda,
        dtype: str,
        shape: tuple[int, int, int],
        size: Size,
        how: Bilinear,
        classes: Labels | None = None,
        channels: int | None = None,
    ) -> None:
        super().__init__(cuda, "head.cu", (f"LOGIT={LOGITS[dtype]}",))
        count, height, width = shape
        strides = (height * width, width, 1) if channels is None else (1, width * channels, channels)
        self._logits = _Logits(None, count, height, width, *strides)
        down, across = bilinear_axis(height, size[0], how), bilinear_axis(width, size[1], how)
        self._grid = _Grid(*(self._put(array) for array in (down.starts, down.t, across.first, across.t)), size[1])
        self._codes = self._room(2 * height * width)
        self._palette = self._put(classes.bgr()) if classes else None
        self.labels = self._room(size[0] * size[1])

    def label(self, logits: int) -> None:
        """Queue logits -> `labels`."""
        self._queue("labels", logits, ctypes.c_void_p(self.labels))

    def overlay(self, logits: int, frame: int, result: int, opacity: float = 0.5) -> None:
        """Queue logits and the frame (BGR) -> `Mask.overlay` of it at `result`, which may be the frame."""
        if self._palette is None:
            raise ValueError("an overlay needs the palette: DeviceHead(..., classes=labels)")
        places = (ctypes.c_void_p(place) for place in (result, frame, self._palette))
        self._queue("overlay", logits, *places, ctypes.c_int(round(opacity * 256)))

    def _queue(self, kernel: str, address: int, *args: Any) -> None:
        self._logits.data = address
        codes = ctypes.c_void_p(self._codes)
        self._module.launch("corners", self._logits.width, self._logits.height, self._logits, codes)
        self._module.launch(kernel, self._grid.width, self._logits.height, self._logits, codes, self._grid, *args)


class DeviceFrame(_Step):
    """`prepare` on the GPU, for frames of one size: the same bits, up to the last one of a byte where it resizes.

    The result at `address` is NCHW, or with `channels` NHWC padded to that many (a multiple of 8). Bilinear only.
    """

    def __init__(
        self, cuda: Cuda, spec: FrameSpec, size: Size, dtype: str = "float32", channels: int | None = None
    ) -> None:
        if not isinstance(spec.resize, Bilinear) and spec.size not in (None, size):
            raise ValueError("frames are resized bilinearly on the GPU")
        super().__init__(cuda, "frame.cu", (f"ELEMENT={ELEMENTS[dtype]}", f"CHANNELS={channels or 3}"))
        self._size = height, width = size
        self._out = out_height, out_width = spec.size or size
        down, across = bilinear_axis(height, out_height, Bilinear()), bilinear_axis(width, out_width, Bilinear())
        self._tables = [self._put(array) for array in (down.first, down.t, across.first, across.t)]
        ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
        self._tables.append(self._put(prepare(ramp, replace(spec, size=None), dtype)))
        self.address = self._room((channels or 3) * out_height * out_width * np.dtype(dtype).itemsize)

    def prepare(self, frame: int) -> None:
        """Queue the frame (HxWx3 BGR bytes on the device) -> the network's input at `address`."""
        sides = (ctypes.c_int(side) for side in self._size)
        tables = (ctypes.c_void_p(table) for table in self._tables)
        result = ctypes.c_int(self._out[1]), ctypes.c_void_p(self.address)
        self._module.launch("prepare", self._out[1], self._out[0], ctypes.c_void_p(frame), *sides, *tables, *result)


def _bindings(name: str) -> Any:
    older = {"driver": "cuda.cuda", "nvrtc": "cuda.nvrtc"}[name]
    for module in (f"cuda.bindings.{name}", older):
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    raise MissingExtra(f"the CUDA kernels need cuda.bindings.{name}: pip install 'refinenet-edge[device]'")


def _call(module: Any, name: str, *args: Any) -> Any:
    try:
        status, *values = getattr(module, name)(*args)
    except RuntimeError as exc:  # a library that the bindings do not find
        raise MissingExtra(f"{name}: {exc}; NVRTC comes with CUDA, or pip install nvidia-cuda-nvrtc") from exc
    if int(status):
        raise RefineNetEdgeError(f"{name} failed: {getattr(status, 'name', status)}")
    return values[0] if len(values) == 1 else tuple(values)
