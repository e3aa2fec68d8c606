# ruff: noqa: N802, N803 - the bindings' names
"""A GPU on the host, under the very calls of cuda-bindings and of pycuda: it records them and refuses what is wrong.

    gpu = Gpu(order="late")
    gpu.install(monkeypatch, "cuda-bindings", folder)      -> the provider opens on it

Device memory is host memory with guards around it, kernels are compiled for the CPU. Work on a stream runs as late as a
GPU may run it ("late": when something waits for it), at once ("early"), or in between (an integer seeds the choice), so
that a wait that is missing gives wrong pixels. It refuses memory that is gone or too small, a second free, handles of
other kinds, another thread's context, and work that a capture cannot take. `fail` lets any call fail.
"""

from __future__ import annotations

import ctypes
import enum
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

from refinenet_edge.runtime.kernels import device

HERE = Path(__file__).parent
KERNELS = {"head.cu": ("corners", "labels", "confident_labels"), "frame.cu": ("prepare",)}
GUARD = 64  # bytes on both sides of every block
FRESH, GONE = 0xAB, 0xDD  # what memory holds that nothing was written to, and that was given back
DEFAULT_STREAM = 1  # the legacy one's handle
SUCCESS, INVALID, OUT_OF_MEMORY, NO_CONTEXT, ILLEGAL_ADDRESS, NOT_CAPTURABLE = 0, 1, 2, 201, 700, 900
CODES = {
    "cudaSuccess": SUCCESS,
    "cudaErrorInvalidValue": INVALID,
    "cudaErrorMemoryAllocation": OUT_OF_MEMORY,
    "cudaErrorIllegalAddress": ILLEGAL_ADDRESS,
    "cudaErrorStreamCaptureUnsupported": NOT_CAPTURABLE,
}
CUDA_ERROR = enum.IntEnum("cudaError_t", CODES)
WORDS = {
    INVALID: "invalid value",
    OUT_OF_MEMORY: "out of memory",
    NO_CONTEXT: "invalid context",
    ILLEGAL_ADDRESS: "illegal address",
}


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
    """`order`: when work runs. `lost` after a failure that only a reset ends."""

    order: str | int = "late"
    integrated: bool = False
    device: int = 1
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
        self.here = threading.local()  # the thread's device, and pycuda's context stack
        self.failing: Callable[[str], int] = lambda _: SUCCESS
        self.random = random.Random(self.order)
        self.lock = threading.RLock()
        self.streams[DEFAULT_STREAM] = deque()
        self.gone: list[Block] = []

    # --- what every call goes through

    def call(self, name: str) -> None:
        """Note the call; raise what it is to fail with."""
        self.calls.append(name)
        if self.lost and name != "cudaDeviceReset":
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

    def on_device(self) -> None:
        """The runtime's calls act on the device that is current in their thread."""
        assert getattr(self.here, "device", 0) == self.device, "another device is current in this thread"

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
            start(grid[0], block[0], grid[1], (ctypes.c_void_p * len(held))(*map(ctypes.addressof, held)))

        self.queue(stream, run)

    def reset(self) -> None:
        """Everything that was on the device is gone."""
        for things in (self.blocks, self.streams, self.events, self.graphs, self.modules, self.capturing):
            things.clear()  # type: ignore[attr-defined]
        self.streams[DEFAULT_STREAM] = deque()
        self.here.captures = 0
        self.lost = False

    # --- the bindings

    def install(self, monkeypatch: pytest.MonkeyPatch, provider: str, folder: Path) -> None:
        """Put it in the place of `provider`'s bindings; `folder` keeps the kernels compiled for the CPU."""
        monkeypatch.setenv("REFINENET_EDGE_CUDA", provider)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        if provider == "cuda-bindings":
            modules = bindings(self, folder)
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


def bindings(gpu: Gpu, folder: Path) -> dict[str, types.ModuleType]:
    return {
        "cuda.bindings.runtime": runtime_bindings(gpu),
        "cuda.bindings.driver": driver_bindings(gpu, folder),
        "cuda.bindings.nvrtc": nvrtc_bindings(gpu),
    }


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


def device_calls(gpu: Gpu) -> Calls:
    def cudaGetDevice() -> int:
        return getattr(gpu.here, "device", 0)

    def cudaSetDevice(device: int) -> None:
        gpu.here.device, gpu.here.ready = device, True

    def cudaDeviceGetAttribute(attr: Any, device: int) -> int:
        assert device == gpu.device
        return {75: 8, 76: 7, 18: int(gpu.integrated)}[int(attr)]

    def cudaMemGetInfo() -> tuple[int, int]:
        gpu.on_device()
        return gpu.total - sum(block.size for block in gpu.blocks.values()), gpu.total

    def cudaDeviceReset() -> None:
        gpu.on_device()
        gpu.reset()

    return {name: value for name, value in locals().items() if name.startswith("cuda")}


def memory_calls(gpu: Gpu) -> Calls:
    def cudaMalloc(size: int) -> int:
        gpu.on_device()
        return gpu.allocate(size, "device")

    def cudaFree(devPtr: int) -> None:
        gpu.on_device()
        gpu.free(devPtr, "device")

    def cudaHostAlloc(size: int, flags: int) -> int:
        gpu.on_device()
        assert flags == 1 | 2  # portable, mapped
        return gpu.allocate(size, "host")

    def cudaHostGetDevicePointer(pHost: int, flags: int) -> int:
        assert flags == 0
        return gpu.check(pHost, 1).address

    def cudaFreeHost(ptr: int) -> None:
        gpu.on_device()
        gpu.free(ptr, "host")

    def cudaMemcpyAsync(dst: int, src: int, count: int, kind: Any, stream: int) -> None:
        gpu.on_device()
        (gpu.upload if int(kind) == 1 else gpu.download)(dst, src, count, stream)

    return {name: value for name, value in locals().items() if name.startswith("cuda")}


def stream_calls(gpu: Gpu) -> Calls:
    def cudaStreamCreateWithFlags(flags: int) -> int:
        gpu.on_device()
        assert flags == 1  # non-blocking
        return gpu.make(gpu.streams, deque())

    def cudaStreamDestroy(stream: int) -> None:
        gpu.on_device()
        gpu.drain(stream)
        gpu.drop(gpu.streams, stream)

    def cudaStreamSynchronize(stream: int) -> None:
        gpu.on_device()
        gpu.synchronize(stream)

    def cudaStreamWaitEvent(stream: int, event: int, flags: int) -> None:
        gpu.on_device()
        assert flags == 0
        gpu.wait(stream, event)

    def cudaEventCreateWithFlags(flags: int) -> int:
        gpu.on_device()
        assert flags == 2  # no timing
        return gpu.make(gpu.events, None)

    def cudaEventDestroy(event: int) -> None:
        gpu.on_device()
        gpu.drop(gpu.events, event)

    def cudaEventRecord(event: int, stream: int) -> None:
        gpu.on_device()
        gpu.record(event, stream)

    def cudaEventSynchronize(event: int) -> None:
        gpu.on_device()
        gpu.wait_host(event)

    return {name: value for name, value in locals().items() if name.startswith("cuda")}


def graph_calls(gpu: Gpu) -> Calls:
    def cudaStreamBeginCapture(stream: int, mode: Any) -> None:
        gpu.on_device()
        assert int(mode) == 1  # this thread only
        assert stream in gpu.streams
        assert stream not in gpu.capturing
        gpu.capturing[stream] = []
        gpu.here.captures = 1

    def cudaStreamEndCapture(stream: int) -> int:
        gpu.here.captures = 0
        return gpu.make(gpu.graphs, gpu.capturing.pop(stream))

    def cudaGraphInstantiate(graph: int, flags: int) -> int:
        assert flags == 0
        return gpu.make(gpu.graphs, list(gpu.graphs[graph]))

    def cudaGraphDestroy(graph: int) -> None:
        gpu.drop(gpu.graphs, graph)

    def cudaGraphLaunch(graphExec: int, stream: int) -> None:
        gpu.on_device()
        for step in gpu.graphs[graphExec]:
            assert step.run is not None, "only work was captured"
            gpu.queue(stream, step.run)

    def cudaGraphExecDestroy(graphExec: int) -> None:
        gpu.drop(gpu.graphs, graphExec)

    return {name: value for name, value in locals().items() if name.startswith("cuda")}


def runtime_bindings(gpu: Gpu) -> Any:
    functions = {**device_calls(gpu), **memory_calls(gpu), **stream_calls(gpu), **graph_calls(gpu)}
    module = _module(gpu, "cuda.bindings.runtime", CUDA_ERROR, functions)
    # a capture that a failed call has invalidated ends too
    end = module.cudaStreamEndCapture

    def end_capture(stream: int) -> tuple[Any, ...]:
        result: tuple[Any, ...] = end(stream)
        gpu.capturing.pop(stream, None)
        gpu.here.captures = 0
        return result

    end_capture.__wrapped__ = functions["cudaStreamEndCapture"]  # type: ignore[attr-defined]
    module.cudaStreamEndCapture = end_capture
    vars(module).update(
        cudaError_t=CUDA_ERROR,
        cudaMemcpyKind=enum.IntEnum("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2}),
        cudaDeviceAttr=enum.IntEnum(
            "cudaDeviceAttr",
            {
                "cudaDevAttrComputeCapabilityMajor": 75,
                "cudaDevAttrComputeCapabilityMinor": 76,
                "cudaDevAttrIntegrated": 18,
            },
        ),
        cudaStreamCaptureMode=enum.IntEnum("cudaStreamCaptureMode", {"cudaStreamCaptureModeThreadLocal": 1}),
        cudaStreamNonBlocking=1,
        cudaHostAllocPortable=1,
        cudaHostAllocMapped=2,
        cudaEventDisableTiming=2,
    )
    return module


def driver_bindings(gpu: Gpu, folder: Path) -> Any:
    def on_device() -> None:
        assert getattr(gpu.here, "ready", False), "no context is current in this thread"

    def cuModuleLoadData(image: bytes) -> int:
        on_device()
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
        on_device()
        assert (gridDimZ, sharedMemBytes, extra) == (1, 0, 0)
        pointers = ctypes.cast(kernelParams, ctypes.POINTER(ctypes.c_void_p))
        values = [ctypes.string_at(pointers[i], size) for i, (size, _) in enumerate(sizes(f))]
        gpu.launch(f, (gridDimX, gridDimY), (blockDimX, blockDimY, blockDimZ), values, hStream)

    def cuModuleUnload(hmod: int) -> None:
        gpu.drop(gpu.modules, hmod)

    functions = {name: value for name, value in locals().items() if name.startswith("cu")}
    return _module(gpu, "cuda.bindings.driver", CUDA_ERROR, functions)


def nvrtc_bindings(gpu: Gpu) -> Any:
    """NVRTC as far as it is called; it is no device's, so its calls do not fail with the others."""
    programs: dict[int, Any] = {}
    handles = itertools.count(1)
    module: Any = types.ModuleType("cuda.bindings.nvrtc")

    def nvrtcVersion() -> tuple[int, int, int]:
        return 0, 13, 0

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
