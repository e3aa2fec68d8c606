"""What is to be labelled: text -> files and frames with names, in pieces; a piece -> its frames, one after another.

A frame's name is where its labels go: `street/a.jpg`, `drive.mp4/000012`, `scenes-7/000012`. A piece is up to `PIECE`
frames in a row, the same ones in every run over the same input. Those of a video are numbered as they are decoded from
its start (frames/video.py), and counted so before: a worker that is given a later piece of the video it has open
decodes on, in each other case it decodes from the start again.

A file has a stamp, and is only read while it has it: labels are never of another file than the one that was listed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial

from refinenet_edge.cluster.pool import Worker
from refinenet_edge.cluster.storage import Storage, absolute, locate
from refinenet_edge.errors import InputError
from refinenet_edge.files import stamp_of
from refinenet_edge.frames import Camera, Scenes, parse, parse_scenes
from refinenet_edge.frames.images import BY_PILLOW, SUFFIXES, decode_image, is_named_like
from refinenet_edge.frames.video import VIDEOS, VideoFile
from refinenet_edge.records import Frame
from refinenet_edge.scenes import scene
from refinenet_edge.urls import shown

PIECE = 64  # frames


@dataclass(frozen=True)
class Item:
    """One frame: image file `file`, frame `place` of the video `file`, or scene `place` where `file` is "".

    `stamp`: of the file, as it was listed.
    """

    id: str
    file: str
    place: int | None = None
    stamp: str = ""


Piece = tuple[Item, ...]
Read = tuple[Item, Frame | InputError]  # or why it cannot be read


def everywhere(source: str) -> str:
    """What a user's `source` names, in words that mean the same to every worker. Raises `InputError` for a camera."""
    address = parse(source)
    if isinstance(address, Camera):
        raise InputError(f"{source} is a camera: expected files, a folder (./{source}), a URL or scenes")
    return str(address) if isinstance(address, Scenes) else absolute(source)


@dataclass(frozen=True)
class InputFile:
    """An image or video; `frames`: how many a video has, where that was counted."""

    stamp: str
    frames: int | None = None


def find(source: str) -> dict[str, InputFile]:
    """The images and videos of `source` by name: one file, or a folder with what is below it, here or behind a URL.

    None of scenes. Raises `InputError` where there should be some and are none.
    """
    if parse_scenes(source):
        return {}
    storage, file = locate(source)
    stamps = {file: storage.stamp(file)} if file else storage.stamps()
    for name in stamps:
        if not name.isprintable():  # a lone surrogate, which no other filesystem or table takes, is not
            raise InputError(f"{shown(source)} has a file named {name!r}: rename it")
    files = {
        name: InputFile(stamp) for name, stamp in stamps.items() if is_named_like(name, SUFFIXES + BY_PILLOW + VIDEOS)
    }
    if not files:
        raise InputError(f"no image or video in {shown(source)}: expected {', '.join(SUFFIXES + VIDEOS)} files")
    return files


def pieces_of(source: str, files: Mapping[str, InputFile]) -> list[Piece]:
    """The frames of `source`, whose files they are; of a video without a count one, so that it is read and named."""
    if scenes := parse_scenes(source):
        return list(_pieces(Item(f"scenes-{scenes.seed}/{place:06d}", "", place) for place in range(scenes.count)))
    pieces = list(_pieces(Item(name, name, None, file.stamp) for name, file in files.items() if not is_video(name)))
    for name, file in files.items():
        if is_video(name):
            places = range(file.frames or 1)
            pieces += _pieces(Item(f"{name}/{place:06d}", name, place, file.stamp) for place in places)
    return pieces


def is_video(name: str) -> bool:
    return is_named_like(name, VIDEOS)


class Counter(Worker[str, tuple[int | None]]):
    """A video of `source` -> how many frames it has, None where it cannot be read."""

    def __init__(self, source: str) -> None:
        self._storage = locate(source)[0]

    def __call__(self, name: str) -> tuple[int | None]:
        try:
            with self._storage.path(name) as path, closing(VideoFile(path, name)) as video:
                return (video.count(),)
        except InputError:
            return (None,)


class Reader:
    """Reads frames of `source`, as long as their files have their stamps; each worker has its own."""

    def __init__(self, source: str) -> None:
        self._scenes = parse_scenes(source)
        self._storage = None if self._scenes else locate(source)[0]
        self._video: _Open | None = None

    def frames(self, items: Iterable[Item]) -> Iterator[Callable[[], Read]]:
        """What reads each of `items`, in any thread; those of a video are read as they are taken, in their order."""
        for item in items:
            if item.file and item.place is not None:
                yield partial(lambda read: read, self._read_or_error(item))
            else:
                yield partial(self._read_or_error, item)

    def _read_or_error(self, item: Item) -> Read:
        try:
            return item, self._read(item)
        except InputError as exc:
            return item, exc

    def close(self) -> None:
        if self._video:
            self._video.close()
        self._video = None

    def _read(self, item: Item) -> Frame:
        if self._storage is None:
            assert self._scenes is not None
            return scene(self._scenes.seed, item.place or 0)[0]
        if item.place is not None:
            return self._opened(self._storage, item).read(item.place)
        data = self._storage.read(item.file)
        _require_unchanged(self._storage, item)
        return decode_image(data, item.file)

    def _opened(self, storage: Storage, item: Item) -> _Open:
        if self._video is None or self._video.name != item.file:
            self.close()
            _require_unchanged(storage, item)
            self._video = _Open(storage, item.file)
        return self._video


def _require_unchanged(storage: Storage, item: Item) -> None:
    if storage.stamp(item.file) != item.stamp:
        raise InputError(f"{item.file} has changed since it was listed: start the run again")


class _Open:
    """A video of `storage`, opened; a copy of it where that is not on this machine."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.name = name
        with ExitStack() as stack:
            before = storage.stamp(name)
            self._path = stack.enter_context(storage.path(name))
            self._stamp = stamp_of(self._path)
            if storage.stamp(name) != before:
                raise InputError(f"{name} has changed since it was listed: start the run again")
            self._video = stack.enter_context(closing(VideoFile(self._path, name)))
            self._held = stack.pop_all()

    def read(self, place: int) -> Frame:
        frame = self._video.read(place)
        if stamp_of(self._path) != self._stamp:
            raise InputError(f"{self.name} has changed since it was opened: start the run again")
        return frame

    def close(self) -> None:
        self._held.close()


def _pieces(items: Iterator[Item]) -> Iterator[Piece]:
    while piece := tuple(itertools.islice(items, PIECE)):
        yield piece
