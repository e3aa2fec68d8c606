"""Cameras and network streams -> a live source: V4L2, a Jetson's CSI, RTSP and HTTP.

RTSP goes through GStreamer where OpenCV has it, otherwise through FFmpeg; HTTP through FFmpeg.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from refinenet_edge.errors import InputError
from refinenet_edge.frames.address import Camera, Url
from refinenet_edge.frames.ffmpeg import UNBUFFERED, opening
from refinenet_edge.frames.readers import CapturedFrames, LiveSource, capture
from refinenet_edge.opencv import cv2

TRIES = 3  # reads that fail in a row before a camera or stream counts as lost
PATIENCE = 3000  # ms for a stream to open, and for its next frame
SNAPSHOT_PERIOD = 0.2  # seconds between pictures of a URL that gives one at a time
NEWEST = "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"


def source_of(address: Camera | Url) -> LiveSource:
    """The newest frame at any time. Raises `InputError` for what cannot work here."""
    if isinstance(address, Url):
        return _network(address)
    return _csi(address) if address.csi else _v4l2(address)


def csi_pipeline(sensor: int) -> str:
    """What GStreamer is to do with CSI camera `sensor` of a Jetson: 1280x720 at 30, and keep the newest frame only."""
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),width=1280,height=720,framerate=30/1 ! "
        f"nvvidconv ! video/x-raw,format=BGRx ! {NEWEST}"
    )


def rtsp_pipeline(url: str) -> str:
    """What GStreamer is to do with a network camera: decode it with what the machine has, and keep the newest frame."""
    return f'rtspsrc location="{url}" latency=0 ! decodebin ! {NEWEST}'


def _has_gstreamer() -> bool:
    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))


def _v4l2(camera: Camera) -> LiveSource:
    def open_() -> Any:
        device: Any = int(camera.device) if camera.device.isdecimal() else camera.device
        api = cv2.CAP_V4L2 if cv2.videoio_registry.hasBackend(cv2.CAP_V4L2) else cv2.CAP_ANY
        opened = cv2.VideoCapture(device, api)
        # the newest frame is wanted, not the oldest that the driver kept
        opened.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        return opened

    name = f"camera {camera}"
    missing = f"{name} does not open: is it plugged in, free, and may this user read /dev/video*?"
    return _source(name, open_, missing)


def _csi(camera: Camera) -> LiveSource:
    if not _has_gstreamer():
        raise InputError(
            f"{camera} needs GStreamer, and this OpenCV ({cv2.__version__}) was built without it: use JetPack's own "
            "(pip uninstall opencv-python-headless, in an environment with --system-site-packages)"
        )
    pipeline = csi_pipeline(int(camera.device))
    missing = f"{camera} does not open: is the camera connected, and does nvgstcapture-1.0 show it?"
    return _source(f"camera {camera}", lambda: cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER), missing)


def _network(address: Url) -> LiveSource:
    url = address.url
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme, parts.hostname
    except ValueError:
        raise InputError(f"{str(address)[:80]!r} is no address that can be read") from None  # which it quotes
    # quotes, spaces and backslashes mean something to GStreamer
    if scheme not in ("rtsp", "rtsps", "http", "https") or not host or set(url) & set("\"'\\ \t\r\n"):
        raise InputError(f"{address}: expected rtsp://, rtsps://, http:// or https:// and a host")
    rtsp = scheme.startswith("rtsp")
    with_gstreamer = rtsp and _has_gstreamer()

    def open_() -> Any:
        if with_gstreamer:
            return cv2.VideoCapture(rtsp_pipeline(url), cv2.CAP_GSTREAMER)
        waits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, PATIENCE, cv2.CAP_PROP_READ_TIMEOUT_MSEC, PATIENCE]
        with opening(UNBUFFERED if rtsp else None):
            return cv2.VideoCapture(url, cv2.CAP_FFMPEG, waits)

    how = "GStreamer" if with_gstreamer else "FFmpeg"
    missing = f"{address} does not open with OpenCV's {how}: is it there, and are name and password right?"
    source = _source(str(address), open_, missing)
    return source if rtsp else dataclasses.replace(source, frames=lambda: _asked_again(source.frames))


def _asked_again(once: Callable[[], CapturedFrames]) -> CapturedFrames:
    """What a URL gives; where that is one picture, it is asked for the next."""
    while True:
        count = 0
        for captured in once():
            count += 1
            yield captured
        if count != 1:
            return
        time.sleep(SNAPSHOT_PERIOD)


def _source(name: str, open_: Callable[[], Any], missing: str) -> LiveSource:
    def frames() -> CapturedFrames:
        device = open_()
        try:
            if not device.isOpened():
                raise InputError(missing)
            yield from capture(device, TRIES)
        finally:
            device.release()

    return LiveSource(name, frames, live=True, lasting=True)
