"""Text -> what frames come from; the one grammar of every command and file that names a source of frames.

    scenes, scenes:SEED, scenes:SEED:COUNT   drawn streets
    0, /dev/video2                           a V4L2 or USB camera
    csi, csi:1                               a Jetson's CSI camera
    rtsp://..., http://..., s3://...         a URL: a stream for the demo, files for `batch`
    drive.mp4                                a video file
    photos/, photo.jpg                       images

A file or folder that is called like one of the first three is reached as ./scenes, ./0 or ./csi. A file with another
ending is an image if it begins like one, otherwise a video. Nothing needs to exist: what opens it says what is missing.
"""

import contextlib
import logging
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from refinenet_edge.errors import InputError
from refinenet_edge.frames.images import BY_PILLOW, SUFFIXES, is_image_file
from refinenet_edge.frames.video import VIDEOS
from refinenet_edge.scenes import VALIDATION, VALIDATION_COUNT
from refinenet_edge.urls import is_url, shown

MAX_SCENES = 10_000_000
SCENES = re.compile(r"scenes(?::(\d{1,18})(?::(\d{1,18}))?)?", re.ASCII)
CSI = re.compile(r"csi(?::(\d{1,2}))?", re.ASCII)
NUMBER = re.compile(r"\d{1,2}", re.ASCII)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scenes:
    """Scenes 0 to `count` - 1 of the stream `seed`."""

    seed: int
    count: int

    def __str__(self) -> str:
        return f"scenes:{self.seed}:{self.count}"


@dataclass(frozen=True)
class _File:
    path: Path

    def __str__(self) -> str:
        """Text that `parse` takes for this path, also where the path is called like scenes or a camera."""
        text = str(self.path)
        return f"./{text}" if text.partition(":")[0] in ("scenes", "csi") or NUMBER.fullmatch(text) else text


class Images(_File):
    """An image file, or a folder of them."""


class Video(_File):
    """A video file."""


@dataclass(frozen=True)
class Camera:
    """A camera of this machine: V4L2's number or device file, or the number of a Jetson's CSI camera."""

    device: str
    csi: bool = False

    def __str__(self) -> str:
        return f"csi:{self.device}" if self.csi else self.device


@dataclass(frozen=True)
class Url:
    """Something that is not a file of this machine; as a string without secrets."""

    url: str

    def __str__(self) -> str:
        return shown(self.url)


Address = Scenes | Images | Video | Camera | Url


def parse(text: str, *, seed: int = VALIDATION, count: int = VALIDATION_COUNT) -> Address:
    """What `text` names (see the module); `seed` and `count` where it says scenes without them.

    Raises `InputError` for scenes that are none.
    """
    if scenes := parse_scenes(text, seed=seed, count=count):
        return scenes
    if is_url(text):
        return Url(text)
    csi = CSI.fullmatch(text)
    if csi or NUMBER.fullmatch(text):
        _say_if_path(text)
        return Camera((csi[1] or "0") if csi else text, csi=bool(csi))
    return _at(Path(text))


def parse_scenes(text: str, *, seed: int = VALIDATION, count: int = VALIDATION_COUNT) -> Scenes | None:
    """`parse` for what has a grammar of its own beside scenes, such as data sets; None: `text` is something else.

    Raises `InputError` for scenes that there are not.
    """
    if text.partition(":")[0] != "scenes":
        return None
    said = SCENES.fullmatch(text)
    scenes = Scenes(int(said[1] or seed), int(said[2] or count)) if said else None
    if scenes is None or not 1 <= scenes.count <= MAX_SCENES:
        raise InputError(
            f"{text!r}: expected scenes, scenes:SEED or scenes:SEED:COUNT such as scenes:7:100, up to {MAX_SCENES} of "
            "them (a file or folder of that name: ./scenes)"
        )
    _say_if_path(text)
    return scenes


def _say_if_path(text: str) -> None:
    if os.path.lexists(text):
        logger.warning("%s is not the file or folder of that name here: that is ./%s", text, text)


def _at(path: Path) -> Images | Video | Camera:
    with contextlib.suppress(OSError, ValueError):
        if stat.S_ISCHR(os.stat(path).st_mode):
            return Camera(str(path))
    suffix = path.suffix.lower()
    if os.path.isdir(path) or suffix in SUFFIXES + BY_PILLOW:
        return Images(path)
    is_video = suffix in VIDEOS or (os.path.isfile(path) and not is_image_file(path))
    return Video(path) if is_video else Images(path)
