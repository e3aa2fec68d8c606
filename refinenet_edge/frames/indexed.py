"""Calibration frames: a folder of images, procedural scenes or a video, read one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from refinenet_edge.errors import InputError
from refinenet_edge.frames.images import list_images, read_image
from refinenet_edge.opencv import cv2
from refinenet_edge.records import Frame
from refinenet_edge.scenes import VALIDATION, scene

OVERSTATED = 32  # frames that a container may count and not have
COUNT = 64  # of scenes, and of frames taken from a video
SEED = 2  # of scenes: neither the training's stream nor the validation's
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


@dataclass(frozen=True)
class Frames:
    """A sequence of frames (HxWx3 BGR uint8); `read(i)` raises `InputError` naming what cannot be read."""

    source: str
    names: tuple[str, ...]
    read: Callable[[int], Frame]

    def __len__(self) -> int:
        return len(self.names)


def open_frames(source: str) -> Frames:
    """The frames of `source`: scenes, scenes:SEED:COUNT, a folder, an image or a video file. Raises `InputError`."""
    head, *numbers = source.split(":")
    if head == "scenes":
        return _scenes(source, numbers)
    path = Path(source)
    if path.suffix.lower() in VIDEOS:
        return _video(path)
    images = list_images(path)
    return Frames(source, tuple(image.name for image in images), lambda i: read_image(images[i]))


def _scenes(source: str, numbers: list[str]) -> Frames:
    # decimal, and short: int() takes neither "²" nor thousands of digits
    if len(numbers) > 2 or not all(number.isdecimal() and len(number) < 19 for number in numbers):
        raise InputError(f"{source!r}: scenes:SEED:COUNT is meant, such as scenes:{SEED}:{COUNT}")
    given = [int(number) for number in numbers]
    seed, count = (*given, *(SEED, COUNT)[len(given) :])
    if not 1 <= count <= 100_000:
        raise InputError(f"{source!r}: 1 to 100000 scenes are meant")
    if seed == VALIDATION:
        raise InputError(f"{source!r}: models are judged on these scenes; calibrate on others: scenes:{SEED}:{count}")
    return Frames(f"scenes:{seed}:{count}", tuple(f"scene {i}" for i in range(count)), lambda i: scene(seed, i)[0])


def _video(path: Path) -> Frames:
    """`COUNT` frames, evenly spread."""
    if not path.is_file():
        raise InputError(f"there is no video {path}")
    video = cv2.VideoCapture(str(path))
    total = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    if not video.isOpened() or total < 1:
        raise InputError(f"video {path} cannot be read: give one that OpenCV plays, or a folder of its frames")

    def at(place: int) -> Frame | None:
        video.set(cv2.CAP_PROP_POS_FRAMES, place)
        found, frame = video.read()
        return np.asarray(frame, np.uint8) if found else None

    ends = range(total - 1, max(total - 1 - OVERSTATED, -1), -1)
    last = next((place for place in ends if at(place) is not None), total - 1)
    places = np.unique(np.linspace(0, last, min(COUNT, last + 1)).round().astype(int)).tolist()

    def read(index: int) -> Frame:
        frame = at(places[index])
        if frame is None:
            raise InputError(f"frame {places[index]} of video {path} cannot be read")
        return frame

    return Frames(str(path), tuple(f"frame {place}" for place in places), read)
