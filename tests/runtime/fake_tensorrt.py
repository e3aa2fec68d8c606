"""TensorRT on the GPU of gpu.py, with exactly what all releases have (tests/bindings/): any other call is an error.

A plan is JSON: dtype, channel_last, layout and channels (others than usual), classes, size (None: free), profiles
((min, opt, max) heights and widths), batch (least, best and most frames at once), the dtype of `labels` if it gives
some, and what `fails`. The network mixes the channels of every fourth pixel; labels are those of each pixel.

A builder builds no such plan: `module.seen` has what was asked of it, `module.fails` what goes wrong, `module.ends` the
network's input and output. As in the libraries, the first logger of a module gets every message, later ones none.
"""

from __future__ import annotations

import enum
import json
import types
from functools import cache
from typing import Any

import numpy as np

from tests.bindings.generate import RTX_STUB, STUB, lean, parameters, read_stub
from tests.runtime.gpu import DEFAULT_STREAM, Failure, Gpu

RELEASES = {"10.3": "10.3.0.30", "rtx": "1.7.1.116"}  # the oldest TensorRT, which has what every later one has, and RTX
MODES = {**RELEASES, "lean": "10.16.1.11"}  # with the lean runtime, which can less
BACKENDS = {"rtx": "tensorrt-rtx", "lean": "tensorrt-lean"}  # of the others it is tensorrt
SCRATCH = 4096  # bytes of activations for each row of the input
# what the libraries say of a tensor's layout: tests/bindings/test_bindings.py reads it in them
WORDS = {
    "LINEAR": "Row major linear FP16 format (kLINEAR)",
    "UINT8": "Row major linear UINT8 format (kLINEAR)",
    "HWC8": "Eight channel FP16 format (kHWC8) where C is padded to a multiple of 8",
    "CHW2": "Two wide channel vectorized row major FP16 format (kCHW2)",
}

Surface = dict[str, dict[str, list[list[str]]]]


@cache
def surface(release: str) -> Surface:
    """Class -> member -> the parameters' names of each overload, [] of what is no method."""
    members = read_stub(STUB)
    if release == "lean":
        members = lean(members)
    if release == "rtx":
        for name, own in read_stub(RTX_STUB).items():
            members[name] = members.get(name, {}) | own
    return {
        name: {member: [parameters(text) for text in texts if text.startswith("def ")] for member, texts in own.items()}
        for name, own in members.items()
    }


def plan(**fields: Any) -> bytes:
    standard = {"dtype": "float16", "channel_last": True, "layout": "", "channels": 0, "classes": 5, "fails": ""}
    standard["labels"] = ""
    standard["size"], standard["batch"] = None, [1, 1, 1]
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


def labels(image: np.ndarray, classes: int) -> np.ndarray:
    """1x3xHxW -> 1xHxW: the label of each pixel."""
    kernel = weight(image.shape[1], classes, classes)
    return np.einsum("oc,bchw->bohw", kernel, image.astype(np.float32)).argmax(1)


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

    def serialize(self) -> bytes | None:
        if self._refused("serialize"):
            if self._trt.fails == "serialize":
                raise RuntimeError("the cache cannot be serialised")
            return None
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

    def create_runtime_cache(self) -> IRuntimeCache | None:
        return None if self._refused("create_runtime_cache") else self._trt.IRuntimeCache()

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
        if self._refused("set_optimization_profile_async"):
            self._engine._say("another context has the profile")
            return False
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
        if self._refused("get_tensor_shape"):  # Dims{-1, {}} in C++
            self._engine._say("the shape cannot be inferred")
            return ()
        batch, _, height, width = self._shape
        if name == "image":
            return self._shape
        if name == "labels":
            return (batch, height, width)
        return (batch, self._engine._padded, -(-height // 4), -(-width // 4))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if self._refused("set_tensor_address"):
            self._engine._say("the address is refused")
            return False
        self._addresses[name] = memory
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        assert self._shape is not None
        if self._refused("update_device_memory_size_for_shapes"):
            self._engine._say("the shapes are not all known")
            return 0
        return self._engine._scratch * self._shape[0] * self._shape[2]

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
            assert self._memory[1] >= self._engine._scratch * self._shape[0] * self._shape[2], (
                "too little memory for activations"
            )
            assert self._memory[1] or not self._engine._scratch
        for name in self._engine._names:
            self._gpu.check(self._addresses[name], self._engine._bytes(name, self.get_tensor_shape(name)))
        memory, addresses, shape = self._memory, dict(self._addresses), self._shape
        self._gpu.queue(stream_handle, lambda: self._run(memory, addresses, shape))
        self._ran = self._shape
        return True

    def _run(self, memory: tuple[int, int], addresses: dict[str, int], shape: tuple[int, ...]) -> None:
        if self._user_managed:
            self._gpu.view(memory[0], (memory[1],))[:] = 0x77
        image = self._engine._read(addresses["image"], shape)
        classes, dtype = self._engine._plan["classes"], self._engine._plan["labels"]
        if dtype:
            given = labels(image, classes)
            self._gpu.view(addresses["labels"], given.shape, dtype)[:] = given
        else:
            self._engine._write(addresses["logits"], network(image, self._engine._padded, classes))
        if self.profiler is not None:
            assert self.profiler.made
            for layer, ms in (("mix", 0.5), ("reformat", 0.25)):
                self.profiler.report_layer_time(layer, ms)


class ICudaEngine(Limited):
    num_io_tensors = 2

    def __init__(self, plan: dict[str, Any], recorder: Any) -> None:
        self._plan, self._recorder = plan, recorder
        self._scratch = 0 if plan["fails"] == "needs none" else SCRATCH
        self._channels = plan["channels"] or (8 if plan["channel_last"] else 3)
        self._padded = 8 if plan["channel_last"] else plan["classes"]
        self._names = ("labels" if plan["labels"] else "logits", "image")

    @property
    def device_memory_size_v2(self) -> int:
        return self._scratch * 4096

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._plan["profiles"])

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self._trt.TensorIOMode.INPUT if name == "image" else self._trt.TensorIOMode.OUTPUT

    def get_tensor_format(self, name: str) -> Any:
        return self._trt.TensorFormat[self._layout]

    def get_tensor_format_desc(self, name: str) -> str:
        if self._dtype(name) == "uint8":
            return WORDS["UINT8"]
        return WORDS.get(self._layout, self._layout)

    @property
    def _layout(self) -> str:
        return self._plan["layout"] or ("HWC8" if self._plan["channel_last"] else "LINEAR")

    def get_tensor_dtype(self, name: str) -> Any:
        names = {"float16": "HALF", "float32": "FLOAT", "fp8": "FP8", "uint8": "UINT8", "int32": "INT32"}
        return self._trt.DataType[names[self._dtype(name)]]

    def _dtype(self, name: str) -> str:
        return str(self._plan["labels"] if name == "labels" else self._plan["dtype"])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        height, width = self._plan["size"] or (-1, -1)
        least, _, most = self._plan["batch"]
        frames = most if least == most else -1
        if name == "labels":
            return (frames, height, width)
        channels = self._channels if name == "image" else self._padded
        whole = name == "image" or height < 0
        return (frames, channels, height, width) if whole else (frames, channels, height // 4, width // 4)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert name == "image"
        sizes = [self._plan["size"]] * 3 if self._plan["size"] else self._plan["profiles"][profile_index]
        return [(frames, self._channels, *size) for frames, size in zip(self._plan["batch"], sizes, strict=True)]

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
        return None if self._refused("create_runtime_config") else self._trt.IRuntimeConfig()

    def _say(self, text: str) -> None:
        self._recorder.report_error(None, text)

    def _takes(self, shape: tuple[int, ...], profile: int) -> bool:
        (low, _, high), (least, _, most) = self._plan["profiles"][profile], self._plan["batch"]
        if not least <= shape[0] <= most or shape[1] != self._channels:
            return False
        if self._plan["size"]:
            return list(shape[2:]) == list(self._plan["size"])
        return all(a <= side <= b for a, side, b in zip(low, shape[2:], high, strict=True))

    def _bytes(self, name: str, shape: tuple[int, ...]) -> int:
        return int(np.prod(shape)) * np.dtype(self._dtype(name)).itemsize

    def _read(self, address: int, shape: tuple[int, ...]) -> np.ndarray:
        batch, channels, height, width = shape
        if self._plan["channel_last"]:
            laid_out = self._gpu.view(address, (batch, height, width, channels), self._plan["dtype"])
            return laid_out.transpose(0, 3, 1, 2)
        return self._gpu.view(address, shape, self._plan["dtype"])

    def _write(self, address: int, logits: np.ndarray) -> None:
        laid_out = logits.transpose(0, 2, 3, 1) if self._plan["channel_last"] else logits
        self._gpu.view(address, laid_out.shape, laid_out.dtype)[:] = laid_out


class Runtime(Limited):
    error_recorder: Any = None
    engine_host_code_allowed = False

    def __init__(self, logger: Any) -> None:
        _take(self._trt, logger)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        assert self.error_recorder.made
        self._trt.host_code = self.engine_host_code_allowed
        found = json.loads(serialized_engine)
        if found["fails"] == "deserialize" or self._refused("deserialize_cuda_engine"):
            self._trt.say("ERROR", "the magic tag does not match")
            self.error_recorder.report_error(None, "the magic tag does not match")
            return None
        return self._trt.ICudaEngine(found, self.error_recorder)


# --- the builder's side


class IHostMemory(Limited):
    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bytes__(self) -> bytes:  # stands for the buffer: Python classes have none before 3.12
        return self._data


class IBuilderConfig(Limited):
    progress_monitor: Any = None
    profiling_verbosity: Any = None
    hardware_compatibility_level: Any = None

    def __init__(self) -> None:
        self._trt.seen |= {"config": self, "flags": {"TF32"}, "shapes": []}  # TF32 is on by default

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._trt.seen["pool"] = (pool, pool_size)

    def add_optimization_profile(self, profile: Any) -> int:
        return 0

    def set_flag(self, flag: Any) -> None:
        self._trt.seen["flags"].add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._trt.seen["flags"].discard(flag.name)

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        self._trt.seen["timings"] = serialized_timing_cache
        return None if serialized_timing_cache == b"damaged" else self._trt.ITimingCache()

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert isinstance(cache, self._trt.ITimingCache)
        assert not ignore_mismatch
        return bool(self._trt.seen["timings"] != b"of another GPU")


class ITimingCache(Limited):
    def serialize(self) -> Any:
        if self._trt.fails == "serialize":
            return None
        return self._trt.IHostMemory(self._trt.seen["timings"] + b" and this build")


class IOptimizationProfile(Limited):
    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._trt.seen["shapes"].append((input, min, opt, max))


class ITensor(Limited):
    allowed_formats: Any = None
    shape: tuple[int, ...] = ()

    def __init__(self, dtype: Any, shape: tuple[int, ...]) -> None:
        self._dtype, self.shape = dtype, shape

    @property
    def dtype(self) -> Any:
        return self._dtype


class INetworkDefinition(Limited):
    num_inputs = num_outputs = 1

    def __init__(self) -> None:
        kinds = {"half": self._trt.DataType.HALF, "float": self._trt.DataType.FLOAT}
        self._trt.seen["ends"] = [self._trt.ITensor(kinds[dtype], shape) for dtype, shape in self._trt.ends]

    def get_input(self, index: int) -> Any:
        return self._trt.seen["ends"][index]

    def get_output(self, index: int) -> Any:
        return self._trt.seen["ends"][1 + index]


class Builder(Limited):
    def __init__(self, logger: Any) -> None:
        _take(self._trt, logger)

    def create_network(self, flags: int) -> Any:
        assert flags == 1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return self._trt.INetworkDefinition()

    def create_builder_config(self) -> Any:
        return self._trt.IBuilderConfig()

    def create_optimization_profile(self) -> Any:
        return self._trt.IOptimizationProfile()

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        """The build, as its monitor and its logger see it."""
        say, monitor = self._trt.say, config.progress_monitor
        monitor.phase_start("Building Engine", None, 3)
        monitor.phase_start("Tactic selection", "Building Engine", 2)
        for step in range(2):
            if not monitor.step_complete("Tactic selection", step):
                say("ERROR", "Build canceled by user")
                return None
        monitor.phase_finish("Tactic selection")
        monitor.phase_finish("Building Engine")
        if self._trt.fails.startswith("build"):
            for severity, message in self._trt.messages:
                say(severity, message)
            return None
        say("VERBOSE", "Name: one, LayerType: CaskConvolution\nName: two, LayerType: CaskConvolution")
        say("INFO", "Total Activation Memory: 1024 bytes")
        say("INFO", "Total Weights Memory: 512 bytes")
        return self._trt.IHostMemory(b"ftrt plan")


class ParserError(Limited):
    def desc(self) -> str:
        return "no importer registered for op: Unheard"

    def node_name(self) -> str:
        return "refine4.crp/Unheard"


class OnnxParser(Limited):
    num_errors = 5

    def __init__(self, network: Any, logger: Any) -> None:
        assert isinstance(network, self._trt.INetworkDefinition)
        _take(self._trt, logger)

    def parse(self, model: bytes, path: Any = None) -> bool:
        self._trt.seen["model"] = model
        return bool(self._trt.fails != "parse")

    def get_error(self, index: int) -> Any:
        assert 0 <= index < 5
        return self._trt.ParserError()


def _take(module: Any, logger: Any) -> None:
    assert logger.made
    module.logger = module.logger or logger


KINDS = (
    IRuntimeCache,
    IRuntimeConfig,
    IExecutionContext,
    ICudaEngine,
    Runtime,
    IHostMemory,
    IBuilderConfig,
    ITimingCache,
    IOptimizationProfile,
    ITensor,
    INetworkDefinition,
    Builder,
    ParserError,
    OnnxParser,
)
INTERFACES = ("ILogger", "IErrorRecorder", "IProfiler", "IProgressMonitor")  # of ours
MORE = {"DataType": ["FP8"], "TensorFormat": ["CHW2"], "MemoryPoolType": ["TACTIC_DRAM"]}  # that we must not confuse


def tensorrt(gpu: Gpu, release: str) -> Any:
    """The module, as far as this package calls it."""
    module: Any = types.ModuleType(BACKENDS.get(release, "tensorrt").replace("-", "_"))
    module.__version__ = MODES[release]
    module.compiled, module.loaded = ["kernel"], None  # by TensorRT-RTX on the device; from its cache
    module.fails, module.seen, module.messages, module.logger = "", {}, (), None
    module.ends = (("half", (1, 8, 64, 96)), ("half", (1, 24, 16, 24)))
    module.say = lambda severity, message: module.logger.log(types.SimpleNamespace(name=severity), message)
    has, ours = surface(release), {kind.__name__: kind for kind in KINDS}
    for name, members in has.items():
        if name in INTERFACES:
            setattr(module, name, type(name, (Interface,), {}))
        elif name in ours:
            own = {key: value for key, value in vars(ours[name]).items() if key not in ("__dict__", "__weakref__")}
            own |= {"_members": members, "_release": release, "_gpu": gpu, "_trt": module}
            setattr(module, name, type(name, (Limited,), own))
        else:
            values = [member for member in members if member != "name" and member[0] != "_"]
            setattr(module, name, enum.IntEnum(name, [*values, *MORE.get(name, ())], start=0))
    if release != "lean":
        module.float16 = module.DataType.HALF
    return module
