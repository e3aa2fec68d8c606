from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refinenet_edge.errors import InputError
from refinenet_edge.evaluation import masks
from refinenet_edge.evaluation.masks import read_mask
from refinenet_edge.records import MAX_SIDE
from tests.evaluation.data import palette, png, write

NUMBERS = np.random.default_rng(0).integers(0, 256, (13, 21))
GAMMA = (b"gAMA", struct.pack(">I", 100_000))
FEW = np.random.default_rng(1).integers(0, 256, (4, 3))


@pytest.mark.parametrize(
    ("colour", "depth", "extra"),
    [
        pytest.param(0, 1, (), id="1-bit grey"),
        pytest.param(0, 2, (), id="2-bit grey"),
        pytest.param(0, 4, (), id="4-bit grey"),
        pytest.param(0, 8, (), id="8-bit grey"),
        pytest.param(0, 16, (), id="16-bit grey"),
        pytest.param(0, 8, (GAMMA, (b"tRNS", b"\0\5")), id="gamma and a transparent grey"),
        pytest.param(3, 8, (palette(),), id="VOC's palette"),
        pytest.param(3, 8, (palette(np.zeros((256, 3))),), id="every colour black"),
        pytest.param(3, 8, (palette(), (b"tRNS", bytes(range(100)))), id="a transparent palette"),
        pytest.param(3, 2, (palette(FEW),), id="2-bit palette"),
        pytest.param(3, 8, (palette(FEW),), id="a palette too short"),
    ],
)
def test_the_numbers_are_those_written(
    tmp_path: Path, colour: int, depth: int, extra: tuple[tuple[bytes, bytes]]
) -> None:
    numbers = NUMBERS * 257 if depth == 16 else NUMBERS & ((1 << depth) - 1)
    read = read_mask(write(tmp_path / "a.png", png(numbers, colour, depth, *extra)))
    assert np.array_equal(read, numbers)
    assert read.dtype == (np.uint16 if depth == 16 else np.uint8)


def test_a_mask_of_opencv(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for channels in (1, 3, 4):
        assert cv2.imwrite(str(path), np.stack([NUMBERS] * channels, axis=2).astype(np.uint8))
        assert np.array_equal(read_mask(path), NUMBERS)  # equal channels are numbers too


def test_a_colour_mask_is_bgr(tmp_path: Path) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (5, 6, 3))
    assert np.array_equal(read_mask(write(tmp_path / "a.png", png(rgb, 2))), rgb[:, :, ::-1])


def test_a_jpeg_is_no_mask(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(cv2.imencode(".jpg", NUMBERS.astype(np.uint8))[1].tobytes())
    with pytest.raises(InputError, match=r"a\.png is not a PNG file"):
        read_mask(path)


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = png(NUMBERS)
    huge = whole[:16] + struct.pack(">I", MAX_SIDE + 1) + whole[20:]
    with pytest.raises(InputError, match=f"the limit is {MAX_SIDE} a side"):
        read_mask(write(tmp_path / "huge.png", huge))
    wide = whole[:16] + struct.pack(">II", MAX_SIDE, MAX_SIDE) + whole[24:]
    with pytest.raises(InputError, match=r"is \d+x\d+ pixels, the limit is \d+ in all"):
        read_mask(write(tmp_path / "wide.png", wide))
    monkeypatch.setattr(masks, "MAX_BYTES", 100)
    with pytest.raises(InputError, match="is larger than 100 bytes"):
        read_mask(write(tmp_path / "long.png", whole))


def test_a_mask_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no mask at"):
        read_mask(tmp_path / "a.png")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.97])
def test_a_mask_cut_short(tmp_path: Path, kept: float) -> None:
    whole = png(NUMBERS)
    with pytest.raises(InputError, match=r"a\.png"):
        read_mask(write(tmp_path / "a.png", whole[: int(kept * len(whole))]))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_byte_is_an_error_or_seen_through(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int
) -> None:
    data = bytearray(png(NUMBERS, 3, 8, palette()))
    data[at % len(data)] = byte
    try:
        read = read_mask(write(tmp_path_factory.getbasetemp() / "damaged.png", bytes(data)))
    except InputError:
        return
    assert read.ndim == 2
