"""The way of a frame on a real GPU, also where no TensorRT runs: driver, compiler, kernels and graphs are real.

In TensorRT's place is the fake of the oldest release, whose network is a kernel here.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from refinenet_edge.bundle import Bundle
from refinenet_edge.errors import InputError
from refinenet_edge.records import PREPROCESSINGS, Bilinear, FrameSpec, Mask
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.cuda import RESTART, Cuda, gpu_problem
from refinenet_edge.runtime.cuda_bindings import CapturedGraphs, Nvrtc
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.head import upsample_argmax, upsample_softmax
from refinenet_edge.runtime.kernels.device import DeviceFrame, DeviceHead
from refinenet_edge.runtime.tensorrt.session import TrtSession
from tests.runtime.fake_tensorrt import weight
from tests.runtime.test_device_path import CLASSES, expected

pytestmark = pytest.mark.gpu
POISON = 0x7B
SIZES = ((61, 47), (1, 1), (3, 5), (33, 130), (512, 512), (1080, 1920))
# the network of fake_tensorrt.network, float16 and HWC8
NETWORK = """
extern "C" __global__ void mix(const unsigned short* image, const float* weight, unsigned short* logits,
                               int channels, int padded, int height, int width, int columns) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y;
    if (x >= columns) return;
    image += (long long)blockIdx.z * height * width * channels;
    logits += (long long)blockIdx.z * gridDim.y * columns * padded;
    const unsigned short* pixel = image + ((long long)4 * y * width + 4 * x) * channels;
    for (int o = 0; o < padded; ++o) {
        float sum = 0;
        for (int c = 0; c < channels; ++c) {
            float value;
            asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(pixel[c]));
            sum += weight[o * channels + c] * value;
        }
        unsigned short bits;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(sum));
        logits[((long long)y * columns + x) * padded + o] = bits;
    }
}
extern "C" __global__ void out_of_bounds(int* nowhere) { *nowhere = 1; }
"""


def frames(count: int, size: tuple[int, int] = (40, 47)) -> list[np.ndarray]:
    return [np.random.default_rng(n).integers(0, 256, (*size, 3), np.uint8) for n in range(count)]


def compiled(cuda: Cuda) -> Any:
    """The network's module in the GPU's primary context."""
    options = [f"--gpu-architecture={cuda.capability}", "--fmad=false"]
    return cuda.provider.load(Nvrtc().compile("network.cu", NETWORK, {}, options)[0])


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    if reason := gpu_problem():
        pytest.skip(f"needs an NVIDIA GPU: {reason}")
    monkeypatch.setenv("REFINENET_EDGE_CUDA", "cuda-bindings")
    opened = Cuda()
    yield opened
    opened.close()


# --- the kernels


def fetch(cuda: Cuda, address: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    found = np.empty(shape, dtype)
    cuda.provider.download(found, address, cuda.stream)
    cuda.provider.synchronize(cuda.stream)
    return found


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("channels", [None, 8, 16])
@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_frames_become_the_input_that_the_cpu_makes(cuda: Cuda, name: str, channels: int | None, dtype: str) -> None:
    """To the bit; where it resizes, to the last bit of a byte."""
    plain = PREPROCESSINGS[name]
    step = float(np.max(1 / (plain.scale * np.array(plain.std)))) * 1.2
    for size in SIZES:
        frame, pitch = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8), 3 * size[1] + 13
        rows = np.full((size[0], pitch), POISON, np.uint8)
        rows[:, : 3 * size[1]] = frame.reshape(size[0], -1)
        for spec in (plain, replace(plain, size=(64, 96)), replace(plain, size=(512, 512))):
            known = prepare(frame, spec, dtype, channels or 3)
            with cuda.use():
                scope = cuda.scope()
                kernel = DeviceFrame(scope, spec, size, dtype, channels)
                cuda.provider.upload(kernel.address, np.full(known.shape, 9, dtype), cuda.stream)
                kernel.prepare(scope.put(rows), pitch)
                shape = known.shape if channels is None else tuple(known.shape[axis] for axis in (0, 2, 3, 1))
                found = fetch(cuda, kernel.address, shape, dtype)
                scope.close()
            found = found if channels is None else found.transpose(0, 3, 1, 2)
            if spec.size in (None, size):
                assert np.array_equal(found, known)
            else:
                assert np.abs(found.astype(np.float64) - known).max() <= step


@pytest.mark.parametrize("corners", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("classes", "padded"), [(2, None), (5, 8), (21, 24), (150, None)])
def test_labels_are_those_of_the_cpu_to_the_bit(
    cuda: Cuda, classes: int, padded: int | None, dtype: str, corners: bool
) -> None:
    how = Bilinear(align_corners=corners)
    for shape, size in (((8, 12), (32, 48)), ((1, 1), (7, 9)), ((33, 47), (61, 200)), ((128, 128), (1080, 1920))):
        rng = np.random.default_rng([classes, *shape])
        smooth = np.sin(np.add.outer(rng.uniform(0, 9, (classes, shape[0])), np.arange(shape[1]) / 7)).astype(dtype)
        for logits in (smooth, rng.standard_normal((classes, *shape)).astype(dtype), np.zeros_like(smooth)):
            sent = logits
            if padded is not None:
                sent = np.full((*shape, padded), 1000, dtype)  # what must not be looked at
                sent[..., :classes] = logits.transpose(1, 2, 0)
            with cuda.use():
                scope = cuda.scope()
                head = DeviceHead(scope, dtype, (classes, *shape), size, how, padded)
                scores, labels, sure = scope.put(sent), scope.memory(size[0] * size[1]), scope.memory(size[0] * size[1])
                for address in (labels, sure):
                    cuda.provider.upload(address, np.full(size, POISON, np.uint8), cuda.stream)
                head.label(scores, labels)
                found = fetch(cuda, labels, size, "uint8")
                head.label(scores, labels, sure)
                both = fetch(cuda, labels, size, "uint8"), fetch(cuda, sure, size, "uint8")
                scope.close()
            assert np.array_equal(found, upsample_argmax(logits, size, how))
            for one, other in zip(both, upsample_softmax(logits, size, how), strict=True):
                assert np.array_equal(one, other)


# --- the device path


@dataclass(frozen=True)
class Asked:
    """What `handle in` is answered with."""

    answer: Callable[[int], bool]

    def __contains__(self, handle: int) -> bool:
        return self.answer(handle)


class Hardware:
    """What the fake TensorRT asks of a GPU, answered by the driver; its network is `NETWORK`."""

    def __init__(self, cuda: Cuda) -> None:
        from cuda.bindings import driver

        self._driver, self._cuda, self._here = driver, cuda, threading.local()
        self.graph_launches = 0
        with cuda.use():
            self._scope = cuda.scope()
            self._module = compiled(cuda)
            self._weight = self._scope.put(weight(8, 8, CLASSES))
        self.streams = Asked(lambda stream: not int(driver.cuStreamIsCapturing(stream)[0]))
        self.capturing = Asked(lambda stream: bool(int(driver.cuStreamIsCapturing(stream)[1])))

    def call(self, name: str) -> None:
        """Nothing fails here on purpose."""

    def check(self, address: int, size: int) -> None:
        """`size` bytes at `address` are memory of the device."""
        status, base, whole = self._driver.cuMemGetAddressRange(address)
        assert not int(status)
        assert int(base) <= address <= address + size <= int(base) + whole

    def queue(self, stream: int, work: Callable[[], None]) -> None:
        self._here.stream = stream
        work()

    def run(self, engine: Any, memory: object, addresses: dict[str, int], shape: tuple[int, ...]) -> None:
        """Queue the network."""
        batch, channels, height, width = shape
        rows, columns = -(-height // 4), -(-width // 4)
        pointers = [ctypes.c_void_p(each) for each in (addresses["image"], self._weight, addresses["logits"])]
        numbers = [ctypes.c_int(each) for each in (channels, engine._padded, height, width, columns)]
        grid, block = (-(-columns // 64), rows, batch), (64, 1, 1)
        self._cuda.provider.launch(self._module, "mix", grid, block, (*pointers, *numbers), self._here.stream)


@dataclass
class Opened:
    hardware: Hardware
    bundle: Bundle

    @contextmanager
    def segmenter(self, **options: Any) -> Iterator[Segmenter]:
        with Segmenter(self.bundle, "tensorrt", **options) as segmenter:
            yield segmenter


@pytest.fixture
def open_plan(cuda: Cuda, make_plan: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Opened]:
    """open_plan(fields of plan()): a bundle of it on the GPU; once in a test."""
    hardware = Hardware(cuda)
    launch = CapturedGraphs.launch

    def counted(self: CapturedGraphs, graph: Any, stream: int) -> None:
        hardware.graph_launches += 1
        launch(self, graph, stream)

    def make(**fields: Any) -> Opened:
        profiles = [[[8, 8], [512, 512], [2048, 2048]]]
        bundle = make_plan(hardware, "10.3", {"targets": (cuda.capability,)}, profiles=profiles, **fields)
        context = sys.modules["tensorrt"].IExecutionContext  # type: ignore[attr-defined]
        context._run = lambda self, *args: hardware.run(self._engine, *args)
        return Opened(hardware, bundle)

    monkeypatch.setattr(CapturedGraphs, "launch", counted)
    return make


@pytest.fixture
def opened(open_plan: Callable[..., Opened]) -> Opened:
    return open_plan()


def agree(labels: np.ndarray, frame: np.ndarray, spec: FrameSpec) -> None:
    """The network's sums may be rounded otherwise than numpy's: one or two labels in a thousand may sit on a tie."""
    assert labels.shape == frame.shape[:2]
    assert (labels == expected(frame, spec)).mean() > 0.998


def test_single_frames_streams_and_graphs_agree(opened: Opened) -> None:
    shot = [*frames(6), *frames(3, (33, 47)), *frames(6)]
    with opened.segmenter() as segmenter:
        known = [segmenter.segment(frame).labels for frame in shot]
        for labels, frame in zip(known, shot, strict=True):
            agree(labels, frame, segmenter.frame_spec)
        for depth in (1, 2, 3, 5):
            for mask, labels in zip(segmenter.segment_stream(shot, depth), known, strict=True):
                assert np.array_equal(mask.labels, labels)
        for frame, labels in zip(shot, known, strict=True):
            assert np.array_equal(segmenter.segment(frame[:, ::-1]).labels.shape, labels.shape)
    assert opened.hardware.graph_launches > 30
    assert np.array_equal(known[0], known[9])


@pytest.mark.parametrize("size", [(1080, 1920), (2048, 2048), (480, 640)])
def test_large_frames_in_a_long_stream(opened: Opened, size: tuple[int, int]) -> None:
    shot = frames(5, size)
    with opened.segmenter() as segmenter:
        known = [segmenter.segment(frame).labels for frame in shot]
        for n, mask in enumerate(segmenter.segment_stream((shot[n % 5] for n in range(60)), 3)):
            assert np.array_equal(mask.labels, known[n % 5])
        agree(known[0], shot[0], segmenter.frame_spec)


def test_page_locked_frames_and_labels(opened: Opened) -> None:
    shot = frames(8)
    with opened.segmenter() as segmenter:
        known = [segmenter.segment(frame).labels for frame in shot]
        frame, labels = segmenter.new_frame(40, 47), segmenter.new_labels(40, 47)
        for n in range(40):
            np.copyto(frame, shot[n % 8])
            assert segmenter.segment(frame, labels).labels is labels
            assert np.array_equal(labels, known[n % 8])


def test_frames_of_torch_on_its_own_stream(opened: Opened) -> None:
    """The work that writes a frame is still waiting when the frame is handed over."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    shot = frames(6, (480, 640))
    with opened.segmenter() as segmenter:
        known = [segmenter.segment(frame).labels for frame in shot]
        there = torch.zeros((480, 640, 3), dtype=torch.uint8, device="cuda")
        sources = [torch.from_numpy(frame).cuda() for frame in shot]
        for _ in range(3):
            for source, labels in zip(sources, known, strict=True):
                there.zero_()
                torch.cuda._sleep(20_000_000)  # 10 ms
                there.copy_(source)
                assert np.array_equal(segmenter.segment(there).labels, labels)
        part = torch.zeros((480, 700, 3), dtype=torch.uint8, device="cuda")[:, 11:651]
        part.copy_(sources[0])
        assert np.array_equal(segmenter.segment(part).labels, known[0])


def test_confidence(opened: Opened) -> None:
    with opened.segmenter() as plain, opened.segmenter(confidence=True) as sure:
        for frame in frames(6):
            mask = sure.segment(frame)
            assert (mask.labels == plain.segment(frame).labels).all()
            assert mask.confidence is not None
            assert mask.confidence.shape == frame.shape[:2]


@pytest.mark.parametrize("confidence", [False, True])
@pytest.mark.parametrize("size", [(64, 96), None], ids=["stretched", "free"])
@pytest.mark.parametrize("batch", [(1, 4, 4), (4, 4, 4)], ids=["1:4", "4"])
def test_several_frames_at_once(
    open_plan: Callable[..., Opened], batch: tuple[int, ...], size: tuple[int, int] | None, confidence: bool
) -> None:
    """Those of 1:4 are alone by the kernels of single frames; 4 is fed what is missing."""
    shot = [*frames(3), *frames(2, (33, 47)), *frames(2, (480, 640))]
    opened = open_plan(batch=batch, size=size)
    with opened.segmenter(confidence=confidence) as segmenter:
        alone = [segmenter.segment(frame) for frame in shot]
        own = [segmenter.new_frame(*frame.shape[:2]) for frame in shot]
        for place, frame, mask in zip(own, shot, alone, strict=True):
            np.copyto(place, frame)
            if size is None:  # where it resizes, bytes differ by one from OpenCV's
                agree(mask.labels, frame, segmenter.frame_spec)
        ways = [range(7), range(7), range(6, -1, -1), *(range(count) for count in range(1, 5)), *[(0, 1, 2, 0)] * 4]
        for given in (shot, own):
            before = opened.hardware.graph_launches
            for way in ways:
                answers = segmenter.segment_batch([given[n] for n in way])
                for n, answer in zip(way, answers, strict=True):
                    assert isinstance(answer, Mask), answer
                    assert np.array_equal(answer.labels, alone[n].labels)
                    found, sure = answer.confidence, alone[n].confidence
                    assert (found is not None) == (sure is not None) == confidence
                    if found is not None and sure is not None:
                        assert np.array_equal(found, sure)
            assert opened.hardware.graph_launches > before
        first, bad, last = segmenter.segment_batch([shot[0], shot[1][0], shot[5]])
        assert isinstance(bad, InputError)
        for answer, n in ((first, 0), (last, 5)):
            assert isinstance(answer, Mask) and np.array_equal(answer.labels, alone[n].labels)
        for mask, one in zip(segmenter.segment_stream(shot, batch=4), alone, strict=True):
            assert np.array_equal(mask.labels, one.labels)


@pytest.mark.parametrize("given", ["arrays", "page-locked"])
@pytest.mark.parametrize("batch", [(1, 4, 4), (4, 4, 4)], ids=["1:4", "4"])
def test_batches_of_a_long_stream_overlap(open_plan: Callable[..., Opened], batch: tuple[int, ...], given: str) -> None:
    """One batch is uploaded while the other runs: neither has pixels or labels of another."""
    shot = [*frames(5, (480, 640)), *frames(3, (1080, 1920)), *frames(3)]
    opened = open_plan(batch=batch, size=(64, 96))
    with opened.segmenter() as single:
        alone = [single.segment(frame).labels for frame in shot]
    with opened.segmenter(throughput=True) as segmenter:
        if given == "page-locked":
            own = [segmenter.new_frame(*frame.shape[:2]) for frame in shot]
            for place, frame in zip(own, shot, strict=True):
                np.copyto(place, frame)
            shot = own
        before = opened.hardware.graph_launches
        stream = segmenter.segment_stream(shot[n % 11] for n in range(201))
        for n, mask in enumerate(stream):
            assert np.array_equal(mask.labels, alone[n % 11])
        assert n == 200
        assert 44 <= opened.hardware.graph_launches - before <= 50  # 50 batches of four, and one frame
        stream = segmenter.segment_stream(shot)
        assert np.array_equal(next(stream).labels, alone[0])
        stream.close()  # with two on their way
        assert np.array_equal(segmenter.segment(shot[1]).labels, alone[1])


def test_stages_take_time_and_give_the_same(opened: Opened) -> None:
    with opened.segmenter() as segmenter:
        (frame,) = frames(1, (480, 640))
        known = segmenter.segment(frame).labels
        mask, ms = segmenter.staged(frame)
        assert np.array_equal(mask.labels, known)
        assert set(ms) == {"upload", "prepare", "engine", "head", "download"}
        assert all(0 < value < 1000 for value in ms.values())


@pytest.mark.parametrize("shared", [True, False], ids=["one for all", "one each"])
def test_threads(opened: Opened, shared: bool) -> None:
    shot, failures = frames(8), []
    with opened.segmenter() as one:
        known = [one.segment(frame).labels for frame in shot]

        def work() -> None:
            try:
                segmenter = one if shared else Segmenter(opened.bundle, "tensorrt")
                for _ in range(10):
                    for frame, labels in zip(shot, known, strict=True):
                        assert np.array_equal(segmenter.segment(frame).labels, labels)
                if not shared:
                    segmenter.close()
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def test_all_memory_comes_back(opened: Opened, cuda: Cuda) -> None:
    def free() -> int:
        with cuda.use():
            return cuda.provider.memory()[0]

    def once() -> None:
        with opened.segmenter() as segmenter:
            for size in ((40, 47), (1080, 1920), (480, 640)):
                list(segmenter.segment_stream(frames(4, size), 3))
            stream = segmenter.segment_stream(frames(4), 3)
            next(stream)  # closed under a stream

    once()
    before = free()
    for _ in range(5):
        once()
    assert before - free() < 4 << 20


def test_a_session_computes_the_network(opened: Opened) -> None:
    with TrtSession.open(opened.bundle) as session:
        image = np.random.default_rng(0).standard_normal((1, 8, 32, 48)).astype(np.float16)
        image[:, 3:] = 0
        found = session.run({"image": image})["logits"]
        known = np.einsum("oc,bchw->bohw", weight(8, 8, CLASSES), image[:, :, ::4, ::4].astype(np.float32))
        np.testing.assert_allclose(found.astype(np.float32), known, rtol=1e-3, atol=1e-3)


LOST = """
import ctypes
import numpy as np
from refinenet_edge.errors import CudaError
from tests.runtime.test_on_hardware import Cuda, compiled
cuda = Cuda()
said = []
with cuda.use():
    module = compiled(cuda)
for _ in range(2):
    try:
        with cuda.use():
            if not said:
                nowhere = (ctypes.c_void_p(64),)
                cuda.provider.launch(module, "out_of_bounds", (1, 1, 1), (1, 1, 1), nowhere, cuda.stream)
            cuda.provider.synchronize(cuda.stream)
    except CudaError as exc:
        said.append(str(exc))
assert cuda.lost
cuda.close()
print(len(said), *said, sep="\\n")
"""


def test_after_an_illegal_address_the_process_is_to_be_started_again(opened: Opened) -> None:
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    count, *said = done.stdout.splitlines()
    assert count == "2"
    assert all("CUDA_ERROR_ILLEGAL_ADDRESS" in each and each.endswith(RESTART) for each in said)
    with opened.segmenter() as segmenter:  # others go on
        agree(segmenter.segment(frames(1)[0]).labels, frames(1)[0], segmenter.frame_spec)
