"""Several frames at once on the device: each frame's labels are, to the bit, those that it gets alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from refinenet_edge.bundle import Bundle
from refinenet_edge.errors import CudaError, InputError, RefineNetEdgeError
from refinenet_edge.labels import numbered
from refinenet_edge.records import Batch, FrameSpec, Mask, Profile
from refinenet_edge.runtime import backends
from refinenet_edge.runtime.device_batch import SIZES
from refinenet_edge.runtime.device_path import DevicePath
from refinenet_edge.runtime.frame import DeviceImage
from refinenet_edge.runtime.frame_path import Answer, Network, SharedSession
from refinenet_edge.runtime.segmenter import Segmenter
from refinenet_edge.runtime.tensorrt.session import TrtSession
from tests.runtime.fake_tensorrt import BACKENDS, MODES
from tests.runtime.gpu import ILLEGAL_ADDRESS, OUT_OF_MEMORY, Gpu
from tests.runtime.test_device_path import SAID, error_of

CLASSES = 5
SHAPES = [(61, 47), (32, 32), (16, 90), (90, 16), (33, 48), (61, 47), (8, 8)]
STRETCHED = FrameSpec((32, 32))
MakeGpu = Callable[..., Gpu]


def frames(count: int = len(SHAPES), shape: tuple[int, int] | None = None) -> list[np.ndarray]:
    return [
        np.random.default_rng(index).integers(0, 256, (*(shape or SHAPES[index % len(SHAPES)]), 3), np.uint8)
        for index in range(count)
    ]


def path(session: TrtSession, spec: FrameSpec, batch: str, **fields: Any) -> DevicePath:
    network = Network(SharedSession(session), spec, numbered(CLASSES), "a session", batch=Batch.parse(batch), **fields)
    return DevicePath(network, session)


Open = Callable[..., tuple[Gpu, DevicePath]]


@pytest.fixture
def opened(make_gpu: MakeGpu, make_plan: Callable[..., Bundle]) -> Iterator[Open]:
    """opened(batch, spec, release, provider, fields): a GPU, and the path of an engine of that batch on it."""
    made: list[tuple[DevicePath, TrtSession]] = []

    def make(
        batch: str = "1:4",
        spec: FrameSpec = STRETCHED,
        release: str = "10.3",
        provider: str = "cuda-bindings",
        plan: dict[str, Any] | None = None,
        profile: Profile | None = None,
        confidence: bool = False,
        **gpu_fields: Any,
    ) -> tuple[Gpu, DevicePath]:
        gpu = make_gpu(provider, **gpu_fields)
        wanted = Batch.parse(batch)
        fields = {"size": spec.size, "batch": [wanted.least, wanted.best, wanted.most], **(plan or {})}
        fields["profiles"] = [[[8, 8], [32, 32], [128, 128]]]
        backend = BACKENDS.get(release, "tensorrt")
        session = TrtSession.open(make_plan(gpu, release, **fields), backend, allow_host_code=release == "lean")
        device = path(session, spec, batch, profile=profile, confidence=confidence)
        made.append((device, session))
        return gpu, device

    yield make
    for device, session in made:
        device.close()
        session.close()


def assert_same(answers: list[Answer], masks: list[Mask]) -> None:
    assert len(answers) == len(masks)
    for answer, mask in zip(answers, masks, strict=True):
        assert isinstance(answer, Mask), answer
        assert np.array_equal(answer.labels, mask.labels)
        assert (answer.confidence is None) == (mask.confidence is None)
        if mask.confidence is not None:
            assert np.array_equal(answer.confidence, mask.confidence)


@pytest.mark.parametrize("release", MODES)
@pytest.mark.parametrize(("dtype", "channel_last"), [("float16", True), ("float16", False), ("float32", False)])
@pytest.mark.parametrize(
    "spec",
    [FrameSpec((32, 32)), FrameSpec((32, 48), fit="letterbox"), FrameSpec((32, 32), fit="crop"), FrameSpec(None)],
    ids=["stretched", "letterboxed", "cropped", "free"],
)
def test_labels_are_those_of_each_alone(
    opened: Open, release: str, dtype: str, channel_last: bool, spec: FrameSpec
) -> None:
    """Segmenting one after the other is a batch of one, by the kernels of single frames."""
    plan = {"dtype": dtype, "channel_last": channel_last}
    _, device = opened("1:4", spec, release, plan=plan)
    shot = frames()
    alone = [device.segment(frame) for frame in shot]
    for _ in range(3):
        assert_same(device.batch(shot), alone)
    assert_same(device.batch(shot[::-1]), alone[::-1])
    assert_same(device.batch(shot[:2]), alone[:2])
    assert device.batch([]) == []


@pytest.mark.parametrize("provider", ["cuda-bindings", "pycuda"])
@pytest.mark.parametrize("integrated", [False, True], ids=["discrete", "integrated"])
@pytest.mark.parametrize("order", ["late", "early", 1, 2])
@pytest.mark.parametrize("confidence", [False, True])
def test_whenever_the_gpu_runs_it(opened: Open, provider: str, integrated: bool, order: Any, confidence: bool) -> None:
    _, device = opened("1:4", provider=provider, integrated=integrated, order=order, confidence=confidence)
    shot = frames()
    alone = [device.segment(frame) for frame in shot]
    own = [device.new_frame(*[frame.shape[:2]]) for frame in shot]
    for place, frame in zip(own, shot, strict=True):
        np.copyto(place, frame)
    for _ in range(3):
        assert_same(device.batch(shot), alone)
        assert_same(device.batch(own), alone)
        assert_same(device.batch([own[0], shot[1], own[2], shot[3]]), alone[:4])


@pytest.mark.parametrize("batch", ["4", "2:3:4"])
def test_an_engine_of_several_takes_one_and_few(opened: Open, make_gpu: MakeGpu, batch: str) -> None:
    shot = frames()
    _, usual = opened("1:4")
    alone = [usual.segment(frame) for frame in shot]
    usual.close()
    _, device = opened(batch)
    for count in range(1, len(shot) + 1):
        assert_same(device.batch(shot[:count]), alone[:count])
    assert_same([device.segment(frame) for frame in shot], alone)
    assert_same(list(device.stream(shot)), alone)
    mask, ms = device.staged(shot[2])
    assert_same([mask], [alone[2]])
    assert list(ms) == ["upload", "prepare", "engine", "head", "download"]
    into = device.new_labels(shot[3].shape[:2])
    assert device.segment(shot[3], into).labels is into
    assert np.array_equal(into, alone[3].labels)


def calls(gpu: Gpu, act: Callable[[], object]) -> list[str]:
    """What was asked of the GPU and the engine meanwhile."""
    before = len(gpu.calls)
    act()
    return gpu.calls[before:]


def test_it_is_one_enqueue_and_three_launches_then_one_graph(opened: Open) -> None:
    gpu, device = opened("1:4")
    shot = frames(4)
    first = calls(gpu, lambda: device.batch(shot))
    assert (first.count("execute_async_v3"), first.count("cuLaunchKernel"), first.count("cuGraphLaunch")) == (1, 3, 0)
    device.batch(shot)
    later = calls(gpu, lambda: device.batch(shot[::-1]))  # other sizes in other places
    assert (later.count("execute_async_v3"), later.count("cuLaunchKernel"), later.count("cuGraphLaunch")) == (0, 0, 1)
    assert [name for name in later if "Alloc" in name] == []
    assert [name for name in later if "Memcpy" in name] == ["cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync"]


def test_more_than_the_engine_takes_go_in_in_turns(opened: Open) -> None:
    gpu, device = opened("1:3")
    shot = frames()
    alone = [device.segment(frame) for frame in shot]
    device.batch(shot[:3])
    found = []
    assert calls(gpu, lambda: found.extend(device.batch(shot))).count("execute_async_v3") <= 3
    assert_same(found, alone)


def throughput(batch: str, opened: Open, **fields: Any) -> tuple[Gpu, DevicePath]:
    gpu, device = opened(batch, **fields)
    device._network = replace(device._network, throughput=True)
    return gpu, device


@pytest.mark.parametrize("way", [DevicePath.stream, DevicePath.batch])
@pytest.mark.parametrize(("batch", "runs"), [("1:4", 4), ("1", 16)])
def test_batches_of_a_stream_overlap(
    opened: Open, batch: str, runs: int, way: Callable[[DevicePath, list[np.ndarray]], Iterable[Answer]]
) -> None:
    """The second is uploaded and queued before the first is waited for, and the third before the second.

    A batch may be of one frame; another size of frames makes nothing new.
    """
    gpu, device = throughput(batch, opened)
    shot = frames(16)
    alone = [device.segment(frame) for frame in shot]
    for _ in range(3):
        assert_same(list(way(device, shot)), alone)
    found: list[Answer] = []
    asked = calls(gpu, lambda: found.extend(way(device, shot)))
    assert_same(found, alone)
    names = {"cuMemcpyHtoDAsync": "up", "cuGraphLaunch": "run", "cuMemcpyDtoHAsync": "down", "cuEventSynchronize": "|"}
    one = ["up", "run", "down"]
    assert [names[name] for name in asked if name in names] == [*one, *((runs - 1) * [*one, "|"]), "|"]
    assert not {"execute_async_v3", "cuLaunchKernel", "cuMemAlloc", "cuStreamSynchronize"} & set(asked)
    assert gpu.held()["streams"] == 3


@pytest.mark.parametrize("batch", ["1:4", "4"])
@pytest.mark.parametrize("integrated", [False, True], ids=["discrete", "integrated"])
@pytest.mark.parametrize("order", ["late", "early", 1, 2])
def test_a_stream_fills_batches(opened: Open, batch: str, integrated: bool, order: Any) -> None:
    gpu, device = throughput(batch, opened, integrated=integrated, order=order)
    shot = frames(14)
    alone = [device.segment(frame) for frame in shot]
    found: list[Answer] = []
    for depth, batches in ((None, 4), (8, 4), (4, 4), (2, 7)):
        asked = calls(gpu, lambda depth=depth: found.extend(device.stream(shot, depth)))
        assert asked.count("execute_async_v3") + asked.count("cuGraphLaunch") == batches + asked.count(
            "cuStreamEndCapture"
        )
        assert_same(found, alone)
        found.clear()


def test_a_stream_takes_no_more_than_two_batches_ahead(opened: Open) -> None:
    gpu, device = throughput("1:4", opened)
    taken: list[int] = []
    stream = device.stream(frame for number, frame in enumerate(frames(20)) if not taken.append(number))  # type: ignore
    next(stream)
    assert len(taken) == 8
    stream.close()  # type: ignore[attr-defined]
    assert not any(gpu.streams.values())


def test_frames_of_free_sides_go_in_with_those_of_their_size(opened: Open) -> None:
    gpu, device = opened("1:4", FrameSpec(None))
    shot = [*frames(2, (16, 24)), *frames(1, (24, 16)), *frames(2, (16, 24))]
    alone = [device.segment(frame) for frame in shot]
    found = []
    assert calls(gpu, lambda: found.extend(device.batch(shot))).count("execute_async_v3") == 2
    assert_same(found, alone)


def test_a_bad_frame_is_an_error_of_its_own(opened: Open) -> None:
    profile = Profile((8, 8), (32, 32), (64, 64))
    _, device = opened("1:4", FrameSpec(None), profile=profile)
    shot = [*frames(2, (16, 24)), *frames(1, (16, 90)), *frames(1, (16, 24))]
    answers = device.batch(shot)
    assert isinstance(answers[2], InputError) and "this engine takes 8x8 to 64x64" in str(answers[2])
    good = [answer for answer in answers if isinstance(answer, Mask)]
    assert_same(list(good), [device.segment(frame) for frame in (shot[0], shot[1], shot[3])])


@pytest.mark.parametrize("single", [True, False], ids=["single", "together"])
def test_a_size_that_the_engine_refuses_is_an_error_of_its_own(opened: Open, single: bool) -> None:
    """Where the manifest has no range."""
    _, device = opened("1:4", FrameSpec(None)) if single else throughput("1:4", opened, spec=FrameSpec(None))
    shot = [*frames(2, (16, 24)), *frames(1, (16, 130)), *frames(3, (16, 24))]
    alone = [device.segment(frame) for frame in (*shot[:2], *shot[3:])]
    for answers in (device.batch(shot), list(device.stream(shot))):
        error = answers.pop(2)
        assert isinstance(error, InputError) and "it takes 'image' of 1x8x8x8 to 4x8x128x128" in str(error)
        assert_same(answers, alone)


def test_frames_may_be_on_the_gpu(opened: Open) -> None:
    gpu, device = opened("1:4", provider="cuda-bindings")
    shot = frames(3)
    alone = [device.segment(frame) for frame in shot]
    with device._session.cuda.use():
        scope = device._session.cuda.scope()
        padded = np.zeros((shot[1].shape[0], 160), np.uint8)  # rows that are farther apart than they are long
        padded[:, : 3 * shot[1].shape[1]] = shot[1].reshape(len(shot[1]), -1)
        image = DeviceImage(shot[1].shape, scope.put(padded), 160, None, None)
    try:
        for _ in range(3):
            assert_same(device.batch([shot[0], image, shot[2]]), alone)
        assert_same(device.batch([image]), alone[1:2])
    finally:
        with device._session.cuda.use():
            scope.close()
    assert gpu is not None


def test_single_frames_in_between_change_nothing(opened: Open) -> None:
    _, device = opened("1:4")
    shot = frames()
    alone = [device.segment(frame) for frame in shot]
    for index in range(6):
        few = slice(index % 3, index % 3 + 2 + index % 2)
        assert_same(device.batch(shot[few]), alone[few])
        assert_same([device.segment(shot[index])], alone[index : index + 1])
        assert_same(device.batch(shot[:4]), alone[:4])


def test_many_sizes_keep_few_tables(opened: Open) -> None:
    gpu, device = opened("1:4")
    counts = []
    for height in range(10, 10 + 2 * SIZES):
        (answer,) = device.batch(frames(1, (height, 20)))
        assert isinstance(answer, Mask) and answer.labels.shape == (height, 20)
        counts.append(sum(gpu.held().values()))
    assert counts[-1] == counts[-2] == max(counts)


def test_a_gpu_that_fails_fails_for_all_and_the_next_frames_come_through(opened: Open) -> None:
    gpu, device = opened("1:4")
    shot = frames(4)
    alone = [device.segment(frame) for frame in shot]
    gpu.fail("cuLaunchKernel")
    with pytest.raises(CudaError, match="cuLaunchKernel"):
        device.batch(shot)
    gpu.fail_at(-1)
    assert_same(device.batch(shot), alone)


def use(bundle: Bundle, backend: str) -> None:
    """Open, a batch, a stream of three, close."""
    shot = frames(4)
    with TrtSession.open(bundle, backend, allow_host_code=True) as session:
        device = path(session, FrameSpec((32, 32)), "1:4", throughput=True)
        try:
            for answer in [*device.batch(shot), *device.stream(shot * 3)]:
                if isinstance(answer, RefineNetEdgeError):
                    raise answer
        finally:
            device.close()


@pytest.mark.parametrize("integrated", [False, True], ids=["discrete", "integrated"])
@pytest.mark.parametrize("code", [OUT_OF_MEMORY, ILLEGAL_ADDRESS], ids=["full", "lost"])
def test_whatever_call_fails_nothing_leaks_and_it_opens_again(
    make_gpu: MakeGpu, make_plan: Callable[..., Bundle], code: int, integrated: bool
) -> None:
    gpu = make_gpu("cuda-bindings", integrated=integrated)
    bundle = make_plan(gpu, "10.3", size=(32, 32), batch=[1, 4, 4])
    use(bundle, "tensorrt")
    calls, told = len(gpu.calls), 0
    assert calls > 50
    for number in range(calls):
        gpu.calls.clear()
        gpu.fail_at(number, code)
        said = error_of(lambda: use(bundle, "tensorrt"))
        assert not said or re.search(SAID, said), said
        told += bool(said)
        refused = code == OUT_OF_MEMORY and any(word in gpu.calls[number] for word in ("Free", "Destroy", "Unload"))
        assert gpu.lost or sum(gpu.held().values()) <= refused, gpu.calls[number]
        gpu.restart()
    assert told > calls / 2
    gpu.fail_at(-1)
    use(bundle, "tensorrt")
    assert not gpu.held()


@pytest.mark.parametrize("batch", ["4", "1:4"])
def test_a_segmenter_takes_a_bundle_of_a_batch(
    make_gpu: MakeGpu, make_plan: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch, batch: str
) -> None:
    monkeypatch.setattr(backends, "_problem", lambda backend: None)  # there is no driver
    gpu, wanted = make_gpu("cuda-bindings"), Batch.parse(batch)
    bundle = make_plan(gpu, size=(32, 32), batch=[wanted.least, wanted.best, wanted.most])
    shot = frames(4)
    with Segmenter(bundle, "tensorrt") as segmenter:
        alone = [segmenter.segment(frame) for frame in shot]
        for _ in range(2):
            assert_same(segmenter.segment_batch(shot), alone)
        later = calls(gpu, lambda: segmenter.segment_batch(shot))
        assert (later.count("execute_async_v3"), later.count("cuGraphLaunch")) == (0, 1)
