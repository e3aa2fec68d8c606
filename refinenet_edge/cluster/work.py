"""What is to be labelled: text -> frames with names, in pieces; a piece -> its frames, one after another.

    scenes:SEED:COUNT    procedural scenes
    an image, a video    or a folder, with what is below it; on this machine or behind a URL

A frame's name is where its labels go: `street/a.jpg`, `drive.mp4/000012`, `scenes-7/000012`. A piece is up to `PIECE`
frames in a row, the same ones in every run over the same input: those of a video begin at a multiple of `PIECE`, where
its reader seeks to, so that a frame is decoded the same way whoever labels it.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from refinenet_edge.cluster.storage import Storage, folder_of, is_remote, locate, shown
from refinenet_edge.errors import InputError
from refinenet_edge.frames.images import SUFFIXES, decode_image
from refinenet_edge.opencv import cv2
from refinenet_edge.records import Frame
from refinenet_edge.scenes import scene

PIECE = 64  # frames
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
OVERSTATED = 32  # frames that a container may count and not have
SCENES = re.compile(r"scenes:(\d{1,9}):(\d{1,7})", re.ASCII)


@dataclass(frozen=True)
class Item:
    """One frame: image file `file`, frame `place` of the video `file`, or scene `place` where `file` is ""."""

    id: str
    file: str
    place: int | None = None


Piece = tuple[Item, ...]


def find(source: str) -> list[Piece]:
    """The frames that `source` means (see the module). Raises `InputError` where there is none."""
    if seed_and_count := _scenes(source):
        seed, count = seed_and_count
        items: Iterator[Item] = (Item(f"scenes-{seed}/{index:06d}", "", index) for index in range(count))
        return list(_pieces(items))
    storage, names = locate(source)
    for name in names:
        if not name.isprintable():  # a lone surrogate, which no other filesystem or table takes, is not
            raise InputError(f"{shown(source)} has a file named {name!r}: rename it")
    images = [Item(name, name) for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES]
    videos = [name for name in names if PurePosixPath(name).suffix.lower() in VIDEOS]
    pieces = list(_pieces(iter(images)))
    for name in videos:
        frames = (Item(f"{name}/{place:06d}", name, place) for place in range(_length(storage, name)))
        pieces += _pieces(frames)
    if not pieces:
        raise InputError(f"no image or video in {shown(source)}: {', '.join(SUFFIXES + VIDEOS)} files are meant")
    return pieces


class Reader:
    """Reads the frames of pieces of `source`; each worker has its own."""

    def __init__(self, source: str) -> None:
        found = _scenes(source)
        self._seed = found[0] if found else None
        self._storage = None if found else folder_of(source)

    def frames(self, piece: Piece) -> Iterator[tuple[Item, Frame | InputError]]:
        """Each frame, or why it cannot be read."""
        for file, group in itertools.groupby(piece, key=lambda item: item.file):
            items = list(group)
            if self._storage is None:
                assert self._seed is not None
                yield from ((item, scene(self._seed, item.place or 0)[0]) for item in items)
            elif items[0].place is None:
                yield from ((item, _image(self._storage, file)) for item in items)
            else:
                yield from _video(self._storage, file, items)


def _scenes(source: str) -> tuple[int, int] | None:
    if source.partition(":")[0] != "scenes" or is_remote(source):
        return None
    match = SCENES.fullmatch(source)
    if not match or int(match[2]) == 0:
        raise InputError(f"{source!r}: scenes:SEED:COUNT is meant, such as scenes:7:100 (a folder: ./scenes)")
    return int(match[1]), int(match[2])


def _pieces(items: Iterator[Item]) -> Iterator[Piece]:
    while piece := tuple(itertools.islice(items, PIECE)):
        yield piece


def _image(storage: Storage, name: str) -> Frame | InputError:
    try:
        return decode_image(storage.read(name), name)
    except InputError as exc:
        return exc


def _length(storage: Storage, name: str) -> int:
    """The frames of a video that can be read; 1 of one that cannot be opened, so that it is recorded as a problem."""
    with contextlib.suppress(InputError), storage.path(name) as path, _opened(path, name) as video:
        total = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        for last in range(total - 1, max(total - 1 - OVERSTATED, -1), -1):
            video.set(cv2.CAP_PROP_POS_FRAMES, last)
            if video.read()[0]:
                return last + 1
        return max(total, 1)
    return 1


def _video(storage: Storage, name: str, items: list[Item]) -> Iterator[tuple[Item, Frame | InputError]]:
    places = {item.place or 0: item for item in items}
    first, last = min(places), max(places)
    first -= first % PIECE
    try:
        with storage.path(name) as path, _opened(path, name) as video:
            if first:
                video.set(cv2.CAP_PROP_POS_FRAMES, first)
            for place in range(first, last + 1):
                found, frame = video.read()
                if item := places.get(place):
                    wrong = InputError(f"frame {place} of video {name} cannot be read")
                    yield item, np.asarray(frame, np.uint8) if found else wrong
    except InputError as exc:
        yield from ((item, exc) for item in items)


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator[cv2.VideoCapture]:
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened() or int(video.get(cv2.CAP_PROP_FRAME_COUNT)) < 1:
            raise InputError(f"video {name} cannot be read: give one that OpenCV plays, or a folder of its frames")
        yield video
    finally:
        video.release()
