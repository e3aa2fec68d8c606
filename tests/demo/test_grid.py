"""Several cameras in one picture: where each is, and what of it is drawn."""

from __future__ import annotations

import time

import numpy as np
import pytest

from refinenet_edge.demo import SegmentedFrame, grid
from refinenet_edge.demo.grid import CameraGrid, Tile, columns_of
from refinenet_edge.overlay import OverlayStyle
from refinenet_edge.records import Frame, Mask
from tests.demo.fakes import THREE, grey

PLAIN = OverlayStyle(0.0)


def result(level: int, size: tuple[int, int] = (90, 160), label: int = 0) -> SegmentedFrame:
    mask = Mask(np.full(size, label, np.uint8), THREE)
    return SegmentedFrame(grey(level, size), mask, None, 0, time.monotonic(), 1.0, {}, 0)


def middle(picture: Frame, row: int, column: int, rows: int = 2, columns: int = 2) -> list[int]:
    """The pixel in the middle of a tile."""
    height, width = picture.shape[0] // rows, picture.shape[1] // columns
    return [int(value) for value in picture[row * height + height // 2, column * width + width // 2]]


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 2), (4, 2), (5, 3), (9, 3), (10, 4), (17, 5)])
def test_as_many_beside_each_other_as_above(count: int, columns: int) -> None:
    assert columns_of(count) == columns
    picture = CameraGrid(count).picture([Tile("a", None)] * count, PLAIN)
    rows = -(-count // columns)
    assert picture.shape[0] / rows / (picture.shape[1] / columns) == pytest.approx(9 / 16, abs=0.01)
    assert 1200 <= picture.shape[1] <= 1280


def test_each_camera_keeps_its_place() -> None:
    tiles = [Tile(name, result(level)) for name, level in (("a", 50), ("b", 100), ("c", 150))]
    board = CameraGrid(3)
    first = board.picture(tiles, PLAIN)
    places = [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [middle(first, *place) for place in places] == [[50] * 3, [100] * 3, [150] * 3, [0] * 3]
    tiles[1] = Tile("b", tiles[1].result, "no signal")
    second = board.picture(tiles, PLAIN)
    assert [middle(second, *place) for place in (places[0], places[2])] == [[50] * 3, [150] * 3]
    half = second.shape[0] // 2, second.shape[1] // 2
    lost, before = second[: half[0], half[1] :], first[: half[0], half[1] :]
    assert lost[60:].max() == 255 and np.median(lost) == 40  # dark, with letters across
    assert np.median(before) == 100  # a picture that was handed out stays as it is


def test_a_camera_that_gave_nothing_yet_is_black_with_its_state_and_name() -> None:
    picture = CameraGrid(2).picture([Tile("a", None, "opening"), Tile("b", result(90))], PLAIN)
    height = picture.shape[0]
    tile = picture[:, :640]
    assert tile[height // 3 : 2 * height // 3].max() == 255 and tile[: height // 6].max() == 255
    assert np.median(tile) == 0
    assert middle(picture, 0, 1, rows=1) == [90] * 3


@pytest.mark.parametrize(
    ("size", "covered"), [((90, 160), 1.0), ((1080, 1920), 1.0), ((480, 640), 0.75), ((640, 360), 0.316)]
)
def test_a_frame_of_another_shape_is_fitted_whole(size: tuple[int, int], covered: float) -> None:
    picture = CameraGrid(2).picture([Tile("", result(200, size)), Tile("", None)], PLAIN)
    tile = picture[40:, :640, 0]
    assert (tile > 190).mean() == pytest.approx(covered, abs=0.01)
    assert (tile[:, 320] > 190).all()


def test_side_by_side_has_the_frame_left_and_its_mask_right() -> None:
    picture = CameraGrid(2).picture([Tile("", result(0)), Tile("", None)], OverlayStyle(1.0, side_by_side=True))
    height, width = picture.shape[0], picture.shape[1] // 2
    assert picture[height // 2, width // 4].tolist() == [0, 0, 0]
    assert picture[height // 2, 3 * width // 4].tolist() == list(THREE.palette[0][::-1])


def test_only_what_has_changed_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def draw(frame: Frame, mask: Mask, style: OverlayStyle) -> Frame:
        drawn.append(int(frame[0, 0, 0]))
        return frame

    monkeypatch.setattr(grid, "draw", draw)
    tiles = [Tile("a", result(10)), Tile("b", result(20))]
    board = CameraGrid(2)
    board.picture(tiles, PLAIN)
    board.picture([tiles[0], Tile("b", result(30))], PLAIN)
    assert drawn == [10, 20, 30]
    board.picture([tiles[0], Tile("b", result(40))], OverlayStyle(0.1))
    assert drawn == [10, 20, 30, 10, 40]


def test_a_long_name_keeps_its_end() -> None:
    name = "rtsp://192.168.1.20:554/Streaming/Channels/some/where/101"
    assert grid._shortened(name).endswith("Channels/some/where/101") and len(grid._shortened(name)) == 44
    assert grid._shortened(name[:44]) == name[:44]
