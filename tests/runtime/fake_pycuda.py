"""pycuda.driver on the GPU of gpu.py, as far as the provider calls it, and nvcc."""

from __future__ import annotations

import subprocess
import types
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refinenet_edge.runtime import pycuda as provider
from tests.runtime.gpu import PRIMARY, WORDS, Failure, Gpu, image_of, load_image, sizes


class Error(Exception): ...


class OnGpu:
    """Base of pycuda's objects; each module has subclasses with its own GPU."""

    _gpu: Gpu
    _folder: Path
    _module: Any

    def _call(self, name: str, act: Callable[[], Any], current: bool = True) -> Any:
        return call(self._gpu, name, act, current)


def call(gpu: Gpu, name: str, act: Callable[[], Any], current: bool = True) -> Any:
    """Do it as CUDA would: with a context on this thread's stack, and pycuda's words for an error."""
    try:
        gpu.call(name)
        if current:
            gpu.on_device()
        return act()
    except Failure as exc:
        raise Error(f"{name} failed: {WORDS[exc.code].decode()}") from exc


class Context(OnGpu):
    """The primary context, as src/cpp/cuda.hpp has it: pycuda's own stack beside the driver's."""

    _valid = True

    @classmethod
    def _own(cls) -> list[int]:
        here = cls._gpu.here
        if not hasattr(here, "pycuda"):
            here.pycuda = []
        stack: list[int] = here.pycuda
        return stack

    def push(self) -> None:
        def act() -> None:
            if self._own():
                self._gpu.contexts().pop()
            self._gpu.contexts().append(PRIMARY)

        self._call("cuCtxPushCurrent", act, current=False)
        self._own().append(PRIMARY)

    @classmethod
    def pop(cls) -> None:
        cls._gpu.contexts().pop()
        cls._own().pop()
        if cls._own():
            cls._gpu.contexts().append(cls._own()[-1])

    def detach(self) -> None:
        def act() -> None:
            self._gpu.retained -= 1

        assert self._own() == [PRIMARY], "released in a thread that has other contexts"
        self._call("cuDevicePrimaryCtxRelease", act)
        self._own().clear()
        self._valid = False

    def __del__(self) -> None:
        if self._valid and not self._gpu.lost:
            self._gpu.calls.append("cuCtxDetach of a primary context")

    @classmethod
    def synchronize(cls) -> None:
        gpu = cls._gpu
        call(gpu, "cuCtxSynchronize", lambda: [gpu.drain(stream) for stream in list(gpu.streams)])


class Device(OnGpu):
    def __init__(self, number: int) -> None:
        assert number == self._gpu.device

    def retain_primary_context(self) -> Any:
        def act() -> Any:
            self._gpu.retained += 1
            return self._module.Context()

        return self._call("cuDevicePrimaryCtxRetain", act, current=False)

    def compute_capability(self) -> tuple[int, int]:
        return 8, 7

    def get_attribute(self, attribute: Any) -> int:
        assert attribute == self._module.device_attribute.INTEGRATED
        return int(self._gpu.integrated)


class DeviceAllocation(OnGpu):
    def __init__(self, size: int) -> None:
        self.address = self._call("cuMemAlloc", lambda: self._gpu.allocate(size, "device"))

    def __int__(self) -> int:
        return int(self.address)

    def free(self) -> None:
        self._call("cuMemFree", lambda: self._gpu.free(self.address, "device"))


class PagelockedHostAllocation(OnGpu):
    def __init__(self, size: int) -> None:
        self.address = self._call("cuMemHostAlloc", lambda: self._gpu.allocate(size, "host"))

    def get_device_pointer(self) -> int:
        return int(self.address)

    def free(self) -> None:
        self._call("cuMemFreeHost", lambda: self._gpu.free(self.address, "host"))


class Pinned(np.ndarray):
    """An array whose base is pycuda's allocation."""

    owner: Any = None

    @property
    def base(self) -> Any:  # type: ignore[override]
        return self.owner


class Stream(OnGpu):
    def __init__(self, flags: int = 0) -> None:
        assert flags == 1  # non-blocking
        self.handle = self._call("cuStreamCreate", lambda: self._gpu.make(self._gpu.streams, deque()))

    def synchronize(self) -> None:
        self._call("cuStreamSynchronize", lambda: self._gpu.synchronize(self.handle))

    def wait_for_event(self, event: Event) -> None:
        self._call("cuStreamWaitEvent", lambda: self._gpu.wait(self.handle, event.handle))

    def __del__(self) -> None:
        if getattr(self, "handle", None) in self._gpu.streams:
            self._gpu.drain(self.handle)
            self._gpu.drop(self._gpu.streams, self.handle)


class Event(OnGpu):
    def __init__(self, flags: int = 0) -> None:
        assert flags == 2  # no timing
        self.handle = self._call("cuEventCreate", lambda: self._gpu.make(self._gpu.events, None))

    def record(self, stream: Stream) -> None:
        self._call("cuEventRecord", lambda: self._gpu.record(self.handle, stream.handle))

    def synchronize(self) -> None:
        self._call("cuEventSynchronize", lambda: self._gpu.wait_host(self.handle))

    def __del__(self) -> None:
        if getattr(self, "handle", None) in self._gpu.events:
            self._gpu.drop(self._gpu.events, self.handle)


class Function(OnGpu):
    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __call__(self, *args: Any, grid: Any, block: Any, stream: Stream) -> None:
        (packed,) = args
        assert isinstance(packed, np.void)
        data, values, place = packed.tobytes(), [], 0
        for size, alignment in sizes(self.kernel):
            place = -(-place // alignment) * alignment
            values.append(data[place : place + size])
            place += size
        assert place == len(data), "the kernel takes other parameters"
        self._call("cuLaunchKernel", lambda: self._gpu.launch(self.kernel, grid, block, values, stream.handle))


class Module(OnGpu):
    def __init__(self, image: bytes) -> None:
        gpu = self._gpu
        self.handle = self._call("cuModuleLoadDataEx", lambda: gpu.make(gpu.modules, load_image(image, self._folder)))

    def get_function(self, name: str) -> Any:
        return self._module.Function((self._gpu.modules[self.handle], name))

    def __del__(self) -> None:
        if getattr(self, "handle", None) in self._gpu.modules:
            self._gpu.drop(self._gpu.modules, self.handle)


KINDS = (Context, Device, DeviceAllocation, PagelockedHostAllocation, Stream, Event, Function, Module)


def bindings(gpu: Gpu, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, types.ModuleType]:
    """pycuda.driver, and nvcc; pycuda opens device 0."""
    gpu.device = 0

    def run(self: Any, *args: str) -> subprocess.CompletedProcess[str]:
        if args != ("--version",):
            Path(args[-2]).write_bytes(image_of(Path(args[-1]).name, list(args)))
        return subprocess.CompletedProcess(args, 0, "Cuda compilation tools, release 13.0, V13.0.88\n", "")

    monkeypatch.setattr(provider.Nvcc, "_run", run)
    package: Any = types.ModuleType("pycuda")
    package.driver = driver(gpu, folder)
    return {"pycuda": package, "pycuda.driver": package.driver}


def driver(gpu: Gpu, folder: Path) -> Any:
    """The module."""
    module: Any = types.ModuleType("pycuda.driver")
    for kind in KINDS:
        own = {key: value for key, value in vars(kind).items() if key not in ("__dict__", "__weakref__")}
        own |= {"_gpu": gpu, "_folder": folder, "_module": module}
        setattr(module, kind.__name__, type(kind.__name__, (OnGpu,), own))
    vars(module).update(functions(gpu, module))
    module.Error = Error
    module.device_attribute = types.SimpleNamespace(INTEGRATED=object())
    module.host_alloc_flags = types.SimpleNamespace(PORTABLE=1, DEVICEMAP=2)
    module.event_flags = types.SimpleNamespace(DISABLE_TIMING=2)
    return module


def functions(gpu: Gpu, module: Any) -> dict[str, Callable[..., Any]]:
    def init(flags: int = 0) -> None: ...

    def mem_get_info() -> Any:
        return call(gpu, "cuMemGetInfo", lambda: (gpu.total, gpu.total))

    def mem_alloc(bytes: int) -> Any:
        return module.DeviceAllocation(bytes)

    def module_from_buffer(buffer: bytes) -> Any:
        return module.Module(buffer)

    def pagelocked_empty(shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> np.ndarray:
        assert mem_flags == 1 | 2  # portable, mapped
        owner = module.PagelockedHostAllocation(shape)
        array = gpu.view(owner.address, (shape,), dtype).view(Pinned)
        array.owner = owner
        return array

    def memcpy_htod_async(dest: int, src: np.ndarray, stream: Stream) -> None:
        call(gpu, "cuMemcpyHtoDAsync", lambda: gpu.upload(dest, src.ctypes.data, src.nbytes, stream.handle))

    def memcpy_dtoh_async(dest: np.ndarray, src: int, stream: Stream) -> None:
        call(gpu, "cuMemcpyDtoHAsync", lambda: gpu.download(dest.ctypes.data, src, dest.nbytes, stream.handle))

    return {name: value for name, value in locals().items() if name not in ("gpu", "module")}
