"""Run a plan with TensorRT, its lean or dispatch runtime, or TensorRT-RTX: the same calls on each.

Only calls that TensorRT 10.3, 10.13, 10.16, 11.4 and RTX 1.7 all have are made here; what RTX alone has is in rtx.py.
`make check` types this file against the bindings of each (tests/bindings). The manifest is compared with the library
and the GPU before a byte of the plan is parsed.

It has not run on hardware yet: the tests drive it with a fake of the GPU that has only what each release has. `run`
takes and gives host arrays; pipeline.py queues the engine between the kernels that prepare frames and make labels.

A version-compatible plan carries TensorRT's lean runtime as host code, and loading it runs that code: it is loaded only
where `allow_host_code` says that the bundle is trusted, as a program must be.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from refinenet_edge.bundle import PLAN, Bundle
from refinenet_edge.errors import BundleError, EngineMismatch, InputError, RefineNetEdgeError
from refinenet_edge.records import EngineInfo, TensorSpec
from refinenet_edge.runtime.cuda import Buffer, Cuda
from refinenet_edge.runtime.session import PROFILED_RUNS, CheckedSession, Feeds, LayerTime, Outputs
from refinenet_edge.runtime.tensorrt import rtx

if TYPE_CHECKING:
    from tensorrt_stubs import TensorRt  # the bindings' types: tests/bindings

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
ERRORS = 16  # kept for a session's messages
SMALLEST_SCRATCH = 256  # bytes: an engine may need none, and there is no address of none

logger = logging.getLogger(__name__)

Shapes = dict[str, tuple[int, ...]]


class TrtSession(CheckedSession):
    """`bundle`'s plan on the current GPU.

    It has a stream of its own and memory for activations, or those of the session `beside` it: then both take turns.
    Raises `EngineMismatch` for a plan made for another TensorRT or GPU, `InputError` for a plan with host code that
    `allow_host_code` does not allow, `CudaError` when the GPU refuses (out of memory).
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: str = "tensorrt",
        *,
        allow_host_code: bool = False,
        beside: TrtSession | None = None,
    ) -> None:
        self._trt = trt = cast("type[TensorRt]", importlib.import_module(MODULES[backend]))
        self.cuda: Cuda = beside.cuda.share() if beside else Cuda()
        self._scope = self.cuda.scope()
        self._engine: TensorRt.ICudaEngine | None = None
        self._context: TensorRt.IExecutionContext | None = None
        self._cache: rtx.RuntimeCache | None = None
        self._errors = _recorder(trt)
        self._profile = 0
        self._scratch = (0, 0)  # address and size
        self._buffers: dict[str, Buffer] = {}
        self._room: dict[str, int] = {}  # bytes of each
        self.shapes: Shapes = {}  # of the inputs, as last set
        try:
            with self.cuda.use():
                check_engine(bundle, backend, trt.__version__, self.cuda.capability)
                self._engine = _deserialize(trt, bundle, allow_host_code, self._errors)
                self._context = self._make_context(bundle, backend)
                names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
                inputs = [n for n in names if self._engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
                specs = {name: self._spec(name) for name in names}
                self.channel_last = {name for name in names if self._is_channel_last(name)}
        except BaseException:
            self._release()
            raise
        super().__init__(
            backend,
            tuple(specs[name] for name in names if name in inputs),
            tuple(specs[name] for name in names if name not in inputs),
        )

    def _make_context(self, bundle: Bundle, backend: str) -> TensorRt.IExecutionContext:
        assert self._engine is not None
        context: TensorRt.IExecutionContext | None
        if backend == "tensorrt-rtx":
            digest = bundle.manifest.files[PLAN].sha256
            context, self._cache = rtx.make_context(self._trt, self._engine, digest, self.cuda.capability)
        else:
            # activations go into the device's scratch memory, which all contexts on the stream share
            strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self._engine.create_execution_context(strategy)
        if context is None:
            raise RefineNetEdgeError(f"{backend} cannot make an execution context: {self._errors.said()}")
        return context

    def _spec(self, name: str) -> TensorSpec:
        assert self._engine is not None
        dtype = self._engine.get_tensor_dtype(name).name
        if dtype not in DTYPES:
            raise BundleError(f"the plan's {name!r} is {dtype}, which numpy does not have: build it with float inputs")
        shape = tuple(self._engine.get_tensor_shape(name))
        return TensorSpec(name, DTYPES[dtype], tuple(f"dim{i}" if side < 0 else side for i, side in enumerate(shape)))

    def _is_channel_last(self, name: str) -> bool:
        """Whether a tensor is HWC8: with channels in multiples of eight that is plain NHWC."""
        assert self._engine is not None
        formats, format_of = getattr(self._trt, "TensorFormat", None), getattr(self._engine, "get_tensor_format", None)
        if formats is None or format_of is None:  # the lean and dispatch runtimes have words for it
            words = self._engine.get_tensor_format_desc(name)
            return words.startswith("Channel major") and "C % 8 == 0" in words
        return bool(format_of(name) == formats.HWC8)

    def _run(self, feeds: Feeds) -> Outputs:
        with self.cuda.use():
            shapes = self.set_shapes({name: feed.shape for name, feed in feeds.items()})
            self._feed(feeds, shapes)
            self.ready()
            self.queue(self._addresses())
            return self._fetch(shapes)

    def _feed(self, feeds: Feeds, shapes: Shapes) -> None:
        """Queue the feeds to the device, as the engine wants them laid out."""
        sizes = {spec.name: _size(spec, shapes[spec.name]) for spec in (*self.inputs, *self.outputs)}
        if any(size > self._room.get(name, 0) for name, size in sizes.items()):
            self._scope.close()
            self._buffers, self._room = {}, {}
            self._scope = self.cuda.scope()
            self._buffers = {name: Buffer(self._scope, size) for name, size in sizes.items()}
            self._room = sizes
        for name, feed in feeds.items():
            buffer = self._buffers[name]
            laid_out = feed.transpose(self._axes(name))
            np.copyto(buffer.host[: feed.nbytes].view(feed.dtype).reshape(laid_out.shape), laid_out)
            buffer.upload(self.cuda.stream, feed.nbytes)

    def _fetch(self, shapes: Shapes) -> Outputs:
        """Wait for the outputs; new arrays."""
        for spec in self.outputs:
            self._buffers[spec.name].download(self.cuda.stream, _size(spec, shapes[spec.name]))
        self.cuda.provider.synchronize(self.cuda.stream)
        outputs = {}
        for spec in self.outputs:
            axes = self._axes(spec.name)
            laid_out = tuple(shapes[spec.name][axis] for axis in axes)
            data = self._buffers[spec.name].host[: _size(spec, laid_out)].copy()
            outputs[spec.name] = data.view(spec.dtype).reshape(laid_out).transpose(np.argsort(axes))
        return outputs

    def _addresses(self) -> dict[str, int]:
        return {name: buffer.address for name, buffer in self._buffers.items()}

    def _axes(self, name: str) -> tuple[int, ...]:
        """How NCHW lies in memory."""
        return (0, 2, 3, 1) if name in self.channel_last else (0, 1, 2, 3)

    def set_shapes(self, inputs: Shapes) -> Shapes:
        """Choose the shapes of the inputs; NCHW shape of every input and output.

        Raises `InputError` with the range when no profile of the engine takes them.
        """
        context = self._context
        assert context is not None  # it is open
        profile = self._profile_for(inputs)
        if profile != self._profile:
            context.set_optimization_profile_async(profile, self.cuda.stream)
            self._profile = profile
        for name, shape in inputs.items():
            if not context.set_input_shape(name, shape):
                raise InputError(f"the engine does not take {name!r} of {_by(shape)}: {self._errors.said()}")
        self.shapes = inputs
        return {spec.name: tuple(context.get_tensor_shape(spec.name)) for spec in (*self.inputs, *self.outputs)}

    def _profile_for(self, inputs: Shapes) -> int:
        assert self._engine is not None
        free = [spec for spec in self.inputs if any(isinstance(side, str) for side in spec.shape)]
        ranges = []
        for profile in range(self._engine.num_optimization_profiles if free else 1):
            fits = True
            for spec in free:
                low, _, high = map(tuple, self._engine.get_tensor_profile_shape(spec.name, profile))
                sides = zip(low, inputs[spec.name], high, strict=True)
                fits &= all(least <= side <= most for least, side, most in sides)
                ranges.append(f"{spec.name!r} of {_by(low)} to {_by(high)}")
            if fits:
                return profile
        asked = ", ".join(f"{name!r} of {_by(shape)}" for name, shape in inputs.items())
        raise InputError(f"{asked} is outside the engine's range: it takes {' or '.join(ranges)}")

    def ready(self) -> int:
        """Make sure of the memory that activations need with the shapes last set; its address, 0 if not ours.

        Called before every `queue`, outside of any capture.
        """
        if self._cache is not None:
            return 0  # TensorRT-RTX's graphs want it to be the context's own
        context = self._context
        assert context is not None  # it is open
        needed = max(context.update_device_memory_size_for_shapes(), SMALLEST_SCRATCH)
        address = self.cuda.scratch(needed)
        if (address, needed) != self._scratch:
            context.set_device_memory(address, needed)
            self._scratch = (address, needed)
        return address

    def queue(self, addresses: Mapping[str, int]) -> None:
        """Queue the engine on its stream, for the shapes last set, from and to device memory in the engine's layout."""
        context = self._context
        assert context is not None  # it is open
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise RefineNetEdgeError(f"{self.name} refused the memory of {name!r}: {self._errors.said()}")
        if not context.execute_async_v3(self.cuda.stream):
            raise RefineNetEdgeError(f"{self.name} could not run the engine: {self._errors.said()}")

    def capturable(self) -> bool:
        """Whether `queue` may be captured in a CUDA graph; TensorRT-RTX captures by itself."""
        return self.cuda.provider.graphs is not None and self._cache is None

    def layers(self) -> dict[str, Any]:
        """What TensorRT's engine inspector says, as it says it: the layers, their types, formats and tactics."""
        self.check_open()
        assert self._engine is not None
        make_inspector = getattr(self._engine, "create_engine_inspector", None)
        if make_inspector is None:
            raise InputError(f"{self.name} has no engine inspector: TensorRT itself has")
        inspector = make_inspector()
        found: dict[str, Any] = json.loads(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))
        return found

    def _profiled_runs(self, feeds: Feeds) -> list[list[LayerTime]]:
        assert self._engine is not None
        runs = []
        with self.cuda.use():
            context = self._engine.create_execution_context()
            if context is None:
                raise RefineNetEdgeError(f"{self.name} cannot make an execution context: {self._errors.said()}")
            ours, self._context, self._profile = (self._context, self._profile), context, 0
            try:
                profiler = context.profiler = _profiler(self._trt)
                shapes = self.set_shapes({name: feed.shape for name, feed in feeds.items()})
                for _ in range(1 + PROFILED_RUNS):
                    profiler.times.clear()
                    self._feed(feeds, shapes)
                    self.queue(self._addresses())
                    self._fetch(shapes)
                    runs.append([LayerTime(name, "", ms) for name, ms in profiler.times])
            finally:
                self._context, self._profile = ours
                self.shapes = {}
        return runs[1:]

    def refit(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put `weights` in the place of those of their names, which are the initialisers' of model.onnx.

        Raises `InputError` when the plan was not built for it, lacks a name or has it in another size or type, or when
        other weights have to come with these: the engine is then as it was.
        """
        self.check_open()
        assert self._engine is not None
        if not self._engine.refittable:
            raise InputError("this plan's weights are fixed: build it again with EngineOptions(refittable=True)")
        with self.cuda.use():
            self.cuda.provider.synchronize(self.cuda.stream)  # nothing may run on the engine
            refitter = self._trt.Refitter(self._engine, _log(self._trt))
            kept = {name: np.ascontiguousarray(array) for name, array in weights.items()}  # TensorRT copies nothing
            for name, array in kept.items():
                if not refitter.set_named_weights(name, self._trt.Weights(array)):
                    raise InputError(f"the weights {name!r}, {array.dtype} {array.shape}: {self._errors.said()}")
            missing = refitter.get_missing_weights()
            if missing:
                raise InputError(f"with these weights belong {', '.join(missing)}: give them too")
            if not refitter.refit_cuda_engine():
                raise RefineNetEdgeError(f"{self.name} could not refit the engine: {self._errors.said()}")
            self.shapes = {}  # what was captured with the old weights is captured again

    def _release(self) -> None:
        self.cuda.finish(self._give_back)
        self.cuda.close()

    def _give_back(self) -> None:
        if self._cache is not None and not self.cuda.lost:
            self._cache.save()
        self._context = self._engine = self._cache = None  # in this order: the context uses the engine
        self._scope.close()


def _size(spec: TensorSpec, shape: tuple[int, ...]) -> int:
    return int(np.prod(shape)) * np.dtype(spec.dtype).itemsize


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


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


def _deserialize(trt: type[TensorRt], bundle: Bundle, allow_host_code: bool, errors: Any) -> TensorRt.ICudaEngine:
    runtime = trt.Runtime(_log(trt))
    runtime.error_recorder = errors  # the engine's and the context's too
    assert bundle.manifest.engine is not None  # check_engine
    if bundle.manifest.engine.version_compatible:
        if not allow_host_code:
            raise InputError(
                f"the plan of {bundle.path} carries a TensorRT runtime that loading it runs as a program; for a bundle "
                "that you trust: --allow-host-code, or allow_host_code=True"
            )
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(bundle.path_of(PLAN).read_bytes())
    if engine is None:
        raise EngineMismatch(
            f"{trt.__name__} {trt.__version__} cannot load {bundle.path_of(PLAN)}: {errors.said()}{bundle.advice}"
        )
    return engine


_logs: dict[str, Any] = {}


def _log(trt: Any) -> Any:
    """TensorRT's messages into `logging`. One object per library: each process may have only one, the first."""
    if trt.__name__ in _logs:
        return _logs[trt.__name__]

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # super() does not reach the C++ constructor

        def log(self, severity: Any, msg: str) -> None:
            levels = {"ERROR": logging.ERROR, "INTERNAL_ERROR": logging.ERROR, "WARNING": logging.WARNING}
            logger.log(levels.get(severity.name, logging.DEBUG), "%s", msg)

    return _logs.setdefault(trt.__name__, Log())


def _recorder(trt: Any) -> Any:
    """The errors of one session, from whatever thread of TensorRT's; the log is the whole process's."""

    class Recorder(trt.IErrorRecorder):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)
            self.errors: list[tuple[Any, str]] = []

        def report_error(self, arg0: Any, arg1: str) -> bool:
            self.errors = [*self.errors, (arg0, arg1)][-ERRORS:]
            return False

        def num_errors(self) -> int:
            return len(self.errors)

        def get_num_errors(self) -> int:  # what the library calls; the bindings' own name is the one above
            return len(self.errors)

        def get_error_code(self, arg0: int) -> Any:
            return self.errors[arg0][0]

        def get_error_desc(self, arg0: int) -> str:
            return self.errors[arg0][1]

        def has_overflowed(self) -> bool:
            return len(self.errors) == ERRORS

        def clear(self) -> None:
            self.errors = []

        def said(self) -> str:
            """The last errors, which are then forgotten."""
            errors, self.errors = self.errors, []
            return " / ".join(text for _, text in errors[-2:]) or "it gave no reason"

    return Recorder()


def _profiler(trt: Any) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times.append((layer_name, ms))

    return Profiler()
