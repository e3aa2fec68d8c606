"""Read a truth mask: the numbers in a PNG file, exactly as they were written.

OpenCV turns a palette into colours, stretches 1, 2 and 4 bits to 0..255 and follows gamma and transparency. The numbers
are wanted, so it is given the file without all that: header, pixels, end, and a palette image declared to be grey (the
pixels of the two are stored alike).
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from refinenet_edge.errors import InputError
from refinenet_edge.files import read_bytes
from refinenet_edge.frames.headers import png_part, require_plausible
from refinenet_edge.frames.images import MAX_BYTES, PNG, image_size, require_readable
from refinenet_edge.opencv import cv2

GREY, PALETTE = 0, 3  # PNG colour types


def read_mask(path: Path) -> npt.NDArray[Any]:
    """The PNG at `path`: HxW uint8 or uint16 numbers; a colour image is HxWx3 BGR uint8 unless its channels are equal.

    The file is untrusted. Raises `InputError` naming it.
    """
    data = read_bytes(path, MAX_BYTES, "mask")
    claimed = image_size(data)
    if claimed is None or not data.startswith(PNG):
        raise InputError(f"mask {path} is not a PNG file: masks are PNG, other formats blur or recolour the classes")
    require_readable(claimed, f"mask {path}")
    require_plausible(data, f"mask {path}")
    try:
        depth, bare = _bare(data)
        image = cv2.imdecode(np.frombuffer(bare, np.uint8), cv2.IMREAD_UNCHANGED)
    except (struct.error, IndexError, cv2.error) as exc:
        raise InputError(f"mask {path} cannot be decoded: {exc}") from exc
    if image is None:
        raise InputError(f"mask {path} cannot be decoded: it is damaged or cut short")
    if depth < 8:
        image = image // (255 // ((1 << depth) - 1))
    if image.ndim == 2:
        return image
    if (image[:, :, 0] == image[:, :, 1]).all() and (image[:, :, 0] == image[:, :, 2]).all():
        return np.ascontiguousarray(image[:, :, 0])
    if depth != 8:
        raise InputError(f"mask {path} is a colour image of {depth} bits: save class numbers, or 8 bits")
    return np.ascontiguousarray(image[:, :, :3])


def _bare(data: bytes) -> tuple[int, bytes]:
    """The bits of a sample, and the PNG with nothing but header, pixels and end; a palette image becomes a grey one."""
    parts = [PNG]
    at, depth = len(PNG), 0
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunk = data[at : at + 12 + length]
        if kind == b"IHDR":
            depth, colour = data[at + 16], data[at + 17]
            colours = bytes([GREY if colour == PALETTE else colour])
            chunk = png_part(kind, data[at + 8 : at + 17] + colours + data[at + 18 : at + 21])
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            parts.append(chunk)
        at += 12 + length
    return depth, b"".join(parts)
