"""Who owns what on the GPU, on both providers of the CUDA calls, over a GPU on the host."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refinenet_edge.bundle import Bundle
from refinenet_edge.errors import CudaError, InputError, MissingExtra
from refinenet_edge.runtime import backends, open_session
from refinenet_edge.runtime.cuda import LOST, RESTART, Buffer, Cuda, driver_cuda, load_cuda, too_new
from refinenet_edge.runtime.kernels.device import cached_kernels
from tests.runtime.gpu import PRIMARY, THEIRS, Gpu, real

MakeGpu = Callable[..., Gpu]
PROVIDERS = ("cuda-bindings", "pycuda")


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def gpu(make_gpu: MakeGpu, provider: str) -> Gpu:
    return make_gpu(provider)


@pytest.fixture
def cuda(gpu: Gpu) -> Iterator[Cuda]:
    opened = Cuda()
    yield opened
    opened.close()


def test_the_device_is_described(cuda: Cuda, provider: str) -> None:
    assert (cuda.provider.name, cuda.capability, cuda.integrated) == (provider, "sm_87", False)


def test_everything_is_counted_and_given_back_last_first(cuda: Cuda, gpu: Gpu) -> None:
    with cuda.use():
        scope = cuda.scope()
        scope.memory(100)
        scope.memory(28)
        scope.host(64)
        scope.stream()
        scope.event()
        assert dict(scope.held) == {"device": 128, "host": 64, "streams": 1, "events": 1}
        assert cuda.held["streams"] == 2  # with the compute stream
        assert gpu.held() == {"device": 2, "host": 1, "streams": 2, "events": 1}
        gpu.calls.clear()
        scope.close()
        scope.close()
        frees = [call for call in gpu.calls if "Free" in call]
        assert len(frees) == 3
        assert "Host" in frees[0]
        assert not +scope.held
        assert gpu.held() == {"streams": 1}


def test_closing_gives_back_what_scopes_still_hold(gpu: Gpu) -> None:
    cuda = Cuda()
    with cuda.use():
        cuda.scope().memory(10)
        cuda.scratch(100)
    cuda.close()
    assert not gpu.held()


def test_a_second_close_does_nothing(gpu: Gpu) -> None:
    cuda = Cuda()
    assert gpu.held() == {"streams": 1}
    for _ in range(2):
        cuda.close()
        assert not gpu.held()


def test_bytes_go_there_and_back(cuda: Cuda) -> None:
    with cuda.use():
        scope = cuda.scope()
        sent = np.arange(100, dtype=np.uint8)
        address = scope.put(sent)
        back = np.zeros_like(sent)
        cuda.provider.download(back, address, cuda.stream)
        cuda.provider.synchronize(cuda.stream)
        assert np.array_equal(back, sent)


@pytest.mark.parametrize("integrated", [False, True])
def test_a_buffer_is_copied_only_where_there_are_two_memories(
    make_gpu: MakeGpu, provider: str, integrated: bool
) -> None:
    gpu = make_gpu(provider, integrated=integrated)
    cuda = Cuda()
    with cuda.use():
        buffer = Buffer(cuda.scope(), 16)
        buffer.host[:] = 7
        buffer.upload(cuda.stream, 16)
        cuda.provider.synchronize(cuda.stream)
        assert (gpu.view(buffer.address, (16,)) == 7).all()
        gpu.view(buffer.address, (16,))[:] = 9
        buffer.download(cuda.stream, 16)
        cuda.provider.synchronize(cuda.stream)
        assert (buffer.host == 9).all()
        assert gpu.moved == ({} if integrated else {"up": 16, "down": 16})
        assert gpu.held()["host"] == 1
        assert gpu.held().get("device", 0) == (not integrated)
    cuda.close()


def test_scratch_memory_is_one_and_grows(cuda: Cuda, gpu: Gpu) -> None:
    with cuda.use():
        first = cuda.scratch(100)
        assert cuda.scratch(50) == first
        assert cuda.held["device"] == 100
        cuda.scratch(200)
        assert cuda.held["device"] == 200
        assert gpu.held()["device"] == 1


def test_a_full_device_says_how_much_was_asked_and_is_left(cuda: Cuda, gpu: Gpu) -> None:
    gpu.total = 100 << 20
    with cuda.use():
        scope = cuda.scope()
        scope.memory(30 << 20)
        said = (
            rf"cuMemAlloc of {200 << 20} bytes failed: CUDA_ERROR_OUT_OF_MEMORY; \d+ of 100 MiB are free, .* holds 30"
        )
        with pytest.raises(CudaError, match=said) as caught:
            scope.memory(200 << 20)
        assert caught.value.code == "CUDA_ERROR_OUT_OF_MEMORY"
        with pytest.raises(CudaError, match=rf"HostAlloc of {200 << 20} bytes failed"):
            scope.host(200 << 20)
        assert gpu.held() == {"device": 1, "streams": 1}


def test_what_fails_while_giving_back_does_not_keep_the_rest(gpu: Gpu, caplog: pytest.LogCaptureFixture) -> None:
    cuda = Cuda()
    with cuda.use():
        scope = cuda.scope()
        addresses = [scope.memory(10) for _ in range(3)]
    gpu.fail("cuMemFree", code=1, after=2)
    cuda.close()
    assert set(gpu.blocks) == {addresses[0]}
    assert any("failed" in record.message for record in caplog.records)
    gpu.blocks.clear()


@pytest.mark.parametrize("graphs", ["captured", "not there"])
def test_graphs(make_gpu: MakeGpu, graphs: str, caplog: pytest.LogCaptureFixture) -> None:
    gpu = make_gpu("cuda-bindings" if graphs == "captured" else "pycuda")
    with caplog.at_level("INFO"):
        cuda = Cuda()
    if graphs == "not there":
        assert cuda.provider.graphs is None
        assert [record.message for record in caplog.records] == [
            "pycuda has no CUDA graphs: each step is launched by itself; cuda-bindings has them"
        ]
        cuda.close()
        return
    assert not caplog.records
    found: list[int] = []
    with cuda.use():
        scope = cuda.scope()
        assert cuda.provider.graphs is not None
        graph = scope.graph(lambda: gpu.queue(cuda.stream, lambda: found.append(1)))
        assert (found, gpu.held()["graphs"]) == ([], 1)
        for _ in range(2):
            cuda.provider.graphs.launch(graph, cuda.stream)
        cuda.provider.synchronize(cuda.stream)
        assert found == [1, 1]
    cuda.close()


@pytest.mark.parametrize("how", ["ours", "allocates", "begin", "end", "instantiate"])
def test_a_capture_that_fails_leaves_the_stream_usable(make_gpu: MakeGpu, how: str) -> None:
    gpu = make_gpu()
    cuda = Cuda()
    calls = {"begin": "cuStreamBeginCapture", "end": "cuStreamEndCapture", "instantiate": "cuGraphInstantiate"}
    with cuda.use():
        scope = cuda.scope()

        def queue() -> None:
            if how == "ours":
                raise ZeroDivisionError
            if how == "allocates":
                scope.memory(8)

        if how in calls:
            gpu.fail(calls[how])
        with pytest.raises(ZeroDivisionError if how == "ours" else CudaError):
            scope.graph(queue)
        assert not gpu.capturing
        assert gpu.held() == {"streams": 1}
        cuda.provider.synchronize(cuda.stream)
    cuda.close()


def test_a_thread_of_its_own_finds_the_device(cuda: Cuda, gpu: Gpu) -> None:
    found: list[Any] = []

    def work() -> None:
        try:
            with cuda.use():
                found.append(cuda.scope().memory(10))
        except BaseException as exc:
            found.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == list(gpu.blocks)


@pytest.mark.parametrize("fails", [False, True])
def test_another_librarys_context_stays_current(gpu: Gpu, fails: bool) -> None:
    cuda = Cuda()
    assert gpu.contexts() == [THEIRS]
    with suppress(ZeroDivisionError), cuda.use():
        with cuda.use():
            assert gpu.contexts()[-1] == PRIMARY
        cuda.scope().memory(10)
        if fails:
            raise ZeroDivisionError
    assert gpu.contexts() == [THEIRS]
    cuda.close()
    assert (gpu.contexts(), gpu.retained) == ([THEIRS], 0)


def test_without_a_context_it_is_the_first_device(make_gpu: MakeGpu, provider: str) -> None:
    gpu = make_gpu(provider, device=0)
    gpu.contexts().clear()
    cuda = Cuda()
    assert (gpu.contexts(), gpu.retained) == ([], 1)
    cuda.close()
    assert (gpu.contexts(), gpu.retained) == ([], 0)
    gpu.contexts().append(THEIRS)


def test_a_context_that_another_thread_closes_is_released(gpu: Gpu) -> None:
    cuda = Cuda()
    thread = threading.Thread(target=cuda.close)
    thread.start()
    thread.join()
    assert gpu.retained == 0


def test_pycuda_is_left_nothing_to_detach(make_gpu: MakeGpu) -> None:
    gpu = make_gpu("pycuda")
    Cuda().close()
    gc.collect()
    assert gpu.calls[-1] == "cuDevicePrimaryCtxRelease"


def test_one_thread_at_a_time(cuda: Cuda) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            with cuda.use(), cuda.use():
                inside.append(number)
                most.append(len(inside))
                cuda.scope().memory(8)
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(most), max(most)) == (80, 1)


def test_the_errors_that_lose_a_device_are_those_of_which_cuda_says_so() -> None:
    """In the descriptions of `CUresult`, which are cuda.h's."""
    said = {error.name: " ".join((error.__doc__ or "").split()) for error in real.CUresult}
    if not said["CUDA_ERROR_ILLEGAL_ADDRESS"]:
        pytest.skip("these bindings do not describe the errors")
    assert {name for name, text in said.items() if f"{RESTART}." in text} == LOST - {"CUDA_ERROR_ASSERT"}
    assert "The context cannot be used anymore, and must be destroyed" in said["CUDA_ERROR_ASSERT"]


@pytest.mark.parametrize("name", sorted(LOST))
def test_after_an_error_that_loses_the_device_the_program_is_to_be_started_again(gpu: Gpu, name: str) -> None:
    if name not in real.CUresult.__members__:
        pytest.skip("these bindings do not know it")
    cuda = Cuda()
    with cuda.use():
        cuda.scope().memory(10)
    gpu.fail("cuStreamSynchronize", int(getattr(real.CUresult, name)))
    said = (
        rf"cuStreamSynchronize failed: {name}\. To continue using CUDA, the process must be terminated and relaunched"
    )
    with pytest.raises(CudaError, match=said), cuda.use():
        cuda.provider.synchronize(cuda.stream)
    assert cuda.lost
    cuda.close()
    gpu.restart()


class TestTheChoice:
    def test_cuda_bindings_come_first(self, make_gpu: MakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
        make_gpu("pycuda")
        make_gpu("cuda-bindings")
        monkeypatch.delenv("REFINENET_EDGE_CUDA")
        cuda = Cuda()
        assert cuda.provider.name == "cuda-bindings"
        cuda.close()

    def test_pycuda_where_it_is_alone(self, make_gpu: MakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
        make_gpu("pycuda")
        monkeypatch.delenv("REFINENET_EDGE_CUDA")
        for name in ("cuda.bindings.driver", "cuda.cuda"):
            monkeypatch.setitem(sys.modules, name, None)
        cuda = Cuda()
        assert cuda.provider.name == "pycuda"
        cuda.close()

    def test_an_unknown_name_lists_the_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REFINENET_EDGE_CUDA", "cupy")
        with pytest.raises(InputError, match="REFINENET_EDGE_CUDA=cupy: known are cuda-bindings and pycuda"):
            load_cuda()

    def test_a_named_provider_is_not_replaced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REFINENET_EDGE_CUDA", "pycuda")
        monkeypatch.setitem(sys.modules, "pycuda.driver", None)
        with pytest.raises(MissingExtra, match=r"pycuda does not import .*CPATH=\S+ pip install pycuda"):
            load_cuda()

    def test_without_any_both_reasons_are_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("REFINENET_EDGE_CUDA", raising=False)
        for name in ("cuda.bindings.driver", "cuda.cuda", "pycuda.driver"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtra, match=r"pip install 'refinenet-edge\[device\]'.*; or pycuda does not import"):
            load_cuda()

    def test_autoinit_is_never_imported(self, make_gpu: MakeGpu) -> None:
        make_gpu("pycuda")
        Cuda().close()
        assert "pycuda.autoinit" not in sys.modules


class TestAnOldDriver:
    """What NVIDIA's page names for CUDA 12 and 13; JetPack 6 is CUDA 12.6."""

    def test_the_bindings_name_the_driver_they_need(
        self, make_gpu: MakeGpu, monkeypatch: pytest.MonkeyPatch, make_plan: Callable[..., Bundle]
    ) -> None:
        gpu = make_gpu(driver=12060)
        monkeypatch.setattr(real, "CUDA_VERSION", 13050)
        monkeypatch.setattr(sys.modules["cuda.bindings.driver"], "CUDA_VERSION", 13050)
        said = (
            "cuda-bindings 13 needs an NVIDIA driver for CUDA 13 (580 or newer), the one here is for CUDA 12.6: update "
            "the driver, or pip install 'cuda-bindings<13'"
        )
        with pytest.raises(InputError, match=re.escape(said)):
            load_cuda()
        monkeypatch.setattr(backends, "gpu_problem", lambda: "")
        with pytest.raises(InputError, match=re.escape(said)):
            open_session(make_plan(gpu))

    @pytest.mark.parametrize(("driver", "refused"), [(13000, False), (12060, True), (11040, True)])
    def test_kernels_that_it_cannot_load_are_not_compiled(
        self, make_gpu: MakeGpu, provider: str, driver: int, refused: bool, tmp_path: Path
    ) -> None:
        gpu = make_gpu(provider)
        cuda = Cuda()
        gpu.driver = driver
        wheel = f"nvidia-cuda-nvrtc-cu{driver // 1000}"
        fix = {"cuda-bindings": f"pip uninstall nvidia-cuda-nvrtc; pip install {wheel}", "pycuda": "first in PATH"}
        said = rf"for CUDA 13 \(580 or newer\), the one here is for CUDA 1\d\.\d: .*{fix[provider]}"
        with pytest.raises(MissingExtra, match=said) if refused else nullcontext():
            cached_kernels(cuda.provider.compiler, "head.cu", ("LOGIT=Half",), "sm_87")
        cuda.close()

    def test_without_a_driver_nothing_is_compared(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("refinenet_edge.runtime.cuda.driver_library", lambda: ctypes.CDLL("no-such-library.so"))
        assert driver_cuda() is None
        assert too_new("NVRTC 14.0", 14) == ""
