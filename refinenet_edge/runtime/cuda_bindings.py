"""CUDA by NVIDIA's cuda-bindings, 12.x (JetPack 6) or 13.x: the driver API, and NVRTC.

Every binding returns a tuple whose first item is the status. Older releases have the same calls under other names.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt

from refinenet_edge.errors import InputError, MissingExtra, RefineNetEdgeError
from refinenet_edge.runtime.cuda import Dim, Kind, driver_cuda, failed, too_new

MODULES = {"driver": ("cuda.bindings.driver", "cuda.cuda"), "nvrtc": ("cuda.bindings.nvrtc", "cuda.nvrtc")}
GIVE_BACK: dict[Kind, str] = {
    "device": "cuMemFree",
    "host": "cuMemFreeHost",
    "streams": "cuStreamDestroy",
    "events": "cuEventDestroy",
    "modules": "cuModuleUnload",
    "graphs": "cuGraphExecDestroy",
}


def load() -> Callable[[], CudaBindings]:
    """The provider's class. Raises `MissingExtra` without the bindings, `InputError` with a driver too old for them."""
    major = _bindings("driver").CUDA_VERSION // 1000
    problem = too_new(f"cuda-bindings {major}", major)
    if problem:
        raise InputError(f"{problem}: update the driver, or pip install 'cuda-bindings<{major}'")
    return CudaBindings


def _bindings(name: str) -> Any:
    reasons = []
    for module in MODULES[name]:
        try:
            return importlib.import_module(module)
        except Exception as exc:  # a broken installation may raise anything
            reasons.append(f"{module}: {exc}")
    raise MissingExtra(
        f"the CUDA bindings do not import ({'; '.join(reasons)}): pip install 'refinenet-edge[device]'; their major "
        "version must be that of the device's CUDA (JetPack 6: add 'cuda-bindings<13')"
    )


def _call(module: Any, name: str, *args: Any, about: str = "") -> Any:
    """What the call returns beside its status; `about` says the sizes in the error."""
    try:
        status, *values = getattr(module, name)(*args)
    except RuntimeError as exc:  # a library that the bindings do not find
        raise MissingExtra(f"{name}: {exc}") from exc
    if int(status):
        raise failed(f"{name}{about}", getattr(status, "name", str(status)))
    return values[0] if len(values) == 1 else tuple(values)


class CudaBindings:
    """`Provider` on the primary context of the device that is current in the opening thread (the first, if none is)."""

    name = "cuda-bindings"

    def __init__(self) -> None:
        self._cu = _bindings("driver")
        self._call("cuInit", 0)
        chosen = int(self._call("cuCtxGetCurrent"))
        self._device = self._call("cuCtxGetDevice") if chosen else self._call("cuDeviceGet", 0)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        self.graphs = CapturedGraphs(self._cu)
        self.compiler = Nvrtc()

    def _call(self, name: str, *args: Any, about: str = "") -> Any:
        return _call(self._cu, name, *args, about=about)

    @contextmanager
    def current(self) -> Iterator[None]:
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._cu.cuCtxPopCurrent()  # its status may tell what an earlier launch did wrong

    def close(self) -> None:
        self._call("cuDevicePrimaryCtxRelease", self._device)

    def _attribute(self, name: str) -> int:
        attribute = getattr(self._cu.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self._call("cuDeviceGetAttribute", attribute, self._device))

    def capability(self) -> str:
        return f"sm_{self._attribute('COMPUTE_CAPABILITY_MAJOR')}{self._attribute('COMPUTE_CAPABILITY_MINOR')}"

    def integrated(self) -> bool:
        return bool(self._attribute("INTEGRATED"))

    def memory(self) -> tuple[int, int]:
        free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        return int(self._call("cuMemAlloc", size, about=f" of {size} bytes"))

    def allocate_host(self, size: int) -> tuple[int, int]:
        flags = self._cu.CU_MEMHOSTALLOC_DEVICEMAP | self._cu.CU_MEMHOSTALLOC_PORTABLE
        host = int(self._call("cuMemHostAlloc", size, flags, about=f" of {size} bytes"))
        try:
            return host, int(self._call("cuMemHostGetDevicePointer", host, 0))
        except BaseException:
            self.give_back("host", host)
            raise

    def upload(self, address: int, array: npt.NDArray[Any], stream: int) -> None:
        about = f" of {array.nbytes} bytes"
        self._call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, stream, about=about)

    def download(self, array: npt.NDArray[Any], address: int, stream: int) -> None:
        about = f" of {array.nbytes} bytes"
        self._call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, stream, about=about)

    def make_stream(self) -> int:
        return int(self._call("cuStreamCreate", self._cu.CUstream_flags.CU_STREAM_NON_BLOCKING))

    def synchronize(self, stream: int) -> None:
        self._call("cuStreamSynchronize", stream)

    def make_event(self) -> int:
        return int(self._call("cuEventCreate", self._cu.CUevent_flags.CU_EVENT_DISABLE_TIMING))

    def record(self, event: int, stream: int) -> None:
        self._call("cuEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        self._call("cuStreamWaitEvent", stream, event, 0)

    def wait_host(self, event: int) -> None:
        self._call("cuEventSynchronize", event)

    def follow(self, stream: int, foreign: int) -> None:
        event = self.make_event()
        try:
            self.record(event, foreign)
            self.wait(stream, event)
        finally:
            self.give_back("events", event)  # CUDA keeps it until it has happened

    def load(self, image: bytes) -> Any:
        return self._call("cuModuleLoadData", image, about=f" of {len(image)} bytes")

    def launch(self, module: Any, kernel: str, grid: Dim, block: Dim, args: tuple[Any, ...], stream: int) -> None:
        function = self._call("cuModuleGetFunction", module, kernel.encode(), about=f" of {kernel}")
        pointers = (ctypes.c_void_p * len(args))(*(ctypes.addressof(arg) for arg in args))
        values = (*grid, *block, 0, stream, ctypes.addressof(pointers), 0)
        self._call("cuLaunchKernel", function, *values, about=f" of {kernel}, grid {grid}")

    def give_back(self, kind: Kind, thing: Any) -> None:
        self._call(GIVE_BACK[kind], thing, about=f" of {thing:#x}" if kind in ("device", "host") else "")


class CapturedGraphs:
    """`Graphs`."""

    def __init__(self, driver: Any) -> None:
        self._cu = driver

    def capture(self, queue: Callable[[], None], stream: int) -> Any:
        # thread-local: another thread's session may allocate meanwhile
        mode = self._cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _call(self._cu, "cuStreamBeginCapture", stream, mode)
        try:
            queue()
        except BaseException:
            status, graph = self._cu.cuStreamEndCapture(stream)
            if not int(status):
                self._cu.cuGraphDestroy(graph)
            raise
        graph = _call(self._cu, "cuStreamEndCapture", stream)
        try:
            return _call(self._cu, "cuGraphInstantiate", graph, 0)
        finally:
            self._cu.cuGraphDestroy(graph)  # the executable one counts

    def launch(self, graph: Any, stream: int) -> None:
        _call(self._cu, "cuGraphLaunch", graph, stream)


class Nvrtc:
    """`Compiler`, by NVIDIA's runtime compilation library."""

    def version(self) -> str:
        major, minor = self._call("nvrtcVersion")
        problem = too_new(f"NVRTC {major}.{minor}", major)
        if problem:  # the bindings take the newest that is installed
            raise MissingExtra(f"{problem}: pip uninstall nvidia-cuda-nvrtc; pip install {_wheel()}")
        return f"nvrtc {major}.{minor}"

    def compile(self, name: str, source: str, headers: dict[str, str], options: list[str]) -> tuple[bytes, str]:
        nvrtc = _bindings("nvrtc")
        texts, names = ([item.encode() for item in items] for items in (headers.values(), headers.keys()))
        program = self._call("nvrtcCreateProgram", source.encode(), name.encode(), len(headers), texts, names)
        try:
            status = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])[0]
            log = bytearray(self._call("nvrtcGetProgramLogSize", program))
            self._call("nvrtcGetProgramLog", program, log)
            text = log.rstrip(b"\0").decode(errors="replace")
            if int(status):
                raise RefineNetEdgeError(f"{name} does not compile: {text}")
            image = bytearray(self._call("nvrtcGetCUBINSize", program))
            self._call("nvrtcGetCUBIN", program, image)
            return bytes(image), text
        finally:
            nvrtc.nvrtcDestroyProgram(program)

    def _call(self, name: str, *args: Any) -> Any:
        nvrtc = _bindings("nvrtc")
        try:
            return _call(nvrtc, name, *args)
        except MissingExtra as exc:
            raise MissingExtra(f"{exc}; NVRTC comes with CUDA, or: pip install {_wheel()}") from exc


def _wheel() -> str:
    """The distribution of NVRTC for the driver here."""
    major = (driver_cuda() or (13, 0))[0]
    return f"nvidia-cuda-nvrtc-cu{major}" if major < 13 else f"'nvidia-cuda-nvrtc=={major}.*'"
