"""Several frames at once on a CPU: `Segmenter(..., throughput=True)`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from refinenet_edge.bundle import Bundle
from refinenet_edge.errors import InputError
from refinenet_edge.labels import numbered
from refinenet_edge.records import WHOLE, Bilinear, Cubic, FrameSpec, Inference, Mask, MultiScale, TensorSpec, Tiles
from refinenet_edge.runtime import FakeSession, Segmenter
from refinenet_edge.runtime.in_flight import most_requests
from refinenet_edge.runtime.session import Feeds, Outputs
from tests.runtime.test_in_flight import LIMIT, ours

MakeBundle = Callable[..., Bundle]
SPEC = FrameSpec(None, upsample=Bilinear(), mean=(0, 0, 0), std=(1, 1, 1))


def shot(count: int, sides: tuple[int, ...] = (61, 40, 33)) -> list[np.ndarray]:
    return [np.random.default_rng(n).integers(0, 256, (sides[n % len(sides)], 47, 3), np.uint8) for n in range(count)]


def fake(handler: Callable[[Feeds], Outputs], requests: int) -> Segmenter:
    image = TensorSpec("image", "float32", (1, 3, "height", "width"))
    logits = TensorSpec("logits", "float32", (1, 3, "height", "width"))
    return Segmenter.from_session(FakeSession(handler, (image,), (logits,), requests), SPEC, numbered(3))


def colours(frame: np.ndarray) -> np.ndarray:
    """The labels of a network whose logits are the image's own channels, red first."""
    return frame[:, :, ::-1].argmax(axis=2).astype(np.uint8)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("upsample", [Bilinear(), Cubic()], ids=["bilinear", "cubic"])
@pytest.mark.parametrize("inference", [WHOLE, MultiScale((1.0, 2.0), flip=True), Tiles((32, 32), 0)], ids=str)
def test_frames_at_once_have_the_labels_of_frames_alone(
    make_bundle: MakeBundle, backend: str, upsample: Bilinear | Cubic, inference: Inference
) -> None:
    bundle, frames = make_bundle(size=None, frame=FrameSpec(None, upsample=upsample)), shot(9)
    with Segmenter(bundle, backend, confidence=True, inference=inference) as segmenter:
        assert segmenter.in_flight == 1
        known = [segmenter.segment(frame) for frame in frames]
    with Segmenter(bundle, backend, confidence=True, inference=inference, throughput=True, threads=3) as segmenter:
        assert segmenter.session.requests >= 1
        batch = segmenter.segment_batch(frames)
        ways = [batch, *(list(segmenter.segment_stream(frames, depth)) for depth in (None, 1, 2, 7))]
        with ThreadPoolExecutor(4) as pool:
            ways.append(list(pool.map(segmenter.segment, frames)))
    for way in ways:
        for mask, alone in zip(way, known, strict=True):
            assert isinstance(mask, Mask)
            assert mask.confidence is not None and alone.confidence is not None
            assert np.array_equal(mask.labels, alone.labels)
            assert np.array_equal(mask.confidence, alone.confidence)
    assert not ours()


def test_onnxruntime_runs_a_frame_on_each_thread(make_bundle: MakeBundle) -> None:
    for threads, requests in ((1, 1), (3, 3), (100, most_requests(100))):
        with Segmenter(make_bundle(), "onnxruntime", throughput=True, threads=threads) as segmenter:
            assert segmenter.in_flight == requests


@pytest.mark.parametrize("how", ["batch", "stream", "threads"])
def test_as_many_frames_as_are_in_flight_run_at_once(how: str) -> None:
    together = threading.Barrier(2)
    most, now, lock = 0, 0, threading.Lock()

    def handler(feeds: Feeds) -> Outputs:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        together.wait(LIMIT)  # no frame gets on alone
        with lock:
            now -= 1
        return {"logits": feeds["image"].copy()}

    frames = shot(6)
    with fake(handler, 2) as segmenter:
        assert segmenter.in_flight == 2
        if how == "batch":
            answers = segmenter.segment_batch(frames)
        elif how == "stream":
            answers = list(segmenter.segment_stream(frames))
        else:
            with ThreadPoolExecutor(2) as pool:
                answers = list(pool.map(segmenter.segment, frames))
    assert most == 2
    for answer, frame in zip(answers, frames, strict=True):
        assert isinstance(answer, Mask) and np.array_equal(answer.labels, colours(frame))


def test_a_bad_frame_among_several_at_once_is_an_error_for_itself_only() -> None:
    frames = shot(5)
    with fake(lambda feeds: {"logits": feeds["image"].copy()}, 3) as segmenter:
        answers = segmenter.segment_batch([frames[0], frames[1][0], *frames[2:]])
        stream = segmenter.segment_stream([frames[0], frames[1], frames[2][0], frames[3]])
        assert np.array_equal(next(stream).labels, colours(frames[0]))
        assert np.array_equal(next(stream).labels, colours(frames[1]))
        with pytest.raises(InputError, match="a frame is a HxWx3 BGR uint8 array"):
            next(stream)
        assert np.array_equal(segmenter.segment(frames[3]).labels, colours(frames[3]))
    assert isinstance(answers[1], InputError)
    for answer, frame in zip([*answers[:1], *answers[2:]], [*frames[:1], *frames[2:]], strict=True):
        assert isinstance(answer, Mask) and np.array_equal(answer.labels, colours(frame))


def test_a_stream_takes_no_more_frames_than_its_depth() -> None:
    taken = 0

    def source() -> object:
        nonlocal taken
        for frame in shot(20):
            taken += 1
            yield frame

    with fake(lambda feeds: {"logits": feeds["image"].copy()}, 2) as segmenter:
        stream = segmenter.segment_stream(source(), 3)  # type: ignore[arg-type]
        next(stream)
        assert taken == 3
        stream.close()  # type: ignore[attr-defined]
    assert not ours()


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_frames_on_their_way_when_it_is_closed_are_masks_or_say_so(make_bundle: MakeBundle, backend: str) -> None:
    frames = shot(40)
    segmenter = Segmenter(make_bundle(size=None), backend, throughput=True, threads=2)
    known = [segmenter.segment(frame).labels for frame in frames]
    first = threading.Event()

    def segment(number: int) -> np.ndarray | InputError:
        try:
            return segmenter.segment(frames[number]).labels
        except InputError as exc:
            return exc
        finally:
            first.set()

    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(segment, range(len(frames)))
        assert first.wait(LIMIT)
        segmenter.close()
        segmenter.close()
    for answer, labels in zip(answers, known, strict=True):
        if isinstance(answer, InputError):
            assert "closed: open another" in str(answer)
        else:
            assert np.array_equal(answer, labels)
    with pytest.raises(InputError, match="closed"):
        segmenter.segment(frames[0])


def test_another_way_to_upsample_shares_the_requests(make_bundle: MakeBundle) -> None:
    frames = shot(4)
    bundle = make_bundle(size=None)
    with Segmenter(bundle, "openvino", throughput=True, threads=2) as segmenter:
        cubic = segmenter.with_upsample(Cubic())
    with cubic, Segmenter(bundle, "openvino") as alone, alone.with_upsample(Cubic()) as known:
        for answer, frame in zip(cubic.segment_batch(frames), frames, strict=True):
            assert isinstance(answer, Mask) and np.array_equal(answer.labels, known.segment(frame).labels)
    with pytest.raises(InputError, match="closed"):
        segmenter.with_upsample(Cubic())
