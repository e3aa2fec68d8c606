"""Headers of image files: whether one can hold the picture that it claims, before a decoder believes it.

Decoders set memory aside for the lengths and sizes that a file claims. A PNG is compressed by at most 1032 to 1, a BMP
by 128 to 1 or not at all, and no part of a file is longer than the file.
"""

import struct
import zlib

from refinenet_edge.errors import InputError

PNG_RATIO, BMP_RATIO = 1032, 128
BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # bytes of each of its versions


def require_plausible(data: bytes, what: str) -> None:
    """Raise `InputError` where a PNG or BMP claims parts or pixels that cannot be in `data`."""
    try:
        if data.startswith(b"\x89PNG"):
            problem = _problem_of_png(data)
        elif data.startswith(b"BM"):
            problem = _problem_of_bmp(data)
        else:
            return
    except struct.error:
        problem = "is cut short"
    if problem:
        raise InputError(f"{what} {problem}: it is damaged")


def png_part(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file: its length, `kind` and `data`, and their check."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _problem_of_png(data: bytes) -> str:
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    at, packed, kind = 8, 0, b""
    while at < len(data) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            return f"has a part of {length} bytes, which is more than there is"
        packed += length if kind == b"IDAT" else 0
        at += 12 + length
    row = (width * depth * {2: 3, 4: 2, 6: 4}.get(colour, 1) + 7) // 8
    if row * height > PNG_RATIO * packed:
        return f"claims {height}x{width} pixels in {packed} bytes"
    return ""


def _problem_of_bmp(data: bytes) -> str:
    start, header = struct.unpack_from("<II", data, 10)
    if header not in BMP_HEADERS or start > len(data):
        return "has no header of a BMP"
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        packed = colours = 0
    else:
        width, height, _, bits, packed = struct.unpack_from("<iiHHI", data, 18)
        (colours,) = struct.unpack_from("<I", data, 46)
    if bits not in (1, 4, 8, 16, 24, 32) or width < 1 or colours > 1 << min(bits, 8):
        return f"has {bits} bits a pixel and {colours} colours"
    row = (width * bits + 31) // 32 * 4
    run_lengths = packed in (1, 2)
    if row * abs(height) > (len(data) - start) * (BMP_RATIO if run_lengths else 1) + row:
        return f"claims {width}x{abs(height)} pixels in {len(data)} bytes"
    return ""
