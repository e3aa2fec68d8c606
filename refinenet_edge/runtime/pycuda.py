"""CUDA by pycuda, where it is there already: the same memory, streams, events and kernels, no CUDA graphs.

pycuda keeps a stack of contexts for each thread beside the driver's, and knows only its own. The primary context,
TensorRT's too, is retained once and pushed around every use; `pycuda.autoinit` makes another one and is never imported.
Kernels are compiled by nvcc.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from refinenet_edge.errors import MissingExtra, RefineNetEdgeError
from refinenet_edge.runtime.cuda import Dim, Kind, driver_library, error_name, failed, too_new

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream
NVCC = ("nvcc", "/usr/local/cuda/bin/nvcc")  # JetPack does not put it on the path

logger = logging.getLogger(__name__)


def load() -> Callable[[], PyCuda]:
    """The provider's class, when pycuda imports. Raises `MissingExtra`."""
    _driver()
    return PyCuda


def _driver() -> Any:
    try:
        return importlib.import_module("pycuda.driver")
    except Exception as exc:  # a broken installation may raise anything
        raise MissingExtra(
            f"pycuda does not import ({exc}): CPATH=/usr/local/cuda/include pip install pycuda builds it where the "
            "CUDA toolkit is; pip install 'refinenet-edge[device]' needs no building"
        ) from exc


@contextmanager
def _named(call: str) -> Iterator[None]:
    """Make pycuda's errors ours. Their text ends in the driver's words: "cuMemAlloc failed: out of memory"."""
    cuda = _driver()
    try:
        yield
    except cuda.Error as exc:
        words = str(exc).partition(" failed: ")[2].partition(" - ")[0]
        raise failed(call, error_name(words)) from exc


def _current_device() -> int:
    """The number of the device that is current in this thread; pycuda knows only of contexts of its own."""
    driver, context, device = driver_library(), ctypes.c_void_p(), ctypes.c_int(0)
    driver.cuCtxGetCurrent(ctypes.byref(context))
    if context:
        driver.cuCtxGetDevice(ctypes.byref(device))
    return device.value


class PyCuda:
    """`Provider` on the primary context of the device that is current in the opening thread (the first, if none is)."""

    name = "pycuda"
    graphs = None

    def __init__(self) -> None:
        self._cuda = _driver()
        with _named("cuDevicePrimaryCtxRetain"):
            self._cuda.init()
            self._device = self._cuda.Device(_current_device())
            self._context = self._device.retain_primary_context()
        self._detached = False
        self.compiler = Nvcc()
        self._owned: dict[int, Any] = {}  # handle or address -> pycuda's object, which frees it when it goes
        logger.info("pycuda has no CUDA graphs: each step is launched by itself; cuda-bindings has them")

    @contextmanager
    def current(self) -> Iterator[None]:
        driver, before = driver_library(), ctypes.c_void_p()
        driver.cuCtxGetCurrent(ctypes.byref(before))
        with _named("cuCtxPushCurrent"):
            self._context.push()
        try:
            yield
        finally:
            try:
                self._context.pop()
            except self._cuda.Error:  # of a lost GPU; pycuda aborts a process that ends with something on its stack
                self._detach()
            if before:  # pycuda makes its own last one current, which another library's may lie over
                driver.cuCtxSetCurrent(before)

    def close(self) -> None:
        # pycuda releases a context where it is current and leaves it so, over a pushed copy of its own last one: a
        # thread of its own keeps that from the caller's. Its destructor would detach the context, which fails
        thread = threading.Thread(target=self._release)
        thread.start()
        thread.join()

    def _release(self) -> None:
        with suppress(self._cuda.Error):
            if not self._detached:
                self._context.push()
                self._detach()

    def _detach(self) -> None:
        self._detached = True
        with suppress(self._cuda.Error):  # of a lost GPU
            self._context.detach()

    def capability(self) -> str:
        major, minor = self._device.compute_capability()
        return f"sm_{major}{minor}"

    def integrated(self) -> bool:
        return bool(self._device.get_attribute(self._cuda.device_attribute.INTEGRATED))

    def memory(self) -> tuple[int, int]:
        with _named("cuMemGetInfo"):
            free, total = self._cuda.mem_get_info()
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        with _named(f"cuMemAlloc of {size} bytes"):
            memory = self._cuda.mem_alloc(size)
        return self._keep(memory, int(memory))

    def allocate_host(self, size: int) -> tuple[int, int]:
        flags = self._cuda.host_alloc_flags.DEVICEMAP | self._cuda.host_alloc_flags.PORTABLE
        with _named(f"cuMemHostAlloc of {size} bytes"):
            array = self._cuda.pagelocked_empty(size, np.uint8, mem_flags=flags)
            device = int(array.base.get_device_pointer())
        return self._keep(array.base, array.ctypes.data), device

    def upload(self, address: int, array: npt.NDArray[Any], stream: int) -> None:
        with _named(f"cuMemcpyHtoDAsync of {array.nbytes} bytes"):
            self._cuda.memcpy_htod_async(address, array, self._owned[stream])

    def download(self, array: npt.NDArray[Any], address: int, stream: int) -> None:
        with _named(f"cuMemcpyDtoHAsync of {array.nbytes} bytes"):
            self._cuda.memcpy_dtoh_async(array, address, self._owned[stream])

    def make_stream(self) -> int:
        with _named("cuStreamCreate"):
            stream = self._cuda.Stream(NON_BLOCKING)
        return self._keep(stream, int(stream.handle))

    def synchronize(self, stream: int) -> None:
        with _named("cuStreamSynchronize"):
            self._owned[stream].synchronize()

    def make_event(self) -> int:
        with _named("cuEventCreate"):
            event = self._cuda.Event(self._cuda.event_flags.DISABLE_TIMING)
        return self._keep(event, id(event))

    def record(self, event: int, stream: int) -> None:
        with _named("cuEventRecord"):
            self._owned[event].record(self._owned[stream])

    def wait(self, stream: int, event: int) -> None:
        with _named("cuStreamWaitEvent"):
            self._owned[stream].wait_for_event(self._owned[event])

    def wait_host(self, event: int) -> None:
        with _named("cuEventSynchronize"):
            self._owned[event].synchronize()

    def follow(self, stream: int, foreign: int) -> None:
        """`Provider.follow`; pycuda cannot take another library's stream, so the host waits for all of them."""
        with _named("cuCtxSynchronize"):
            self._cuda.Context.synchronize()

    def load(self, image: bytes) -> int:
        with _named(f"cuModuleLoadDataEx of {len(image)} bytes"):
            module = self._cuda.module_from_buffer(image)
        return self._keep(module, id(module))

    def launch(self, module: Any, kernel: str, grid: Dim, block: Dim, args: tuple[Any, ...], stream: int) -> None:
        packed = bytearray()
        for arg in args:  # as the kernel's parameters lie: each aligned to its type
            packed += bytes(-len(packed) % ctypes.alignment(arg)) + bytes(arg)
        with _named(f"cuLaunchKernel of {kernel}, grid {grid}"):
            function = self._owned[module].get_function(kernel)
            values = np.frombuffer(bytes(packed), f"V{len(packed)}")[0]
            function(values, block=block, grid=grid, stream=self._owned[stream])

    def give_back(self, kind: Kind, thing: Any) -> None:
        owned = self._owned.pop(thing)  # streams, events and modules go with their object
        if kind in ("device", "host"):
            with _named(f"{'cuMemFree' if kind == 'device' else 'cuMemFreeHost'} of {thing:#x}"):
                owned.free()

    def _keep(self, thing: Any, handle: int) -> int:
        self._owned[handle] = thing
        return handle


class Nvcc:
    """`Compiler`, by the CUDA toolkit's nvcc."""

    def version(self) -> str:
        said = self._run("--version").stdout
        release = re.search(r"release .*, V((\d+)\S+)", said)
        if release is None:
            raise MissingExtra(f"nvcc does not say its release, but {said!r}: install the CUDA toolkit again")
        problem = too_new(f"nvcc {release[1]}", int(release[2]))
        if problem:
            raise MissingExtra(f"{problem}: put the nvcc of the driver's CUDA first in PATH")
        return f"nvcc {release[1]}"

    def compile(self, name: str, source: str, headers: dict[str, str], options: list[str]) -> tuple[bytes, str]:
        with tempfile.TemporaryDirectory() as folder:
            for file, text in {**headers, name: source}.items():
                Path(folder, file).write_text(text, "utf-8")
            result = Path(folder, "kernels.cubin")
            done = self._run("-cubin", *options, "-o", str(result), str(Path(folder, name)))
            if done.returncode:
                raise RefineNetEdgeError(f"{name} does not compile: {done.stderr}")
            return result.read_bytes(), done.stderr

    def _run(self, *args: str) -> subprocess.CompletedProcess[str]:
        for nvcc in NVCC:
            try:
                return subprocess.run([nvcc, *args], capture_output=True, text=True)
            except FileNotFoundError:
                continue
        raise MissingExtra("the CUDA kernels need nvcc: it comes with the CUDA toolkit; or use cuda-bindings")
