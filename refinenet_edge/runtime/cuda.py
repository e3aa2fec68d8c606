"""The few CUDA runtime calls that a session needs: one stream, device memory, copies, graphs.

The bindings are `cuda.bindings.runtime` (cuda-bindings 12 and 13) or, in older releases, `cuda.cudart`: the same calls.
Every one returns a tuple whose first item is the status.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from refinenet_edge.errors import MissingExtra, RefineNetEdgeError


def load_cuda() -> Any:
    """The CUDA runtime bindings. Raises `MissingExtra`."""
    reasons = []
    for module in ("cuda.bindings.runtime", "cuda.cudart"):
        try:
            return importlib.import_module(module)
        except Exception as exc:  # a broken installation may raise anything
            reasons.append(f"{module}: {exc}")
    raise MissingExtra(
        f"the CUDA bindings do not import ({'; '.join(reasons)}): pip install 'refinenet-edge[device]'; their major "
        "version must be that of the device's CUDA (JetPack 6: add 'cuda-bindings<13')"
    )


def gpu_problem() -> str:
    """Why there is no usable NVIDIA GPU here, "" if there is one. Asks the driver, so it needs nothing installed."""
    try:
        driver = _driver()
        count = ctypes.c_int()
        status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    except (OSError, AttributeError) as exc:
        return f"no NVIDIA driver ({exc})"
    if status:
        return f"the NVIDIA driver reports no usable device (CUDA error {status})"
    return "" if count.value else "the NVIDIA driver reports no device"


def gpu_capability() -> str | None:
    """The first GPU's compute capability, such as "sm_87"; None without a GPU. Asks the driver too."""
    if gpu_problem():
        return None
    parts = []
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        value = ctypes.c_int()
        if _driver().cuDeviceGetAttribute(ctypes.byref(value), attribute, 0):
            return None
        parts.append(str(value.value))
    return f"sm_{''.join(parts)}"


def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")


class Cuda:
    """The current device with one non-blocking stream; failures raise `RefineNetEdgeError` naming the call."""

    def __init__(self) -> None:
        self._rt = load_cuda()
        self._device = self._call("cudaGetDevice")
        # not the default stream: that one waits for all others, and graphs cannot be captured on it
        self.stream = int(self._call("cudaStreamCreateWithFlags", self._rt.cudaStreamNonBlocking))

    def capability(self) -> str:
        """The device's compute capability, such as "sm_87"."""
        attribute = self._rt.cudaDeviceAttr
        major = self._call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMajor, self._device)
        minor = self._call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMinor, self._device)
        return f"sm_{major}{minor}"

    def allocate(self, size: int) -> int:
        """The address of `size` new bytes on the device; the caller frees them."""
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        """Give back what `allocate` returned."""
        self._call("cudaFree", address)

    def to_device(self, address: int, array: npt.NDArray[Any]) -> None:
        """Queue a copy of a contiguous `array` to `address`; `array` must live until `synchronize`."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self.stream)

    def to_host(self, array: npt.NDArray[Any], address: int) -> None:
        """Queue a copy from `address` that fills a contiguous `array`; it is there after `synchronize`."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self.stream)

    def synchronize(self) -> None:
        """Wait for what was queued."""
        self._call("cudaStreamSynchronize", self.stream)

    def capture(self, queue: Callable[[], None]) -> Any:
        """What `queue` queues on the stream, as a graph for `launch`; nothing runs now. The caller drops the graph."""
        # thread-local: another thread's session may allocate meanwhile
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self.stream, mode)
        try:
            queue()
        except BaseException:
            self._rt.cudaStreamEndCapture(self.stream)  # else the stream takes nothing else any more
            raise
        graph = self._call("cudaStreamEndCapture", self.stream)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Any) -> None:
        """Queue everything in `graph`."""
        self._call("cudaGraphLaunch", graph, self.stream)

    def drop(self, graph: Any) -> None:
        """Give back what `capture` returned."""
        self._call("cudaGraphExecDestroy", graph)

    def close(self) -> None:
        """Destroy the stream."""
        self._call("cudaStreamDestroy", self.stream)

    def _call(self, name: str, *args: Any) -> Any:
        status, *values = getattr(self._rt, name)(*args)
        if status != self._rt.cudaError_t.cudaSuccess:
            raise RefineNetEdgeError(f"{name} failed: {getattr(status, 'name', status)}")
        return values[0] if values else None


class DeviceArray:
    """Device memory with its twin on the host, remade when the shape changes."""

    def __init__(self, cuda: Cuda, dtype: str) -> None:
        self._cuda = cuda
        self._capacity = 0  # bytes at `address`
        self.address = 0
        self.host: npt.NDArray[Any] = np.empty(0, dtype)

    def reshape(self, shape: tuple[int, ...]) -> None:
        """Room for `shape`; the contents are lost, and `address` may change, if it differs."""
        if self.host.shape == shape:
            return
        host = np.empty(shape, self.host.dtype)
        if host.nbytes > self._capacity:
            self.free()
            self.address = self._cuda.allocate(host.nbytes)
            self._capacity = host.nbytes
        self.host = host

    def free(self) -> None:
        """Give back the device memory; a second call does nothing."""
        address, self.address, self._capacity = self.address, 0, 0
        self.host = np.empty(0, self.host.dtype)  # so that reshape() to the same shape allocates again
        if address:
            self._cuda.free(address)
