from __future__ import annotations

import numpy as np
import pytest

from refinenet_edge.labels import CITYSCAPES
from refinenet_edge.overlay import OverlayStyle, blend, draw, legend, legend_of, no_signal
from refinenet_edge.records import Mask
from tests.demo.fakes import THREE

RNG = np.random.default_rng(3)
FRAME = RNG.integers(0, 256, (90, 120, 3), np.uint8)
LABELS = np.repeat(np.arange(3, dtype=np.uint8), 30)[:, None].repeat(120, 1)
MASK = Mask(LABELS, THREE)
LINES = ["29.9 fps", "p50 32.1 ms"]
LEGEND = [("light", THREE.palette[2])]


@pytest.mark.parametrize(("opacity", "white"), [(0.25, 0.5), (0.5, 1.0), (1.0, 1.0)])
def test_lines_between_classes_are_white(opacity: float, white: float) -> None:
    mask = Mask(np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 2, 2]], np.uint8), THREE)
    frame = np.full((3, 4, 3), 100, np.uint8)
    before_another = np.array([[0, 1, 0, 0], [0, 1, 1, 1], [0, 1, 0, 0]], bool)[..., None]  # right of it, or below
    blended = 100 * (1 - opacity) + mask.colours() * opacity
    expected = np.where(before_another, blended * (1 - white) + 255 * white, blended)
    assert np.abs(mask.overlay(frame, opacity) - expected).max() <= 1


def test_lines_are_wider_in_a_large_picture() -> None:
    labels = np.zeros((1800, 1800), np.uint8)
    labels[:, 900:] = 1
    found = Mask(labels, THREE).overlay(np.zeros((1800, 1800, 3), np.uint8))
    assert np.flatnonzero((found[7] == 255).all(-1)).tolist() == [897, 898, 899]


def test_the_frame_is_seen_through_hidden_classes() -> None:
    found = blend(FRAME, MASK, OverlayStyle(1.0, hidden=frozenset({1})))
    np.testing.assert_array_equal(found[30:59], FRAME[30:59])
    np.testing.assert_array_equal(found[60:], MASK.colours()[60:])
    assert np.all(found[[29, 59]] == 255)
    both = blend(FRAME, MASK, OverlayStyle(1.0, hidden=frozenset({1, 2})))
    np.testing.assert_array_equal(both[30:], FRAME[30:])


def test_the_legend_has_the_largest_classes_in_their_order() -> None:
    classes = [(f"class {i}", (i, i, i), 0.004 if i == 3 else 0.01 * (12 - i)) for i in range(12)]
    assert [name for name, _ in legend(classes, {1})] == [f"class {i}" for i in (0, 2, 4, 5, 6, 7, 8, 9, 10, 11)]
    more = [(f"class {i}", (i, i, i), 0.01 * (i + 1)) for i in range(12)]
    assert [name for name, _ in legend(more)] == [f"class {i}" for i in range(2, 12)]
    assert legend_of(MASK) == list(zip(THREE.names, THREE.palette, strict=True))


@pytest.mark.parametrize("frame", [FRAME[:80], FRAME.astype(np.float32)], ids=["size", "type"])
def test_a_mask_of_another_frame(frame: np.ndarray) -> None:
    with pytest.raises(ValueError, match="not the segmented frame"):
        blend(frame, MASK, OverlayStyle())


def test_the_frame_stays_as_it_is() -> None:
    before = FRAME.copy()
    draw(FRAME, MASK, OverlayStyle(side_by_side=True, hidden=frozenset({0})), LINES, LEGEND)
    np.testing.assert_array_equal(FRAME, before)


def test_side_by_side_has_the_frame_on_the_left() -> None:
    found = draw(FRAME, MASK, OverlayStyle(side_by_side=True), LINES, LEGEND)
    assert found.shape == (90, 240, 3)
    np.testing.assert_array_equal(found[:, :120], FRAME)
    np.testing.assert_array_equal(found[:, 120:], draw(FRAME, MASK, OverlayStyle(), LINES, LEGEND))


def test_figures_stand_at_the_top_and_the_legend_below() -> None:
    plain = draw(FRAME, MASK, OverlayStyle(figures=False), LINES, LEGEND)
    np.testing.assert_array_equal(plain, blend(FRAME, MASK, OverlayStyle()))
    figures, legend = (draw(FRAME, MASK, OverlayStyle(), *given) != plain for given in ((LINES, []), ([], LEGEND)))
    assert figures[:45].any() and not figures[60:].any() and not figures[:, 100:].any()
    assert legend[60:].any() and not legend[:45].any()


def test_the_legend_has_the_classes_colours() -> None:
    frame = np.full((512, 512, 3), 120, np.uint8)
    mask = Mask(np.zeros((512, 512), np.uint8), CITYSCAPES)
    legend = list(zip(CITYSCAPES.names[:4], CITYSCAPES.palette[:4], strict=True))
    found = draw(frame, mask, OverlayStyle(0.0), [], legend)
    for _, (red, green, blue) in legend:
        assert np.all(found[256:, :100] == (blue, green, red), axis=-1).sum() >= 64


@pytest.mark.parametrize("size", [(1, 1), (5, 400), (16, 16), (400, 5)])
def test_a_small_picture_takes_what_there_is_place_for(size: tuple[int, int]) -> None:
    frame = np.zeros((*size, 3), np.uint8)
    found = draw(frame, Mask(np.zeros(size, np.uint8), THREE), OverlayStyle(), LINES, LEGEND)
    assert found.shape == frame.shape
    assert no_signal(found).shape == frame.shape


def test_no_signal_is_grey_and_written_across() -> None:
    found = no_signal(np.full((240, 320, 3), (200, 50, 10), np.uint8))
    assert np.ptp(found, axis=2).max() == 0
    assert found[0, 0, 0] < 60 and found.max() > 200
