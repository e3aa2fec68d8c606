from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from refinenet_edge.errors import InputError
from refinenet_edge.frames import camera, open_source
from refinenet_edge.frames.camera import csi_pipeline, rtsp_pipeline
from refinenet_edge.opencv import cv2
from tests.demo.fakes import grey


def test_a_camera_that_is_not_there() -> None:
    source = open_source("97")
    assert source.live and source.lasting
    with pytest.raises(InputError, match="camera 97 does not open"):
        next(source.frames())


@pytest.mark.parametrize("text", ["ftp://host/a", 'rtsp://host/a" ! filesink location="/x', "http://", "http://["])
def test_an_address_that_is_none(text: str) -> None:
    with pytest.raises(InputError, match=r"expected rtsp://|no address"):
        open_source(text)


class Device:
    """A `cv2.VideoCapture` of these frames: None is one that cannot be read, an exception class ends it."""

    def __init__(self, frames: list[Any], opens: bool = True) -> None:
        self.frames, self.opens, self.released = list(frames), opens, False

    def isOpened(self) -> bool:  # noqa: N802
        return self.opens

    def set(self, *_: Any) -> None: ...

    def grab(self) -> bool:
        return bool(self.frames)

    def retrieve(self) -> tuple[bool, Any]:
        frame = self.frames.pop(0)
        return frame is not None, frame

    def release(self) -> None:
        self.released = True


def test_damaged_frames_of_a_camera_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = [None, np.zeros((4, 4), np.uint8), np.zeros((0, 0, 3), np.uint8)]
    device = Device([grey(1), *odd[:2], grey(2, (16, 20)), odd[2], grey(3)])
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: device)
    found = list(open_source("0").frames())
    assert [item.frame.shape[:2] for item in found] == [(48, 64), (16, 20), (48, 64)]
    assert device.released


def test_csi_needs_gstreamer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "_has_gstreamer", lambda: False)
    with pytest.raises(InputError, match="GStreamer"):
        open_source("csi")


def test_csi_and_rtsp_go_through_gstreamer(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(camera, "_has_gstreamer", lambda: True)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *args: opened.append(args) or Device([grey(9)]))
    for text in ("csi:1", "rtsp://cam/a"):
        assert len(list(open_source(text).frames())) == 1
    assert opened == [(csi_pipeline(1), cv2.CAP_GSTREAMER), (rtsp_pipeline("rtsp://cam/a"), cv2.CAP_GSTREAMER)]
    assert "sensor-id=1" in csi_pipeline(1) and csi_pipeline(1).endswith("drop=true max-buffers=1 sync=false")
    assert 'location="rtsp://cam/a"' in rtsp_pipeline("rtsp://cam/a")


@pytest.mark.parametrize("chosen", [None, "rtsp_transport;udp"])
def test_rtsp_goes_through_ffmpeg_where_there_is_no_gstreamer(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None
) -> None:
    opened: list[Any] = []

    def refuse(*args: Any) -> Device:
        opened.append((*args[:2], os.environ[camera.OPTIONS]))
        return Device([], opens=False)

    monkeypatch.setattr(camera, "_has_gstreamer", lambda: False)
    monkeypatch.setattr(cv2, "VideoCapture", refuse)
    monkeypatch.setenv(camera.OPTIONS, chosen or "")
    if chosen is None:
        monkeypatch.delenv(camera.OPTIONS)
    with pytest.raises(InputError, match=r"rtsp://cam/a does not open with OpenCV's FFmpeg"):
        next(open_source("rtsp://u:p@cam/a").frames())
    unbuffered = "rtsp_transport;tcp|fflags;nobuffer|flags;low_delay"
    assert opened == [("rtsp://u:p@cam/a", cv2.CAP_FFMPEG, chosen or unbuffered)]
    # files that are opened afterwards would lose their first frame
    assert os.environ.get(camera.OPTIONS) == chosen
