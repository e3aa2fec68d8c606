import tracemalloc

import numpy as np
import pytest

from refinenet_edge.errors import InputError
from refinenet_edge.labels import VOC
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


def test_an_overlay_is_the_nearest_number() -> None:
    rng = np.random.default_rng(0)
    labels, frame = np.ones((150, 40), np.uint8), rng.integers(0, 256, (150, 40, 3), dtype=np.uint8)
    whole = Mask(labels, LABELS)
    known = 0.7 * frame + 0.3 * whole.colours()
    assert np.abs(whole.overlay(frame, 0.3) - known).max() < 0.501  # rounded, not cut off


def test_the_overlay_of_a_large_frame_takes_little_besides_it() -> None:
    frame, labels = np.zeros((2048, 512, 3), np.uint8), np.zeros((2048, 512), np.uint8)
    tracemalloc.start()
    blended = Mask(labels, LABELS).overlay(frame)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * blended.nbytes


def test_an_overlay_is_between_frame_and_colours() -> None:
    frame = np.full((2, 3, 3), 200, np.uint8)
    assert np.array_equal(mask().overlay(frame, 0.0), frame)
    one = Mask(np.array([[1, 1, 1], [1, 1, 1]], np.uint8), LABELS)
    assert np.array_equal(one.overlay(frame, 1.0), one.colours())
    assert one.overlay(frame, 0.5)[0, 1].tolist() == [100, 100, 228]
    assert mask().overlay(frame)[0, 0].tolist() == [255, 255, 255]  # a line between nothing and cat
    turned = np.ascontiguousarray(frame.transpose(2, 1, 0)).transpose(2, 1, 0)  # the same, in memory otherwise
    assert np.array_equal(mask().overlay(turned), mask().overlay(frame))


def test_an_overlay_needs_the_segmented_frame() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4, 3\)"):
        mask().overlay(np.zeros((2, 4, 3), np.uint8))


def test_shares_are_of_the_whole_frame_largest_first() -> None:
    assert list(mask().shares().items()) == [("cat", 0.5), ("nothing", 1 / 6), ("dog", 1 / 6)]


class TestUnknown:
    LABELS = np.array([[0, 1, 2, 1]], np.uint8)
    SURE = np.array([[255, 128, 127, 0]], np.uint8)

    @pytest.mark.parametrize(
        ("least", "labels"),
        [(0.0, [0, 1, 2, 1]), (0.5, [0, 1, 255, 255]), (128 / 255, [0, 1, 255, 255]), (1.0, [0, 255, 255, 255])],
    )
    def test_labels_that_are_less_sure_are_ignored(self, least: float, labels: list[int]) -> None:
        mask = Mask(self.LABELS, VOC, self.SURE)
        found = mask.unknown_below(least)
        assert found.labels.tolist() == [labels]
        assert found.labels.dtype == np.uint8
        assert found.confidence is self.SURE
        assert mask.labels.tolist() == [[0, 1, 2, 1]]
        assert sum(found.shares().values()) == sum(label != 255 for label in labels) / 4

    def test_what_does_not_say_how_sure_it_is(self) -> None:
        with pytest.raises(
            InputError, match=r"does not say how sure its labels are: Segmenter\(\.\.\., confidence=True"
        ):
            Mask(self.LABELS, VOC).unknown_below(0.5)

    @pytest.mark.parametrize("least", [-0.1, 1.1, float("nan")])
    def test_no_confidence(self, least: float) -> None:
        with pytest.raises(InputError, match="it is from 0 to 1"):
            Mask(self.LABELS, VOC, self.SURE).unknown_below(least)
