import numpy as np
import pytest

from refinenet_edge.records import Labels, Mask

LABELS = Labels("pets", ("nothing", "cat", "dog"), ((0, 0, 0), (255, 0, 0), (0, 0, 255)))


def mask() -> Mask:
    return Mask(np.array([[0, 1, 1], [2, 1, 255]], np.uint8), LABELS)


def test_a_mask_in_its_colours_is_bgr() -> None:
    colours = mask().colours()
    assert colours.shape == (2, 3, 3)
    assert colours[0, 1].tolist() == [0, 0, 255]  # cat is red
    assert colours[1, 0].tolist() == [255, 0, 0]  # dog is blue
    assert colours[1, 2].tolist() == [0, 0, 0]  # no class


def test_an_overlay_is_between_frame_and_colours() -> None:
    frame = np.full((2, 3, 3), 200, np.uint8)
    assert np.array_equal(mask().overlay(frame, 0.0), frame)
    assert np.array_equal(mask().overlay(frame, 1.0), mask().colours())
    assert mask().overlay(frame, 0.5)[0, 1].tolist() == [100, 100, 227]


def test_an_overlay_needs_the_segmented_frame() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4, 3\)"):
        mask().overlay(np.zeros((2, 4, 3), np.uint8))


def test_shares_are_of_the_whole_frame_largest_first() -> None:
    assert list(mask().shares().items()) == [("cat", 0.5), ("nothing", 1 / 6), ("dog", 1 / 6)]
