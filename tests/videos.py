"""Videos whose containers say what is not so. Frame n is n in bits, a dark or light stripe each: codecs keep that."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

SIZE = (40, 56)
RATE = 30


def numbered(number: int) -> np.ndarray:
    bits = [240 if number >> bit & 1 else 15 for bit in range(8)]
    return np.tile(np.repeat(np.uint8(bits), SIZE[1] // 8)[None, :, None], (SIZE[0], 1, 3))


def number_of(frame: np.ndarray) -> int:
    stripes = frame.mean((0, 2)).reshape(8, -1).mean(1)
    return sum(1 << bit for bit, level in enumerate(stripes) if level > 127)


def written(path: Path, count: int, codec: str = "MJPG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), RATE, SIZE[::-1])
    assert writer.isOpened()
    for number in range(count):
        writer.write(numbered(number))
    writer.release()
    return path


def timed(path: Path, seconds: Sequence[float]) -> Path:
    """An MP4 whose frames last so long: its table of durations is written anew."""
    # without its edit list, which would end it after as many seconds as before
    data = written(path, len(seconds), "mp4v").read_bytes().replace(b"edts", b"free")
    scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    entries = b"".join(struct.pack(">II", 1, round(scale * duration)) for duration in seconds)
    table = struct.pack(">I4sII", 16 + len(entries), b"stts", 0, len(seconds)) + entries
    path.write_bytes(_replaced(data, [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"], table))
    return path


def miscounted(path: Path, count: int, said: int) -> Path:
    """An AVI whose headers count `said` frames."""
    data = bytearray(written(path, count).read_bytes())
    struct.pack_into("<I", data, data.index(b"avih") + 8 + 16, said)
    struct.pack_into("<I", data, data.index(b"strh") + 8 + 32, said)
    path.write_bytes(data)
    return path


def uncounted(path: Path, count: int) -> Path:
    """JPEGs one after another, as a pipe gives them: no header, no count."""
    path.write_bytes(b"".join(cv2.imencode(".jpg", numbered(number))[1].tobytes() for number in range(count)))
    return path


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    at = 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        yield kind, at, at + size
        at += size


def _replaced(data: bytes, path: Sequence[bytes], box: bytes) -> bytes:
    """`data`, the MP4 boxes in it, with `box` in place of the one at `path`."""
    for kind, start, end in _boxes(data):
        if kind == path[0]:
            if len(path) > 1:
                inside = _replaced(data[start + 8 : end], path[1:], box)
                box = struct.pack(">I4s", 8 + len(inside), kind) + inside
            return data[:start] + box + data[end:]
    raise AssertionError(f"no box {path[0]!r}")
