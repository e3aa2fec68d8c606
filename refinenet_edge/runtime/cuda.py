"""The GPU as the runtime uses it: who owns what, counted, over one of two providers of the CUDA calls.

    Provider     the calls: cuda_bindings.py (CUDA graphs, NVRTC) or pycuda.py (neither; nvcc)
    Cuda         one GPU and its compute stream; used by one thread at a time, from any thread
    Scope        what is made together is given back together: memory, streams, events, graphs, modules
    Buffer       bytes that the host and the GPU both see

The provider is the first that is installed, or what the environment variable REFINENET_EDGE_CUDA names. Every call
happens in the device's primary context, which TensorRT uses too.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from refinenet_edge.errors import CudaError, InputError, MissingExtra
from refinenet_edge.runtime.cache import memory_choice

PROVIDERS = {"cuda-bindings": "refinenet_edge.runtime.cuda_bindings", "pycuda": "refinenet_edge.runtime.pycuda"}
CHOICE = "REFINENET_EDGE_CUDA"
# after such an error CUDA does no more in this process: those of which cuda.h says so, in these words, and a failed
# assertion, which destroys the context that everything here shares
LOST = frozenset(f"CUDA_ERROR_{name}" for name in (
    "ASSERT", "CONTAINED", "EXTERNAL_DEVICE", "HARDWARE_STACK_ERROR", "ILLEGAL_ADDRESS", "ILLEGAL_INSTRUCTION",
    "INVALID_ADDRESS_SPACE", "INVALID_PC", "LAUNCH_FAILED", "LAUNCH_TIMEOUT", "MISALIGNED_ADDRESS",
    "MPS_CLIENT_TERMINATED", "TENSOR_MEMORY_LEAK",
))  # fmt: skip
# https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html, table 1
OLDEST_DRIVER = {12: "525", 13: "580"}
UNKNOWN = 999  # CUDA_ERROR_UNKNOWN, the highest
RESTART = "To continue using CUDA, the process must be terminated and relaunched"

logger = logging.getLogger(__name__)


class Compiler(Protocol):
    """CUDA C++ -> cubin; needs no GPU."""

    def version(self) -> str:
        """What compiles, so that another one's results are not taken for its own.

        Raises `MissingExtra` without the compiler, or where the driver is too old for what it makes.
        """

    def compile(self, name: str, source: str, headers: dict[str, str], options: list[str]) -> tuple[bytes, str]:
        """The cubin of `source` and the compiler's log.

        Raises `RefineNetEdgeError` with the log when it does not compile, `MissingExtra` without the compiler.
        """


class Graphs(Protocol):
    """Stream capture. A graph's addresses and shapes are those of its capture."""

    def capture(self, queue: Callable[[], None], stream: int) -> Any:
        """What `queue` queues on `stream`, not run but recorded, as an executable graph; other threads are as ever.

        The stream is usable again, also when this raises.
        """

    def launch(self, graph: Any, stream: int) -> None:
        """Queue `graph`."""


class Provider(Protocol):
    """The CUDA calls on one device. Handles and addresses are integers, sizes bytes; a failure raises `CudaError`.

    Everything but `current` and `close` is called inside `current()`.
    """

    name: str
    graphs: Graphs | None
    compiler: Compiler

    def current(self) -> AbstractContextManager[None]:
        """The device's primary context, current in this thread; then again what was."""

    def close(self) -> None:
        """Release the primary context. It stays while someone else retains it too, as TensorRT's CUDA does."""

    def capability(self) -> str:
        """The device's compute capability, such as "sm_87"."""

    def integrated(self) -> bool:
        """Whether the GPU shares the host's memory, as Jetson's does."""

    def memory(self) -> tuple[int, int]:
        """Free and total device memory."""

    def allocate(self, size: int) -> int: ...

    def allocate_host(self, size: int) -> tuple[int, int]:
        """Page-locked memory that is mapped for the device: its address on the host and on the device."""

    def upload(self, address: int, array: npt.NDArray[Any], stream: int) -> None:
        """Queue a copy of a contiguous `array`, which must live until it has run."""

    def download(self, array: npt.NDArray[Any], address: int, stream: int) -> None:
        """Queue a copy that fills a contiguous `array`."""

    def make_stream(self) -> int:
        """A stream that does not wait for the default stream."""

    def synchronize(self, stream: int) -> None:
        """Wait for everything queued on `stream`."""

    def make_event(self) -> int: ...

    def record(self, event: int, stream: int) -> None: ...

    def wait(self, stream: int, event: int) -> None:
        """Hold back what is queued on `stream` from now on until `event`, as last recorded, has happened."""

    def wait_host(self, event: int) -> None:
        """Wait for `event`, as last recorded, on the host."""

    def follow(self, stream: int, foreign: int) -> None:
        """Hold back `stream` until what is on `foreign`, another library's stream, has run."""

    def load(self, image: bytes) -> Any:
        """A module of compiled kernels."""

    def launch(self, module: Any, kernel: str, grid: Dim, block: Dim, args: tuple[Any, ...], stream: int) -> None:
        """Queue `kernel`; `args` are ctypes values, as the source declares them, and may go after the call."""

    def give_back(self, kind: Kind, thing: Any) -> None:
        """Give back what was made: memory by its address, else its handle."""


Dim = tuple[int, int, int]
Kind = Literal["device", "host", "streams", "events", "modules", "graphs"]  # of what is made; the first two are memory


def load_cuda() -> Callable[[], Provider]:
    """How to open the chosen provider; its bindings are imported, no device is touched.

    Raises `MissingExtra`, and `InputError` for a choice that is not known or a driver that is too old for the bindings.
    """
    chosen = os.environ.get(CHOICE)
    if chosen is not None and chosen not in PROVIDERS:
        raise InputError(f"{CHOICE}={chosen}: known are {' and '.join(PROVIDERS)}")
    reasons = []
    for name in [chosen] if chosen else PROVIDERS:
        try:
            opener: Callable[[], Provider] = importlib.import_module(PROVIDERS[name]).load()
        except MissingExtra as exc:
            reasons.append(str(exc))
        else:
            return opener
    raise MissingExtra("; or ".join(reasons))


def failed(call: str, code: str) -> CudaError:
    """The error of a call that failed with CUDA's error `code`, such as "CUDA_ERROR_OUT_OF_MEMORY"."""
    return CudaError(f"{call} failed: {code}" + (f". {RESTART}" if code in LOST else ""), code)


def error_name(words: str) -> str:
    """The name of the error that the driver describes as `words`; "CUDA_ERROR_UNKNOWN" if it does not know them."""
    driver = driver_library()
    codes = (code for code in range(1, UNKNOWN) if _error_text(driver.cuGetErrorString, code) == words)
    return _error_text(driver.cuGetErrorName, next(codes, UNKNOWN))


def _error_text(call: Any, code: int) -> str:
    """What the driver's cuGetErrorName or cuGetErrorString says of an error's number; "" if it does not know it."""
    text = ctypes.c_char_p()
    call(code, ctypes.byref(text))
    return (text.value or b"").decode()


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver knows, such as (12, 6); None without a driver."""
    version = ctypes.c_int()
    try:
        driver_library().cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return version.value // 1000, version.value % 1000 // 10


def too_new(who: str, major: int) -> str:
    """Why `who`, of CUDA `major`, does not work with the driver here; "" if it does, or there is no driver."""
    known = driver_cuda()
    if known is None or known[0] >= major:
        return ""
    release = f" ({OLDEST_DRIVER[major]} or newer)" if major in OLDEST_DRIVER else ""
    return f"{who} needs an NVIDIA driver for CUDA {major}{release}, the one here is for CUDA {known[0]}.{known[1]}"


def gpu_problem() -> str:
    """Why there is no usable NVIDIA GPU here, "" if there is one. Asks the driver, so it needs nothing installed."""
    try:
        driver = driver_library()
        count = ctypes.c_int()
        status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    except (OSError, AttributeError) as exc:
        return f"no NVIDIA driver ({exc})"
    if status:
        said = [_error_text(call, status) for call in (driver.cuGetErrorName, driver.cuGetErrorString)]
        return f"the NVIDIA driver reports no usable device: {', '.join(filter(None, said)) or f'CUDA error {status}'}"
    return "" if count.value else "the NVIDIA driver reports no device"


def gpu_capability() -> str | None:
    """The first GPU's compute capability, such as "sm_87"; None without a GPU. Asks the driver too."""
    if gpu_problem():
        return None
    parts = []
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        value = ctypes.c_int()
        if driver_library().cuDeviceGetAttribute(ctypes.byref(value), attribute, 0):
            return None
        parts.append(str(value.value))
    return f"sm_{''.join(parts)}"


def gpu_name() -> str | None:
    """The first GPU's name, such as "NVIDIA H100 80GB HBM3"; None without a GPU."""
    return _said("cuDeviceGetName")


def gpu_bus_id() -> str | None:
    """The first GPU's place on the PCI bus, by which NVML knows it too: "0000:65:00.0"; None without a GPU."""
    return _said("cuDeviceGetPCIBusId")


def _said(call: str) -> str | None:
    if gpu_problem():
        return None
    text = ctypes.create_string_buffer(256)
    return None if getattr(driver_library(), call)(text, len(text), 0) else text.value.decode(errors="replace")


def driver_library() -> ctypes.CDLL:
    """NVIDIA's driver itself, for what no bindings are needed or have. Raises `OSError` without one."""
    return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")


class Cuda:
    """One GPU with its compute stream, `stream`. Closing it gives back everything made in its scopes.

    Every use is inside `use()`, which also keeps other threads out.
    """

    def __init__(self) -> None:
        self.provider = load_cuda()()
        self.held: Counter[str] = Counter()  # bytes of "device" and "host" memory; numbers of the rest
        self.lost = False
        self._lock = threading.RLock()
        self._scopes: list[Scope] = []
        self._scratch: Scope | None = None
        self._scratch_address = 0
        self._closed = False
        try:
            with self.use():
                self.capability = self.provider.capability()
                self.integrated = self.provider.integrated()
                choice = memory_choice(self.capability)
                # whether the GPU uses the host's memory where it is
                self.mapped = self.integrated and not (choice.is_file() and choice.read_bytes() == b"copied")
                self.stream = self.scope().stream()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def use(self) -> Iterator[None]:
        """Work on this device: its context is current and no other thread works with this object.

        Raises `InputError` after `close`.
        """
        with self._lock:
            if self._closed:
                raise InputError("the session on the GPU is closed: open another")
            try:
                with self.provider.current():
                    yield
            except CudaError as exc:
                self.lost |= exc.code in LOST
                raise

    def finish(self, act: Callable[[], None]) -> None:
        """Run `act`, which gives things back, in `use()`; also where a lost device's context cannot be made current.

        After `close` there is nothing to give back to, and `act` runs as it is.
        """
        for _ in range(0 if self._closed else 2):  # the first may report what an earlier launch did wrong
            try:
                with self.use():
                    act()
                return
            except CudaError as exc:
                logger.debug(str(exc))
        act()

    def scope(self) -> Scope:
        """A new owner."""
        scope = Scope(self)
        self._scopes.append(scope)
        return scope

    def scratch(self, size: int) -> int:
        """Device memory of at least `size` that all work on `stream` shares: its contents last for one queued step.

        The address changes when it grows.
        """
        if self._scratch is None or self._scratch.held["device"] < size:
            if self._scratch is not None:
                self._scratch.close()
            self._scratch = self.scope()
            self._scratch_address = self._scratch.memory(size)
        return self._scratch_address

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self.finish(self._give_back)
            self._closed = True
            with suppress(CudaError):  # of a lost device
                self.provider.close()

    def _give_back(self) -> None:
        for scope in reversed(self._scopes[:]):
            scope.close()


class Scope:
    """An owner: what is made in it is given back, last first and once, by `close`. Used inside `Cuda.use()`."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.held: Counter[str] = Counter()
        self._made: list[tuple[Kind, int, Any]] = []

    def _own(self, kind: Kind, amount: int, thing: Any) -> None:
        self._made.append((kind, amount, thing))
        for counter in (self.held, self.cuda.held):
            counter[kind] += amount

    def memory(self, size: int) -> int:
        """The address of `size` bytes on the device."""
        try:
            address = self.cuda.provider.allocate(size)
        except CudaError as exc:
            raise self._explained(exc) from exc
        self._own("device", size, address)
        return address

    def put(self, array: npt.NDArray[Any]) -> int:
        """The address of a copy of a contiguous `array` on the device."""
        address = self.memory(array.nbytes)
        self.cuda.provider.upload(address, array, self.cuda.stream)
        self.cuda.provider.synchronize(self.cuda.stream)  # the array may go
        return address

    def host(self, size: int) -> tuple[npt.NDArray[np.uint8], int]:
        """Page-locked, mapped memory: as `size` bytes here, which end with the scope, and its address on the device."""
        try:
            host, device = self.cuda.provider.allocate_host(size)
        except CudaError as exc:
            raise self._explained(exc) from exc
        self._own("host", size, host)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(host)), device

    def _explained(self, exc: CudaError) -> CudaError:
        try:
            free, total = self.cuda.provider.memory()
        except CudaError:
            return exc
        mib = 1 << 20
        room = f"{free // mib} of {total // mib} MiB are free, this session holds {self.cuda.held['device'] // mib}"
        return CudaError(f"{exc}; {room}", exc.code)

    def stream(self) -> int:
        """A new non-blocking stream."""
        stream = self.cuda.provider.make_stream()
        self._own("streams", 1, stream)
        return stream

    def event(self) -> int:
        """A new event."""
        event = self.cuda.provider.make_event()
        self._own("events", 1, event)
        return event

    def module(self, image: bytes) -> Any:
        """Compiled kernels on the device."""
        module = self.cuda.provider.load(image)
        self._own("modules", 1, module)
        return module

    def graph(self, queue: Callable[[], None]) -> Any:
        """What `queue` queues on the compute stream, as a graph to launch; nothing runs now."""
        graphs = self.cuda.provider.graphs
        assert graphs is not None  # the caller asks
        graph = graphs.capture(queue, self.cuda.stream)
        self._own("graphs", 1, graph)
        return graph

    def close(self) -> None:
        """Give everything back, once what is queued on the compute stream has run; a second call does nothing.

        What fails is logged, and the rest is given back.
        """
        provider = self.cuda.provider
        if self._made:
            self._try(provider.synchronize, self.cuda.stream)
        while self._made:
            kind, amount, thing = self._made.pop()
            for counter in (self.held, self.cuda.held):
                counter[kind] -= amount
            self._try(provider.give_back, kind, thing)
        with suppress(ValueError):  # a second call
            self.cuda._scopes.remove(self)

    def _try(self, act: Callable[..., None], *args: Any) -> None:
        try:
            act(*args)
        except CudaError as exc:
            self.cuda.lost |= exc.code in LOST
            # a lost device takes nothing back: the end of the process frees all
            logger.log(logging.DEBUG if self.cuda.lost else logging.ERROR, str(exc))


class Buffer:
    """`size` bytes for both sides: one mapped block where memory is `mapped`, else page-locked with a device twin."""

    def __init__(self, scope: Scope, size: int) -> None:
        self._cuda = scope.cuda
        self.host, mapped = scope.host(size)
        self.address = mapped if self._cuda.mapped else scope.memory(size)

    def upload(self, stream: int, size: int) -> None:
        """Queue `size` bytes to the device; nothing to do where the memory is one."""
        if not self._cuda.mapped:
            self._cuda.provider.upload(self.address, self.host[:size], stream)

    def download(self, stream: int, size: int) -> None:
        """Queue `size` bytes to the host; they are there when the stream has run."""
        if not self._cuda.mapped:
            self._cuda.provider.download(self.host[:size], self.address, stream)
