"""TensorRT on the GPU of gpu.py, with exactly what one release has (tests/bindings/): a call that it lacks is an error.

A plan is JSON: dtype, channel_last, classes, size (None: free), profiles ((min, opt, max) heights and widths) and what
`fails`, and whether it is refittable: then "weight", a scale, can be changed. The network mixes the channels of every
fourth pixel.
"""

from __future__ import annotations

import ast
import enum
import json
import types
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.runtime.gpu import DEFAULT_STREAM, Failure, Gpu

BINDINGS = Path(__file__).parents[1] / "bindings"
RELEASES = {
    "10.3": "10.3.0.30",
    "10.13": "10.13.3.9",
    "10.16": "10.16.1.11",
    "11.4": "11.4.0.106",
    "rtx": "1.7.1.116",
}
MODES = {**RELEASES, "lean": "10.16.1.11"}  # with the lean runtime, which can less
BACKENDS = {"rtx": "tensorrt-rtx", "lean": "tensorrt-lean"}  # of the others it is tensorrt
SCRATCH = 4096  # bytes of activations for each row of the input


def stub(release: str) -> Path:
    return (
        BINDINGS / "common" / "tensorrt_rtx_stubs.pyi"
        if release == "rtx"
        else BINDINGS / release / "tensorrt_stubs.pyi"
    )


@cache
def surface(release: str) -> dict[str, dict[str, list[list[str]]]]:
    """Class -> member -> the parameters' names of each overload, [] of what is no method."""
    (module,) = (node for node in ast.parse(stub(release).read_text("utf-8")).body if isinstance(node, ast.ClassDef))
    found: dict[str, dict[str, list[list[str]]]] = {}
    for kind in module.body:
        if isinstance(kind, ast.ClassDef):
            members = found.setdefault(kind.name, {})
            for part in kind.body:
                if isinstance(part, ast.FunctionDef):
                    members.setdefault(part.name, []).append([argument.arg for argument in part.args.args[1:]])
                elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                    members.setdefault(part.target.id, [])
                elif isinstance(part, ast.ClassDef):
                    members.setdefault(part.name, [])
    return found


def plan(**fields: Any) -> bytes:
    standard = {"dtype": "float16", "channel_last": True, "classes": 5, "size": None, "fails": "", "refittable": False}
    standard["profiles"] = [[[8, 8], [32, 32], [64, 64]]]
    return json.dumps(standard | fields).encode()


def weight(channels: int, padded: int, classes: int) -> np.ndarray:
    values = np.random.default_rng(5).standard_normal((padded, channels)).astype(np.float32)
    values[classes:] = 1000  # must not be looked at
    return values


def network(image: np.ndarray, padded: int, classes: int) -> np.ndarray:
    """1xCxHxW -> 1x`padded`xH/4xW/4, in the image's dtype."""
    kernel = weight(image.shape[1], padded, classes)
    mixed = np.einsum("oc,bchw->bohw", kernel, image[:, :, ::4, ::4].astype(np.float32))
    return mixed.astype(image.dtype)


class Limited:
    """An object with the members that the release's class of its name has, and no other."""

    _members: dict[str, Any] = {}  # noqa: RUF012
    _release = ""
    _gpu: Gpu
    _trt: Any  # the module

    def __getattribute__(self, name: str) -> Any:
        kind = type(self)
        if name[0] != "_" and name not in kind._members:
            raise AttributeError(f"TensorRT {kind._release} has no {kind.__name__}.{name}")
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name[0] != "_" and name not in type(self)._members:
            raise AttributeError(f"TensorRT {type(self)._release} has no {type(self).__name__}.{name}")
        object.__setattr__(self, name, value)

    def _refused(self, name: str) -> bool:
        """Whether this call fails."""
        try:
            self._gpu.call(name)
        except Failure:
            return True
        return False


class Interface:
    """What Python code derives from: the C++ constructor must have run."""

    def __init__(self) -> None:
        self.made = True


class IRuntimeCache(Limited):
    _data = b""

    def serialize(self) -> bytes:
        return json.dumps(self._trt.compiled).encode()

    def deserialize(self, blob: bytes) -> bool:
        try:
            found = json.loads(blob)
        except ValueError:
            return False
        self._trt.loaded = found
        return True


class IRuntimeConfig(Limited):
    cuda_graph_strategy: Any = None

    def create_runtime_cache(self) -> IRuntimeCache:
        return self._trt.IRuntimeCache()

    def set_runtime_cache(self, cache: Any = None) -> bool:
        assert isinstance(cache, self._trt.IRuntimeCache)
        return True


class IExecutionContext(Limited):
    profiler: Any = None

    def __init__(self, engine: Any, user_managed: bool, strategy: Any) -> None:
        self._engine, self._user_managed, self._strategy = engine, user_managed, strategy
        self._profile, self._shape, self._ran = 0, None, None
        self._memory = (0, 0)
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle in self._gpu.streams
        self._profile, self._shape = profile_index, None
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "image"
        fits = self._engine._takes(shape, self._profile)
        if self._refused("set_input_shape") or not fits:
            self._engine._say("the shape is not in the profile")
            return False
        if self._shape != shape:
            self._shape, self._ran = shape, None
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self._shape is not None
        batch, _, height, width = self._shape
        if name == "image":
            return self._shape
        return (batch, self._engine._padded, -(-height // 4), -(-width // 4))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if self._refused("set_tensor_address"):
            self._engine._say("the address is refused")
            return False
        self._addresses[name] = memory
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        assert self._shape is not None
        return SCRATCH * self._shape[2]

    def set_device_memory(self, memory: int, size: int) -> None:
        assert self._user_managed
        self._gpu.check(memory, size)
        self._memory = (memory, size)

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle in self._gpu.streams
        assert stream_handle != DEFAULT_STREAM
        assert self._shape is not None
        capturing = stream_handle in self._gpu.capturing
        if capturing and (self._ran != self._shape or self._strategy is not None):
            self._engine._say("not capturable before it has run with this shape")
            return False
        if self._refused("execute_async_v3") or self._engine._plan["fails"] == "run":
            self._engine._say("the enqueue failed")
            return False
        if self._user_managed:
            assert self._memory[1] >= SCRATCH * self._shape[2], "too little memory for activations"
        for name in ("image", "logits"):
            self._gpu.check(self._addresses[name], self._engine._bytes(self.get_tensor_shape(name)))
        memory, addresses, shape = self._memory, dict(self._addresses), self._shape
        self._gpu.queue(stream_handle, lambda: self._run(memory, addresses, shape))
        self._ran = self._shape
        return True

    def _run(self, memory: tuple[int, int], addresses: dict[str, int], shape: tuple[int, ...]) -> None:
        if self._user_managed:
            self._gpu.view(memory[0], (memory[1],))[:] = 0x77
        image = self._engine._read(addresses["image"], shape)
        logits = network(image, self._engine._padded, self._engine._plan["classes"]) * self._engine._scale
        self._engine._write(addresses["logits"], logits)
        if self.profiler is not None:
            assert self.profiler.made
            for layer, ms in (("mix", 0.5), ("reformat", 0.25)):
                self.profiler.report_layer_time(layer, ms)


class EngineInspector(Limited):
    def get_engine_information(self, format: Any) -> str:
        assert format is self._trt.LayerInformationFormat.JSON
        return json.dumps({"Layers": ["mix", "reformat"]})


class ICudaEngine(Limited):
    num_io_tensors = 2

    def __init__(self, plan: dict[str, Any], recorder: Any) -> None:
        self._plan, self._recorder = plan, recorder
        self._scale = np.dtype("float16" if plan["dtype"] == "fp8" else plan["dtype"]).type(1)
        self._channels = 8 if plan["channel_last"] else 3
        self._padded = 8 if plan["channel_last"] else plan["classes"]

    @property
    def refittable(self) -> bool:
        return bool(self._plan["refittable"])

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._plan["profiles"])

    def get_tensor_name(self, index: int) -> str:
        return ("logits", "image")[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self._trt.TensorIOMode.INPUT if name == "image" else self._trt.TensorIOMode.OUTPUT

    def get_tensor_format(self, name: str) -> Any:
        return self._trt.TensorFormat.HWC8 if self._plan["channel_last"] else self._trt.TensorFormat.LINEAR

    def get_tensor_format_desc(self, name: str) -> str:
        if self._plan["channel_last"]:
            return "Channel major FP16 format where C % 8 == 0"
        return "Row major linear FP16 format"

    def get_tensor_dtype(self, name: str) -> Any:
        names = {"float16": "HALF", "float32": "FLOAT", "fp8": "FP8"}
        return self._trt.DataType[names[self._plan["dtype"]]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        height, width = self._plan["size"] or (-1, -1)
        channels = self._channels if name == "image" else self._padded
        return (1, channels, height, width) if name == "image" or height < 0 else (1, channels, height // 4, width // 4)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert name == "image"
        return [(1, self._channels, *size) for size in self._plan["profiles"][profile_index]]

    def create_execution_context(self, *given: Any, **named: Any) -> Any:
        (value,) = (*given, *named.values()) or (None,)
        strategies = self._trt.ExecutionContextAllocationStrategy
        assert value is None or isinstance(value, strategies) or type(value).__name__ == "IRuntimeConfig"
        if self._refused("create_execution_context"):
            self._say("no memory for the context")
            return None
        strategy = getattr(value, "cuda_graph_strategy", None) if not isinstance(value, strategies) else None
        return self._trt.IExecutionContext(self, value is strategies.USER_MANAGED, strategy)

    def create_runtime_config(self) -> Any:
        return self._trt.IRuntimeConfig()

    def create_engine_inspector(self) -> Any:
        return self._trt.EngineInspector()

    def _say(self, text: str) -> None:
        self._recorder.report_error(None, text)

    def _takes(self, shape: tuple[int, ...], profile: int) -> bool:
        low, _, high = self._plan["profiles"][profile]
        if self._plan["size"]:
            return shape == (1, self._channels, *self._plan["size"])
        return all(a <= side <= b for a, side, b in zip(low, shape[2:], high, strict=True))

    def _bytes(self, shape: tuple[int, ...]) -> int:
        return int(np.prod(shape)) * np.dtype(self._plan["dtype"]).itemsize

    def _read(self, address: int, shape: tuple[int, ...]) -> np.ndarray:
        batch, channels, height, width = shape
        if self._plan["channel_last"]:
            laid_out = self._gpu.view(address, (batch, height, width, channels), self._plan["dtype"])
            return laid_out.transpose(0, 3, 1, 2)
        return self._gpu.view(address, shape, self._plan["dtype"])

    def _write(self, address: int, logits: np.ndarray) -> None:
        laid_out = logits.transpose(0, 2, 3, 1) if self._plan["channel_last"] else logits
        self._gpu.view(address, laid_out.shape, laid_out.dtype)[:] = laid_out


class Weights(Limited):
    def __init__(self, a: np.ndarray) -> None:
        assert a.flags.c_contiguous
        self._array = a


class Refitter(Limited):
    def __init__(self, engine: Any, logger: Any) -> None:
        assert engine.refittable
        assert logger.made
        self._engine, self._weights = engine, {}

    def set_named_weights(self, name: str, weights: Any) -> bool:
        if name not in ("weight", "bias") or weights._array.dtype != np.float32:
            self._engine._say(f"no such weights: {name}")
            return False
        self._weights[name] = weights._array
        return True

    def get_missing_weights(self) -> list[str]:
        return ["weight"] if set(self._weights) == {"bias"} else []

    def refit_cuda_engine(self) -> bool:
        assert not any(self._gpu.streams.values()), "work is queued on the engine"
        if self._refused("refit_cuda_engine"):
            self._engine._say("no memory for the weights")
            return False
        self._engine._scale = self._weights["weight"].astype(self._engine._scale.dtype)
        return True


class Runtime(Limited):
    error_recorder: Any = None
    engine_host_code_allowed = False

    def __init__(self, logger: Any) -> None:
        assert logger.made
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        assert self.error_recorder.made
        self._trt.host_code = self.engine_host_code_allowed
        found = json.loads(serialized_engine)
        if found["fails"] == "deserialize" or self._refused("deserialize_cuda_engine"):
            self._logger.log(types.SimpleNamespace(name="ERROR"), "the magic tag does not match")
            self.error_recorder.report_error(None, "the magic tag does not match")
            return None
        return self._trt.ICudaEngine(found, self.error_recorder)


KINDS = (
    IRuntimeCache,
    IRuntimeConfig,
    IExecutionContext,
    EngineInspector,
    ICudaEngine,
    Weights,
    Refitter,
    Runtime,
)
ENUMERATIONS = (
    "DataType",
    "TensorIOMode",
    "TensorFormat",
    "LayerInformationFormat",
    "CudaGraphStrategy",
    "ExecutionContextAllocationStrategy",
)


def tensorrt(gpu: Gpu, release: str) -> Any:
    """The module, as far as the runtime calls it."""
    module: Any = types.ModuleType(BACKENDS.get(release, "tensorrt").replace("-", "_"))
    module.__version__ = MODES[release]
    module.compiled, module.loaded = ["kernel"], None  # by TensorRT-RTX on the device; from its cache
    has = surface(release)
    for name in ENUMERATIONS:
        if name in has:
            members = [member for member in has[name] if member != "name" and member[0] != "_"]
            setattr(module, name, enum.Enum(name, [*members, *(["FP8"] if name == "DataType" else [])]))
    for name in ("ILogger", "IErrorRecorder", "IProfiler"):
        setattr(module, name, type(name, (Interface,), {}))
    for kind in KINDS:
        if kind.__name__ in has:
            own = {key: value for key, value in vars(kind).items() if key not in ("__dict__", "__weakref__")}
            own |= {"_members": has[kind.__name__], "_release": release, "_gpu": gpu, "_trt": module}
            setattr(module, kind.__name__, type(kind.__name__, (Limited,), own))
    return module
