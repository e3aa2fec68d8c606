"""A bundle through the same public calls on every backend: TensorRT of each release, OpenVINO, ONNX Runtime."""

from __future__ import annotations

import importlib
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from refinenet_edge.bundle import PLAN, Bundle
from refinenet_edge.cluster.bundles import Opening
from refinenet_edge.errors import CudaError, InputError
from refinenet_edge.evaluation import evaluate, open_dataset
from refinenet_edge.records import Bilinear, Cubic, EngineInfo, FrameSpec, Mask
from refinenet_edge.runtime import FakeSession, Segmenter, backends
from refinenet_edge.runtime.cuda_bindings import Nvrtc
from refinenet_edge.runtime.frame import on_device
from refinenet_edge.runtime.libraries import MODULES
from tests.evaluation.data import plain
from tests.runtime.fake_tensorrt import RELEASES, network
from tests.runtime.gpu import DEFAULT_STREAM, ILLEGAL_ADDRESS, Gpu
from tests.runtime.hardware import need
from tests.runtime.test_device_path import expected, frames
from tests.runtime.tinynet import build_plan, tiny

MakeGpu = Callable[..., Gpu]
MakeBundle = Callable[..., Bundle]
FRAME = np.random.default_rng(4).integers(0, 256, (40, 47, 3), np.uint8)


HARDWARE = ("tensorrt on this GPU", "tensorrt-rtx on this GPU")
EVERYWHERE = ["openvino", "onnxruntime", *RELEASES, *(pytest.param(name, marks=pytest.mark.gpu) for name in HARDWARE)]


def real_bundle(backend: str, make_bundle: MakeBundle) -> Bundle:
    """The tiny network, built here for the GPU that is here."""
    need(backend)
    module = importlib.import_module(MODULES[backend])
    engine = EngineInfo(backend, module.__version__, ("default",), 0)  # type: ignore[arg-type]
    plan = build_plan(module, tiny("float32", None))
    return make_bundle(size=None, files={PLAN: plan}, backend=backend, engine=engine)


@pytest.fixture(
    params=["openvino", "onnxruntime", *RELEASES, *(pytest.param(h, marks=pytest.mark.gpu) for h in HARDWARE)]
)
def bundle(
    request: pytest.FixtureRequest,
    make_gpu: MakeGpu,
    make_plan: Callable[..., Bundle],
    make_bundle: MakeBundle,
    monkeypatch: pytest.MonkeyPatch,
) -> Bundle:
    """A bundle of a dynamic network, for whose backend this machine has what it needs."""
    if request.param in HARDWARE:
        return real_bundle(request.param.partition(" ")[0], make_bundle)
    if request.param not in RELEASES:
        return make_bundle(size=None, backend=request.param)
    monkeypatch.setattr(backends, "gpu_problem", lambda: "")
    return make_plan(make_gpu(order=7, device=0), request.param)  # a new thread begins with device 0


@dataclass
class OnGpu:
    """A segmenter on a GPU, and the memory of an application beside it."""

    gpu: Gpu
    segmenter: Segmenter
    blocks: list[int] = field(default_factory=list)

    def put(self, frame: np.ndarray, gap: int = 0) -> tuple[int, int]:
        """The address of `frame` on the device, its rows `gap` bytes apart, and the distance of its rows."""
        rows = np.pad(frame.reshape(len(frame), -1), ((0, 0), (0, gap)))
        self.blocks.append(self.gpu.allocate(rows.nbytes, "device"))
        self.gpu.view(self.blocks[-1], rows.shape)[:] = rows
        return self.blocks[-1], rows.shape[1]


@pytest.fixture(params=["cuda-bindings", "pycuda"])
def on_gpu(
    request: pytest.FixtureRequest,
    make_gpu: MakeGpu,
    make_plan: Callable[..., Bundle],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[OnGpu]:
    monkeypatch.setattr(backends, "gpu_problem", lambda: "")
    gpu = make_gpu(request.param)
    with Segmenter(make_plan(gpu, "10.3")) as segmenter:
        running = OnGpu(gpu, segmenter)
        yield running
    for block in running.blocks:
        gpu.free(block, "device")


class TestEveryBackend:
    def test_a_stream_gives_what_single_frames_give(self, bundle: Bundle) -> None:
        shot = [*frames(4, 40), *frames(2, 33), *frames(2, 40)]
        with Segmenter(bundle) as segmenter:
            single = [segmenter.segment(frame) for frame in shot]
            for depth in (1, 2, 5):
                for mask, known in zip(segmenter.segment_stream(shot, depth), single, strict=True):
                    assert np.array_equal(mask.labels, known.labels)
        assert len({mask.labels.tobytes() for mask in single}) == 6

    def test_a_batch_of_frames_of_several_sizes_gives_what_single_frames_give(self, bundle: Bundle) -> None:
        shot = [*frames(3, 40), *frames(2, 33), FRAME]
        with Segmenter(bundle) as segmenter:
            single = [segmenter.segment(frame).labels for frame in shot]
            for count in (1, 2, len(shot)):
                for answer, known in zip(segmenter.segment_batch(shot[:count]), single[:count], strict=True):
                    assert isinstance(answer, Mask)
                    assert np.array_equal(answer.labels, known)
            assert segmenter.segment_batch([]) == []
        with pytest.raises(InputError, match="closed"):
            segmenter.segment_batch([])

    def test_a_bad_frame_of_a_batch_is_an_error_for_itself_only(self, bundle: Bundle) -> None:
        shot = frames(4, 40)
        with Segmenter(bundle) as segmenter:
            known = [segmenter.segment(frame).labels for frame in shot]
            answers = segmenter.segment_batch([shot[0], shot[1][0], shot[2], None, shot[3]])
        good = [answer.labels if isinstance(answer, Mask) else None for answer in answers]
        for labels, number in zip(good, (0, None, 2, None, 3), strict=True):
            assert labels is None if number is None else np.array_equal(labels, known[number])
        for answer, given in ((answers[1], r"uint8 \(47, 3\)"), (answers[3], "NoneType")):
            assert isinstance(answer, InputError)
            assert re.search(f"HxWx3 BGR uint8 array.*{given}", str(answer))

    def test_an_empty_stream(self, bundle: Bundle) -> None:
        with Segmenter(bundle) as segmenter:
            assert not list(segmenter.segment_stream([]))

    def test_a_depth_of_nothing(self, bundle: Bundle) -> None:
        with Segmenter(bundle) as segmenter, pytest.raises(InputError, match="a depth of 0"):
            next(segmenter.segment_stream([FRAME], 0))

    def test_a_frame_that_is_none_ends_the_stream_and_not_the_segmenter(self, bundle: Bundle) -> None:
        with Segmenter(bundle) as segmenter:
            known = segmenter.segment(FRAME)
            with pytest.raises(InputError, match="a frame is a HxWx3 BGR uint8 array"):
                list(segmenter.segment_stream([FRAME, FRAME, FRAME[0], FRAME]))
            assert np.array_equal(segmenter.segment(FRAME).labels, known.labels)

    def test_masks_outlive_the_segmenter(self, bundle: Bundle) -> None:
        with Segmenter(bundle) as segmenter:
            masks = list(segmenter.segment_stream([FRAME, 255 - FRAME]))
            kept = [mask.labels.copy() for mask in masks]
        assert all(np.array_equal(mask.labels, labels) for mask, labels in zip(masks, kept, strict=True))

    def test_closing_twice_and_under_a_stream(self, bundle: Bundle) -> None:
        segmenter = Segmenter(bundle)
        stream = segmenter.segment_stream(frames(4, 40))
        next(stream)
        segmenter.close()
        segmenter.close()
        with pytest.raises(InputError, match="closed"):
            list(stream)
        with pytest.raises(InputError, match="closed"):
            segmenter.segment(FRAME)

    @pytest.mark.parametrize("shared", [True, False], ids=["one for all", "one each"])
    def test_threads(self, bundle: Bundle, shared: bool) -> None:
        shot = frames(12, 40)
        with Segmenter(bundle) as one:
            known = [one.segment(frame).labels for frame in shot]
            found: dict[int, np.ndarray] = {}
            failures: list[BaseException] = []

            def work(numbers: range) -> None:
                try:
                    segmenter = one if shared else Segmenter(bundle)
                    for number in numbers[:2]:
                        found[number] = segmenter.segment(shot[number]).labels
                    stream = segmenter.segment_stream(shot[number] for number in numbers[2:])
                    found.update({number: mask.labels for number, mask in zip(numbers[2:], stream, strict=True)})
                    if not shared:
                        segmenter.close()
                except BaseException as exc:
                    failures.append(exc)

            threads = [threading.Thread(target=work, args=(range(start, 12, 3),)) for start in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert not failures
        assert all(np.array_equal(found[number], labels) for number, labels in enumerate(known))


@dataclass
class OnDevice:
    """What cupy, torch and pycuda have in common."""

    __cuda_array_interface__: dict[str, Any]


def interface(address: int, shape: tuple[int, ...] = FRAME.shape, **more: Any) -> OnDevice:
    return OnDevice({"shape": shape, "typestr": "|u1", "data": (address, False), "version": 3, **more})


class GpuMat:
    """`cv2.cuda.GpuMat`, as far as it is asked."""

    def __init__(self, address: int, step: int, kind: int = cv2.CV_8UC3) -> None:
        self._address, self.step, self._kind = address, step, kind

    def cudaPtr(self) -> int:  # noqa: N802
        return self._address

    def size(self) -> tuple[int, int]:
        return FRAME.shape[1], FRAME.shape[0]

    def type(self) -> int:
        return self._kind


def test_a_segmenter_that_does_not_start_gives_its_session_back(
    make_gpu: MakeGpu, make_plan: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "gpu_problem", lambda: "")
    gpu = make_gpu()
    monkeypatch.setattr(Nvrtc, "version", lambda _: (_ for _ in ()).throw(CudaError("NVRTC fails", "")))
    with pytest.raises(CudaError, match="NVRTC fails"):
        Segmenter(make_plan(gpu, "10.3"))
    assert not gpu.held()


class TestAnotherUpsampling:
    """Asked of a segmenter that runs on the GPU, whose kernels interpolate bilinearly."""

    def known(self, spec: FrameSpec) -> np.ndarray:
        return expected(FRAME, replace(spec, upsample=Cubic()))

    def test_it_is_what_was_asked_for(self, on_gpu: OnGpu) -> None:
        segmenter = on_gpu.segmenter
        bilinear, cubic = expected(FRAME, segmenter.frame_spec), self.known(segmenter.frame_spec)
        assert not np.array_equal(bilinear, cubic)
        with segmenter.with_upsample(Cubic()) as other:
            assert (other.frame_spec.upsample, segmenter.frame_spec.upsample) == (Cubic(), Bilinear(True))
            for _ in range(3):  # in turn
                assert np.array_equal(segmenter.segment(FRAME).labels, bilinear)
                assert np.array_equal(other.segment(FRAME).labels, cubic)
            assert all(np.array_equal(mask.labels, cubic) for mask in other.segment_stream([FRAME] * 3))
            with other.with_upsample(Bilinear(False)) as third:
                spec = replace(segmenter.frame_spec, upsample=Bilinear(False))
                assert np.array_equal(third.segment(FRAME).labels, expected(FRAME, spec))

    def test_the_session_closes_with_the_last(self, on_gpu: OnGpu) -> None:
        first = on_gpu.segmenter
        second = first.with_upsample(Cubic())
        first.segment(FRAME)
        first.close()
        first.close()
        with pytest.raises(InputError, match="this segmenter is closed"):
            first.segment(FRAME)
        with pytest.raises(InputError, match="this segmenter is closed"):
            first.with_upsample(Cubic())
        assert np.array_equal(second.segment(FRAME).labels, self.known(first.frame_spec))
        second.close()
        assert not on_gpu.gpu.held()

    def test_an_evaluation_is_of_what_it_says(self, on_gpu: OnGpu, tmp_path: Path) -> None:
        dataset = plain(tmp_path, 5, 2)
        with on_gpu.segmenter.with_upsample(Cubic()) as cubic:
            result = evaluate(cubic, open_dataset(str(dataset)))
        on_the_cpu = FakeSession(
            lambda feeds: {"logits": network(feeds["image"], 8, 5)}, cubic.session.inputs, cubic.session.outputs
        )
        with Segmenter.from_session(on_the_cpu, cubic.frame_spec, cubic.labels) as twin:
            assert evaluate(twin, open_dataset(str(dataset))).confusion == result.confusion
        assert result.frame.upsample == Cubic()
        assert result.confusion != evaluate(on_gpu.segmenter, open_dataset(str(dataset))).confusion

    def test_a_worker_does_it_too(
        self, make_gpu: MakeGpu, make_plan: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backends, "gpu_problem", lambda: "")
        bundle = make_plan(make_gpu(), "10.3")
        with Opening(bundle.path, bundle.digest, None, "tensorrt", 0, upsample=Cubic()).segmenter() as segmenter:
            assert np.array_equal(segmenter.segment(FRAME).labels, self.known(segmenter.frame_spec))


class TestFramesOnTheGpu:
    def test_they_are_read_where_they_are(self, on_gpu: OnGpu) -> None:
        segmenter, known = on_gpu.segmenter, expected(FRAME, on_gpu.segmenter.frame_spec)
        assert np.array_equal(segmenter.segment(FRAME).labels, known)
        on_gpu.gpu.moved.clear()
        plain, _ = on_gpu.put(FRAME)
        pitched, pitch = on_gpu.put(FRAME, gap=83)
        for frame in (
            interface(plain, strides=None, stream=None),
            interface(plain, stream=DEFAULT_STREAM),
            interface(pitched, strides=(pitch, 3, 1)),
            GpuMat(pitched, pitch),
        ):
            for _ in range(2):
                assert np.array_equal(segmenter.segment(frame).labels, known)
            assert all(np.array_equal(mask.labels, known) for mask in segmenter.segment_stream([frame] * 3))
        assert "up" not in on_gpu.gpu.moved

    def test_it_waits_for_the_stream_that_writes_them(self, on_gpu: OnGpu) -> None:
        gpu, (address, _) = on_gpu.gpu, on_gpu.put(np.zeros_like(FRAME))
        theirs = gpu.make(gpu.streams, deque())
        for number in range(4):  # the later ones by a graph
            frame = np.roll(FRAME, number, axis=0)
            gpu.queue(theirs, lambda frame=frame: np.copyto(gpu.view(address, FRAME.shape), frame))
            labels = on_gpu.segmenter.segment(interface(address, stream=theirs)).labels
            assert np.array_equal(labels, expected(frame, on_gpu.segmenter.frame_spec))
        gpu.drop(gpu.streams, theirs)

    def test_another_address_is_another_graph_and_few_are_kept(self, on_gpu: OnGpu) -> None:
        for _ in range(2):
            for number in range(10):
                frame = np.roll(FRAME, number, axis=0)
                address, _ = on_gpu.put(frame)
                labels = on_gpu.segmenter.segment(interface(address)).labels
                assert np.array_equal(labels, expected(frame, on_gpu.segmenter.frame_spec))
        assert on_gpu.gpu.held().get("graphs", 0) <= 8

    @pytest.mark.parametrize(
        ("frame", "said"),
        [
            (interface(1, typestr="<f4"), r"this is <f4 \(40, 47, 3\)"),
            (interface(1, shape=(3, 40, 47)), r"\(3, 40, 47\)"),
            (interface(1, shape=(40, 47)), r"\(40, 47\)"),
            (interface(1, strides=(1, 40, 1880)), r"strides \(1, 40, 1880\)"),
            (interface(1, strides=(140, 3, 1)), r"strides \(140, 3, 1\)"),
            (interface(1, shape=(40, 20_000, 3)), "1 to 16384 pixels a side"),
            (GpuMat(1, 512, cv2.CV_8UC4), f"CV_8UC3, this one has type {cv2.CV_8UC4}"),
            (interface(1, shape=(65, 47, 3)), "outside the engine's range"),
        ],
    )
    def test_what_is_no_frame(self, on_gpu: OnGpu, frame: Any, said: str) -> None:
        with pytest.raises(InputError, match=said):
            on_gpu.segmenter.segment(frame)

    def test_the_cpu_does_not_read_them(self, make_bundle: MakeBundle) -> None:
        with (
            Segmenter(make_bundle(size=None), "openvino") as segmenter,
            pytest.raises(InputError, match="this frame is on the GPU, openvino takes numpy arrays: download it first"),
        ):
            segmenter.segment(interface(1))

    def test_opencv_has_these_names(self) -> None:
        if not hasattr(cv2, "cuda") or not hasattr(cv2.cuda, "GpuMat"):
            pytest.skip("this OpenCV has no GpuMat")
        for name in ("cudaPtr", "step", "size", "type"):
            assert hasattr(cv2.cuda.GpuMat, name)

    def test_a_numpy_array_is_not_on_the_gpu(self) -> None:
        assert on_device(FRAME) is None


@pytest.mark.gpu
@pytest.mark.parametrize("provider", ["cuda-bindings", "pycuda"])
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_hardware_gives_the_labels_of_the_cpu(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, backend: str, provider: str
) -> None:
    """From host memory and from the GPU's; one or two labels in a thousand may sit on a tie."""
    if provider == "pycuda":
        pytest.importorskip("pycuda")
    monkeypatch.setenv("REFINENET_EDGE_CUDA", provider)
    bundle = real_bundle(backend, make_bundle)
    shot = frames(6, 40)
    with Segmenter(bundle, "onnxruntime") as twin:
        known = [twin.segment(frame).labels for frame in shot]
    with Segmenter(bundle, backend) as segmenter:
        cuda = segmenter.session.cuda  # type: ignore[attr-defined]
        with cuda.use():
            there = [interface(cuda.scope().put(frame), shape=frame.shape, stream=None) for frame in shot]
        for source in (shot, there):
            for mask, labels in zip(segmenter.segment_stream(source), known, strict=True):
                assert (mask.labels == labels).mean() > 0.998


class TestWhatGoesWrong:
    def test_the_gpus_error_is_told_and_a_new_process_runs(
        self, make_gpu: MakeGpu, make_plan: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backends, "gpu_problem", lambda: "")
        gpu = make_gpu()
        bundle = make_plan(gpu, "10.3")
        with Segmenter(bundle) as segmenter:
            segmenter.segment(FRAME)
            gpu.fail("cuLaunchKernel", ILLEGAL_ADDRESS)
            with pytest.raises(CudaError, match=r"cuLaunchKernel of prepare, grid .* CUDA_ERROR_ILLEGAL_ADDRESS"):
                segmenter.segment(FRAME[:33])
            with pytest.raises(CudaError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
                segmenter.segment(FRAME)
            with pytest.raises(CudaError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):  # no error of one frame
                segmenter.segment_batch([FRAME, FRAME])
        with pytest.raises(CudaError, match=r"CUDA_ERROR_ILLEGAL_ADDRESS\. To continue .* must be terminated"):
            Segmenter(bundle)
        gpu.restart()
        gpu.failing = lambda _: 0
        with Segmenter(bundle) as segmenter:
            assert np.array_equal(segmenter.segment(FRAME).labels, expected(FRAME, segmenter.frame_spec))

    def test_without_a_compiler_the_cpu_prepares(
        self,
        make_gpu: MakeGpu,
        make_plan: Callable[..., Bundle],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(backends, "gpu_problem", lambda: "")
        bundle = make_plan(make_gpu(), "10.3")
        for name in ("cuda.bindings.nvrtc", "cuda.nvrtc"):
            monkeypatch.setitem(sys.modules, name, None)
        with Segmenter(bundle) as segmenter:
            assert np.array_equal(segmenter.segment(FRAME).labels, expected(FRAME, segmenter.frame_spec))
            masks = list(segmenter.segment_stream([FRAME, FRAME]))
            assert len(masks) == 2
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "frame and labels are prepared on the CPU, not on the GPU" in caplog.text
