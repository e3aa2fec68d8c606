"""The TensorRT session without a GPU: its checks, and its calls on what each release has, over a GPU on the host."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from refinenet_edge.bundle import Bundle
from refinenet_edge.errors import BundleError, CudaError, EngineMismatch, InputError, RefineNetEdgeError
from refinenet_edge.labels import numbered
from refinenet_edge.records import EngineInfo, FrameSpec
from refinenet_edge.runtime import Segmenter, cache
from refinenet_edge.runtime.session import LayerTime
from refinenet_edge.runtime.tensorrt import session as session_module
from refinenet_edge.runtime.tensorrt.session import TrtSession
from tests.runtime.fake_tensorrt import BACKENDS, MODES, labels, network, plan, tensorrt
from tests.runtime.gpu import Gpu

MakeBundle = Callable[..., Bundle]
MakeGpu = Callable[..., Gpu]
INFO = EngineInfo("tensorrt", "10.3.0.30", ("sm_87",), 0)


class Opened:
    """Opens sessions on one GPU, and closes them."""

    def __init__(self, gpu: Gpu, release: str, make_plan: Callable[..., Bundle]) -> None:
        self.gpu, self.release, self.make_plan = gpu, release, make_plan
        self.sessions: list[TrtSession] = []

    def __call__(
        self,
        info: dict[str, Any] | None = None,
        allow_host_code: bool = False,
        **fields: Any,
    ) -> TrtSession:
        bundle = self.make_plan(self.gpu, self.release, info, **fields)
        allow_host_code |= self.release == "lean"
        backend = BACKENDS.get(self.release, "tensorrt")
        session = TrtSession.open(bundle, backend, allow_host_code=allow_host_code)
        self.sessions.append(session)
        return session


@pytest.fixture(params=MODES)
def opened(request: pytest.FixtureRequest, make_gpu: MakeGpu, make_plan: Callable[..., Bundle]) -> Iterator[Opened]:
    opens = Opened(make_gpu(), request.param, make_plan)
    yield opens
    for session in opens.sessions:
        session.close()


@pytest.fixture
def opened_10_3(make_gpu: MakeGpu, make_plan: Callable[..., Bundle]) -> Iterator[Opened]:
    opens = Opened(make_gpu(), "10.3", make_plan)
    yield opens
    for session in opens.sessions:
        session.close()


def image(width: int = 8, seed: int = 0, channels: int = 3, dtype: str = "float16") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, channels, 12, width)).astype(dtype)


PLAIN = {"channel_last": False}


def test_it_runs(opened: Opened) -> None:
    session = opened(**PLAIN)
    assert [spec.name for spec in session.inputs + session.outputs] == ["image", "logits"]
    assert session.inputs[0].shape == (1, 3, "dim2", "dim3")
    for width in (8, 20, 16, 8):  # smaller and larger: memory is kept, then grows
        logits = session.run({"image": image(width, width)})["logits"]
        assert np.array_equal(logits, network(image(width, width), 5, 5))


def test_on_an_integrated_gpu_nothing_is_copied(make_gpu: MakeGpu, make_plan: Callable[..., Bundle]) -> None:
    gpu = make_gpu(integrated=True)
    opens = Opened(gpu, "10.3", make_plan)
    with opens(**PLAIN) as session:
        assert np.array_equal(session.run({"image": image()})["logits"], network(image(), 5, 5))
    assert not gpu.moved


def test_arrays_are_nchw_whatever_the_engine_takes(opened: Opened) -> None:
    session = opened()
    assert session.inputs[0].shape == (1, 8, "dim2", "dim3")
    padded = image(16, channels=8)
    assert np.array_equal(session.run({"image": padded})["logits"], network(padded, 8, 5))


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_labels_have_no_channel(opened: Opened, dtype: str) -> None:
    session = opened(size=[12, 8], labels=dtype, dtype="float32", **PLAIN)
    (output,) = session.outputs
    assert (output.name, output.dtype, output.shape) == ("labels", dtype, (1, 12, 8))
    for seed in (0, 1):
        given = session.run({"image": image(seed=seed, dtype="float32")})["labels"]
        assert given.dtype == dtype and len(np.unique(given)) > 1
        assert np.array_equal(given, labels(image(seed=seed, dtype="float32"), 5))


def test_a_segmenter_takes_the_labels_of_a_plan(opened: Opened) -> None:
    session = opened(size=[12, 8], labels="uint8", dtype="float32", **PLAIN)
    spec = FrameSpec((12, 8), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), scale=1.0)
    frame = np.random.default_rng(3).integers(0, 256, (12, 8, 3), np.uint8)
    fed = np.ascontiguousarray(frame[:, :, ::-1].transpose(2, 0, 1)[None], np.float32)
    with Segmenter.from_session(session, spec, numbered(5)) as segmenter:
        found = segmenter.segment(frame).labels
        assert np.array_equal(found, labels(fed, 5)[0]) and len(np.unique(found)) > 1
        assert np.array_equal(segmenter.segment(np.repeat(frame, 2, 0)).labels[::2], found)


def test_outputs_outlive_the_next_run_and_the_session(opened: Opened) -> None:
    session = opened(**PLAIN)
    first = session.run({"image": image()})["logits"]
    kept = first.copy()
    session.run({"image": image(seed=1)})
    session.close()
    assert np.array_equal(first, kept)


def test_memory_is_allocated_once_per_size(opened: Opened) -> None:
    session = opened(**PLAIN)
    session.run({"image": image(16)})
    before = set(opened.gpu.blocks)
    session.run({"image": image(8)})
    session.run({"image": image(16)})
    assert set(opened.gpu.blocks) == before


def test_a_shape_outside_every_profile_is_an_input_error(opened: Opened) -> None:
    session = opened(profiles=[[[8, 8], [16, 16], [32, 32]], [[8, 40], [16, 40], [32, 64]]], **PLAIN)
    takes = "it takes 'image' of 1x3x8x8 to 1x3x32x32 or 'image' of 1x3x8x40 to 1x3x32x64"
    with pytest.raises(InputError, match=f"'image' of 1x3x12x36 is outside the engine's range: {takes}"):
        session.run({"image": image(36)})
    for width in (64, 32, 40):
        assert np.array_equal(session.run({"image": image(width)})["logits"], network(image(width), 5, 5))


def test_a_shape_that_tensorrt_refuses_after_all(opened: Opened) -> None:
    session = opened(**PLAIN)
    opened.gpu.fail("set_input_shape")
    with pytest.raises(InputError, match="does not take 'image' of 1x3x12x8: the shape is not in the profile"):
        session.run({"image": image()})


def test_a_static_engine_asks_no_profile(opened: Opened) -> None:
    session = opened(size=[12, 8], **PLAIN)
    assert session.outputs[0].shape == (1, 5, 3, 2)
    assert np.array_equal(session.run({"image": image()})["logits"], network(image(), 5, 5))


def test_what_tensorrt_says_is_in_the_error(opened: Opened) -> None:
    session = opened(fails="run", **PLAIN)
    with pytest.raises(RefineNetEdgeError, match="could not run the engine: the enqueue failed"):
        session.run({"image": image()})
    with pytest.raises(RefineNetEdgeError, match=r"could not run the engine: the enqueue failed$"):
        session.run({"image": image()})


def test_a_refused_address_is_named(opened: Opened) -> None:
    session = opened(**PLAIN)
    opened.gpu.fail("set_tensor_address")
    with pytest.raises(RefineNetEdgeError, match=r"refused the memory of '\w+': the address is refused"):
        session.run({"image": image()})


def test_a_full_device_names_the_call(opened: Opened) -> None:
    session = opened(**PLAIN)
    session.run({"image": image()})
    opened.gpu.fail("cuMemAlloc")
    with pytest.raises(CudaError, match=r"cuMemAlloc of \d+ bytes failed: CUDA_ERROR_OUT_OF_MEMORY"):
        session.run({"image": image(64)})
    opened.gpu.failing = lambda _: 0
    assert np.array_equal(session.run({"image": image()})["logits"], network(image(), 5, 5))


def test_a_context_that_does_not_fit(opened: Opened) -> None:
    opened.gpu.fail("create_execution_context")
    with pytest.raises(RefineNetEdgeError, match="cannot make an execution context: no memory for the context"):
        opened()


def test_a_size_of_nothing_is_a_failure(opened: Opened) -> None:
    """NvInferRuntime.h of 10.3: "Total amount of memory required on success, 0 if error occurred"."""
    session = opened(**PLAIN)
    opened.gpu.fail("update_device_memory_size_for_shapes")
    if opened.release == "rtx":  # its contexts have memory of their own
        assert np.array_equal(session.run({"image": image()})["logits"], network(image(), 5, 5))
        return
    with pytest.raises(RefineNetEdgeError, match="how much memory the engine needs: the shapes are not all known"):
        session.run({"image": image()})
    opened.gpu.failing = lambda _: 0
    assert np.array_equal(session.run({"image": image()})["logits"], network(image(), 5, 5))


def test_an_engine_without_activations_needs_no_size(opened: Opened) -> None:
    session = opened(fails="needs none", **PLAIN)
    assert np.array_equal(session.run({"image": image()})["logits"], network(image(), 5, 5))


def test_a_shape_of_nothing_is_a_failure(opened: Opened) -> None:
    session = opened(**PLAIN)
    opened.gpu.fail("get_tensor_shape")
    with pytest.raises(BundleError, match=r"gives '\w+' the shape \(\): the shape cannot be inferred"):
        session.run({"image": image()})
    opened.gpu.failing = lambda _: 0
    assert np.array_equal(session.run({"image": image()})["logits"], network(image(), 5, 5))


def test_a_profile_that_cannot_be_had_is_a_failure(opened: Opened) -> None:
    session = opened(profiles=[[[8, 8], [16, 16], [32, 32]], [[8, 40], [16, 40], [32, 64]]], **PLAIN)
    opened.gpu.fail("set_optimization_profile_async")
    for _ in range(2):  # it is asked for again
        with pytest.raises(RefineNetEdgeError, match="cannot change to profile 1: another context has the profile"):
            session.run({"image": image(64)})
    opened.gpu.failing = lambda _: 0
    assert np.array_equal(session.run({"image": image(64)})["logits"], network(image(64), 5, 5))


def test_a_dtype_that_numpy_lacks(opened: Opened) -> None:
    with pytest.raises(BundleError, match="is FP8"):
        opened(dtype="fp8")


def test_a_plan_that_does_not_load_says_why(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(EngineMismatch, match=r"magic tag does not match; build it again: refinenet-edge build .*tiny"):
        opened(fails="deserialize")
    assert caplog.records[-1].levelno == logging.ERROR


def test_host_code_runs_only_where_it_is_allowed(opened_10_3: Opened) -> None:
    opened_10_3()
    module = sys.modules["tensorrt"]
    assert module.host_code is False
    with pytest.raises(InputError, match="--allow-host-code, or allow_host_code=True"):
        opened_10_3({"version_compatible": True})
    assert not hasattr(sys.modules["tensorrt"], "host_code")
    opened_10_3({"version_compatible": True}, allow_host_code=True)
    assert sys.modules["tensorrt"].host_code is True


def test_a_mismatch_gives_everything_back(opened: Opened) -> None:
    with pytest.raises(EngineMismatch):
        opened({"targets": ("sm_110",)})
    assert not opened.gpu.held()


def test_layer_times(opened: Opened) -> None:
    session = opened(**PLAIN)
    expected = session.run({"image": image()})["logits"]
    assert session.layer_times({"image": image(16)}) == [LayerTime("mix", "", 0.5), LayerTime("reformat", "", 0.25)]
    assert np.array_equal(session.run({"image": image()})["logits"], expected)
    opened.gpu.fail("create_execution_context")
    with pytest.raises(RefineNetEdgeError, match="cannot make an execution context"):
        session.layer_times({"image": image()})
    session.close()
    with pytest.raises(InputError, match="closed"):
        session.layer_times({})


def test_the_dispatch_runtime_is_the_lean_one_by_another_name(
    make_gpu: MakeGpu, make_plan: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_plan(make_gpu(), "lean", **PLAIN)
    monkeypatch.setitem(sys.modules, "tensorrt_dispatch", sys.modules["tensorrt_lean"])
    with TrtSession.open(bundle, "tensorrt-dispatch", allow_host_code=True) as session:
        assert session.name == "tensorrt-dispatch"
        assert np.array_equal(session.run({"image": image()})["logits"], network(image(), 5, 5))


class TestRtx:
    @pytest.fixture
    def rtx(self, make_gpu: MakeGpu, make_plan: Callable[..., Bundle]) -> Iterator[Opened]:
        opens = Opened(make_gpu(), "rtx", make_plan)
        for path in cache.cache_folder().glob("*.rtx"):
            path.unlink()
        yield opens
        for session in opens.sessions:
            session.close()

    def module(self) -> Any:
        return sys.modules["tensorrt_rtx"]

    def test_its_kernels_are_kept_on_disk(self, rtx: Opened) -> None:
        session = rtx()
        assert self.module().loaded is None
        assert not session.capturable()  # it captures by itself
        session.close()
        (path,) = cache.cache_folder().glob("*.rtx")
        assert re.fullmatch(r"[0-9a-f]{32}-sm_87-1\.7\.1\.116\.rtx", path.name)
        rtx()
        assert self.module().loaded == ["kernel"]

    @pytest.mark.parametrize("raises", [False, True], ids=["None", "an error"])
    def test_kernels_that_are_not_given_cost_nothing_else(self, rtx: Opened, raises: bool) -> None:
        session = rtx()
        session.run({"image": image(channels=8)})
        self.module().fails = "serialize" if raises else ""
        rtx.gpu.fail("serialize")
        session.close()
        assert not rtx.gpu.held()
        assert not list(cache.cache_folder().glob("*.rtx"))

    @pytest.mark.parametrize("unreadable", [False, True])
    def test_without_a_cache_it_runs(self, rtx: Opened, unreadable: bool) -> None:
        if unreadable:
            rtx().close()
            (path,) = cache.cache_folder().glob("*.rtx")
            path.unlink()
            path.mkdir()
        else:
            rtx.gpu.fail("create_runtime_cache")
        session = rtx(**PLAIN)
        assert not session.capturable()
        assert np.array_equal(session.run({"image": image()})["logits"], network(image(), 5, 5))
        session.close()
        if unreadable:
            path.rmdir()

    def test_a_configuration_that_is_refused(self, rtx: Opened) -> None:
        rtx.gpu.fail("create_runtime_config")
        with pytest.raises(RefineNetEdgeError, match="tensorrt-rtx cannot make an execution context"):
            rtx()

    def test_a_stale_cache_is_replaced(self, rtx: Opened, caplog: pytest.LogCaptureFixture) -> None:
        rtx().close()
        (path,) = cache.cache_folder().glob("*.rtx")
        path.write_bytes(b"of another driver")
        with caplog.at_level("INFO"):
            session = rtx()
        assert "the kernels are compiled again" in caplog.text
        session.close()
        assert path.read_bytes() == b'["kernel"]'


@pytest.mark.parametrize("release", MODES)
def test_the_fake_has_only_what_its_release_has(make_gpu: MakeGpu, release: str) -> None:
    module = tensorrt(make_gpu(), release)
    engine = module.ICudaEngine(json.loads(plan()), None)
    with pytest.raises(AttributeError, match=r"has no ICudaEngine\.device_memory_size"):
        engine.device_memory_size  # noqa: B018
    assert hasattr(engine, "create_runtime_config") == hasattr(module, "CudaGraphStrategy") == (release == "rtx")
    assert hasattr(module, "Builder") == hasattr(engine, "get_tensor_format") == (release != "lean")
    with pytest.raises(AttributeError, match=r"has no Runtime\.max_threads"):
        module.Runtime.__new__(module.Runtime).max_threads = 2


def test_the_real_profiler_can_be_made() -> None:
    profiler = session_module._make_profiler(pytest.importorskip("tensorrt_rtx", exc_type=ImportError))
    profiler.report_layer_time("conv", 0.5)
    assert profiler.times == [("conv", 0.5)]
