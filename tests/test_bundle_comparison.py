"""How far two outputs are from each other."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from refinenet_edge.bundle_comparison import Difference, compare_bundles, relative_error
from refinenet_edge.errors import InputError
from refinenet_edge.frames import open_frames, parse
from refinenet_edge.frames.images import write_image
from refinenet_edge.labels import CITYSCAPES, VOC, numbered
from refinenet_edge.records import FrameSpec, Labels, TensorSpec
from refinenet_edge.runtime import FakeSession, Segmenter
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.session import Feeds, Outputs


def test_the_error_is_relative_to_the_largest_expected_number() -> None:
    assert relative_error(np.array([1.0, -4.0, 2.0]), np.array([1.0, -4.0, 2.5])) == 0.125


def test_equal_arrays_have_no_error() -> None:
    assert relative_error(np.zeros((2, 3)), np.zeros((2, 3))) == 0.0


def test_float16_is_compared_without_overflowing() -> None:
    large = np.array([6e4, -6e4], np.float16)
    assert relative_error(large, -large) == 2.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_infinitely_far(bad: float) -> None:
    assert relative_error(np.ones(2), np.array([1.0, bad])) == float("inf")


def test_another_shape_is_infinitely_far() -> None:
    # one would broadcast to the other
    assert relative_error(np.ones((1, 2, 4, 4)), np.ones((1, 2, 1, 1))) == float("inf")


def segmenter(logits: np.ndarray) -> Segmenter:
    session = FakeSession(
        lambda _: {"logits": logits},
        (TensorSpec("image", "float32", (1, 3, 8, 8)),),
        (TensorSpec("logits", "float32", logits.shape),),
    )
    return Segmenter.from_session(session, FrameSpec((8, 8)), numbered(2))


def planes(left: float, right: float, width: int = 8) -> np.ndarray:
    """Logits of two classes: class 0 wins in the left half, class 1 in the right."""
    logits = np.zeros((1, 2, 8, width), np.float32)
    logits[:, 0, :, : width // 2], logits[:, 1, :, width // 2 :] = left, right
    return logits


def test_the_same_network_agrees_with_itself(photos: Path) -> None:
    frames = open_frames(parse(str(photos)))
    with segmenter(planes(1, 1)) as first, segmenter(planes(1, 1)) as second:
        differences = list(compare_bundles(first, second, frames))
    assert differences == [Difference("a.png", 0.0, 1.0), Difference("b.png", 0.0, 1.0)]


def test_labels_are_compared_at_the_size_of_the_image(photos: Path) -> None:
    with segmenter(planes(1, 1)) as first, segmenter(planes(1, -1)) as second:
        (difference,) = compare_bundles(first, second, open_frames(parse(str(photos / "a.png"))))
    assert difference.relative_error == 2.0
    assert difference.label_agreement == pytest.approx(0.5, abs=0.05)


def test_logits_of_another_size_are_compared_by_their_labels(photos: Path) -> None:
    with segmenter(planes(1, 1)) as first, segmenter(planes(1, 1, width=16)) as second:
        (difference,) = compare_bundles(first, second, open_frames(parse(str(photos / "b.png"))))
    assert difference.relative_error is None
    assert difference.label_agreement > 0.9


def test_as_many_images_at_once_as_both_have_requests(photos: Path) -> None:
    """Their own channels are the logits, but for green in the second: each image has another difference."""
    together = threading.Barrier(2)
    now: list[threading.Thread] = []
    kept = np.zeros((1, 3, 8, 8), np.float32)

    def handled(image: np.ndarray, green: float, requests: int) -> np.ndarray:
        if requests == 1:  # its memory is the next run's, too
            assert not now or now == [threading.current_thread()]
            now[:] = [threading.current_thread()]
            np.copyto(kept, image)
            return kept
        if green:
            together.wait(60)  # no image gets on alone
        logits = image.copy()
        logits[:, 1] += green
        return logits

    def opened(green: float, requests: int) -> Segmenter:
        ends = tuple((TensorSpec(name, "float32", (1, 3, 8, 8)),) for name in ("image", "logits"))
        session = FakeSession(lambda feeds: {"logits": handled(feeds["image"], green, requests)}, *ends, requests)
        return Segmenter.from_session(session, FrameSpec((8, 8)), numbered(3))

    frames = open_frames(parse(str(photos)))
    with opened(0.5, 2) as first, opened(0, 2) as second:
        found = list(compare_bundles(first, second, frames))
    assert [each.image for each in found] == ["a.png", "b.png"]
    for index, difference in enumerate(found):
        image = prepare(frames.read(index), FrameSpec((8, 8)), "float32")
        expected = image.copy()
        expected[:, 1] += 0.5
        assert difference.relative_error == relative_error(expected, image)
    with opened(0, 1) as first, opened(0, 2) as second:
        assert all(each.label_agreement == 1 for each in compare_bundles(first, second, frames))


@pytest.mark.parametrize("others", [1, 2, 3])
def test_a_network_of_exactly_three_has_three_images_in_a_run(tmp_path: Path, others: int) -> None:
    """Logits are the image, those of the second less its red: each image has another difference."""
    for index in range(5):
        write_image(
            tmp_path / f"{index}.png", np.random.default_rng(index).integers(0, 40 * (index + 2), (9, 7, 3), np.uint8)
        )

    def compared(*batches: int) -> tuple[list[Difference], list[list[np.ndarray]]]:
        fed: list[list[np.ndarray]] = [[], []]

        def opened(number: int) -> Segmenter:
            def handled(feeds: Feeds) -> Outputs:
                fed[number].append(feeds["image"])
                logits = feeds["image"].copy()
                logits[:, 0] -= number
                return {"logits": logits}

            ends = tuple((TensorSpec(name, "float32", (batches[number], 3, 8, 8)),) for name in ("image", "logits"))
            return Segmenter.from_session(FakeSession(handled, *ends), FrameSpec((8, 8)), numbered(3))

        with opened(0) as first, opened(1) as second:
            return list(compare_bundles(first, second, open_frames(parse(str(tmp_path))))), fed

    known, (images, _) = compared(1, 1)
    assert len({each.relative_error for each in known}) == 5
    found, fed = compared(3, others)
    assert found == known
    assert [len(run) for run in fed[0]] == [3, 3]
    assert np.array_equal(np.concatenate(fed[0])[:5], np.concatenate(images))  # what is missing is the last once more
    assert len(fed[1]) == {1: 5, 2: 3, 3: 2}[others]


def test_an_image_that_cannot_be_read_stops(tmp_path: Path) -> None:
    with segmenter(planes(1, 1)) as first, pytest.raises(InputError, match=r"no image or folder at .*none\.png"):
        list(compare_bundles(first, first, open_frames(parse(str(tmp_path / "none.png")))))


def with_labels(labels: Labels) -> Segmenter:
    count = len(labels.names)
    ends = (TensorSpec("image", "float32", (1, 3, 8, 8)),), (TensorSpec("logits", "float32", (1, count, 8, 8)),)
    session = FakeSession(lambda _: {"logits": np.zeros((1, count, 8, 8), np.float32)}, *ends)
    return Segmenter.from_session(session, FrameSpec((8, 8)), labels)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (CITYSCAPES, r"21 \(voc\) and 19 \(cityscapes\), and label 0 is 'background' and 'road'"),
        (replace(VOC, names=("void", *VOC.names[1:])), r"21 \(voc\) .*label 0 is 'background' and 'void'"),
        (numbered(20), r"21 \(voc\) and 20 \(numbered\)"),
    ],
)
def test_labels_of_different_classes_are_not_compared(photos: Path, second: Labels, said: str) -> None:
    with pytest.raises(InputError, match=f"the bundles' labels are different classes: {said}"):
        next(compare_bundles(with_labels(VOC), with_labels(second), open_frames(parse(str(photos)))))
    assert next(compare_bundles(with_labels(VOC), with_labels(numbered(21)), open_frames(parse(str(photos)))))
