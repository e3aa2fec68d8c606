# ruff: noqa: N802, N803 - the bindings' names
"""A GPU on the host, under the very calls of cuda-bindings and of pycuda: it records them and refuses what is wrong.

    gpu = Gpu(order="late")
    gpu.install(monkeypatch, "cuda-bindings", folder)      -> the provider opens on it

Names, numbers and words of errors are those of the real bindings. Device memory is host memory with guards around it,
kernels are compiled for the CPU. Work on a stream runs as late as a GPU may run it ("late": when something waits for
it), at once ("early"), or in between (an integer seeds the choice), so that a wait that is missing gives wrong pixels.
It refuses memory that is gone or too small, a second free, handles of other kinds, another library's context, and work
that a capture cannot take. `fail` lets any call fail.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import random
import subprocess
import sys
import threading
import types
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refinenet_edge.runtime import cuda, pycuda
from refinenet_edge.runtime.kernels import device

real = pytest.importorskip("cuda.bindings.driver", exc_type=ImportError)
real_runtime = pytest.importorskip("cuda.bindings.runtime", exc_type=ImportError)
HERE = Path(__file__).parent
KERNELS = {
    "head.cu": ("corners", "labels", "confident_labels", "labels_together", "confident_labels_together"),
    "frame.cu": ("prepare", "prepare_together"),
}
GUARD = 64  # bytes on both sides of every block
FRESH, GONE = 0xAB, 0xDD  # what memory holds that nothing was written to, and that was given back
DEFAULT_STREAM = 1  # the legacy one's handle
SUCCESS = 0
INVALID = int(real.CUresult.CUDA_ERROR_INVALID_VALUE)
OUT_OF_MEMORY = int(real.CUresult.CUDA_ERROR_OUT_OF_MEMORY)
NO_CONTEXT = int(real.CUresult.CUDA_ERROR_INVALID_CONTEXT)
ILLEGAL_ADDRESS = int(real.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)
NOT_CAPTURABLE = int(real.CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
PRIMARY, THEIRS = 0x9000, 0xA000  # the device's primary context, and another library's
ENUMS = ("CUresult", "CUdevice_attribute", "CUstream_flags", "CUevent_flags", "CUstreamCaptureMode")
FLAGS = ("CUDA_VERSION", "CU_MEMHOSTALLOC_PORTABLE", "CU_MEMHOSTALLOC_DEVICEMAP")


# what CUDA says of an error: its runtime does, which needs no driver, and has the driver's numbers
WORDS = {int(error): bytes(real_runtime.cudaGetErrorString(error)[1]) for error in real_runtime.cudaError_t}


class Failure(Exception):
    """A call that fails with CUDA's error `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Block:
    kind: str  # "device" or "host"
    data: np.ndarray
    address: int
    size: int

    def intact(self) -> bool:
        start = self.address - self.data.ctypes.data
        return bool((self.data[:start] == FRESH).all() and (self.data[start + self.size :] == FRESH).all())


@dataclass
class Mark:
    """What a recorded event waits for."""

    stream: int
    done: bool = False


@dataclass
class Step:
    """One piece of work on a stream: something to run, a mark to reach, or a mark to wait for."""

    run: Callable[[], None] | None = None
    reaches: Mark | None = None
    awaits: Mark | None = None


@dataclass
class Gpu:
    """`order`: when work runs. `lost` after a failure that only the end of the process ends."""

    order: str | int = "late"
    integrated: bool = False
    device: int = 1
    driver: int = int(real.CUDA_VERSION)
    calls: list[str] = field(default_factory=list)
    blocks: dict[int, Block] = field(default_factory=dict)
    streams: dict[int, deque[Step]] = field(default_factory=dict)
    events: dict[int, Mark | None] = field(default_factory=dict)
    graphs: dict[int, list[Step]] = field(default_factory=dict)
    modules: dict[int, Any] = field(default_factory=dict)
    capturing: dict[int, list[Step]] = field(default_factory=dict)
    lost: bool = False
    total: int = 1 << 30
    moved: Counter[str] = field(default_factory=Counter)  # bytes "up" and "down"

    def __post_init__(self) -> None:
        self.handles = itertools.count(4096)
        self.here = threading.local()  # the thread's stack of contexts, and pycuda's
        self.retained = 0  # how often the primary context is
        self.failing: Callable[[str], int] = lambda _: SUCCESS
        self.random = random.Random(self.order)
        self.lock = threading.RLock()
        self.streams[DEFAULT_STREAM] = deque()
        self.gone: list[Block] = []
        self.contexts().append(THEIRS)

    # --- what every call goes through

    def call(self, name: str) -> None:
        """Note the call; raise what it is to fail with."""
        self.calls.append(name)
        if self.lost:
            raise Failure(ILLEGAL_ADDRESS)
        code = self.failing(name)
        if code:
            self.lost |= code == ILLEGAL_ADDRESS
            raise Failure(code)

    def fail(self, name: str, code: int = OUT_OF_MEMORY, after: int = 0) -> None:
        """Let calls of `name` fail, once `after` of them have passed."""
        seen = itertools.count()
        self.failing = lambda called: code if called == name and next(seen) >= after else SUCCESS

    def fail_at(self, number: int, code: int = OUT_OF_MEMORY) -> None:
        """Let the call of that number from now on fail, whatever it is, and no other."""
        seen = itertools.count()
        self.failing = lambda _: code if next(seen) == number else SUCCESS

    def held(self) -> dict[str, int]:
        """What was made and not given back."""
        if len(self.streams) > 1 or self.events or self.modules:
            gc.collect()  # pycuda destroys what nothing refers to, and an error's traceback does
        own = [stream for stream in self.streams if stream != DEFAULT_STREAM]
        kinds = {"streams": own, "events": self.events, "graphs": self.graphs, "modules": self.modules}
        counts = {kind: len(things) for kind, things in kinds.items()}
        counts |= Counter(block.kind for block in self.blocks.values())
        for block in self.gone:
            assert (block.data == GONE).all(), "something wrote to memory that was given back"
        return {kind: count for kind, count in counts.items() if count}

    def contexts(self) -> list[int]:
        """This thread's stack: the last one is current."""
        if not hasattr(self.here, "contexts"):
            self.here.contexts = []
        stack: list[int] = self.here.contexts
        return stack

    def on_device(self) -> None:
        """Calls act on the context that is current in their thread."""
        if not self.contexts():
            raise Failure(NO_CONTEXT)
        assert self.contexts()[-1] == PRIMARY, "another library's context is current in this thread"

    # --- memory

    def allocate(self, size: int, kind: str) -> int:
        self.refuse_in_capture()
        if size <= 0:
            raise Failure(INVALID)
        if size + sum(block.size for block in self.blocks.values() if block.kind == kind) > self.total:
            raise Failure(OUT_OF_MEMORY)
        data = np.full(size + 3 * GUARD, FRESH, np.uint8)
        address = -(-(data.ctypes.data + GUARD) // GUARD) * GUARD
        self.blocks[address] = Block(kind, data, address, size)
        return address

    def free(self, address: int, kind: str) -> None:
        block = self.blocks.pop(address, None)
        assert block is not None, f"{address:#x} is freed twice, or was never allocated"
        assert block.kind == kind, f"{block.kind} memory freed as {kind} memory"
        assert block.intact(), f"something wrote beyond the {block.size} bytes at {address:#x}"
        block.data[:] = GONE
        self.gone.append(block)

    def check(self, address: int, size: int) -> Block:
        """The block that these bytes lie in."""
        for block in self.blocks.values():
            if block.address <= address and address + size <= block.address + block.size:
                return block
        raise AssertionError(f"{size} bytes at {address:#x} are not the GPU's memory")

    def view(self, address: int, shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
        """The bytes at `address`, writable."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.check(address, size)
        return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)

    def upload(self, target: int, source: int, size: int, stream: int) -> None:
        assert self.check(target, size).kind == "device"
        self.moved["up"] += size
        pinned = any(block.address <= source < block.address + block.size for block in self.blocks.values())
        # what is not page-locked is read before the call returns
        kept = None if pinned else ctypes.string_at(source, size)
        self.queue(stream, lambda: self._move(target, source if kept is None else kept, size, target))

    def download(self, target: int, source: int, size: int, stream: int) -> None:
        assert self.check(source, size).kind == "device"
        self.moved["down"] += size
        self.queue(stream, lambda: self._move(target, source, size, source))

    def _move(self, target: int, source: Any, size: int, on_device: int) -> None:
        self.check(on_device, size)
        ctypes.memmove(target, source, size)

    # --- streams and events

    def make(self, things: dict[int, Any], thing: Any) -> int:
        handle = next(self.handles)
        things[handle] = thing
        return handle

    def drop(self, things: dict[int, Any], handle: int) -> None:
        assert handle in things, f"{handle} is destroyed twice, or was never made"
        del things[handle]

    def queue(self, stream: int, run: Callable[[], None]) -> None:
        self.push(stream, Step(run=run))

    def push(self, stream: int, step: Step) -> None:
        assert stream in self.streams, f"{stream} is no stream"
        with self.lock:
            if stream in self.capturing:
                self.capturing[stream].append(step)
                return
            self.streams[stream].append(step)
            if self.order == "early":
                self.drain(stream)
            elif self.order != "late":
                for other in self.random.sample(list(self.streams), self.random.randrange(len(self.streams) + 1)):
                    self.drain(other, steps=self.random.randrange(3))

    def drain(self, stream: int, until: Mark | None = None, steps: int = 1 << 30) -> None:
        """Run what is queued on `stream`: all, up to a mark, or so many steps."""
        with self.lock:
            queue = self.streams[stream]
            while queue and steps and not (until and until.done):
                step, steps = queue[0], steps - 1
                if step.awaits is not None and not step.awaits.done:
                    self.drain(step.awaits.stream, until=step.awaits)
                queue.popleft()
                if step.run is not None:
                    step.run()
                if step.reaches is not None:
                    step.reaches.done = True

    def synchronize(self, stream: int) -> None:
        assert stream in self.streams, f"{stream} is no stream"
        self.refuse_in_capture()
        self.drain(stream)

    def record(self, event: int, stream: int) -> None:
        assert event in self.events, f"{event} is no event"
        self.events[event] = mark = Mark(stream)
        self.push(stream, Step(reaches=mark))

    def wait(self, stream: int, event: int) -> None:
        mark = self.events[event]
        if mark is not None:
            self.push(stream, Step(awaits=mark))

    def wait_host(self, event: int) -> None:
        self.refuse_in_capture()
        mark = self.events[event]
        if mark is not None and not mark.done:
            self.drain(mark.stream, until=mark)

    def refuse_in_capture(self) -> None:
        """Other threads may go on: captures are a thread's own."""
        if getattr(self.here, "captures", 0):
            raise Failure(NOT_CAPTURABLE)

    # --- kernels

    def launch(self, kernel: tuple[ctypes.CDLL, str], grid: Any, block: Any, values: list[bytes], stream: int) -> None:
        assert block == (device.THREADS, 1, 1)
        held = [ctypes.create_string_buffer(value, len(value)) for value in values]
        start = getattr(kernel[0], f"run_{kernel[1]}")

        def run() -> None:
            start((ctypes.c_int * 3)(*grid), block[0], (ctypes.c_void_p * len(held))(*map(ctypes.addressof, held)))

        self.queue(stream, run)

    def restart(self) -> None:
        """As in a new process: everything that was on the device is gone."""
        for things in (self.blocks, self.streams, self.events, self.graphs, self.modules, self.capturing, self.gone):
            things.clear()  # type: ignore[attr-defined]
        self.streams[DEFAULT_STREAM] = deque()
        self.here = threading.local()
        self.retained, self.lost = 0, False
        self.contexts().append(THEIRS)

    # --- the bindings

    def install(self, monkeypatch: pytest.MonkeyPatch, provider: str, folder: Path) -> None:
        """Put it in the place of `provider`'s bindings; `folder` keeps the kernels compiled for the CPU."""
        monkeypatch.setenv("REFINENET_EDGE_CUDA", provider)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for module in (cuda, pycuda):
            monkeypatch.setattr(module, "driver_library", lambda: library_calls(self))
        if provider == "cuda-bindings":
            modules: dict[str, Any] = bindings(self, folder)
        else:
            from tests.runtime import fake_pycuda

            modules = fake_pycuda.bindings(self, folder, monkeypatch)
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)


@cache
def library(folder: Path, file: str, defines: tuple[str, ...]) -> ctypes.CDLL:
    """The kernels of `file`, compiled for the CPU."""
    out = folder / f"{abs(hash((file, defines)))}.so"
    source = "\n".join(['#include "emulate.h"', f'#include "{file}"', *(f"KERNEL({name})" for name in KERNELS[file])])
    flags = ["-O1", "-std=c++17", "-ffp-contract=off", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    flags += ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error", f"-I{HERE}", f"-I{device.FOLDER}"]
    command = ["g++", *flags, *(f"-D{define}" for define in defines), "-x", "c++", "-", "-o", str(out)]
    subprocess.run(command, input=source, text=True, check=True)
    return ctypes.CDLL(str(out))


def image_of(name: str, options: list[str]) -> bytes:
    """What the compilers make here: the source's name and its definitions."""
    return "\n".join(["cubin", name, *(option[2:] for option in options if option.startswith("-D"))]).encode()


def load_image(image: bytes, folder: Path) -> ctypes.CDLL:
    tag, name, *defines = image.decode().split("\n")
    assert tag == "cubin"
    return library(folder, name, tuple(defines))


def sizes(kernel: tuple[ctypes.CDLL, str]) -> list[tuple[int, int]]:
    """Size and alignment of each parameter."""
    found = []
    size, alignment = (getattr(kernel[0], f"{what}_{kernel[1]}") for what in ("size", "align"))
    while size(len(found)):
        found.append((size(len(found)), alignment(len(found))))
    return found


# --- cuda-bindings


def library_calls(gpu: Gpu) -> Any:
    """The driver's library itself, by ctypes: results are written to what is referred to."""

    def cuGetErrorString(code: int, text: Any) -> int:
        text._obj.value = WORDS.get(code)
        return SUCCESS if code in WORDS else INVALID

    def cuGetErrorName(code: int, text: Any) -> int:
        text._obj.value = real.CUresult(code).name.encode()
        return SUCCESS

    def cuDriverGetVersion(version: Any) -> int:
        version._obj.value = gpu.driver
        return SUCCESS

    def cuCtxGetCurrent(context: Any) -> int:
        context._obj.value = gpu.contexts()[-1] if gpu.contexts() else None
        return SUCCESS

    def cuCtxSetCurrent(context: Any) -> int:
        gpu.contexts()[-1:] = [context.value]
        return SUCCESS

    def cuCtxGetDevice(device: Any) -> int:
        device._obj.value = gpu.device
        return SUCCESS

    return types.SimpleNamespace(**{name: value for name, value in locals().items() if name.startswith("cu")})


def bindings(gpu: Gpu, folder: Path) -> dict[str, types.ModuleType]:
    return {"cuda.bindings.driver": driver_bindings(gpu, folder), "cuda.bindings.nvrtc": nvrtc_bindings(gpu)}


def _module(gpu: Gpu, name: str, status: Callable[[int], Any], functions: dict[str, Callable[..., Any]]) -> Any:
    """A module of functions that return their status first."""
    module = types.ModuleType(name)

    def binding(function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
        def called(*args: Any) -> tuple[Any, ...]:
            try:
                gpu.call(function.__name__)
                value = function(*args)
            except Failure as exc:
                count = 2 if function.__annotations__.get("return") == "tuple[int, int]" else 1
                none = () if function.__annotations__.get("return") == "None" else (None,) * count
                return (status(exc.code), *none)
            values = value if isinstance(value, tuple) else () if value is None else (value,)
            return (status(SUCCESS), *values)

        called.__wrapped__ = function  # type: ignore[attr-defined]
        return called

    vars(module).update({key: binding(function) for key, function in functions.items()})
    return module


Calls = dict[str, Callable[..., Any]]


def context_calls(gpu: Gpu) -> Calls:
    def cuInit(Flags: int) -> None:
        assert Flags == 0

    def cuDeviceGet(ordinal: int) -> int:
        assert gpu.device == ordinal, "another device is current in this thread"
        return ordinal

    def cuCtxGetCurrent() -> int:
        return gpu.contexts()[-1] if gpu.contexts() else 0

    def cuCtxGetDevice() -> int:
        return gpu.device

    def cuDevicePrimaryCtxRetain(dev: int) -> int:
        assert dev == gpu.device
        gpu.retained += 1
        return PRIMARY

    def cuDevicePrimaryCtxRelease(dev: int) -> None:
        assert dev == gpu.device
        assert gpu.retained, "released more often than retained"
        gpu.retained -= 1

    def cuCtxPushCurrent(ctx: int) -> None:
        assert ctx == PRIMARY
        assert gpu.retained
        gpu.contexts().append(ctx)

    def cuCtxPopCurrent() -> int:
        return gpu.contexts().pop()

    def cuDeviceGetAttribute(attrib: Any, dev: int) -> int:
        assert dev == gpu.device
        return {75: 8, 76: 7, 18: int(gpu.integrated)}[int(attrib)]

    def cuMemGetInfo() -> tuple[int, int]:
        gpu.on_device()
        return gpu.total - sum(block.size for block in gpu.blocks.values()), gpu.total

    return {name: value for name, value in locals().items() if name.startswith("cu")}


def memory_calls(gpu: Gpu) -> Calls:
    def cuMemAlloc(bytesize: int) -> int:
        gpu.on_device()
        return gpu.allocate(bytesize, "device")

    def cuMemFree(dptr: int) -> None:
        gpu.on_device()
        gpu.free(dptr, "device")

    def cuMemHostAlloc(bytesize: int, Flags: int) -> int:
        gpu.on_device()
        assert Flags == 1 | 2  # portable, mapped
        return gpu.allocate(bytesize, "host")

    def cuMemHostGetDevicePointer(p: int, Flags: int) -> int:
        assert Flags == 0
        return gpu.check(p, 1).address

    def cuMemFreeHost(p: int) -> None:
        gpu.on_device()
        gpu.free(p, "host")

    def cuMemcpyHtoDAsync(dstDevice: int, srcHost: int, ByteCount: int, hStream: int) -> None:
        gpu.on_device()
        gpu.upload(dstDevice, srcHost, ByteCount, hStream)

    def cuMemcpyDtoHAsync(dstHost: int, srcDevice: int, ByteCount: int, hStream: int) -> None:
        gpu.on_device()
        gpu.download(dstHost, srcDevice, ByteCount, hStream)

    return {name: value for name, value in locals().items() if name.startswith("cu")}


def stream_calls(gpu: Gpu) -> Calls:
    def cuStreamCreate(Flags: int) -> int:
        gpu.on_device()
        assert Flags == 1  # non-blocking
        return gpu.make(gpu.streams, deque())

    def cuStreamDestroy(hStream: int) -> None:
        gpu.on_device()
        gpu.drain(hStream)
        gpu.drop(gpu.streams, hStream)

    def cuStreamSynchronize(hStream: int) -> None:
        gpu.on_device()
        gpu.synchronize(hStream)

    def cuStreamWaitEvent(hStream: int, hEvent: int, Flags: int) -> None:
        gpu.on_device()
        assert Flags == 0
        gpu.wait(hStream, hEvent)

    def cuEventCreate(Flags: int) -> int:
        gpu.on_device()
        assert Flags == 2  # no timing
        return gpu.make(gpu.events, None)

    def cuEventDestroy(hEvent: int) -> None:
        gpu.on_device()
        gpu.drop(gpu.events, hEvent)

    def cuEventRecord(hEvent: int, hStream: int) -> None:
        gpu.on_device()
        gpu.record(hEvent, hStream)

    def cuEventSynchronize(hEvent: int) -> None:
        gpu.on_device()
        gpu.wait_host(hEvent)

    return {name: value for name, value in locals().items() if name.startswith("cu")}


def graph_calls(gpu: Gpu) -> Calls:
    def cuStreamBeginCapture(hStream: int, mode: Any) -> None:
        gpu.on_device()
        assert int(mode) == 1  # this thread only
        assert hStream in gpu.streams
        assert hStream not in gpu.capturing
        gpu.capturing[hStream] = []
        gpu.here.captures = 1

    def cuStreamEndCapture(hStream: int) -> int:
        gpu.here.captures = 0
        return gpu.make(gpu.graphs, gpu.capturing.pop(hStream))

    def cuGraphInstantiate(hGraph: int, flags: int) -> int:
        assert flags == 0
        return gpu.make(gpu.graphs, list(gpu.graphs[hGraph]))

    def cuGraphDestroy(hGraph: int) -> None:
        gpu.drop(gpu.graphs, hGraph)

    def cuGraphLaunch(hGraphExec: int, hStream: int) -> None:
        gpu.on_device()
        for step in gpu.graphs[hGraphExec]:
            assert step.run is not None, "only work was captured"
            gpu.queue(hStream, step.run)

    def cuGraphExecDestroy(hGraphExec: int) -> None:
        gpu.drop(gpu.graphs, hGraphExec)

    return {name: value for name, value in locals().items() if name.startswith("cu")}


def kernel_calls(gpu: Gpu, folder: Path) -> Calls:
    def cuModuleLoadData(image: bytes) -> int:
        gpu.on_device()
        gpu.refuse_in_capture()
        return gpu.make(gpu.modules, load_image(image, folder))

    def cuModuleGetFunction(hmod: int, name: bytes) -> Any:
        return ((gpu.modules[hmod], name.decode()),)

    def cuLaunchKernel(
        f: Any,
        gridDimX: int,
        gridDimY: int,
        gridDimZ: int,
        blockDimX: int,
        blockDimY: int,
        blockDimZ: int,
        sharedMemBytes: int,
        hStream: int,
        kernelParams: int,
        extra: int,
    ) -> None:
        gpu.on_device()
        assert 1 <= gridDimZ <= 65535 and (sharedMemBytes, extra) == (0, 0)
        pointers = ctypes.cast(kernelParams, ctypes.POINTER(ctypes.c_void_p))
        values = [ctypes.string_at(pointers[i], size) for i, (size, _) in enumerate(sizes(f))]
        gpu.launch(f, (gridDimX, gridDimY, gridDimZ), (blockDimX, blockDimY, blockDimZ), values, hStream)

    def cuModuleUnload(hmod: int) -> None:
        gpu.on_device()
        gpu.drop(gpu.modules, hmod)

    return {name: value for name, value in locals().items() if name.startswith("cu")}


def driver_bindings(gpu: Gpu, folder: Path) -> Any:
    functions = {**context_calls(gpu), **memory_calls(gpu), **stream_calls(gpu), **graph_calls(gpu)}
    functions |= kernel_calls(gpu, folder)
    module = _module(gpu, "cuda.bindings.driver", real.CUresult, functions)
    # a capture that a failed call has invalidated ends too
    end = module.cuStreamEndCapture

    def end_capture(hStream: int) -> tuple[Any, ...]:
        result: tuple[Any, ...] = end(hStream)
        gpu.capturing.pop(hStream, None)
        gpu.here.captures = 0
        return result

    end_capture.__wrapped__ = functions["cuStreamEndCapture"]  # type: ignore[attr-defined]
    module.cuStreamEndCapture = end_capture
    vars(module).update({name: getattr(real, name) for name in (*ENUMS, *FLAGS)})
    return module


def nvrtc_bindings(gpu: Gpu) -> Any:
    """NVRTC as far as it is called; it is no device's, so its calls do not fail with the others."""
    programs: dict[int, Any] = {}
    handles = itertools.count(1)
    module: Any = types.ModuleType("cuda.bindings.nvrtc")

    def nvrtcVersion() -> tuple[int, int, int]:
        return 0, real.CUDA_VERSION // 1000, real.CUDA_VERSION % 1000 // 10

    def nvrtcCreateProgram(src: bytes, name: bytes, numHeaders: int, headers: Any, includeNames: Any) -> Any:
        assert (numHeaders, len(headers), len(includeNames)) == (1, 1, 1)
        handle = next(handles)
        programs[handle] = [name.decode(), b""]
        return 0, handle

    def nvrtcCompileProgram(prog: int, numOptions: int, options: list[bytes]) -> tuple[int]:
        assert numOptions == len(options)
        programs[prog][1] = image_of(programs[prog][0], [option.decode() for option in options])
        return (0,)

    def nvrtcGetProgramLogSize(prog: int) -> tuple[int, int]:
        return 0, 1

    def nvrtcGetProgramLog(prog: int, log: bytearray) -> tuple[int]:
        return (0,)

    def nvrtcGetCUBINSize(prog: int) -> tuple[int, int]:
        return 0, len(programs[prog][1])

    def nvrtcGetCUBIN(prog: int, cubin: bytearray) -> tuple[int]:
        cubin[:] = programs[prog][1]
        return (0,)

    def nvrtcDestroyProgram(prog: int) -> tuple[int]:
        del programs[prog]
        return (0,)

    vars(module).update({name: value for name, value in locals().items() if name.startswith("nvrtc")})
    return module
