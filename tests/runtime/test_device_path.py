"""Frame -> labels on the device: TensorRT of each release between the real kernels, on a GPU on the host."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from refinenet_edge.bundle import Bundle
from refinenet_edge.errors import InputError, RefineNetEdgeError
from refinenet_edge.labels import numbered
from refinenet_edge.records import PREPROCESSINGS, Bilinear, Cubic, FrameSpec, TensorSpec
from refinenet_edge.runtime.cuda import RESTART
from refinenet_edge.runtime.device_path import GRAPHS, DevicePath, _Steps
from refinenet_edge.runtime.frame import DeviceImage, prepare
from refinenet_edge.runtime.frame_path import Network, SharedSession
from refinenet_edge.runtime.head import upsample_argmax, upsample_softmax
from refinenet_edge.runtime.host_path import HostPath
from refinenet_edge.runtime.segmenter import Segmenter
from refinenet_edge.runtime.session import Session
from refinenet_edge.runtime.tensorrt.session import TrtSession
from tests.runtime.fake_tensorrt import BACKENDS, MODES, network
from tests.runtime.gpu import ILLEGAL_ADDRESS, OUT_OF_MEMORY, Gpu

CLASSES = 5
FRAME = np.random.default_rng(4).integers(0, 256, (61, 47, 3), np.uint8)
ORDERS = ("late", "early", 1, 2, 3)
MakeGpu = Callable[..., Gpu]


def frames(count: int, height: int = 61) -> list[np.ndarray]:
    return [np.random.default_rng(n).integers(0, 256, (height, 47, 3), np.uint8) for n in range(count)]


def expected(frame: np.ndarray, spec: FrameSpec, channel_last: bool = True, dtype: str = "float16") -> np.ndarray:
    """What the CPU makes of it."""
    image = prepare(np.ascontiguousarray(frame), spec, dtype, 8 if channel_last else 3)
    logits = network(image, 8 if channel_last else CLASSES, CLASSES)
    return upsample_argmax(logits[0, :CLASSES], frame.shape[:2], spec.upsample)


def filled(target: np.ndarray, frame: np.ndarray) -> np.ndarray:
    np.copyto(target, frame)
    return target


def device_path(session: TrtSession, spec: FrameSpec, confidence: bool = False) -> DevicePath:
    network = Network(SharedSession(session), spec, numbered(CLASSES), "a session", confidence=confidence)
    return DevicePath(network, session)


class Running:
    """A device path and what it runs on."""

    def __init__(self, gpu: Gpu, session: TrtSession, spec: FrameSpec, confidence: bool) -> None:
        self.gpu, self.session, self.spec = gpu, session, spec
        self.device = device_path(session, spec, confidence)

    def labels(self, frame: Any, into: np.ndarray | None = None) -> np.ndarray:
        return self.device.segment(frame, into).labels

    def launches(self) -> int:
        return self.gpu.calls.count("cuGraphLaunch")


@pytest.fixture
def running(make_gpu: MakeGpu, make_plan: Callable[..., Bundle]) -> Iterator[Callable[..., Running]]:
    """running(size, release, provider, fields of the plan and the GPU)."""
    made: list[Running] = []

    def make(
        size: tuple[int, int] | None = None,
        release: str = "10.3",
        provider: str = "cuda-bindings",
        plan: dict[str, Any] | None = None,
        confidence: bool = False,
        **gpu_fields: Any,
    ) -> Running:
        gpu = make_gpu(provider, **gpu_fields)
        fields = {"profiles": [[[8, 8], [32, 32], [64, 64]]], "size": size, **(plan or {})}
        backend = BACKENDS.get(release, "tensorrt")
        session = TrtSession.open(make_plan(gpu, release, **fields), backend, allow_host_code=release == "lean")
        made.append(Running(gpu, session, FrameSpec(size), confidence))
        return made[-1]

    yield make
    for run in made:
        run.device.close()
        run.session.close()


@pytest.mark.parametrize("release", MODES)
@pytest.mark.parametrize(("dtype", "channel_last"), [("float16", True), ("float16", False), ("float32", False)])
@pytest.mark.parametrize("size", [(32, 32), None], ids=["static", "dynamic"])
def test_labels_are_those_of_the_cpu(
    running: Callable[..., Running], release: str, dtype: str, channel_last: bool, size: tuple[int, int] | None
) -> None:
    run = running(size, release, plan={"dtype": dtype, "channel_last": channel_last})
    for frame in (FRAME, FRAME[::-1], FRAME[:, ::-1]):
        assert_labels(run.labels(frame), frame, run.spec, channel_last, dtype)
    assert run.launches() == (0 if release == "rtx" else 2)
    run.device.close()
    run.device.close()
    assert run.gpu.held() == ({"streams": 1} if release == "rtx" else {"streams": 1, "device": 1})  # activations


def test_memory_for_frames_is_whole_words(running: Callable[..., Running]) -> None:
    """The frame kernel reads words of 8 bytes: compute-sanitizer found it reading beyond a frame of 8601."""
    run = running((32, 32))
    run.labels(FRAME)
    run.device.new_frame((61, 47))
    sizes = [block.size for block in run.gpu.blocks.values()]
    assert sizes.count(8608) == 3  # a slot's on the host and on the device, and that of new_frame
    assert 3 * 61 * 47 == 8601 not in sizes


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_each_preprocessing_is_that_of_the_cpu(running: Callable[..., Running], name: str) -> None:
    run = running(plan={"dtype": "float32", "channel_last": False})
    device = device_path(run.session, PREPROCESSINGS[name])
    assert np.array_equal(device.segment(FRAME).labels, expected(FRAME, PREPROCESSINGS[name], False, "float32"))
    device.close()


@pytest.mark.parametrize("shape", [(32, 16), (8, 32)])
def test_a_letterboxed_frame_comes_back_as_on_the_cpu(running: Callable[..., Running], shape: tuple[int, int]) -> None:
    spec = FrameSpec((32, 32), fit="letterbox")  # these lie in it as they are: no byte is interpolated
    run = running((32, 32))
    frame = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    device = device_path(run.session, spec)
    known = network(prepare(frame, spec, "float16", 8), 8, CLASSES)[0, :CLASSES]
    labels = upsample_argmax(known, shape, spec.upsample, spec.spans(shape))
    for _ in range(3):
        assert np.array_equal(device.segment(frame).labels, labels)
    assert (labels != expected(frame, FrameSpec((32, 32)))).any()
    device.close()


@pytest.mark.parametrize("shape", [(32, 60), (50, 32)])
def test_a_cropped_frame_comes_back_as_on_the_cpu(running: Callable[..., Running], shape: tuple[int, int]) -> None:
    spec = FrameSpec((32, 32), fit="crop")  # these are cropped as they are: no byte is interpolated
    run = running((32, 32))
    frame = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    device = device_path(run.session, spec)
    known = network(prepare(frame, spec, "float16", 8), 8, CLASSES)[0, :CLASSES]
    labels = upsample_argmax(known, shape, spec.upsample, spec.spans(shape))
    top, left = (shape[0] - 32) // 2, (shape[1] - 32) // 2
    seen = np.zeros(shape, bool)
    seen[top : top + 32, left : left + 32] = True
    into = device.new_labels(shape)
    for _ in range(3):
        for found in (device.segment(frame).labels, device.segment(frame, into).labels):
            assert np.array_equal(found, np.where(seen, labels, 255))
    device.close()


def assert_labels(
    labels: np.ndarray, frame: np.ndarray, spec: FrameSpec, channel_last: bool = True, dtype: str = "float16"
) -> None:
    if spec.size is None:
        assert np.array_equal(labels, expected(frame, spec, channel_last, dtype))
    else:  # OpenCV resizes bytes with 11-bit fractions: sometimes another byte
        assert (labels == expected(frame, spec, channel_last, dtype)).mean() > 0.97


@pytest.mark.parametrize("integrated", [False, True], ids=["discrete", "integrated"])
@pytest.mark.parametrize("order", ORDERS)
def test_how_sure_the_labels_are_is_what_the_cpu_says(
    running: Callable[..., Running], integrated: bool, order: Any
) -> None:
    run = running(integrated=integrated, order=order, confidence=True)
    known = []
    for frame in frames(7):
        logits = network(prepare(frame, run.spec, "float16", 8), 8, CLASSES)
        known.append(upsample_softmax(logits[0, :CLASSES], (61, 47), run.spec.upsample))
    for mask, (labels, confidence) in zip(run.device.stream(frames(7), 3), known, strict=True):
        assert np.array_equal(mask.labels, labels)
        assert np.array_equal(mask.confidence, confidence)
    assert run.launches() > 0
    into = run.device.new_labels((61, 47))
    for mask in (run.device.segment(frames(7)[5], into), run.device.staged(frames(7)[5])[0]):
        assert np.array_equal(mask.labels, known[5][0])
        assert np.array_equal(mask.confidence, known[5][1])
    kept = mask.confidence.copy()
    run.device.segment(frames(7)[0])
    assert np.array_equal(mask.confidence, kept)
    assert len(np.unique(kept)) > 100


@pytest.mark.parametrize("provider", ["cuda-bindings", "pycuda"])
@pytest.mark.parametrize("integrated", [False, True], ids=["discrete", "integrated"])
@pytest.mark.parametrize("order", ORDERS)
class TestStreams:
    @pytest.mark.parametrize("depth", [1, 2, 3])
    def test_masks_come_in_the_order_of_the_frames(
        self, running: Callable[..., Running], provider: str, integrated: bool, order: Any, depth: int
    ) -> None:
        run = running(provider=provider, integrated=integrated, order=order)
        run.labels(FRAME)
        run.gpu.moved.clear()
        shot = frames(7)
        for frame, mask in zip(shot, run.device.stream(shot, depth), strict=True):
            assert np.array_equal(mask.labels, expected(frame, run.spec))
        assert run.gpu.moved == ({} if integrated else {"up": 7 * 61 * 47 * 3, "down": 7 * 61 * 47})

    def test_a_frame_in_our_memory_is_not_copied_on_the_host(
        self, running: Callable[..., Running], provider: str, integrated: bool, order: Any
    ) -> None:
        run = running(provider=provider, integrated=integrated, order=order)
        ours = [run.device.new_frame((61, 47)) for _ in range(2)]
        run.labels(np.zeros_like(FRAME))  # its tables are uploaded once
        run.gpu.moved.clear()
        for number, frame in enumerate(frames(6)):  # the later ones by a graph
            np.copyto(ours[number % 2], frame)
            assert np.array_equal(run.labels(ours[number % 2]), expected(frame, run.spec))
        for frame, mask in zip(frames(2), run.device.stream(map(filled, ours, frames(2)), 2), strict=True):
            assert np.array_equal(mask.labels, expected(frame, run.spec))
        assert run.gpu.moved == ({} if integrated else {"up": 8 * 61 * 47 * 3, "down": 8 * 61 * 47})
        assert isinstance(run.device._lane, _Steps)
        staged = [slot.pixels.host for slot in run.device._lane._slots]
        assert staged and not any(np.array_equal(host, frame.ravel()) for host in staged for frame in frames(6))
        run.device.close()
        assert "host" not in run.gpu.held()

    def test_sizes_may_change_on_the_way(
        self, running: Callable[..., Running], provider: str, integrated: bool, order: Any
    ) -> None:
        run = running(provider=provider, integrated=integrated, order=order)
        shot = [*frames(3), *frames(2, height=40), *frames(3)]
        for frame, mask in zip(shot, run.device.stream(shot, 3), strict=True):
            assert np.array_equal(mask.labels, expected(frame, run.spec))

    def test_frames_between_the_streams(
        self, running: Callable[..., Running], provider: str, integrated: bool, order: Any
    ) -> None:
        run = running(provider=provider, integrated=integrated, order=order)
        shot = frames(5)
        stream = run.device.stream(shot, 2)
        first = next(stream).labels
        assert np.array_equal(run.labels(shot[4]), expected(shot[4], run.spec))
        assert np.array_equal(run.labels(FRAME[:40]), expected(FRAME[:40], run.spec))
        second = next(stream).labels
        stream.close()  # type: ignore[attr-defined]
        for labels, frame in ((first, shot[0]), (second, shot[1])):
            assert np.array_equal(labels, expected(frame, run.spec))
        assert np.array_equal(run.labels(shot[2]), expected(shot[2], run.spec))


def test_up_to_depth_frames_are_on_their_way(running: Callable[..., Running]) -> None:
    run = running()
    taken: list[int] = []

    def source() -> Iterable[np.ndarray]:
        for number, frame in enumerate(frames(6)):
            taken.append(number)
            yield frame

    stream = run.device.stream(source(), 3)
    next(stream)
    assert taken == [0, 1, 2]
    next(stream)
    assert taken == [0, 1, 2, 3]
    stream.close()  # type: ignore[attr-defined]


def test_a_stream_that_is_closed_reads_no_frame_any_more(running: Callable[..., Running]) -> None:
    run = running()
    stream = run.device.stream(frames(6), 3)
    next(stream)
    assert any(run.gpu.streams.values())
    stream.close()  # type: ignore[attr-defined]
    assert not any(run.gpu.streams.values())


def test_the_copies_have_streams_of_their_own(running: Callable[..., Running]) -> None:
    run = running()
    run.labels(FRAME)
    assert run.gpu.held()["streams"] == 3
    run = running(integrated=True)
    run.labels(FRAME)
    assert run.gpu.held()["streams"] == 1


def test_a_graph_is_for_one_place_of_the_frame(running: Callable[..., Running]) -> None:
    run = running()
    list(run.device.stream(frames(10), 2))
    assert run.gpu.held()["graphs"] == 2
    assert run.launches() == 9


def test_a_graph_is_for_one_size_and_for_the_shapes_it_saw(running: Callable[..., Running]) -> None:
    run = running()
    run.labels(FRAME)
    run.labels(FRAME)
    run.labels(FRAME[:40])
    assert run.launches() == 1
    image = np.zeros((1, 8, 16, 16), np.float16)
    run.session.run({"image": image})  # somebody runs the session itself
    for _ in range(2):
        assert np.array_equal(run.labels(FRAME[:40]), expected(FRAME[:40], run.spec))
    assert run.launches() == 2
    assert np.array_equal(run.labels(FRAME), expected(FRAME, run.spec))


def test_timing_layers_leaves_the_shapes_to_be_set_again(running: Callable[..., Running]) -> None:
    run = running()
    run.labels(FRAME[:40])
    run.session.run({"image": np.zeros((1, 8, 16, 16), np.float16)})
    run.session.layer_times({"image": np.zeros((1, 8, 40, 47), np.float16)})
    assert np.array_equal(run.labels(FRAME[:40]), expected(FRAME[:40], run.spec))


@pytest.mark.parametrize("integrated", [False, True], ids=["discrete", "integrated"])
def test_labels_are_written_where_they_stay(running: Callable[..., Running], integrated: bool) -> None:
    run = running(integrated=integrated)
    run.labels(FRAME)
    run.gpu.moved.clear()  # what is uploaded once
    ours = [run.device.new_labels((61, 47)) for _ in range(2)]
    for frame, into in zip(frames(6), ours * 3, strict=True):
        labels = run.labels(frame, into)
        assert labels is into and np.array_equal(into, expected(frame, run.spec))
    assert run.gpu.moved == ({} if integrated else {"up": 6 * 61 * 47 * 3, "down": 6 * 61 * 47})
    assert np.array_equal(ours[0], expected(frames(6)[4], run.spec))  # the next frame left it alone
    for wrong in (np.zeros((61, 47), np.uint8), ours[0][:40], run.device.new_labels((47, 61)), ours[0][:, ::-1]):
        with pytest.raises(InputError, match=r"memory of new_labels\(height, width\), of the frame's size"):
            run.labels(FRAME, wrong)
    run.device.close()
    assert run.gpu.held() == {"streams": 1, "device": 1}


@pytest.mark.parametrize("integrated", [False, True], ids=["discrete", "integrated"])
def test_stages_are_waited_for_and_give_the_same_labels(running: Callable[..., Running], integrated: bool) -> None:
    run = running(integrated=integrated)
    for frame in (FRAME, FRAME[::-1]):
        mask, stages = run.device.staged(frame)
        assert np.array_equal(mask.labels, expected(frame, run.spec))
        assert list(stages) == ["upload", "prepare", "engine", "head", "download"]
        assert all(ms > 0 for ms in stages.values())
    assert run.launches() == 0  # step by step
    for _ in range(2):
        assert np.array_equal(run.labels(FRAME), expected(FRAME, run.spec))
    assert run.launches() == 1  # the graph is made as if nothing had been timed


def test_activations_that_move_make_another_graph(running: Callable[..., Running]) -> None:
    run = running()
    for _ in range(2):
        run.labels(FRAME[:40])
    with run.session.cuda.use():  # somebody with a larger engine on this stream
        run.session.cuda.scratch(4096 * 64)
    for _ in range(2):
        assert np.array_equal(run.labels(FRAME[:40]), expected(FRAME[:40], run.spec))
    assert run.gpu.held()["graphs"] == 2


@pytest.mark.parametrize("refuses", ["cuStreamBeginCapture", "cuGraphInstantiate", "pycuda"])
def test_without_a_graph_each_step_is_launched(
    running: Callable[..., Running], refuses: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = running(provider="pycuda" if refuses == "pycuda" else "cuda-bindings")
    run.gpu.fail(refuses)
    with caplog.at_level("INFO", "refinenet_edge.runtime.device_lane"):
        for frame in frames(3):
            assert np.array_equal(run.labels(frame), expected(frame, run.spec))
    assert run.launches() == 0
    assert len([record for record in caplog.records if "no CUDA graph," in record.message]) == (refuses != "pycuda")


def test_memory_is_kept_for_one_size(running: Callable[..., Running]) -> None:
    run = running((32, 32))
    run.labels(FRAME)
    before = set(run.gpu.blocks)
    assert run.labels(FRAME).shape == (61, 47)
    assert set(run.gpu.blocks) == before
    assert run.labels(FRAME[:40]).shape == (40, 47)
    assert len(run.gpu.blocks) == len(before)


def test_labels_are_the_callers(running: Callable[..., Running]) -> None:
    run = running((32, 32))
    first = run.labels(FRAME)
    kept = first.copy()
    run.labels(255 - FRAME)
    run.device.close()
    assert np.array_equal(first, kept)


def test_a_size_outside_the_range_leaves_the_next_frame_alone(running: Callable[..., Running]) -> None:
    run = running()
    with pytest.raises(InputError, match="outside the engine's range: it takes 'image' of 1x8x8x8 to 1x8x64x64"):
        run.labels(np.zeros((65, 47, 3), np.uint8))
    assert np.array_equal(run.labels(FRAME), expected(FRAME, run.spec))


def test_a_closed_session_takes_no_frame(running: Callable[..., Running]) -> None:
    run = running()
    stream = run.device.stream(frames(4), 2)
    next(stream)
    run.device.close()
    run.session.close()
    with pytest.raises(InputError, match="closed"):
        next(stream)
    assert not run.gpu.held()


# --- every call fails once


FAULTS = [("cuda-bindings", release) for release in MODES] + [("pycuda", "10.3")]


SAID = re.compile(
    r"failed: CUDA_ERROR_\w+|refused the memory|cannot (load|make|say|change)|could not run|does not take"
    r"|the shape \(\)"
)


def use(bundle: Bundle, backend: str) -> None:
    """Open, stream four frames, run the session, close."""
    shot = frames(4, height=16)
    with TrtSession.open(bundle, backend, allow_host_code=True) as session:
        device = device_path(session, FrameSpec(None))
        try:
            for frame, mask in zip(shot, device.stream(shot, 2), strict=True):
                if isinstance(mask, Exception):  # a shape that is refused is its frame's error
                    raise mask
                assert np.array_equal(mask.labels, expected(frame, FrameSpec(None)))
            session.run({"image": np.zeros((1, 8, 16, 16), np.float16)})
        finally:
            device.close()


def error_of(act: Callable[[], None]) -> str:
    """What our error says, "" when there is none."""
    try:
        act()
    except RefineNetEdgeError as exc:
        return str(exc)
    return ""


@pytest.mark.parametrize("integrated", [False, True], ids=["discrete", "integrated"])
@pytest.mark.parametrize(("provider", "release"), FAULTS)
@pytest.mark.parametrize("code", [OUT_OF_MEMORY, ILLEGAL_ADDRESS], ids=["full", "lost"])
def test_whatever_call_fails_nothing_leaks_and_it_opens_again(
    make_gpu: MakeGpu, make_plan: Callable[..., Bundle], provider: str, release: str, code: int, integrated: bool
) -> None:
    """The first call fails, then in another use the second ..."""
    gpu = make_gpu(provider, integrated=integrated)
    bundle, backend = make_plan(gpu, release), BACKENDS.get(release, "tensorrt")
    use(bundle, backend)
    calls, told = len(gpu.calls), 0
    assert calls > 50
    for number in range(calls):
        gpu.calls.clear()
        gpu.fail_at(number, code)
        said = error_of(lambda: use(bundle, backend))
        assert not said or SAID.search(said), said
        told += bool(said)
        if gpu.lost and "CUDA_ERROR" in said:
            assert RESTART in said
        refused = code == OUT_OF_MEMORY and any(word in gpu.calls[number] for word in ("Free", "Destroy", "Unload"))
        assert gpu.lost or sum(gpu.held().values()) <= refused, gpu.calls[number]
        gpu.restart()
    assert told > calls / 2
    gpu.fail_at(-1)
    use(bundle, backend)
    assert not gpu.held()


@pytest.mark.parametrize(
    ("spec", "plan"),
    [
        (FrameSpec((8, 8), resize=Cubic()), {}),
        (FrameSpec((8, 8), upsample=Cubic()), {}),
        (FrameSpec((8, 8)), {"channel_last": False, "channels": 8}),  # planes of zeros: no kernel writes them
    ],
)
def test_what_the_kernels_do_not_do_is_done_on_the_cpu(
    running: Callable[..., Running], spec: FrameSpec, plan: dict[str, Any]
) -> None:
    run = running((8, 8), plan=plan)
    with Segmenter.from_session(run.session, spec, numbered(CLASSES)) as segmenter:
        assert isinstance(segmenter._path, HostPath)
        labels = segmenter.segment(FRAME).labels
        image = prepare(FRAME, spec, "float16", 8)
        logits = network(image, run.session.outputs[0].shape[1], CLASSES)[0, :CLASSES]
        assert np.array_equal(labels, upsample_argmax(logits, (61, 47), spec.upsample))


class TestGraphs:
    """A graph is for one place; more places than are kept do not drop those in use."""

    def frame_at(self, run: Running, address: int) -> DeviceImage:
        run.gpu.view(address, FRAME.shape)[:] = FRAME
        return DeviceImage(FRAME.shape, address, FRAME.shape[1] * 3, None, None)

    def test_frames_on_their_way_keep_theirs_whatever_the_depth(self, running: Callable[..., Running]) -> None:
        run = running()
        depth = GRAPHS + 4
        for frame, mask in zip(frames(3 * depth), run.device.stream(frames(3 * depth), depth), strict=True):
            assert np.array_equal(mask.labels, expected(frame, run.spec))
        assert run.gpu.held()["graphs"] == depth
        assert run.gpu.calls.count("cuGraphInstantiate") == depth
        assert run.launches() == 3 * depth - 1

    def test_a_place_that_never_comes_again_has_none(self, running: Callable[..., Running]) -> None:
        run, known = running(), expected(FRAME, FrameSpec(None))
        blocks = [run.gpu.allocate(FRAME.nbytes, "device") for _ in range(3 * GRAPHS)]
        ring = [self.frame_at(run, block) for block in blocks[:4]]
        fresh = [self.frame_at(run, block) for block in blocks[4:]]
        for number in range(3):  # a ring of buffers: in the second round it has its graphs
            for frame in ring:
                assert np.array_equal(run.labels(frame), known)
            assert run.gpu.held().get("graphs", 0) == (4 if number else 0)
        for frame, again in zip(fresh, ring * 5, strict=True):
            assert np.array_equal(run.labels(frame), known)
            assert np.array_equal(run.labels(again), known)
        assert run.gpu.calls.count("cuGraphInstantiate") == 4
        for block in blocks:
            run.gpu.free(block, "device")

    def test_the_one_that_was_not_used_longest_makes_room(self, running: Callable[..., Running]) -> None:
        run = running()
        blocks = [run.gpu.allocate(FRAME.nbytes, "device") for _ in range(GRAPHS + 1)]
        places = [self.frame_at(run, block) for block in blocks]
        for frame in [*places[:GRAPHS], *places[:GRAPHS], places[0], *[places[GRAPHS]] * 2]:
            run.labels(frame)
        made = run.gpu.calls.count("cuGraphInstantiate")
        assert (made, run.gpu.held()["graphs"]) == (GRAPHS + 1, GRAPHS)
        run.labels(places[0])
        assert run.gpu.calls.count("cuGraphInstantiate") == made
        run.labels(places[1])
        assert run.gpu.calls.count("cuGraphInstantiate") == made + 1
        for block in blocks:
            run.gpu.free(block, "device")


class PaddedSession(Session):
    """8 channels in, 8 logits out; the added logits are the largest."""

    def __init__(self) -> None:
        image = TensorSpec("image", "float32", (1, 8, 8, 8))
        super().__init__("padded", (image,), (TensorSpec("logits", "float32", (1, 8, 8, 8)),))

    def _run(self, feeds: Any) -> Any:
        assert not feeds["image"][:, 3:].any()
        logits = np.full((1, 8, 8, 8), 1e6, np.float32)
        logits[:, :3] = feeds["image"][:, :3]
        return {"logits": logits}


def test_a_padded_network_runs_on_any_backend() -> None:
    frame = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    spec = FrameSpec((8, 8), upsample=Bilinear(), mean=(0, 0, 0), std=(1, 1, 1))
    with Segmenter.from_session(PaddedSession(), spec, numbered(3)) as segmenter:
        assert segmenter.logits(frame).shape == (1, 3, 8, 8)
        assert np.array_equal(segmenter.segment(frame).labels, frame[..., ::-1].argmax(2))
