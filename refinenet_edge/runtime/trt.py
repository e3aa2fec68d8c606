"""Run a plan with TensorRT, its lean or dispatch runtime, or TensorRT-RTX: the same calls on each.

Only calls that exist in TensorRT 10.3, 11 and RTX 1.7 are used. The manifest is compared with the library and the GPU
before a byte of the plan is parsed.

It has not run on hardware yet: the tests hold its calls to the real TensorRT-RTX bindings and drive it with fakes.
`run` takes and gives host arrays; pipeline.py queues the engine between the kernels that prepare frames and make
labels. Not in yet, each its own later step: pinned and mapped memory, RTX's kernel cache, pycuda instead of
cuda-bindings, several optimisation profiles.

A version-compatible plan carries TensorRT's lean runtime as host code, and loading it runs that code: such a bundle
must come from those you trust, as a program must.
"""

from __future__ import annotations

import importlib
import logging
import re
from functools import cache
from typing import Any

import numpy as np

from refinenet_edge.bundle import PLAN, Bundle
from refinenet_edge.errors import BundleError, EngineMismatch, InputError, RefineNetEdgeError
from refinenet_edge.records import EngineInfo, TensorSpec
from refinenet_edge.runtime.cuda import Cuda, DeviceArray
from refinenet_edge.runtime.session import CheckedSession, Feeds, Outputs

# backend -> module
MODULES = {
    "tensorrt": "tensorrt",
    "tensorrt-lean": "tensorrt_lean",
    "tensorrt-dispatch": "tensorrt_dispatch",
    "tensorrt-rtx": "tensorrt_rtx",
}
DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}

logger = logging.getLogger(__name__)


class TrtSession(CheckedSession):
    """`bundle`'s plan on the current GPU, on a stream of its own.

    Outputs are host arrays that the next run() overwrites. Raises `EngineMismatch` for a plan made for another TensorRT
    or GPU, `RefineNetEdgeError` when the GPU refuses (out of memory).
    """

    def __init__(self, bundle: Bundle, backend: str = "tensorrt") -> None:
        trt = importlib.import_module(MODULES[backend])
        self.cuda = Cuda()
        self._arrays: dict[str, DeviceArray] = {}
        self._engine: Any = None
        self._context: Any = None
        self.shapes: dict[str, tuple[int, ...]] = {}  # of the inputs, as last set
        try:
            check_engine(bundle, backend, trt.__version__, self.cuda.capability())
            self._engine = _deserialize(trt, bundle)
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise RefineNetEdgeError(f"{backend} cannot make an execution context: {_log(trt).last_error}")
            names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
            inputs = [n for n in names if self._engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
            specs = {name: self._spec(name) for name in names}
            # with channels in multiples of eight, HWC8 is plain NHWC
            self.channel_last = {n for n in names if self._engine.get_tensor_format(n) == trt.TensorFormat.HWC8}
            self._arrays = {name: DeviceArray(self.cuda, spec.dtype) for name, spec in specs.items()}
        except BaseException:
            self._release()
            raise
        super().__init__(
            backend,
            tuple(specs[name] for name in names if name in inputs),
            tuple(specs[name] for name in names if name not in inputs),
        )

    def _spec(self, name: str) -> TensorSpec:
        dtype = self._engine.get_tensor_dtype(name).name
        if dtype not in DTYPES:
            raise BundleError(f"the plan's {name!r} is {dtype}, which numpy does not have: build it with float inputs")
        shape = tuple(self._engine.get_tensor_shape(name))
        return TensorSpec(name, DTYPES[dtype], tuple(f"dim{i}" if side < 0 else side for i, side in enumerate(shape)))

    def _run(self, feeds: Feeds) -> Outputs:
        shapes = self.set_shapes({name: feed.shape for name, feed in feeds.items()})
        for name, array in self._arrays.items():
            array.reshape(tuple(shapes[name][axis] for axis in self._axes(name)))
        for name, feed in feeds.items():
            laid_out = np.ascontiguousarray(feed.transpose(self._axes(name)))
            self.cuda.to_device(self._arrays[name].address, laid_out)
        self.queue({name: array.address for name, array in self._arrays.items()})
        outputs = {spec.name: self._arrays[spec.name] for spec in self.outputs}
        for array in outputs.values():
            self.cuda.to_host(array.host, array.address)
        self.cuda.synchronize()
        return {name: array.host.transpose(np.argsort(self._axes(name))) for name, array in outputs.items()}

    def _axes(self, name: str) -> tuple[int, ...]:
        """How NCHW lies in memory."""
        return (0, 2, 3, 1) if name in self.channel_last else (0, 1, 2, 3)

    def set_shapes(self, inputs: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Choose the shapes of the inputs; NCHW shape of every input and output. Raises `InputError`."""
        for name, shape in inputs.items():
            if not self._context.set_input_shape(name, shape):
                raise InputError(f"the engine does not take {name!r} of shape {shape}: it is outside its range")
        self.shapes = inputs
        return {spec.name: tuple(self._context.get_tensor_shape(spec.name)) for spec in (*self.inputs, *self.outputs)}

    def queue(self, addresses: dict[str, int]) -> None:
        """Queue the engine on its stream, for the shapes last set, from and to device memory in the engine's layout."""
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise RefineNetEdgeError(f"{self.name} refused the memory of {name!r}")
        if not self._context.execute_async_v3(self.cuda.stream):
            raise RefineNetEdgeError(f"{self.name} could not run the engine")

    def capturable(self) -> bool:
        """Whether `queue` may be captured in a CUDA graph; TensorRT-RTX can say no."""
        asked = getattr(self._context, "is_stream_capturable", None)
        return asked is None or bool(asked(self.cuda.stream))

    def _release(self) -> None:
        self._context = self._engine = None  # in this order: the context uses the engine
        for array in self._arrays.values():
            array.free()
        self.cuda.close()


def check_engine(bundle: Bundle, backend: str, version: str, capability: str) -> None:
    """Raise `EngineMismatch` unless the bundle's plan is for this backend, library `version` and GPU ("sm_87")."""
    info = bundle.manifest.engine
    if info is None:
        problem = "holds no engine"
    else:
        problem = _library_problem(info, backend, version) or _gpu_problem(info, capability)
    if problem:
        # the graph is in the bundle: its plan is built anew on the device, without torch
        builder = backend if backend in ("tensorrt", "tensorrt-rtx") else "tensorrt"
        raise EngineMismatch(
            f"bundle {bundle.path} {problem}; "
            f"build its plan here: refinenet-edge plan {bundle.path} --backend {builder}"
        )


def _library_problem(info: EngineInfo, backend: str, version: str) -> str:
    if (info.flavour == "tensorrt-rtx") != (backend == "tensorrt-rtx"):
        return f"holds a {info.flavour} engine, {backend} cannot run it"
    if backend in ("tensorrt-lean", "tensorrt-dispatch") and not info.version_compatible:
        return f"holds an engine for TensorRT {info.version} alone, {backend} runs only version-compatible ones"
    built, here = _numbers(info.version), _numbers(version)
    # RTX plans hold for their release only; a version-compatible plan also runs on a newer TensorRT, never on an older
    fits = here >= built if info.version_compatible and info.flavour == "tensorrt" else here == built
    return "" if fits else f"was built with {info.flavour} {info.version}, this machine has {version}"


def _gpu_problem(info: EngineInfo, capability: str) -> str:
    if capability in info.targets or "default" in info.targets or info.hardware_compatible:
        return ""  # the last two hold for several GPUs, the library decides
    return f"was built for {', '.join(info.targets)}, this GPU is {capability}"


def _numbers(version: str) -> tuple[int, ...]:
    """Major, minor and patch; the build number after them does not change the plan format."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _deserialize(trt: Any, bundle: Bundle) -> Any:
    log = _log(trt)
    runtime = trt.Runtime(log)
    assert bundle.manifest.engine is not None  # check_engine
    if bundle.manifest.engine.version_compatible:
        runtime.engine_host_code_allowed = True  # the plan's own lean runtime: see the module
    engine = runtime.deserialize_cuda_engine(bundle.path_of(PLAN).read_bytes())
    if engine is None:
        raise EngineMismatch(
            f"{trt.__name__} {trt.__version__} cannot load {bundle.path_of(PLAN)}: {log.last_error}{bundle.advice}"
        )
    return engine


@cache
def _log(trt: Any) -> Any:
    """TensorRT's messages into `logging`. One object per library: each process may have only one, the first."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # super() does not reach the C++ constructor
            self.last_error = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if severity.name in ("ERROR", "INTERNAL_ERROR"):
                self.last_error = message
                logger.error("%s", message)
            else:
                logger.log(logging.WARNING if severity.name == "WARNING" else logging.DEBUG, "%s", message)

    return Log()
