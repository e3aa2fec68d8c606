# ruff: noqa: N802, N815 - the fakes have CUDA's names
"""The TensorRT session without a GPU: its checks, and its calls on fakes that have only what the real bindings have.

The fake device's memory is host memory, and its engine adds 1 and takes every second pixel.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
import logging
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from refinenet_edge.bundle import PLAN, Bundle
from refinenet_edge.errors import BundleError, EngineMismatch, InputError, RefineNetEdgeError
from refinenet_edge.records import EngineInfo
from refinenet_edge.runtime import trt as trt_module
from refinenet_edge.runtime.cuda import Cuda, DeviceArray
from refinenet_edge.runtime.trt import TrtSession, check_engine
from tests.runtime.tinynet import build_plan, tiny

MakeBundle = Callable[..., Bundle]
INFO = EngineInfo("tensorrt", "10.3.0.30", ("sm_87",), 0)


class FakeCuda:
    """cuda.bindings.runtime over host memory."""

    cudaError_t = enum.Enum("cudaError_t", {"cudaSuccess": 0, "cudaErrorMemoryAllocation": 2})
    cudaMemcpyKind = enum.Enum("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
    cudaDeviceAttr = enum.Enum(
        "cudaDeviceAttr", {"cudaDevAttrComputeCapabilityMajor": 75, "cudaDevAttrComputeCapabilityMinor": 76}
    )
    cudaStreamCaptureMode = enum.Enum("cudaStreamCaptureMode", {"cudaStreamCaptureModeThreadLocal": 1})
    cudaStreamNonBlocking = 1

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.memory: dict[int, Any] = {}
        self.streams: set[int] = set()
        self.made = itertools.count(77)
        self.full = False

    def cudaGetDevice(self) -> tuple[Any, int]:
        return self.cudaError_t.cudaSuccess, 0

    def cudaDeviceGetAttribute(self, attribute: Any, device: int) -> tuple[Any, int]:
        assert device == 0
        return self.cudaError_t.cudaSuccess, {75: 8, 76: 7}[attribute.value]

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, int]:
        assert flags == self.cudaStreamNonBlocking
        stream = next(self.made)
        self.streams.add(stream)
        return self.cudaError_t.cudaSuccess, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[Any]:
        self.streams.remove(stream)
        return (self.cudaError_t.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any]:
        assert stream in self.streams
        return (self.cudaError_t.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> tuple[Any]:
        assert (stream in self.streams, mode.value) == (True, 1)
        self.calls.append("begin")
        return (self.cudaError_t.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, str]:
        self.calls.append("end")
        return self.cudaError_t.cudaSuccess, "graph"

    def cudaGraphInstantiate(self, graph: str, flags: int) -> tuple[Any, str]:
        assert (graph, flags) == ("graph", 0)
        return self.cudaError_t.cudaSuccess, "executable"

    def cudaGraphDestroy(self, graph: str) -> tuple[Any]:
        assert graph == "graph"
        self.calls.append("destroy graph")
        return (self.cudaError_t.cudaSuccess,)

    def cudaGraphLaunch(self, graph: str, stream: int) -> tuple[Any]:
        assert (graph, stream in self.streams) == ("executable", True)
        self.calls.append("launch")
        return (self.cudaError_t.cudaSuccess,)

    def cudaGraphExecDestroy(self, graph: str) -> tuple[Any]:
        assert graph == "executable"
        self.calls.append("destroy executable")
        return (self.cudaError_t.cudaSuccess,)

    def cudaMalloc(self, size: int) -> tuple[Any, int | None]:
        if self.full:
            return self.cudaError_t.cudaErrorMemoryAllocation, None
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return self.cudaError_t.cudaSuccess, ctypes.addressof(block)

    def cudaFree(self, address: int) -> tuple[Any]:
        del self.memory[address]
        return (self.cudaError_t.cudaSuccess,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: int) -> tuple[Any]:
        device = target if kind.name == "cudaMemcpyHostToDevice" else source
        assert size <= len(self.memory[device])
        assert stream in self.streams
        ctypes.memmove(target, source, size)
        return (self.cudaError_t.cudaSuccess,)


class ILogger:
    def __init__(self) -> None:
        self.made = True


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self.engine, self.shape, self.addresses = engine, (0, 0, 0, 0), {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "image"
        self.shape = shape
        return shape[3] <= 64

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape if name == "image" else (*self.shape[:2], -(-self.shape[2] // 2), -(-self.shape[3] // 2))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle >= 77
        if self.engine.plan == b"fails":
            return False
        image, logits = (self._tensor(name) for name in ("image", "logits"))
        logits[:] = image[:, :, ::2, ::2] + 1
        return True

    def _tensor(self, name: str) -> np.ndarray:
        """What lies at its address, NCHW."""
        batch, channels, height, width = self.get_tensor_shape(name)
        memory = (ctypes.c_char * (4 * batch * channels * height * width)).from_address(self.addresses[name])
        values = np.frombuffer(memory, np.float32)
        if self.engine.get_tensor_format(name) is TensorFormat.HWC8:
            return values.reshape(batch, height, width, channels).transpose(0, 3, 1, 2)
        return values.reshape(batch, channels, height, width)


class ICudaEngine:
    num_io_tensors = 2

    def __init__(self, plan: bytes) -> None:
        self.plan = plan

    def get_tensor_name(self, index: int) -> str:
        return ("logits", "image")[index]

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if name == "image" else TensorIOMode.OUTPUT

    def get_tensor_format(self, name: str) -> Any:
        return TensorFormat.HWC8 if self.plan == b"channel last" else TensorFormat.LINEAR

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType.FP8 if self.plan == b"fp8" else DataType.FLOAT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (1, 8 if self.plan == b"channel last" else 3, -1, -1)

    def create_execution_context(self) -> IExecutionContext | None:
        return None if self.plan == b"large" else IExecutionContext(self)


class Runtime:
    last: Any = None
    engine_host_code_allowed = False

    def __init__(self, logger: Any) -> None:
        assert logger.made
        Runtime.last, self.logger = self, logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        if serialized_engine == b"foreign":
            self.logger.log(types.SimpleNamespace(name="ERROR"), "the magic tag does not match")
            return None
        return ICudaEngine(serialized_engine)


TensorIOMode = enum.Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
DataType = enum.Enum("DataType", ["FLOAT", "HALF", "FP8"])
TensorFormat = enum.Enum("TensorFormat", ["LINEAR", "HWC8"])
ENUMS = (TensorIOMode, DataType, TensorFormat)
FAKES = (ILogger, IExecutionContext, ICudaEngine, Runtime)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    yield fake
    assert not fake.memory, "device memory was not freed"
    assert not fake.streams, "the stream was not destroyed"


@pytest.fixture
def opened(
    make_bundle: MakeBundle, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., TrtSession]]:
    module = types.ModuleType("tensorrt")
    vars(module).update({kind.__name__: kind for kind in (*FAKES, *ENUMS)}, __version__="10.3.0.30")
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    sessions = []

    def make(plan: bytes = b"plan", info: EngineInfo = INFO) -> TrtSession:
        sessions.append(TrtSession(make_bundle(files={PLAN: plan}, backend="tensorrt", engine=info)))
        return sessions[-1]

    yield make
    for session in sessions:
        session.close()
    trt_module._log.cache_clear()


def image(width: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 3, 6, width)).astype(np.float32)


def test_it_runs(opened: Callable[..., TrtSession]) -> None:
    session = opened()
    assert [spec.name for spec in session.inputs + session.outputs] == ["image", "logits"]
    assert session.inputs[0].shape == (1, 3, "dim2", "dim3")
    for width in (8, 5, 16, 8):  # smaller and larger: memory is kept, then grows
        logits = session.run({"image": image(width, width)})["logits"]
        assert np.array_equal(logits, image(width, width)[:, :, ::2, ::2] + 1)


def test_arrays_are_nchw_whatever_the_engine_takes(opened: Callable[..., TrtSession]) -> None:
    session = opened(b"channel last")
    assert session.inputs[0].shape == (1, 8, "dim2", "dim3")
    padded = np.random.default_rng(0).standard_normal((1, 8, 6, 10)).astype(np.float32)
    assert np.array_equal(session.run({"image": padded})["logits"], padded[:, :, ::2, ::2] + 1)


def test_outputs_are_overwritten_by_the_next_run(opened: Callable[..., TrtSession]) -> None:
    session = opened()
    first = session.run({"image": image()})["logits"]
    assert np.shares_memory(session.run({"image": image(seed=1)})["logits"], first)


def test_memory_is_allocated_once_per_size(opened: Callable[..., TrtSession], cuda: FakeCuda) -> None:
    session = opened()
    session.run({"image": image(16)})
    before = list(cuda.memory)
    session.run({"image": image(8)})
    session.run({"image": image(16)})
    assert list(cuda.memory) == before


def test_a_shape_outside_the_profile_is_an_input_error(opened: Callable[..., TrtSession]) -> None:
    session = opened()
    with pytest.raises(InputError, match=r"\(1, 3, 6, 65\): it is outside its range"):
        session.run({"image": image(65)})
    session.run({"image": image(64)})


def test_a_failed_run_is_our_error(opened: Callable[..., TrtSession]) -> None:
    with pytest.raises(RefineNetEdgeError, match="could not run the engine"):
        opened(b"fails").run({"image": image()})


def test_a_full_device_names_the_call(opened: Callable[..., TrtSession], cuda: FakeCuda) -> None:
    session = opened()
    session.run({"image": image()})
    cuda.full = True
    with pytest.raises(RefineNetEdgeError, match="cudaMalloc failed: cudaErrorMemoryAllocation"):
        session.run({"image": image(16)})
    cuda.full = False
    assert np.array_equal(session.run({"image": image()})["logits"], image()[:, :, ::2, ::2] + 1)


def test_a_context_that_does_not_fit(opened: Callable[..., TrtSession]) -> None:
    with pytest.raises(RefineNetEdgeError, match="tensorrt cannot make an execution context"):
        opened(b"large")


def test_a_dtype_that_numpy_lacks(opened: Callable[..., TrtSession]) -> None:
    with pytest.raises(BundleError, match="is FP8"):
        opened(b"fp8")


def test_a_plan_that_does_not_load_says_why(
    opened: Callable[..., TrtSession], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(EngineMismatch, match=r"magic tag does not match; build it again: refinenet-edge build tiny"):
        opened(b"foreign")
    assert caplog.records[-1].levelno == logging.ERROR


def test_only_a_version_compatible_plan_may_run_host_code(opened: Callable[..., TrtSession]) -> None:
    opened()
    assert not Runtime.last.engine_host_code_allowed
    opened(info=replace(INFO, version_compatible=True))
    assert Runtime.last.engine_host_code_allowed


def test_a_mismatch_gives_everything_back(opened: Callable[..., TrtSession]) -> None:
    with pytest.raises(EngineMismatch):
        opened(info=replace(INFO, targets=("sm_110",)))


@pytest.mark.parametrize(
    ("fields", "backend", "version", "device"),
    [
        ({}, "tensorrt", "10.3.0.26", "sm_87"),
        ({"version_compatible": True}, "tensorrt-lean", "10.16.2", "sm_87"),
        ({"version_compatible": True}, "tensorrt-dispatch", "11.1.0", "sm_87"),
        ({"targets": ("sm_86", "sm_89")}, "tensorrt", "10.3.0", "sm_89"),
        ({"targets": ("default",)}, "tensorrt", "10.3.0", "sm_120"),
        ({"hardware_compatible": True}, "tensorrt", "10.3.0", "sm_120"),
        ({"flavour": "tensorrt-rtx", "version": "1.7.1.116"}, "tensorrt-rtx", "1.7.1.116", "sm_87"),
    ],
)
def test_an_engine_that_fits(
    make_bundle: MakeBundle, fields: dict[str, Any], backend: str, version: str, device: str
) -> None:
    check_engine(make_bundle(engine=replace(INFO, **fields)), backend, version, device)


@pytest.mark.parametrize(
    ("fields", "backend", "version", "device", "said"),
    [
        ({}, "tensorrt", "10.7.0", "sm_87", "was built with tensorrt 10.3.0.30, this machine has 10.7.0"),
        ({"version_compatible": True}, "tensorrt", "10.1.0", "sm_87", "this machine has 10.1.0"),
        ({}, "tensorrt-lean", "10.3.0", "sm_87", "tensorrt-lean runs only version-compatible ones"),
        ({}, "tensorrt", "10.3.0", "sm_110", "was built for sm_87, this GPU is sm_110"),
        ({}, "tensorrt-rtx", "1.7.1", "sm_87", "holds a tensorrt engine, tensorrt-rtx cannot run it"),
        ({"flavour": "tensorrt-rtx"}, "tensorrt", "10.3.0", "sm_87", "holds a tensorrt-rtx engine"),
        ({"flavour": "tensorrt-rtx", "version": "1.6.0"}, "tensorrt-rtx", "1.7.1", "sm_87", "this machine has 1.7.1"),
    ],
)
def test_an_engine_that_does_not_fit(
    make_bundle: MakeBundle, fields: dict[str, Any], backend: str, version: str, device: str, said: str
) -> None:
    with pytest.raises(
        EngineMismatch, match=rf"tiny .*{said}.*; build its plan here: refinenet-edge plan .*tiny --backend tensorrt"
    ):
        check_engine(make_bundle(engine=replace(INFO, **fields)), backend, version, device)


def test_a_bundle_without_an_engine(make_bundle: MakeBundle) -> None:
    with pytest.raises(EngineMismatch, match="holds no engine"):
        check_engine(make_bundle(), "tensorrt", "10.3.0", "sm_87")


def test_freeing_twice_does_nothing(cuda: FakeCuda) -> None:
    device = Cuda()
    assert device.capability() == "sm_87"
    array = DeviceArray(device, "float32")
    array.free()
    array.reshape((2, 3))
    array.free()
    array.free()
    device.close()


def test_a_graph_is_captured_launched_and_dropped(cuda: FakeCuda) -> None:
    device = Cuda()
    graph = device.capture(lambda: cuda.calls.append("queue"))
    device.launch(graph)
    device.launch(graph)
    device.drop(graph)
    device.close()
    assert cuda.calls == ["begin", "queue", "end", "destroy graph", "launch", "launch", "destroy executable"]


def test_a_capture_that_fails_leaves_the_stream_usable(cuda: FakeCuda) -> None:
    device = Cuda()
    with pytest.raises(ZeroDivisionError):
        device.capture(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert cuda.calls == ["begin", "end"]
    device.close()


class TestTheRealBindings:
    @pytest.fixture
    def rtx(self) -> Any:
        return pytest.importorskip("tensorrt_rtx", exc_type=ImportError)

    @pytest.mark.parametrize("fake", FAKES, ids=lambda kind: kind.__name__)
    def test_they_have_every_call_of_the_fakes(self, rtx: Any, fake: type) -> None:
        own = {"ILogger": {"made"}, "Runtime": {"last"}}.get(fake.__name__, set())
        calls = {name for name in vars(fake) if not name.startswith("_")} - own
        assert not [name for name in calls if not hasattr(getattr(rtx, fake.__name__), name)]

    def test_the_cuda_bindings_have_every_call_of_the_fake(self) -> None:
        runtime = pytest.importorskip("cuda.bindings.runtime", exc_type=ImportError)
        own = {"memory", "streams", "made", "full", "calls"}
        assert not [
            name for name in dir(FakeCuda()) if name[0] != "_" and name not in own and not hasattr(runtime, name)
        ]
        for kind in ("cudaError_t", "cudaMemcpyKind", "cudaDeviceAttr", "cudaStreamCaptureMode"):
            for member in getattr(FakeCuda, kind):
                assert getattr(getattr(runtime, kind), member.name).value == member.value

    def test_they_have_our_names(self, rtx: Any) -> None:
        assert {"INPUT", "OUTPUT"} <= set(rtx.TensorIOMode.__members__)
        assert {"LINEAR", "HWC8"} <= set(rtx.TensorFormat.__members__)
        assert set(trt_module.DTYPES) <= set(rtx.DataType.__members__)
        assert rtx.DataType.FLOAT.name == "FLOAT"

    def test_their_messages_reach_our_log(self, rtx: Any, caplog: pytest.LogCaptureFixture) -> None:
        log = trt_module._log(rtx)
        log.log(rtx.ILogger.Severity.ERROR, "out of memory")
        assert log.last_error == "out of memory"
        log.log(rtx.ILogger.Severity.WARNING, "slow")
        assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]

    @pytest.mark.parametrize(("dtype", "size"), [("float16", (32, 48)), ("float32", None)])
    def test_the_contracts_engine_builds(self, rtx: Any, dtype: str, size: tuple[int, int] | None) -> None:
        assert build_plan(rtx, tiny(dtype, size))
