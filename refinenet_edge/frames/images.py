"""Read and write image files: PNG, JPEG, BMP and WebP; a file or a folder -> frames.

The size is read from the file's first bytes before anything is decoded, so that a small file cannot claim gigabytes.
TIFF, AVIF and HEIF are read by Pillow, where the extra `images` is installed; other formats are refused, which keeps
OpenCV's less used decoders away from files that strangers made.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import logging
import os
import re
import struct
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from refinenet_edge.errors import InputError, first_line
from refinenet_edge.files import is_there, list_files, open_regular, read_bytes, write_atomically
from refinenet_edge.frames.headers import require_plausible
from refinenet_edge.frames.readers import Captured, CapturedFrames, Frames, LiveSource, Pacer, repeated
from refinenet_edge.opencv import cv2, stderr_to
from refinenet_edge.records import MAX_SIDE, Frame, Size

SECONDS = 0.5  # that each image is shown for, live
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
BY_PILLOW = (".tif", ".tiff", ".avif", ".heic", ".heif")
# what a folder may hold besides, and is not read from it
LEFT_OUT = (".gif", ".jp2", ".jxl", ".dng", ".cr2", ".nef", ".arw", ".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v")
MAX_BYTES = 256 * 1024 * 1024
MAX_PIXELS = 1 << 27
PNG, JPEG, BMP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"BM"  # what they begin with

Turn = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]  # HxW or HxWxC -> the same, turned or mirrored

logger = logging.getLogger(__name__)


def read_image(path: str | Path) -> Frame:
    """The image at `path` as HxWx3 BGR uint8, a new array, turned as its EXIF orientation says.

    Grey becomes three equal channels, 16-bit keeps its high byte, alpha is dropped (the colours under it stay).
    Raises `InputError` naming the file.
    """
    return decode_image(read_bytes(Path(path), MAX_BYTES, "image"), str(path))


def decode_image(data: bytes, name: str) -> Frame:
    """`read_image` of the bytes of an image file; errors call it `name`."""
    claimed = image_size(data)
    if claimed is None and (kind := _kind_for_pillow(data)):
        return _by_pillow(data, name, kind)
    if claimed is None:
        raise InputError(f"image {name} is not a whole PNG, JPEG, BMP or WebP file: convert it to PNG")
    require_readable(claimed, f"image {name}")
    require_plausible(data, f"image {name}")
    jpeg = data.startswith(JPEG)
    if jpeg and not _ends(data):
        raise InputError(f"image {name} cannot be decoded: it is cut short")
    with _complaints() if jpeg else contextlib.nullcontext(lambda: "") as complaints:
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error as exc:
            raise InputError(f"image {name} cannot be decoded: {exc}") from exc
    if image is None:
        raise InputError(f"image {name} cannot be decoded: it is damaged or cut short")
    if said := complaints():
        raise InputError(f"image {name} is damaged: its decoder says {said!r}: save it again from a copy that is whole")
    return np.asarray(image, np.uint8)


def _kind_for_pillow(data: bytes) -> str:
    """Pillow's name of the format that a file begins like, "" for one that it is not asked to read."""
    if data[:4] in (b"II*\0", b"MM\0*"):
        return "TIFF"
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if brand in (b"avif", b"avis"):
        return "AVIF"
    return "HEIF" if brand in (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1") else ""


def _by_pillow(data: bytes, name: str, kind: str) -> Frame:
    """`decode_image` of the formats that OpenCV's own builds differ in."""
    try:
        from PIL import Image, ImageOps

        if kind == "HEIF":
            from pillow_heif import register_heif_opener

            register_heif_opener()
    except ImportError as exc:
        install = "pip install 'refinenet-edge[images]'"
        raise InputError(f"image {name} is {kind}, which {exc.name} reads: {install}, or convert it to PNG") from exc
    try:
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are looked at here, and of tags, which are not
            with Image.open(io.BytesIO(data), formats=[kind]) as picture:
                require_readable((picture.height, picture.width), f"image {name}")
                turned = ImageOps.exif_transpose(picture)
                if turned.mode.startswith("I;16"):
                    grey = (np.asarray(turned).astype(np.uint16) >> 8).astype(np.uint8)
                    return np.repeat(grey[:, :, None], 3, axis=2)
                if turned.mode in ("I", "F"):
                    raise InputError(f"image {name} has numbers of 32 bits: convert it to PNG")
                return np.ascontiguousarray(np.asarray(turned.convert("RGB"), np.uint8)[:, :, ::-1])
    except InputError:
        raise
    except Exception as exc:  # its plugins raise anything
        raise InputError(f"image {name} cannot be decoded: {first_line(exc)}") from exc


def turn_of(path: Path) -> Turn | None:
    """What `read_image` does to the image as it is stored, by its EXIF orientation; None: nothing."""
    data = read_bytes(path, MAX_BYTES, "image")
    names = (b"eXIf",) if data.startswith(PNG) else (b"Exif", b"EXIF")
    if not any(name in data for name in names):
        return None
    shown = decode_image(data, str(path))
    stored: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if stored is None or np.array_equal(stored, shown):  # OpenCV reads no HEIF, whose EXIF turns nothing
        return None
    return next((turn for turn in _TURNS if np.array_equal(turn(stored), shown)), None)


_TURNS: tuple[Turn, ...] = (
    *(functools.partial(np.rot90, k=quarters) for quarters in (1, 2, 3)),
    np.fliplr,
    np.flipud,
    lambda image: np.swapaxes(image, 0, 1),
    lambda image: np.swapaxes(np.rot90(image, 2), 0, 1),
)


def require_readable(size: Size, what: str) -> None:
    """Raise `InputError` for an image that claims to be empty or too large to be decoded."""
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise InputError(f"{what} is {size[0]}x{size[1]} pixels, the limit is {MAX_SIDE} a side: scale it down")
    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(f"{what} is {size[0]}x{size[1]} pixels, the limit is {MAX_PIXELS} in all: scale it down")


def digest_of(frame: Frame) -> str:
    """sha256 of size and pixels."""
    return hashlib.sha256(repr(frame.shape).encode() + frame.tobytes()).hexdigest()


def image_size(data: bytes) -> Size | None:
    """The (height, width) that the header of a PNG, JPEG, BMP or WebP file claims; None when it is none of these."""
    try:
        if data.startswith(PNG):
            width, height = struct.unpack_from(">II", data, 16)
        elif data.startswith(JPEG):
            return _jpeg_size(data)
        elif data.startswith(BMP):
            kind = "<ii" if struct.unpack_from("<I", data, 14)[0] > 12 else "<HH"  # a 12-byte header is OS/2's
            width, height = struct.unpack_from(kind, data, 18)
            height = abs(height)  # negative: rows from the top
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
        else:
            return None
    except (struct.error, IndexError):  # the header is cut short
        return None
    return height, width


def _jpeg_size(data: bytes) -> Size | None:
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame; the three are tables
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _ends(data: bytes) -> bool:
    """Whether a JPEG has an end after its pixels; one of a preview inside it does not count."""
    at = 2
    try:
        while True:
            marker = _MARKER.search(data, at)
            if marker is None or data[marker.end() - 1] == 0xD9:
                return marker is not None
            at = marker.end() + struct.unpack_from(">H", data, marker.end())[0]
    except struct.error:
        return False


# in the pixels 0xFF is followed by 0, or says that they restart
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_CORRUPT = re.compile(rb"(?:Corrupt JPEG data|Premature end of JPEG)[^\r\n]*[\r\n]*")
_WARNINGS = threading.Lock()  # the process has one state of them


@contextlib.contextmanager
def _complaints() -> Iterator[Callable[[], str]]:
    """What libjpeg says of damaged data meanwhile: it writes that to the process's stderr, and nowhere else.

    Whatever else comes there goes on to where it was to go.
    """
    said = b""
    in_memory = hasattr(os, "memfd_create")  # elsewhere than on Linux in the temporary folder
    with os.fdopen(os.memfd_create("said"), "w+b") if in_memory else tempfile.TemporaryFile() as file:
        try:
            with stderr_to(file.fileno()):
                yield lambda: said.decode(errors="replace").strip()
        finally:
            file.seek(0)
            written = file.read()
            said = b"".join(_CORRUPT.findall(written))
            if rest := _CORRUPT.sub(b"", written):
                os.write(2, rest)


def _webp_size(data: bytes) -> Size | None:
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little")
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    return None


def write_image(path: str | Path, image: npt.NDArray[Any]) -> None:
    """Write HxW or HxWx3 BGR uint8 in the format of `path`'s suffix; the file appears whole or not at all.

    Raises `InputError` for another suffix or array, or when the disk refuses.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: images are written as {', '.join(SUFFIXES)}")
    write_atomically(path, encode_image(image, str(path), path.suffix.lower()), InputError)


def list_images(path: str | Path) -> list[Path]:
    """`path` itself if it is a file, otherwise the image files in the folder `path`, by name, not in its sub-folders.

    Which files are images is said by their ending (`SUFFIXES`, `BY_PILLOW`); of other pictures and of videos a warning
    says how many are left out. Raises `InputError` if there is no image.
    """
    path = Path(path)
    if is_there(path) and path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"no image or folder at {path}")
    names = list_files(path, InputError)
    images = [path / name for name in names if is_named_like(name, SUFFIXES + BY_PILLOW)]
    others = Counter(Path(name).suffix.lower() for name in names if is_named_like(name, LEFT_OUT))
    if images and others:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        logger.warning("left out of %s, which is read for images: %s", path, counts)
    for image in images:
        if any("\ud800" <= letter <= "\udfff" for letter in image.name):
            raise InputError(f"{path} has an image named {image.name!r}, which is not UTF-8, as results are: rename it")
    if not images:
        raise InputError(f"no image in {path}: expected {', '.join(SUFFIXES)} files in it, not in its sub-folders")
    return images


def is_named_like(name: str, suffixes: tuple[str, ...]) -> bool:
    """Whether the file `name` has one of these endings, in capitals or not."""
    return name.lower().endswith(suffixes)


def is_image_file(path: Path) -> bool:
    """Whether the file begins like an image, whatever its name."""
    try:
        with open_regular(path) as file:
            head = file.read(12)
    except (OSError, ValueError):
        return False
    webp = head[:4] == b"RIFF" and head[8:] == b"WEBP"
    return webp or head.startswith((PNG, JPEG, BMP)) or bool(_kind_for_pillow(head))


def frames_of(path: Path) -> Frames:
    """The image `path`, or those of the folder. Raises `InputError` where there is none."""
    images = list_images(path)
    return Frames(str(path), tuple(image.name for image in images), lambda index: read_image(images[index]))


def source_of(path: Path, *, every_frame: bool, repeat: bool) -> LiveSource:
    """The same, each for `SECONDS` unless `every_frame` is wanted; what cannot be read is left out with a warning."""
    images = list_images(path)
    clock = Pacer(0.0 if every_frame else SECONDS)

    def once() -> CapturedFrames:
        for image in images:
            try:
                frame = read_image(image)
            except InputError as exc:
                if len(images) == 1:
                    raise
                logger.warning("left out: %s", exc)
                continue
            clock.wait()
            yield Captured(frame, time.monotonic())

    missing = f"none of the {len(images)} images in {path} can be read"
    return LiveSource(str(path), lambda: repeated(once, repeat, missing), not every_frame, False, rate=1 / SECONDS)


def encode_image(image: npt.NDArray[Any], name: str, suffix: str = ".png") -> bytes:
    """HxW or HxWx3 BGR uint8 as the bytes of an image file; errors call it `name`."""
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)) or not image.size:
        raise InputError(f"{name}: HxW or HxWx3 uint8 is written, not {image.dtype} {image.shape}")
    try:
        encoded, data = cv2.imencode(suffix, image)
    except cv2.error as exc:
        raise InputError(f"{name} cannot be encoded: {exc}") from exc
    if not encoded:
        raise InputError(f"{name} cannot be encoded as {suffix}")
    return data.tobytes()
