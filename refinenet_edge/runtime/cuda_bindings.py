"""CUDA by NVIDIA's cuda-bindings, 12.x (JetPack 6) or 13.x: the runtime API, the driver's kernels, NVRTC.

Every binding returns a tuple whose first item is the status. Older releases have the same calls under other names.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt

from refinenet_edge.errors import CudaError, MissingExtra, RefineNetEdgeError
from refinenet_edge.runtime.cuda import Dim

MODULES = {
    "runtime": ("cuda.bindings.runtime", "cuda.cudart"),
    "driver": ("cuda.bindings.driver", "cuda.cuda"),
    "nvrtc": ("cuda.bindings.nvrtc", "cuda.nvrtc"),
}


def load() -> Callable[[], CudaBindings]:
    """The provider's class, when the bindings import. Raises `MissingExtra`."""
    for name in ("runtime", "driver"):
        _bindings(name)
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
    status, *values = getattr(module, name)(*args)
    if int(status):
        code = getattr(status, "name", str(status))
        raise CudaError(f"{name}{about} failed: {code}", code)
    return values[0] if len(values) == 1 else tuple(values)


class CudaBindings:
    """The device that is current in the opening thread, in whatever thread it is then used."""

    name = "cuda-bindings"

    def __init__(self) -> None:
        self._rt, self._driver = _bindings("runtime"), _bindings("driver")
        self._device = _call(self._rt, "cudaGetDevice")
        self._ready = threading.local()
        self.graphs = CapturedGraphs(self._rt)
        self.compiler = Nvrtc()

    @contextmanager
    def current(self) -> Iterator[None]:
        """`Provider.current`."""
        before = _call(self._rt, "cudaGetDevice")
        if before != self._device or not getattr(self._ready, "here", False):
            _call(self._rt, "cudaSetDevice", self._device)  # also in a new thread: the driver's calls need the context
            self._ready.here = True
        try:
            yield
        finally:
            if before != self._device:
                _call(self._rt, "cudaSetDevice", before)

    def _attribute(self, name: str) -> int:
        return int(_call(self._rt, "cudaDeviceGetAttribute", getattr(self._rt.cudaDeviceAttr, name), self._device))

    def capability(self) -> str:
        """`Provider.capability`."""
        major, minor = (f"cudaDevAttrComputeCapability{part}" for part in ("Major", "Minor"))
        return f"sm_{self._attribute(major)}{self._attribute(minor)}"

    def integrated(self) -> bool:
        """`Provider.integrated`."""
        return bool(self._attribute("cudaDevAttrIntegrated"))

    def memory(self) -> tuple[int, int]:
        """`Provider.memory`."""
        free, total = _call(self._rt, "cudaMemGetInfo")
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        return int(_call(self._rt, "cudaMalloc", size, about=f" of {size} bytes"))

    def free(self, address: int) -> None:
        _call(self._rt, "cudaFree", address, about=f" of {address:#x}")

    def allocate_host(self, size: int) -> tuple[int, int]:
        """`Provider.allocate_host`."""
        flags = self._rt.cudaHostAllocMapped | self._rt.cudaHostAllocPortable
        host = int(_call(self._rt, "cudaHostAlloc", size, flags, about=f" of {size} bytes"))
        try:
            return host, int(_call(self._rt, "cudaHostGetDevicePointer", host, 0))
        except BaseException:
            self.free_host(host)
            raise

    def free_host(self, host: int) -> None:
        _call(self._rt, "cudaFreeHost", host, about=f" of {host:#x}")

    def upload(self, address: int, array: npt.NDArray[Any], stream: int) -> None:
        """`Provider.upload`."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(address, array.ctypes.data, array.nbytes, kind, stream)

    def download(self, array: npt.NDArray[Any], address: int, stream: int) -> None:
        """`Provider.download`."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(array.ctypes.data, address, array.nbytes, kind, stream)

    def _copy(self, target: int, source: int, size: int, kind: Any, stream: int) -> None:
        _call(self._rt, "cudaMemcpyAsync", target, source, size, kind, stream, about=f" of {size} bytes")

    def make_stream(self) -> int:
        """`Provider.make_stream`."""
        return int(_call(self._rt, "cudaStreamCreateWithFlags", self._rt.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        _call(self._rt, "cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """`Provider.synchronize`."""
        _call(self._rt, "cudaStreamSynchronize", stream)

    def make_event(self) -> int:
        return int(_call(self._rt, "cudaEventCreateWithFlags", self._rt.cudaEventDisableTiming))

    def destroy_event(self, event: int) -> None:
        _call(self._rt, "cudaEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        _call(self._rt, "cudaEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        """`Provider.wait`."""
        _call(self._rt, "cudaStreamWaitEvent", stream, event, 0)

    def wait_host(self, event: int) -> None:
        """`Provider.wait_host`."""
        _call(self._rt, "cudaEventSynchronize", event)

    def follow(self, stream: int, foreign: int) -> None:
        """`Provider.follow`."""
        event = self.make_event()
        try:
            self.record(event, foreign)
            self.wait(stream, event)
        finally:
            self.destroy_event(event)  # CUDA keeps it until it has happened

    def load(self, image: bytes) -> Any:
        """`Provider.load`."""
        return _call(self._driver, "cuModuleLoadData", image, about=f" of {len(image)} bytes")

    def launch(self, module: Any, kernel: str, grid: Dim, block: Dim, args: tuple[Any, ...], stream: int) -> None:
        """`Provider.launch`."""
        function = _call(self._driver, "cuModuleGetFunction", module, kernel.encode(), about=f" of {kernel}")
        pointers = (ctypes.c_void_p * len(args))(*(ctypes.addressof(arg) for arg in args))
        values = (*grid, *block, 0, stream, ctypes.addressof(pointers), 0)
        _call(self._driver, "cuLaunchKernel", function, *values, about=f" of {kernel}, grid {grid}")

    def unload(self, module: Any) -> None:
        _call(self._driver, "cuModuleUnload", module)

    def reset(self) -> None:
        """`Provider.reset`."""
        self._rt.cudaSetDevice(self._device)  # it reports the error that lost the device
        _call(self._rt, "cudaDeviceReset")


class CapturedGraphs:
    """`Graphs`."""

    def __init__(self, runtime: Any) -> None:
        self._rt = runtime

    def begin(self, stream: int) -> None:
        """`Graphs.begin`."""
        # thread-local: another thread's session may allocate meanwhile
        _call(
            self._rt, "cudaStreamBeginCapture", stream, self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        )

    def end(self, stream: int) -> Any:
        """`Graphs.end`."""
        graph = _call(self._rt, "cudaStreamEndCapture", stream)
        try:
            return _call(self._rt, "cudaGraphInstantiate", graph, 0)
        finally:
            self._rt.cudaGraphDestroy(graph)  # the executable one counts

    def abandon(self, stream: int) -> None:
        """`Graphs.abandon`."""
        status, graph = self._rt.cudaStreamEndCapture(stream)
        if not int(status):
            self._rt.cudaGraphDestroy(graph)

    def launch(self, graph: Any, stream: int) -> None:
        _call(self._rt, "cudaGraphLaunch", graph, stream)

    def destroy(self, graph: Any) -> None:
        _call(self._rt, "cudaGraphExecDestroy", graph)


class Nvrtc:
    """`Compiler`, by NVIDIA's runtime compilation library."""

    def version(self) -> str:
        """`Compiler.version`."""
        return f"nvrtc {self._call('nvrtcVersion')}"

    def compile(self, name: str, source: str, headers: dict[str, str], options: list[str]) -> tuple[bytes, str]:
        """`Compiler.compile`."""
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
        try:
            return _call(_bindings("nvrtc"), name, *args)
        except RuntimeError as exc:  # a library that the bindings do not find
            raise MissingExtra(f"{name}: {exc}; NVRTC comes with CUDA, or pip install nvidia-cuda-nvrtc") from exc
