"""What is to be labelled: text -> frames with names, in pieces; a piece -> its frames, one after another.

A frame's name is where its labels go: `street/a.jpg`, `drive.mp4/000012`, `scenes-7/000012`. A piece is up to `PIECE`
frames in a row, the same ones in every run over the same input: those of a video begin at a multiple of `PIECE`, where
its reader seeks to, so that a frame is decoded the same way whoever labels it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TypeVar

from refinenet_edge.cluster.storage import Storage, absolute, locate
from refinenet_edge.errors import InputError
from refinenet_edge.frames import Camera, Scenes, parse, parse_scenes
from refinenet_edge.frames.address import shown
from refinenet_edge.frames.images import SUFFIXES, decode_image, is_named_like
from refinenet_edge.frames.video import VIDEOS, VideoFile
from refinenet_edge.records import Frame
from refinenet_edge.scenes import scene

PIECE = 64  # frames

Name = TypeVar("Name", str, int)


@dataclass(frozen=True)
class Item:
    """One frame: image file `file`, frame `place` of the video `file`, or scene `place` where `file` is ""."""

    id: str
    file: str
    place: int | None = None


Piece = tuple[Item, ...]


def everywhere(source: str) -> str:
    """What a user's `source` names, in words that mean the same to every worker. Raises `InputError` for a camera."""
    address = parse(source)
    if isinstance(address, Camera):
        raise InputError(f"{source} is a camera: expected files, a folder (./{source}), a URL or scenes")
    return str(address) if isinstance(address, Scenes) else absolute(source)


def find(source: str) -> list[Piece]:
    """The frames of `source`: scenes, an image, a video, or a folder with what is below it, here or behind a URL.

    Raises `InputError` where there is none.
    """
    if scenes := parse_scenes(source):
        return list(_pieces(Item(f"scenes-{scenes.seed}/{place:06d}", "", place) for place in range(scenes.count)))
    storage, file = locate(source)
    names = [file] if file else storage.names()
    for name in names:
        if not name.isprintable():  # a lone surrogate, which no other filesystem or table takes, is not
            raise InputError(f"{shown(source)} has a file named {name!r}: rename it")
    pieces = list(_pieces(Item(name, name) for name in names if is_named_like(name, SUFFIXES)))
    for name in names:
        if is_named_like(name, VIDEOS):
            pieces += _pieces(Item(f"{name}/{place:06d}", name, place) for place in range(_length(storage, name)))
    if not pieces:
        raise InputError(f"no image or video in {shown(source)}: expected {', '.join(SUFFIXES + VIDEOS)} files")
    return pieces


class Reader:
    """Reads the frames of pieces of `source`; each worker has its own."""

    def __init__(self, source: str) -> None:
        self._scenes = parse_scenes(source)
        self._storage = None if self._scenes else locate(source)[0]

    def frames(self, piece: Piece) -> Iterator[tuple[Item, Frame | InputError]]:
        """Each frame, or why it cannot be read."""
        for file, group in itertools.groupby(piece, key=lambda item: item.file):
            items = list(group)
            if self._storage is None:
                assert self._scenes is not None
                yield from ((item, scene(self._scenes.seed, item.place or 0)[0]) for item in items)
            elif items[0].place is None:
                yield from ((item, _or_why_not(self._image, item.file)) for item in items)
            else:
                yield from _video(self._storage, file, items)

    def _image(self, name: str) -> Frame:
        assert self._storage is not None
        return decode_image(self._storage.read(name), name)


def _pieces(items: Iterator[Item]) -> Iterator[Piece]:
    while piece := tuple(itertools.islice(items, PIECE)):
        yield piece


def _or_why_not(read: Callable[[Name], Frame], name: Name) -> Frame | InputError:
    try:
        return read(name)
    except InputError as exc:
        return exc


def _length(storage: Storage, name: str) -> int:
    """The frames of a video that can be read; 1 of one that cannot be opened, so that it is recorded as a problem."""
    with suppress(InputError), storage.path(name) as path, closing(VideoFile(path, name)) as video:
        return video.count()
    return 1


def _video(storage: Storage, name: str, items: list[Item]) -> Iterator[tuple[Item, Frame | InputError]]:
    places = {item.place or 0: item for item in items}
    first = min(places) - min(places) % PIECE
    try:
        with storage.path(name) as path, closing(VideoFile(path, name)) as video:
            for place in range(first, max(places) + 1):
                frame = _or_why_not(video.read, place)
                if item := places.get(place):
                    yield item, frame
    except InputError as exc:
        yield from ((item, exc) for item in items)
