from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refinenet_edge.errors import InputError
from refinenet_edge.frames import camera, open_source
from refinenet_edge.frames.camera import csi_pipeline, rtsp_pipeline
from refinenet_edge.frames.ffmpeg import OPTIONS, UNBUFFERED
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


def test_a_camera_is_called_one_where_its_picture_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "_has_gstreamer", lambda: True)
    assert [open_source(text).name for text in ("0", "csi:1")] == ["camera 0", "camera csi:1"]


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
        opened.append((*args[:2], os.environ[OPTIONS]))
        return Device([], opens=False)

    monkeypatch.setattr(camera, "_has_gstreamer", lambda: False)
    monkeypatch.setattr(cv2, "VideoCapture", refuse)
    monkeypatch.setenv(OPTIONS, chosen or "")
    if chosen is None:
        monkeypatch.delenv(OPTIONS)
    with pytest.raises(InputError, match=r"rtsp://cam/a does not open with OpenCV's FFmpeg"):
        next(open_source("rtsp://u:p@cam/a").frames())
    unbuffered = "rtsp_transport;tcp|fflags;nobuffer|flags;low_delay"
    assert opened == [("rtsp://u:p@cam/a", cv2.CAP_FFMPEG, chosen or unbuffered)]
    # files that are opened afterwards would lose their first frame
    assert os.environ.get(OPTIONS) == chosen


def test_streams_that_are_opened_at_once_keep_their_options_from_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two readers of a demo open RTSP at the same time; a third opens a file meanwhile, before they are tried again."""
    found: list[tuple[str, str | None]] = []
    both, answered = threading.Barrier(2), threading.Event()

    def open_(name: str, *_: Any) -> Device:
        found.append((name, os.environ.get(OPTIONS)))
        if name.startswith("rtsp"):
            both.wait(60)  # each is there while the other is opened
            assert answered.wait(60)
        return Device([], opens=False)

    def first(text: str) -> None:
        with contextlib.suppress(InputError):
            next(open_source(text).frames())

    def look_at(text: str) -> threading.Thread:
        thread = threading.Thread(target=first, args=(text,))
        thread.start()
        return thread

    (tmp_path / "a.mp4").write_bytes(b"no video")
    monkeypatch.delenv(OPTIONS, raising=False)
    monkeypatch.setattr(camera, "_has_gstreamer", lambda: False)
    monkeypatch.setattr(cv2, "VideoCapture", open_)
    threads = [look_at("rtsp://cam/a"), look_at("rtsp://cam/b")]
    while len(found) < 2:
        time.sleep(0.01)
    threads += [look_at(str(tmp_path / "a.mp4")), look_at("http://cam/c")]
    answered.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert {name: options for name, options in found if name.startswith("rtsp")} == dict.fromkeys(
        ("rtsp://cam/a", "rtsp://cam/b"), UNBUFFERED
    )
    assert [options for name, options in found if not name.startswith("rtsp")] == [None, None]
    assert OPTIONS not in os.environ
