"""A network that gives labels itself: they go to the frame's size by the nearest pixel, to where the frame lay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from refinenet_edge.errors import BundleError, InputError
from refinenet_edge.labels import numbered
from refinenet_edge.records import Cubic, FrameSpec, MultiScale, TensorSpec
from refinenet_edge.runtime import FakeSession, Segmenter
from refinenet_edge.runtime.device_path import fits_device
from refinenet_edge.runtime.frame_path import Network, SharedSession

SIZE = (6, 8)
GIVEN = np.random.default_rng(2).integers(0, 4, (1, *SIZE)).astype(np.int32)


def session(given: np.ndarray = GIVEN) -> FakeSession:
    image = TensorSpec("image", "float32", (1, 3, *SIZE))
    return FakeSession(lambda feeds: {"labels": given}, (image,), (TensorSpec("labels", "int32", (1, *SIZE)),))


def labels(frame: tuple[int, int], **fields: Any) -> np.ndarray:
    with Segmenter.from_session(session(), FrameSpec(SIZE, **fields), numbered(4)) as segmenter:
        return segmenter.segment(np.zeros((*frame, 3), np.uint8)).labels


def test_a_frame_of_its_size_has_them_as_they_are() -> None:
    assert np.array_equal(labels(SIZE), GIVEN[0]) and labels(SIZE).dtype == np.uint8


@pytest.mark.parametrize("frame", [(12, 24), (7, 5), (3, 4), (1, 1)])
def test_others_have_the_nearest(frame: tuple[int, int]) -> None:
    rows, columns = (((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip(frame, SIZE, strict=True))
    assert np.array_equal(labels(frame), GIVEN[0][rows[:, None], columns])


def test_a_letterboxed_frame_has_those_of_its_place() -> None:
    assert np.array_equal(labels((4, 8), fit="letterbox"), GIVEN[0][1:5])
    assert np.array_equal(labels((12, 8), fit="letterbox"), np.repeat(GIVEN[0][:, 2:6], 2, 0).repeat(2, 1))


def test_a_cropped_frame_has_none_beyond() -> None:
    found = labels((6, 12), fit="crop")
    assert np.array_equal(found[:, 2:10], GIVEN[0])
    assert (found[:, :2] == 255).all() and (found[:, 10:] == 255).all()


@pytest.mark.parametrize("given", [GIVEN + 4, GIVEN - 1, GIVEN[0], np.concatenate([GIVEN, GIVEN])])
def test_what_is_no_map_of_its_classes_is_refused(given: np.ndarray) -> None:
    segmenter = Segmenter.from_session(session(given), FrameSpec(SIZE), numbered(4))
    with segmenter, pytest.raises(BundleError, match="expected one map of 4 classes: build it again"):
        segmenter.segment(np.zeros((*SIZE, 3), np.uint8))


def test_nothing_that_needs_scores_is_done_with_them() -> None:
    spec = FrameSpec(SIZE)
    for options in ({"confidence": True}, {"inference": MultiScale((1.0,), True)}):
        with pytest.raises(InputError, match="gives labels, no logits"):
            Segmenter.from_session(session(), spec, numbered(4), **options)  # type: ignore[arg-type]
    segmenter = Segmenter.from_session(session(), spec, numbered(4))
    with segmenter, pytest.raises(InputError, match="gives labels, which were upsampled already"):
        segmenter.with_upsample(Cubic())


def test_the_gpu_gives_them_to_the_host() -> None:
    network = Network(SharedSession(session()), FrameSpec(SIZE), numbered(4), "a session")
    assert not fits_device(network, network.session)  # type: ignore[arg-type]
