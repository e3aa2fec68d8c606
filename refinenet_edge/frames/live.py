"""What frames come from: cameras, network streams, video files, image folders and drawn streets.

    0, /dev/video2           a V4L2 or USB camera
    csi, csi:1               a Jetson's CSI camera, through GStreamer
    rtsp://..., rtsps://...  a network camera: through GStreamer where OpenCV has it, otherwise FFmpeg
    http://..., https://...  an MJPEG stream, or any video that OpenCV plays from there
    drive.mp4                a video file
    photos/, photo.jpg       images, half a second each
    scenes, scenes:SEED:N    drawn streets with their truth, N of them in turn, without end

A source is opened, read and closed by one thread, stream.py's reader; what ends or fails may be opened again.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from refinenet_edge.errors import InputError
from refinenet_edge.frames.images import SUFFIXES, list_images, read_image
from refinenet_edge.labels import SCENES
from refinenet_edge.opencv import cv2
from refinenet_edge.records import MAX_SIDE, Frame, LabelMap, Labels
from refinenet_edge.scenes import VALIDATION, VALIDATION_COUNT, World, render

MEANT = "a camera (0), csi, rtsp:// or http://, a video file, an image folder, or scenes"
SECONDS = 20.0  # on each drawn street
IMAGE_SECONDS = 0.5
USUAL_RATE = 25.0  # frames per second, of a file that does not say
TRIES = 3  # reads that fail in a row before a camera or stream counts as lost
DAMAGED = 30  # the same, of a file: what is damaged inside it is shorter, and then it is its end
PATIENCE = 3000  # ms for a stream to open, and for its next frame

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Captured:
    """A frame, `at` which time.monotonic() it was taken, and its truth where the source knows it."""

    frame: Frame
    at: float
    truth: LabelMap | None = None


CapturedFrames = Generator[Captured, None, None]


@dataclass(frozen=True)
class LiveSource:
    """`frames()` opens the source and closes it with the iterator; it raises `InputError` when it fails.

    `live`: frames come at their own time, and one that is not taken is lost to the next. Otherwise they wait.
    `lasting`: it has no end, so what ends or fails is to be opened again.
    `labels`: what the truth's numbers are the classes of.
    """

    name: str  # without a password
    frames: Callable[[], CapturedFrames]
    live: bool
    lasting: bool
    labels: Labels | None = None
    rate: float | None = None  # frames per second, of a file


def open_source(text: str, *, every_frame: bool = False, repeat: bool = False) -> LiveSource:
    """The source that `text` names (see the module). Raises `InputError` for what is none, or cannot work here.

    Files play at their own rate and frames that nobody takes are lost; `every_frame`: as fast as they are taken, none
    is lost. `repeat`: files start again at their end.
    """
    head, *numbers = text.split(":")
    if head == "scenes" and not Path(text).exists():
        return _scenes(text, numbers)
    if head == "csi" and not Path(text).exists():
        return _csi(text, numbers)
    if text.isdecimal() or _is_camera(text):
        return _camera(text)
    if "://" in text:
        return _network(text)
    path = Path(text)
    if path.is_dir() or (path.is_file() and path.suffix.lower() in SUFFIXES):
        images = list_images(path)
        seconds = 0.0 if every_frame else IMAGE_SECONDS
        rate = 1 / IMAGE_SECONDS
        return LiveSource(text, lambda: _of_images(images, seconds, repeat), not every_frame, False, rate=rate)
    if path.is_file():
        rate = _rate(path)
        seconds = 0.0 if every_frame else 1 / rate
        return LiveSource(text, lambda: _of_file(path, seconds, repeat), not every_frame, False, rate=rate)
    raise InputError(f"no source {text!r}: {MEANT} is meant")


def usable(frame: Any) -> bool:
    """Whether a decoder's `frame` is an image at all: HxWx3 uint8, of a size that is taken here."""
    return (
        isinstance(frame, np.ndarray)
        and frame.dtype == np.uint8
        and frame.ndim == 3
        and frame.shape[2] == 3
        and all(1 <= side <= MAX_SIDE for side in frame.shape[:2])
    )


def _scenes(text: str, numbers: list[str]) -> LiveSource:
    # decimal, and short: int() takes neither "²" nor thousands of digits
    if len(numbers) > 2 or not all(number.isdecimal() and len(number) < 10 for number in numbers):
        raise InputError(f"{text!r}: scenes:SEED:COUNT is meant, such as scenes:{VALIDATION}:{VALIDATION_COUNT}")
    given = [int(number) for number in numbers]
    seed, count = (*given, *(VALIDATION, VALIDATION_COUNT)[len(given) :])
    if count < 1:
        raise InputError(f"{text!r}: at least 1 street is meant")
    return LiveSource(text, lambda: _of_scenes(seed, count), live=False, lasting=True, labels=SCENES)


def _of_scenes(seed: int, count: int) -> CapturedFrames:
    """Drives along the streets by the clock: it moves as fast however often somebody looks."""
    start, street, world = time.monotonic(), -1, None
    while True:
        at = time.monotonic()
        now, t = divmod(at - start, SECONDS)
        if world is None or int(now) != street:
            street = int(now)
            world = World.draw((seed, street % count))
        frame, truth = render(world, t)
        yield Captured(frame, at, truth)


def _is_camera(text: str) -> bool:
    try:
        return stat.S_ISCHR(os.stat(text).st_mode)
    except (OSError, ValueError):
        return False


def _camera(text: str) -> LiveSource:
    def open_() -> Any:
        number: Any = int(text) if text.isdecimal() else text
        api = cv2.CAP_V4L2 if cv2.videoio_registry.hasBackend(cv2.CAP_V4L2) else cv2.CAP_ANY
        camera = cv2.VideoCapture(number, api)
        # the newest frame is wanted, not the oldest that the driver kept
        camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        return camera

    missing = f"camera {text} does not open: is it plugged in, free, and may this user read /dev/video*?"
    return LiveSource(text, lambda: _of_device(open_, missing), live=True, lasting=True)


def csi_pipeline(sensor: int) -> str:
    """What GStreamer is to do with CSI camera `sensor` of a Jetson: 1280x720 at 30, and keep the newest frame only."""
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),width=1280,height=720,framerate=30/1 ! "
        f"nvvidconv ! video/x-raw,format=BGRx ! {NEWEST}"
    )


def rtsp_pipeline(url: str) -> str:
    """What GStreamer is to do with a network camera: decode it with what the machine has, and keep the newest frame."""
    return f'rtspsrc location="{url}" latency=0 ! decodebin ! {NEWEST}'


NEWEST = "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"


def _has_gstreamer() -> bool:
    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))


def _csi(text: str, numbers: list[str]) -> LiveSource:
    if len(numbers) > 1 or not all(number.isdecimal() and len(number) < 3 for number in numbers):
        raise InputError(f"{text!r}: csi or csi:SENSOR is meant, such as csi:1")
    if not _has_gstreamer():
        raise InputError(
            f"{text} needs GStreamer, and this OpenCV ({cv2.__version__}) was built without it: use JetPack's own (pip "
            "uninstall opencv-python-headless, in an environment with --system-site-packages)"
        )
    pipeline = csi_pipeline(int(numbers[0]) if numbers else 0)
    missing = f"{text} does not open: is the camera connected, and does nvgstcapture-1.0 show it?"
    return LiveSource(
        text,
        lambda: _of_device(lambda: cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER), missing),
        live=True,
        lasting=True,
    )


def _network(text: str) -> LiveSource:
    try:
        parts = urlsplit(text)
        host = parts.hostname
    except ValueError as exc:
        raise InputError(f"{text[:80]!r} is no address: {exc}") from exc
    # quotes, spaces and backslashes mean something to GStreamer
    if parts.scheme not in ("rtsp", "rtsps", "http", "https") or not host or set(text) & set("\"'\\ \t\r\n"):
        raise InputError(f"{parts.scheme}://{host or ''}: rtsp://, rtsps://, http:// or https:// and a host are meant")
    # a camera's password is in its address: it is not for logs and pictures
    at = parts.netloc.rpartition("@")[2]
    name = f"{parts.scheme}://{at}{parts.path}"
    with_gstreamer = parts.scheme.startswith("rtsp") and _has_gstreamer()

    def open_() -> Any:
        if with_gstreamer:
            return cv2.VideoCapture(rtsp_pipeline(text), cv2.CAP_GSTREAMER)
        if parts.scheme.startswith("rtsp"):
            # OpenCV reads this when it opens; nothing is buffered, so that nothing is old
            os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp|fflags;nobuffer|flags;low_delay")
        waits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, PATIENCE, cv2.CAP_PROP_READ_TIMEOUT_MSEC, PATIENCE]
        return cv2.VideoCapture(text, cv2.CAP_FFMPEG, waits)

    how = "GStreamer" if with_gstreamer else "FFmpeg"
    missing = f"{name} does not open with OpenCV's {how}: is it there, and are name and password right?"
    return LiveSource(name, lambda: _of_device(open_, missing), live=True, lasting=True)


def _of_device(open_: Callable[[], Any], missing: str) -> CapturedFrames:
    device = open_()
    try:
        if not device.isOpened():
            raise InputError(missing)
        failed = 0
        while failed < TRIES:
            failed += 1
            if not device.grab():
                continue
            at = time.monotonic()
            found, frame = device.retrieve()
            if found and usable(frame):  # otherwise it was damaged on the way
                failed = 0
                yield Captured(frame, at)
    finally:
        device.release()


def _rate(path: Path) -> float:
    """CapturedFrames per second of a video file."""
    video = _open_file(path)
    rate = float(video.get(cv2.CAP_PROP_FPS))
    video.release()
    return rate if 1 <= rate <= 240 else USUAL_RATE


def _open_file(path: Path) -> Any:
    video = cv2.VideoCapture(str(path))
    if not video.isOpened():
        raise InputError(f"video {path} cannot be read: give one that OpenCV plays, or a folder of its frames")
    return video


def _of_file(path: Path, seconds: float, repeat: bool) -> CapturedFrames:
    clock = _Clock(seconds)
    while True:
        video = _open_file(path)
        failed, shown = 0, 0
        try:
            while failed < DAMAGED:
                failed += 1
                if not video.grab():
                    continue
                clock.wait()
                at = time.monotonic()
                found, frame = video.retrieve()
                if found and usable(frame):
                    failed, shown = 0, shown + 1
                    yield Captured(frame, at)
        finally:
            video.release()
        if not shown:
            raise InputError(f"video {path} has no frame that can be read")
        if not repeat:
            return


def _of_images(images: list[Path], seconds: float, repeat: bool) -> CapturedFrames:
    clock = _Clock(seconds)
    while True:
        shown = 0
        for image in images:
            try:
                frame = read_image(image)
            except InputError as exc:
                if len(images) == 1:
                    raise
                logger.warning("left out: %s", exc)
                continue
            clock.wait()
            shown += 1
            yield Captured(frame, time.monotonic())
        if not shown:
            raise InputError(f"none of the {len(images)} images in {images[0].parent} can be read")
        if not repeat:
            return


class _Clock:
    """Waits until the next frame is due, `seconds` after the last; after a delay it does not hurry."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due = 0.0

    def wait(self) -> None:
        now = time.monotonic()
        time.sleep(max(self._due - now, 0.0))
        self._due = max(self._due, now) + self._seconds
