"""A small file is not believed that it holds a large picture."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from refinenet_edge.errors import InputError
from refinenet_edge.frames.headers import require_plausible
from refinenet_edge.frames.images import decode_image

PICTURE = np.random.default_rng(0).integers(0, 255, (9, 14, 3), dtype=np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, packed: bytes, depth: int = 8, colour: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def bmp(width: int, height: int, bits: int = 24, colours: int = 0, packed: int = 0, data: bytes = b"") -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, packed, 0, 0, 0, colours, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + header + data


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".webp"])
def test_whole_pictures_are_taken(suffix: str) -> None:
    data = cv2.imencode(suffix, PICTURE)[1].tobytes()
    assert decode_image(data, "a").shape == PICTURE.shape


@pytest.mark.parametrize("side", [1, 64, 4000])
def test_a_picture_of_one_colour_is_taken_however_well_it_compresses(side: int) -> None:
    for picture in (np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.uint8)):
        for suffix in (".png", ".bmp"):
            data = cv2.imencode(suffix, picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
            assert decode_image(data, "a").shape == (side, side, 3)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_a_pixel(depth: int) -> None:
    row = bytes(1 + (100 * depth + 7) // 8)
    assert decode_image(png(100, 50, zlib.compress(row * 50), depth, 0), "a").shape == (50, 100, 3)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (png(10000, 10000, zlib.compress(bytes(99))), "claims 10000x10000 pixels in"),
        (png(2, 2, b"")[:33] + struct.pack(">I", 0x7FFFFFF0) + b"IDAT", "a part of 2147483632 bytes|cut short"),
        (png(2, 2, b"")[:33] + struct.pack(">I", 0x7FFFFFF0) + b"zTXt" + bytes(99), "a part of 2147483632 bytes"),
        (bmp(9000, 9000), "claims 9000x9000 pixels"),
        (bmp(9000, -9000), "claims 9000x9000 pixels"),
        (bmp(9000, 9000, 8, 256, 1, bytes(1024)), "claims 9000x9000 pixels"),
        (bmp(4, 4, 24, 1 << 31, 0, bytes(48)), "colours"),
        (bmp(4, 4, 7, 0, 0, bytes(48)), "7 bits"),
        (bmp(4, 4, 24, 0, 0, bytes(48))[:40], "no header of a BMP"),
        (b"BM" + struct.pack("<IHHI", 99, 0, 0, 1 << 30) + bmp(4, 4)[14:] + bytes(48), "no header of a BMP"),
    ],
)
def test_what_cannot_be_is_refused_before_it_is_decoded(data: bytes, problem: str) -> None:
    with pytest.raises(InputError, match=rf"image a .*({problem}).*: it is damaged"):
        require_plausible(data, "image a")
    with pytest.raises(InputError, match="image a"):
        decode_image(data, "a")


def test_a_picture_of_too_many_pixels() -> None:
    with pytest.raises(InputError, match="16000x16000 pixels, the limit is 134217728 in all"):
        decode_image(png(16000, 16000, b""), "a")
