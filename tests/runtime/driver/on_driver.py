"""What test_driver.py runs in a process of its own, where libcuda.so.1 is the driver in software.

The bindings, or pycuda, are the real ones, and so is what compiles the kernels.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from cuda.bindings.driver import CUDA_VERSION

from refinenet_edge import doctor
from refinenet_edge.bench.alone import _device_memory as device_memory
from refinenet_edge.errors import CudaError, InputError, MissingExtra
from refinenet_edge.records import Bilinear, FrameSpec
from refinenet_edge.runtime.cuda import Cuda, gpu_bus_id, gpu_name, gpu_problem, load_cuda
from refinenet_edge.runtime.frame import DEFAULT_STREAM, prepare
from refinenet_edge.runtime.head import upsample_argmax
from refinenet_edge.runtime.kernels.device import DeviceFrame, DeviceHead, Module, try_kernels

# what holds NVIDIA's driver to be NVIDIA's is not run on this one
for name in ("tensorrt", "tensorrt_rtx", "tensorrt_lean", "tensorrt_dispatch", "cuda.bindings.runtime", "cuda.cudart"):
    sys.modules[name] = None  # type: ignore[assignment]

PROVIDER = os.environ["REFINENET_EDGE_CUDA"]
DRIVER = ctypes.CDLL("libcuda.so.1")
SIZE = (24, 36)
needs_bindings = pytest.mark.skipif(PROVIDER != "cuda-bindings", reason="pycuda has no graphs")
needs_compiler = pytest.mark.skipif(PROVIDER == "pycuda" and not shutil.which("nvcc"), reason="pycuda needs nvcc")


def held() -> dict[str, int]:
    text = ctypes.create_string_buffer(256)
    DRIVER.software_held(text)
    words = text.value.decode().split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def current() -> int | None:
    context = ctypes.c_void_p()
    DRIVER.cuCtxGetCurrent(ctypes.byref(context))
    return context.value


@contextmanager
def another_librarys_context(device: int = 0) -> Iterator[int]:
    """A context that is not the primary one, current in this thread, as pycuda.autoinit or GStreamer make it."""
    assert DRIVER.cuInit(0) == 0
    context = ctypes.c_void_p()
    assert DRIVER.cuCtxCreate_v4(ctypes.byref(context), None, 0, device) == 0
    assert current() == context.value
    yield context.value or 0
    assert current() == context.value
    assert DRIVER.cuCtxDestroy_v2(context) == 0


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert (held(), current()) == ({}, None)


@pytest.fixture
def cuda() -> Iterator[Cuda]:
    opened = Cuda()
    yield opened
    opened.close()


def test_the_device_is_described(cuda: Cuda) -> None:
    assert (cuda.provider.name, cuda.capability, cuda.integrated) == (PROVIDER, "sm_87", False)
    assert (gpu_problem(), gpu_name()) == ("", "software 0")


def test_what_the_driver_does_not_have_is_not_supported() -> None:
    assert DRIVER.cuInit(0) == 0
    assert DRIVER.cuMemAllocManaged(None, 8, 1) == 801
    assert gpu_bus_id() is None


# --- contexts


def test_ours_is_current_only_in_use(cuda: Cuda) -> None:
    assert current() is None
    with cuda.use():
        ours = current()
        with cuda.use():
            assert current() == ours is not None
    assert current() is None
    with pytest.raises(CudaError, match="CUDA_ERROR_INVALID_CONTEXT"):
        cuda.provider.memory()


def test_another_librarys_stays_current_and_is_not_ours() -> None:
    with another_librarys_context() as theirs:
        cuda = Cuda()
        with cuda.use(), cuda.use():
            assert current() not in (None, theirs)
            cuda.scope().memory(10)
        assert current() == theirs
        with suppress(ZeroDivisionError), cuda.use():
            raise ZeroDivisionError
        assert current() == theirs
        cuda.close()


def test_its_device_is_taken() -> None:
    with another_librarys_context(device=1):
        cuda = Cuda()
        device = ctypes.c_int()
        with cuda.use():
            DRIVER.cuCtxGetDevice(ctypes.byref(device))
        assert device.value == 1
        cuda.close()


def test_a_stream_of_another_context_is_not_waited_for_as_ours() -> None:
    with another_librarys_context():
        stream = ctypes.c_void_p()
        assert DRIVER.cuStreamCreate(ctypes.byref(stream), 1) == 0
        cuda = Cuda()
        with cuda.use():
            if PROVIDER == "pycuda":  # it waits for all of its own
                cuda.provider.follow(cuda.stream, stream.value or 0)
            else:
                with pytest.raises(CudaError, match="cuEventRecord failed: CUDA_ERROR_INVALID_HANDLE"):
                    cuda.provider.follow(cuda.stream, stream.value or 0)
        cuda.close()
        assert DRIVER.cuStreamDestroy_v2(stream) == 0


def test_the_default_stream_is_followed(cuda: Cuda) -> None:
    with cuda.use():
        cuda.provider.follow(cuda.stream, DEFAULT_STREAM)
        assert held() == {"contexts": 1, "streams": 1}


AUTOINIT = """
import ctypes, pycuda.autoinit
from tests.runtime.driver.on_driver import another_librarys_context, current, Cuda
theirs = current()
assert theirs
with another_librarys_context() as above:
    cuda = Cuda()
    with cuda.use():
        assert current() not in (theirs, above)
        cuda.scope().memory(10)
    cuda.close()
assert current() == theirs
"""


def test_pycudas_own_context_stays_below_another_librarys() -> None:
    pytest.importorskip("pycuda")
    done = subprocess.run([sys.executable, "-c", AUTOINIT], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("closes", ["the same thread", "another thread"])
def test_the_retained_context_is_released(closes: str) -> None:
    first, second = Cuda(), Cuda()
    assert held() == {"contexts": 2, "streams": 2}
    with first.use():
        first.scope().memory(100)
    if closes == "another thread":
        thread = threading.Thread(target=first.close)
        thread.start()
        thread.join()
    else:
        first.close()
    assert held() == {"contexts": 1, "streams": 1}
    with second.use():
        second.scope().event()
    second.close()


def test_a_look_at_the_memory_retains_nothing(cuda: Cuda) -> None:
    with cuda.use():
        cuda.scope().memory(1000)
    assert device_memory() == 1000
    assert held()["contexts"] == 1


# --- what is made, queued and given back


def test_everything_is_given_back(cuda: Cuda) -> None:
    with cuda.use():
        scope = cuda.scope()
        sent = np.arange(100, dtype=np.uint8)
        address, back = scope.put(sent), np.zeros_like(sent)
        pinned, mapped = scope.host(64)
        pinned[:] = 9
        event, other = scope.event(), scope.stream()
        provider = cuda.provider
        provider.download(back, address, cuda.stream)
        provider.record(event, cuda.stream)
        provider.wait(other, event)
        provider.wait_host(event)
        assert np.array_equal(back, sent)
        assert mapped == pinned.ctypes.data
        assert held() == {"contexts": 1, "device": 1, "host": 1, "streams": 2, "events": 1}
        free, total = provider.memory()
        assert total - free == 100
        scope.close()
    assert held() == {"contexts": 1, "streams": 1}


def test_a_full_device(cuda: Cuda) -> None:
    with cuda.use(), pytest.raises(CudaError, match=r"cuMemAlloc of \d+ bytes failed: CUDA_ERROR_OUT_OF_MEMORY; 8192 "):
        cuda.scope().memory(1 << 40)


@needs_bindings
def test_a_graph_runs_when_it_is_launched(cuda: Cuda) -> None:
    with cuda.use():
        scope = cuda.scope()
        source, _ = scope.host(8)
        target = scope.memory(8)
        view = np.ctypeslib.as_array((ctypes.c_uint8 * 8).from_address(target))
        view[:] = 0
        graph = scope.graph(lambda: cuda.provider.upload(target, source, cuda.stream))
        for value in (3, 4):
            source[:] = value
            assert not (view == value).any()
            assert cuda.provider.graphs is not None
            cuda.provider.graphs.launch(graph, cuda.stream)
            assert (view == value).all()
        assert held()["graphs"] == 1


@needs_bindings
@pytest.mark.parametrize("forbidden", ["memory", "synchronize"])
def test_a_capture_that_fails_leaves_the_stream_usable(cuda: Cuda, forbidden: str) -> None:
    with cuda.use():
        scope = cuda.scope()

        def queue() -> None:
            if forbidden == "memory":
                scope.memory(8)
            else:
                cuda.provider.synchronize(cuda.stream)

        with pytest.raises(CudaError, match="CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
            scope.graph(queue)
        cuda.provider.synchronize(cuda.stream)
        assert held() == {"contexts": 1, "streams": 1}
        scope.graph(lambda: None)
        scope.close()


# --- kernels


@needs_compiler
def test_kernels_are_compiled_loaded_and_run_by_their_names(cuda: Cuda) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    logits = np.random.default_rng(1).standard_normal((5, 6, 9)).astype(np.float32)
    with cuda.use():
        scope = cuda.scope()
        step = DeviceFrame(scope, FrameSpec(SIZE), SIZE)
        head = DeviceHead(scope, "float32", logits.shape, SIZE, Bilinear())
        pixels, scores, labels = scope.put(frame), scope.put(logits), scope.memory(SIZE[0] * SIZE[1])
        image, found = np.zeros((1, 3, *SIZE), np.float32), np.zeros(SIZE, np.uint8)

        def queue() -> None:
            step.prepare(pixels, 3 * SIZE[1])
            head.label(scores, labels)

        if cuda.provider.graphs:
            graph = scope.graph(queue)
            cuda.provider.graphs.launch(graph, cuda.stream)
        else:
            queue()
        cuda.provider.download(image, step.address, cuda.stream)
        cuda.provider.download(found, labels, cuda.stream)
        cuda.provider.synchronize(cuda.stream)
        assert np.array_equal(image, prepare(frame, FrameSpec(SIZE)))
        assert np.array_equal(found, upsample_argmax(logits, SIZE, Bilinear()))
        assert held()["modules"] == 2


@needs_compiler
def test_a_kernel_of_another_name_is_not_found(cuda: Cuda) -> None:
    with (
        cuda.use(),
        pytest.raises(CudaError, match=r"of nothing.* failed: CUDA_ERROR_NOT_FOUND"),
    ):
        Module(cuda.scope(), "head.cu", ("LOGIT=Float",)).launch("nothing", 1, 1)


@needs_compiler
def test_the_doctor_compiles_and_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert try_kernels().startswith("nvrtc " if PROVIDER == "cuda-bindings" else "nvcc ")
    (finding,) = (each for each in doctor.examine(Path("/nowhere")) if each.subject == "kernels on the GPU")
    assert finding.state == "ok"
    monkeypatch.setenv("SOFTWARE_CUDA_FAIL", "cuModuleLoadData=209")
    if PROVIDER == "pycuda":
        monkeypatch.setenv("SOFTWARE_CUDA_FAIL", "cuModuleLoadDataEx=209")
    (finding,) = (each for each in doctor.examine(Path("/nowhere")) if each.subject == "kernels on the GPU")
    assert (finding.state, "CUDA_ERROR_NO_BINARY_FOR_GPU" in finding.detail) == ("wrong", True)


# --- errors


LOST = """
import os
from tests.runtime.driver.on_driver import CudaError, Cuda
cuda = Cuda()
os.environ["SOFTWARE_CUDA_FAIL"] = "cuStreamSynchronize=700"
said = []
for _ in range(2):
    try:
        with cuda.use():
            cuda.provider.synchronize(cuda.stream)
    except CudaError as exc:
        said.append(f"{exc.code} {exc}")
assert len(said) == 2 and cuda.lost
cuda.close()
for text in said:
    assert text.startswith("CUDA_ERROR_ILLEGAL_ADDRESS "), text
    assert text.endswith("the process must be terminated and relaunched"), text
"""


def test_after_an_illegal_address_the_process_is_to_be_started_again() -> None:
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("version", ["11040", "12060"])
def test_a_driver_that_is_too_old_is_named_with_the_one_that_is_needed(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv("SOFTWARE_CUDA_VERSION", version)
    release = r"(13 \(580|12 \(525) or newer\)"
    said = rf"needs an NVIDIA driver for CUDA {release}, the one here is for CUDA {version[:2]}\.{version[3]}"
    if PROVIDER == "pycuda":
        if not shutil.which("nvcc"):
            pytest.skip("pycuda needs nvcc")
        with pytest.raises(MissingExtra, match=said):
            try_kernels()
    elif int(version) // 1000 >= CUDA_VERSION // 1000:
        pytest.skip("this driver is new enough for these bindings")
    else:
        with pytest.raises(InputError, match=said):
            load_cuda()
    findings = {each.subject: each for each in doctor.examine(Path("/nowhere"))}
    assert findings["NVIDIA GPU"].detail.endswith(f"driver for CUDA {version[:2]}.{version[3]}")
    assert re.search(said, findings["kernels on the GPU"].detail)
    assert findings["kernels on the GPU"].fix
