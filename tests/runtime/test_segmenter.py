from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from refinenet_edge.bundle import MODEL, Bundle
from refinenet_edge.errors import BundleError, InputError
from refinenet_edge.labels import numbered
from refinenet_edge.records import Bilinear, Cubic, EngineInfo, FrameSpec, Mask, Profile, TensorSpec
from refinenet_edge.runtime import FakeSession, Segmenter
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.head import one_frame, upsample_argmax, upsample_softmax
from tests.runtime.tinynet import CLASSES, convolve, tiny

MakeBundle = Callable[..., Bundle]
FRAME = np.random.default_rng(3).integers(0, 256, (61, 47, 3), np.uint8)
RANGE = EngineInfo("tensorrt", "10.3.0", ("sm_87",), 0, profile=Profile((32, 32), (64, 64), (64, 128)))


def colour_session(value: float = 1.0, classes: int = 3) -> FakeSession:
    """A network whose logits are the image's own channels: red wins on red."""
    image = TensorSpec("image", "float32", (1, 3, "height", "width"))
    logits = TensorSpec("logits", "float32", (1, classes, "height", "width"))
    return FakeSession(lambda feeds: {"logits": feeds["image"][:, :classes] * np.float32(value)}, (image,), (logits,))


def plain(size: tuple[int, int] | None = None) -> FrameSpec:
    return FrameSpec(size, upsample=Bilinear(), mean=(0, 0, 0), std=(1, 1, 1))


def test_a_frame_becomes_its_mask() -> None:
    frame = np.zeros((4, 6, 3), np.uint8)
    frame[:, :2, 2] = 200  # red
    frame[:, 2:4, 1] = 200  # green
    frame[:, 4:, 0] = 200  # blue
    with Segmenter.from_session(colour_session(), plain(), numbered(3)) as segmenter:
        mask = segmenter.segment(frame)
    assert mask.labels.tolist() == [[0, 0, 1, 1, 2, 2]] * 4
    assert mask.classes == numbered(3)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(("dtype", "agreement"), [("float32", 1.0), ("float16", 0.98)])
@pytest.mark.parametrize("size", [(32, 48), None], ids=["static", "dynamic"])
@pytest.mark.parametrize("upsample", [Bilinear(True), Cubic()], ids=["bilinear", "cubic"])
def test_a_bundle_segments_at_the_frames_size(
    make_bundle: MakeBundle,
    backend: str,
    dtype: str,
    agreement: float,
    size: tuple[int, int] | None,
    upsample: Bilinear | Cubic,
) -> None:
    spec = FrameSpec(size, upsample=upsample)
    bundle = make_bundle(dtype, size, frame=spec)
    with Segmenter(bundle, backend) as segmenter:
        mask = segmenter.segment(FRAME)
    logits = convolve(tiny("float32", size), prepare(FRAME, spec))
    expected = upsample_argmax(one_frame(logits), (61, 47), upsample)
    assert mask.labels.shape == (61, 47)
    assert (mask.labels == expected).mean() >= agreement
    assert len(np.unique(expected)) > 1


def test_a_bundle_opens_by_its_path(make_bundle: MakeBundle) -> None:
    path = make_bundle().path
    for place in (path, str(path)):
        with Segmenter(place) as segmenter:
            assert segmenter.labels == numbered(CLASSES)


def test_a_damaged_bundle_does_not_open(make_bundle: MakeBundle) -> None:
    path = make_bundle().path
    (path / MODEL).write_bytes(b"")
    with pytest.raises(BundleError, match=r"model\.onnx has 0 bytes"):
        Segmenter(path)


def test_a_mask_outlives_the_next_frame(make_bundle: MakeBundle) -> None:
    with Segmenter(make_bundle()) as segmenter:
        mask = segmenter.segment(FRAME)
        kept = mask.labels.copy()
        segmenter.segment(255 - FRAME)
    assert np.array_equal(mask.labels, kept)


def test_the_halves_of_segment_give_its_mask(make_bundle: MakeBundle) -> None:
    with Segmenter(make_bundle()) as segmenter:
        expected = segmenter.segment(FRAME)
        logits = segmenter.logits(FRAME)
        assert logits.shape == (1, CLASSES, 8, 12)
        assert np.array_equal(segmenter.mask(logits, (61, 47)).labels, expected.labels)


def test_labels_are_written_into_the_memory_that_is_given(make_bundle: MakeBundle) -> None:
    with Segmenter(make_bundle(), "openvino") as segmenter:
        labels = segmenter.new_labels(61, 47)
        assert segmenter.segment(FRAME, labels).labels is labels
        assert np.array_equal(labels, segmenter.segment(FRAME).labels)
        with pytest.raises(InputError, match="of the frame's size"):
            segmenter.segment(FRAME, segmenter.new_labels(47, 61))
        labels.flags.writeable = False
        with pytest.raises(InputError, match="memory of new_labels"):
            segmenter.segment(FRAME, labels)


@pytest.mark.parametrize("upsample", [Bilinear(True), Cubic()], ids=["bilinear", "cubic"])
def test_how_sure_the_labels_are_is_said_where_it_is_asked(make_bundle: MakeBundle, upsample: Bilinear | Cubic) -> None:
    spec = FrameSpec((32, 48), upsample=upsample)
    bundle = make_bundle(frame=spec)
    labels, known = upsample_softmax(convolve(tiny("float32", (32, 48)), prepare(FRAME, spec))[0], (61, 47), upsample)
    with Segmenter(bundle, "onnxruntime", confidence=True) as segmenter:
        into = segmenter.new_labels(61, 47)
        for mask in (
            segmenter.segment(FRAME),
            segmenter.segment(FRAME, into),
            segmenter.staged(FRAME)[0],
            *segmenter.segment_stream([FRAME]),
        ):
            assert mask.confidence is not None
            assert (mask.confidence.dtype, mask.confidence.shape) == (np.uint8, (61, 47))
            assert (mask.labels == labels).mean() > 0.999  # ONNX Runtime rounds otherwise than we do
            assert np.abs(mask.confidence.astype(int) - known).max() <= 1
        with segmenter.with_upsample(Bilinear(False)) as other:
            assert other.segment(FRAME).confidence is not None
    assert len(np.unique(known)) > 10
    with Segmenter(bundle, "onnxruntime") as segmenter:
        assert segmenter.segment(FRAME).confidence is None


def test_staged_gives_the_same_mask_and_the_ms_of_each_stage(make_bundle: MakeBundle) -> None:
    with Segmenter(make_bundle(), "openvino") as segmenter:
        mask, stages = segmenter.staged(FRAME)
        assert np.array_equal(mask.labels, segmenter.segment(FRAME).labels)
    assert list(stages) == ["prepare", "engine", "head"] and all(ms > 0 for ms in stages.values())


def test_more_classes_than_labels(make_bundle: MakeBundle) -> None:
    bundle = make_bundle(labels=numbered(4))
    with (
        Segmenter(bundle) as segmenter,
        pytest.raises(BundleError, match=r"tiny: the network has 5 classes, labels 'numbered' has 4; build it again"),
    ):
        segmenter.segment(FRAME)


def test_logits_that_are_not_finite_name_the_bundle() -> None:
    segmenter = Segmenter.from_session(colour_session(np.nan), plain(), numbered(3))
    with pytest.raises(BundleError, match="the fake session: the logits of this frame are not all finite"):
        segmenter.segment(FRAME)


@pytest.mark.parametrize("shape", [(31, 64, 3), (64, 129, 3), (65, 64, 3)])
def test_a_frame_outside_the_engines_range(make_bundle: MakeBundle, shape: tuple[int, int, int]) -> None:
    bundle = make_bundle(size=None, engine=RANGE)
    said = rf"the frame is {shape[0]}x{shape[1]} pixels \(height x width\), this engine takes 32x32 to 64x128"
    with Segmenter(bundle) as segmenter, pytest.raises(InputError, match=said):
        segmenter.segment(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("shape", [(32, 32, 3), (64, 128, 3)])
def test_a_frame_at_the_end_of_the_range(make_bundle: MakeBundle, shape: tuple[int, int, int]) -> None:
    with Segmenter(make_bundle(size=None, engine=RANGE)) as segmenter:
        assert segmenter.segment(np.zeros(shape, np.uint8)).labels.shape == shape[:2]


def test_a_frame_of_a_batch_outside_the_range_is_an_error_for_itself_only(make_bundle: MakeBundle) -> None:
    shot = [np.zeros((40, 47, 3), np.uint8), np.zeros((65, 47, 3), np.uint8), np.zeros((64, 128, 3), np.uint8)]
    with Segmenter(make_bundle(size=None, engine=RANGE), "openvino") as segmenter:
        first, second, third = segmenter.segment_batch(shot)
    assert isinstance(first, Mask) and first.labels.shape == (40, 47)
    assert isinstance(second, InputError) and "65x47 pixels (height x width), this engine takes" in str(second)
    assert isinstance(third, Mask) and third.labels.shape == (64, 128)


def test_a_static_engine_takes_any_frame(make_bundle: MakeBundle) -> None:
    with Segmenter(make_bundle(engine=replace(RANGE, profile=None))) as segmenter:
        assert segmenter.segment(np.zeros((1, 500, 3), np.uint8)).labels.shape == (1, 500)


def test_what_is_not_a_frame_is_not_run(make_bundle: MakeBundle) -> None:
    with Segmenter(make_bundle()) as segmenter, pytest.raises(InputError, match="a frame is a HxWx3 BGR uint8 array"):
        segmenter.segment(FRAME[:, :, 0])


def test_closing_twice_does_nothing() -> None:
    segmenter = Segmenter.from_session(colour_session(), plain(), numbered(3))
    segmenter.close()
    segmenter.close()
    with pytest.raises(InputError, match="closed"):
        segmenter.segment(FRAME)


def test_two_inputs_are_not_a_segmentation_network() -> None:
    image = TensorSpec("image", "float32", (1, 3, 4, 4))
    session = FakeSession(lambda _: {}, (image, replace(image, name="depth")), (image,))
    with pytest.raises(BundleError, match="2 inputs and 1 outputs"):
        Segmenter.from_session(session, plain(), numbered(3))
