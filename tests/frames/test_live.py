from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from refinenet_edge.errors import InputError
from refinenet_edge.frames import live as live_module
from refinenet_edge.frames import open_source
from refinenet_edge.frames.images import write_png
from refinenet_edge.frames.live import LiveSource, csi_pipeline, rtsp_pipeline
from refinenet_edge.labels import SCENES
from tests.demo.fakes import grey, write_video


def levels(source: LiveSource, count: int | None = None) -> list[int]:
    """The brightness of its frames, to the nearest ten: JPEG changes it a little."""
    return [round(float(item.frame.mean()), -1) for item in itertools.islice(source.frames(), count)]  # type: ignore[misc]


LEVELS = [10, 30, 50, 70, 90, 110, 130, 150]


def test_scenes_move_and_know_their_truth() -> None:
    source = open_source("scenes:3:2")
    first, second = itertools.islice(source.frames(), 2)
    assert not source.live and source.lasting and source.labels == SCENES
    assert first.truth is not None and first.truth.shape == first.frame.shape[:2]
    assert second.at > first.at
    # the same street a moment later, how long depends on the machine: it has moved, and is not another
    other = next(open_source("scenes:4:2").frames())
    alike = [np.mean(first.truth == frame.truth) for frame in (second, other)]
    assert np.any(first.frame != second.frame) and alike[0] > alike[1]


@pytest.mark.parametrize("text", ["scenes:x", "scenes:1:2:3", "scenes:1:0", "scenes:²", "scenes:"])
def test_scenes_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="meant"):
        open_source(text)


def test_a_file_gives_every_frame_once(tmp_path: Path) -> None:
    source = open_source(str(write_video(tmp_path / "v.avi", LEVELS, rate=2.0)), every_frame=True)
    assert not source.live and not source.lasting
    assert source.rate == 2.0
    assert levels(source) == LEVELS


def test_a_file_plays_at_its_own_rate(tmp_path: Path) -> None:
    source = open_source(str(write_video(tmp_path / "v.avi", LEVELS, rate=20.0)))
    assert source.live
    begun = time.monotonic()
    assert levels(source) == LEVELS
    assert time.monotonic() - begun > (len(LEVELS) - 1) / 20


def test_a_file_starts_again(tmp_path: Path) -> None:
    source = open_source(str(write_video(tmp_path / "v.avi", LEVELS)), every_frame=True, repeat=True)
    assert levels(source, 20) == (3 * LEVELS)[:20]


def test_what_is_damaged_in_a_file_is_left_out(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", LEVELS)
    data = bytearray(path.read_bytes())
    starts = [at for at in range(len(data)) if data[at : at + 3] == b"\xff\xd8\xff"]
    assert len(starts) == len(LEVELS)
    data[starts[3] : starts[4] - 8] = bytes(starts[4] - 8 - starts[3])
    path.write_bytes(data)
    found = levels(open_source(str(path), every_frame=True))
    assert found[:3] == LEVELS[:3] and found[-4:] == LEVELS[4:]


def test_a_file_that_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="cannot be read"):
        open_source(str(tmp_path / "v.mp4"))


def test_images_of_a_folder_but_the_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, level in (("a", 20), ("b", 40), ("c", 60)):
        write_png(tmp_path / f"{name}.png", grey(level))
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert levels(open_source(str(tmp_path), every_frame=True)) == [20, 60]
    assert "b.png" in caplog.text
    assert levels(open_source(str(tmp_path), every_frame=True, repeat=True), 5) == [20, 60, 20, 60, 20]


def test_images_none_of_which_can_be_read(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match="none of the 2"):
        levels(open_source(str(tmp_path), every_frame=True))
    with pytest.raises(InputError, match=r"a\.png"):
        levels(open_source(str(tmp_path / "a.png"), every_frame=True))


def test_a_camera_that_is_not_there() -> None:
    source = open_source("97")
    assert source.live and source.lasting
    with pytest.raises(InputError, match="camera 97 does not open"):
        next(source.frames())


def test_a_password_is_not_shown() -> None:
    source = open_source("rtsp://admin:hunter2@10.0.0.9:554/stream1?key=abc")
    assert source.name == "rtsp://10.0.0.9:554/stream1"


@pytest.mark.parametrize(
    "text", ["nowhere", "ftp://host/a", 'rtsp://host/a" ! filesink location="/x', "http://", "http://[", "csi:x"]
)
def test_what_is_no_source(text: str) -> None:
    with pytest.raises(InputError, match=r"meant|no address"):
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
    monkeypatch.setattr(live_module, "_has_gstreamer", lambda: False)
    with pytest.raises(InputError, match="GStreamer"):
        open_source("csi")


def test_csi_and_rtsp_go_through_gstreamer(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(live_module, "_has_gstreamer", lambda: True)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *args: opened.append(args) or Device([grey(9)]))
    for text in ("csi:1", "rtsp://cam/a"):
        assert len(list(open_source(text).frames())) == 1
    assert opened == [(csi_pipeline(1), cv2.CAP_GSTREAMER), (rtsp_pipeline("rtsp://cam/a"), cv2.CAP_GSTREAMER)]
    assert "sensor-id=1" in csi_pipeline(1) and csi_pipeline(1).endswith("drop=true max-buffers=1 sync=false")
    assert 'location="rtsp://cam/a"' in rtsp_pipeline("rtsp://cam/a")


def test_rtsp_goes_through_ffmpeg_where_there_is_no_gstreamer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_has_gstreamer", lambda: False)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *args: Device([], opens=args[1] != cv2.CAP_FFMPEG))
    monkeypatch.delenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", raising=False)
    with pytest.raises(InputError, match="FFmpeg"):
        next(open_source("rtsp://u:p@cam/a").frames())
