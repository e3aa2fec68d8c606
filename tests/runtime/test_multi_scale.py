from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

from refinenet_edge.bundle import Bundle
from refinenet_edge.errors import BundleError, InputError
from refinenet_edge.labels import VOC, numbered
from refinenet_edge.records import (
    Bilinear,
    Cubic,
    EngineInfo,
    FrameSpec,
    Interpolation,
    Mask,
    MultiScale,
    Profile,
    TensorSpec,
    Tiles,
    from_plain,
)
from refinenet_edge.runtime import FakeSession, Segmenter
from refinenet_edge.runtime.multi_scale import MultiScalePath
from refinenet_edge.runtime.session import Feeds, Outputs
from tests.runtime.test_segmenter import colour_session, plain
from tests.runtime.tinynet import CLASSES, convolve, tiny

MakeBundle = Callable[..., Bundle]
FRAME = np.random.default_rng(5).integers(0, 256, (75, 101, 3), np.uint8)
SCALES = (0.6, 0.8, 1.0, 1.2)


def looked_at(frame: npt.NDArray[np.uint8], size: tuple[int, int], how: Interpolation) -> torch.Tensor:
    """1xCxHxW softmax at the frame's size of the tiny network, as somebody writes it who has torch and OpenCV."""
    seen = cv2.resize(frame, (size[1], size[0])) if frame.shape[:2] != size else frame
    image = (seen[:, :, ::-1] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    logits = torch.from_numpy(convolve(tiny("float32", None), image.transpose(2, 0, 1)[None]))
    if isinstance(how, Cubic):
        up = F.interpolate(logits, frame.shape[:2], mode="bicubic", align_corners=False)
    else:
        up = F.interpolate(logits, frame.shape[:2], mode="bilinear", align_corners=how.align_corners)
    return up.softmax(1)


def reference(sizes: list[tuple[int, int]], flip: bool, how: Interpolation) -> npt.NDArray[np.float64]:
    """HxWxC: the mean over sizes and, with `flip`, mirrored frames."""
    parts = []
    for size in sizes:
        parts.append(looked_at(FRAME, size, how))
        if flip:
            parts.append(looked_at(np.ascontiguousarray(FRAME[:, ::-1]), size, how).flip(3))
    return torch.stack(parts).mean(0)[0].permute(1, 2, 0).numpy()


def scores_of(segmenter: Segmenter, frame: npt.NDArray[np.uint8] = FRAME) -> npt.NDArray[np.float32]:
    path = segmenter._path
    assert isinstance(path, MultiScalePath)
    return np.concatenate([np.moveaxis(scores, 0, 2) for _, scores in path.scores(frame)])


def require_reference(segmenter: Segmenter, expected: npt.NDArray[np.float64]) -> None:
    np.testing.assert_allclose(scores_of(segmenter), expected, atol=1e-4)
    mask = segmenter.segment(FRAME)
    assert mask.confidence is not None
    first, second = np.sort(expected, axis=2)[:, :, -1], np.sort(expected, axis=2)[:, :, -2]
    clear = first - second > 1e-4
    assert clear.mean() > 0.99
    assert np.array_equal(mask.labels[clear], expected.argmax(axis=2)[clear])
    assert len(np.unique(mask.labels)) > 2
    np.testing.assert_allclose(mask.confidence, 255 * first, atol=0.53)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("upsample", [Bilinear(True), Bilinear(False), Cubic()], ids=["corners", "half", "cubic"])
@pytest.mark.parametrize("flip", [False, True], ids=["scales", "flip"])
def test_free_sides_as_plain_torch(make_bundle: MakeBundle, backend: str, upsample: Interpolation, flip: bool) -> None:
    bundle = make_bundle(size=None, frame=FrameSpec(None, upsample=upsample))
    with Segmenter(bundle, backend, confidence=True, inference=MultiScale(SCALES, flip)) as segmenter:
        sizes = [(45, 61), (60, 81), (75, 101), (90, 121)]  # the frame's sides times each scale, rounded half up
        require_reference(segmenter, reference(sizes, flip, upsample))
        assert segmenter.inference == MultiScale(SCALES, flip)


@pytest.mark.parametrize(
    ("short_side", "sizes"),
    [
        ((60, 70), [(56, 75), (84, 113)]),  # 75 is too much: 70 of it, times 0.8 and 1.2
        ((90, 120), [(72, 97), (108, 145)]),
        ((60, 90), [(60, 81), (90, 121)]),
    ],
)
def test_the_short_side_first_as_plain_torch(
    make_bundle: MakeBundle, short_side: tuple[int, int], sizes: list[tuple[int, int]]
) -> None:
    inference = MultiScale((0.8, 1.2), flip=True, short_side=short_side)
    assert inference.sizes((75, 101)) == sizes
    with Segmenter(make_bundle(size=None), confidence=True, inference=inference) as segmenter:
        require_reference(segmenter, reference(sizes, True, Bilinear(True)))


def test_a_tensorrt_engine_as_plain_torch(make_plan: Callable[..., Bundle], make_gpu: Any) -> None:
    info = {"profile": Profile((32, 32), (64, 64), (128, 128))}
    bundle = make_plan(make_gpu(), info=info, size=None)
    with Segmenter(bundle, confidence=True, inference=MultiScale((0.8, 1.2), flip=True)) as segmenter:
        require_reference(segmenter, reference([(60, 81), (90, 121)], True, Bilinear(True)))


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_fixed_size_mirrored_as_plain_torch(make_bundle: MakeBundle, backend: str) -> None:
    with Segmenter(make_bundle(size=(64, 96)), backend, confidence=True, inference=MultiScale(flip=True)) as segmenter:
        require_reference(segmenter, reference([(64, 96)], True, Bilinear(True)))


def test_a_bundle_for_each_scale_as_plain_torch(make_bundle: MakeBundle) -> None:
    first, *others = (make_bundle(size=size) for size in ((64, 96), (32, 48), (96, 128)))
    with Segmenter(first, confidence=True, inference=MultiScale(flip=True), beside=others) as segmenter:
        require_reference(segmenter, reference([(64, 96), (32, 48), (96, 128)], True, Bilinear(True)))
        digests = tuple(bundle.digest for bundle in others)
        assert segmenter.inference == MultiScale((1.0, 0.5, 1.4142), True, bundles=digests)
        cubic = segmenter.with_upsample(Cubic())
    with cubic:  # its sessions are still open
        require_reference(cubic, reference([(64, 96), (32, 48), (96, 128)], True, Cubic()))
    for one in cubic._network.beside:
        with pytest.raises(InputError, match="closed"):
            one.session.check_open()


def test_bundles_beside_do_not_say_whole(make_bundle: MakeBundle) -> None:
    first, second = (make_bundle(size=size) for size in ((64, 96), (32, 48)))
    with Segmenter(first, beside=[second]) as segmenter:
        assert segmenter.inference == MultiScale((1.0, 0.5), bundles=(second.digest,))


def test_one_scale_of_a_frame_as_it_is_has_the_labels_of_the_whole(make_bundle: MakeBundle) -> None:
    bundle = make_bundle(size=None)
    with Segmenter(bundle) as whole, Segmenter(bundle, inference=MultiScale()) as once:
        assert np.array_equal(once.segment(FRAME).labels, whole.segment(FRAME).labels)


def test_a_letterboxed_frame_is_mirrored_where_it_lies() -> None:
    # its own mirror image: each pass is the other mirrored, and the sum of the two is symmetric, odd bars included
    rng = np.random.default_rng(2)
    half = rng.integers(0, 256, (40, 20, 3), np.uint8)
    frame = np.concatenate([half, half[:, ::-1]], axis=1)
    spec = FrameSpec((64, 97), upsample=Bilinear(), mean=(0, 0, 0), std=(1, 1, 1), fit="letterbox")
    inference = MultiScale(flip=True)
    with Segmenter.from_session(colour_session(), spec, numbered(3), inference=inference) as segmenter:
        scores = scores_of(segmenter, frame)
        np.testing.assert_allclose(scores, scores[:, ::-1], atol=1e-6)
        labels = segmenter.segment(frame).labels
    with Segmenter.from_session(colour_session(), spec, numbered(3)) as whole:
        assert (labels == whole.segment(frame).labels).mean() > 0.9


def test_streams_and_stages(make_bundle: MakeBundle) -> None:
    with Segmenter(make_bundle(size=None), inference=MultiScale((0.8, 1.0))) as segmenter:
        mask = segmenter.segment(FRAME)
        staged, ms = segmenter.staged(FRAME)
        assert np.array_equal(staged.labels, mask.labels)
        assert list(ms) == ["passes", "head"]
        assert [np.array_equal(m.labels, mask.labels) for m in segmenter.segment_stream([FRAME, FRAME])] == [True] * 2
        into = segmenter.new_labels(*FRAME.shape[:2])
        assert segmenter.segment(FRAME, into).labels is into
        assert np.array_equal(into, mask.labels)


def test_a_fixed_size_has_no_other_scale(make_bundle: MakeBundle) -> None:
    for other in (MultiScale((0.5, 1.0)), MultiScale(short_side=(450, 800))):
        with pytest.raises(InputError, match=r"takes 32x48 pixels only.*--dynamic.*--with.*--flip alone"):
            Segmenter(make_bundle(), inference=other)


def test_bundles_beside_are_of_fixed_sizes_and_one_set_of_classes(make_bundle: MakeBundle) -> None:
    fixed, free = make_bundle(), make_bundle(size=None)
    other = make_bundle(labels=numbered(CLASSES + 1))
    with pytest.raises(InputError, match="all have a fixed size"):
        Segmenter(fixed, beside=[free])
    with pytest.raises(InputError, match="take the place of --scales"):
        Segmenter(fixed, inference=MultiScale((0.5, 1.0)), beside=[fixed])
    with pytest.raises(InputError, match="take the place of --scales and --tiles"):
        Segmenter(fixed, inference=Tiles((32, 48), 0), beside=[fixed])
    with pytest.raises(InputError, match="different classes"):
        Segmenter(fixed, beside=[other])


def test_a_scale_is_in_the_engines_range(make_bundle: MakeBundle) -> None:
    engine = EngineInfo("tensorrt", "10.3.0", ("sm_87",), 0, profile=Profile((32, 32), (64, 64), (80, 110)))
    bundle = make_bundle(size=None, engine=engine)
    with Segmenter(bundle, "openvino", inference=MultiScale((0.6, 1.2))) as segmenter:
        with pytest.raises(InputError, match="the frame is 90x121 pixels"):
            segmenter.segment(FRAME)
        segmenter.segment(FRAME[:60, :80])


def test_a_scale_leaves_the_network_something_to_see(make_bundle: MakeBundle) -> None:
    with (
        Segmenter(make_bundle(size=None), inference=MultiScale((0.4,))) as segmenter,
        pytest.raises(InputError, match=r"30x40 pixels at scale 0\.4, a network needs 32"),
    ):
        segmenter.segment(FRAME)


def test_logits_that_are_not_finite() -> None:
    endless = colour_session()
    endless._handler = lambda feeds: {"logits": np.full((1, 3, 75, 101), np.inf, np.float32)}
    with (
        Segmenter.from_session(endless, plain(), numbered(3), inference=MultiScale()) as segmenter,
        pytest.raises(BundleError, match="the fake session: the logits of this frame are not all finite"),
    ):
        segmenter.segment(FRAME)


def test_the_largest_numbers_are_logits_too() -> None:
    largest = float(np.finfo(np.float32).max)
    session = colour_session()
    row = np.array([largest, -largest, 0], np.float32)
    session._handler = lambda feeds: {"logits": np.tile(row[None, :, None, None], (1, 1, 75, 101))}
    with Segmenter.from_session(
        session, plain(), numbered(3), confidence=True, inference=MultiScale(flip=True)
    ) as segmenter:
        mask = segmenter.segment(FRAME)
    assert (mask.labels == 0).all()
    assert mask.confidence is not None
    assert (mask.confidence == 255).all()


def test_another_number_of_classes() -> None:
    with (
        Segmenter.from_session(colour_session(), plain(), VOC, inference=MultiScale()) as segmenter,
        pytest.raises(BundleError, match="3 classes, labels 'voc' has 21"),
    ):
        segmenter.segment(FRAME)


def test_scores_at_the_frames_size_are_a_block_of_rows() -> None:
    classes = 150

    def small(feeds: dict[str, Any]) -> dict[str, Any]:
        height, width = feeds["image"].shape[2:]
        return {"logits": np.zeros((1, classes, height // 4, width // 4), np.float32)}

    specs = colour_session().inputs, (colour_session(classes=classes).outputs)
    with Segmenter.from_session(
        FakeSession(small, *specs), plain(), numbered(classes), inference=MultiScale((0.5, 1.0), flip=True)
    ) as segmenter:
        path = segmenter._path
        assert isinstance(path, MultiScalePath)
        blocks = [scores.size for _, scores in path.scores(np.zeros((512, 512, 3), np.uint8))]
    assert max(blocks) <= 128 * 1024
    assert sum(blocks) == 512 * 512 * classes


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"scales": ()}, "1 to 16 numbers"),
        ({"scales": (0.0,)}, "above 0"),
        ({"scales": (-1.0, 1.0)}, "above 0"),
        ({"scales": (float("nan"),)}, "above 0"),
        ({"scales": (17.0,)}, "to 16"),
        ({"scales": tuple(1 + i / 100 for i in range(17))}, "1 to 16 numbers"),
        ({"scales": (1.0, 1.0)}, "twice"),
        ({"short_side": (0, 800)}, "the least and the most pixels"),
        ({"short_side": (800, 450)}, "the least and the most pixels"),
        ({"short_side": (800, 20000)}, "the least and the most pixels"),
    ],
)
def test_scales_that_cannot_be(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        MultiScale(**fields)
    with pytest.raises(BundleError):
        from_plain(MultiScale, {name: list(value) for name, value in fields.items()})


@pytest.mark.parametrize(("frames", "runs"), [(1, [1] * 8), (2, [2] * 4), (3, [3, 3, 3, 3]), (5, [5] * 4)])
def test_views_of_one_size_go_into_a_network_of_several_together(frames: int, runs: list[int]) -> None:
    """Of a frame, at four scales, mirrored too; what such a network lacks is what it has once more."""
    fed: list[npt.NDArray[Any]] = []

    def handler(feeds: Feeds) -> Outputs:
        fed.append(feeds["image"])
        return {"logits": 3 * feeds["image"]}

    specs = [TensorSpec(name, "float32", (frames, 3, "height", "width")) for name in ("image", "logits")]
    session = FakeSession(handler, specs[:1], specs[1:])
    inference = MultiScale(SCALES, flip=True)
    with Segmenter.from_session(session, plain(), numbered(3), inference=inference) as segmenter:
        answers = [*segmenter.segment_batch([FRAME]), *segmenter.segment_stream([FRAME]), segmenter.segment(FRAME)]
    handled = [len(images) for images in fed]
    assert handled == 3 * runs
    with Segmenter.from_session(colour_session(3.0), plain(), numbered(3), inference=inference) as segmenter:
        known = segmenter.segment(FRAME).labels
    for answer in answers:
        assert isinstance(answer, Mask) and np.array_equal(answer.labels, known)
    if frames > 1:
        for images in fed:
            assert np.array_equal(images[0], images[1][:, :, ::-1])


def test_an_answer_of_another_number_of_frames_is_refused() -> None:
    session = colour_session()
    run = session.run
    session.run = lambda feeds: {"logits": np.concatenate(2 * [run(feeds)["logits"]])}  # type: ignore[method-assign]
    with (
        Segmenter.from_session(session, plain(), numbered(3), inference=MultiScale(flip=True)) as segmenter,
        pytest.raises(BundleError, match="logits"),
    ):
        segmenter.segment(FRAME)
