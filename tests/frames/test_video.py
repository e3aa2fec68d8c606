from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from refinenet_edge.errors import InputError
from refinenet_edge.frames import open_frames, open_source, parse
from refinenet_edge.frames.video import VideoFile, frames_of
from refinenet_edge.opencv import cv2
from refinenet_edge.records import Frame
from tests.demo.fakes import grey, levels, write_video

LEVELS = [10, 30, 50, 70, 90, 110, 130, 150]


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


def test_a_damaged_video_has_no_frames_to_number(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"video .*v\.mp4 cannot be read"):
        open_frames(parse(str(tmp_path / "v.mp4")))


def level(frame: Frame) -> int:
    return int(round(float(frame.mean()), -1))


def test_frames_by_number(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", LEVELS)
    frames = open_frames(parse(str(path)))
    assert (frames.source, frames.names[5]) == (str(path), "frame_000005")
    # backwards, again, and in a row
    order = [7, 2, 2, 3, 4, 0]
    assert [level(frames.read(index)) for index in order] == [LEVELS[index] for index in order]


def test_as_many_as_wanted_evenly_spread(tmp_path: Path) -> None:
    frames = frames_of(write_video(tmp_path / "v.avi", LEVELS), 3)
    assert frames.names == ("frame_000000", "frame_000004", "frame_000007")
    assert [level(frames.read(index)) for index in range(3)] == [10, 90, 150]
    assert len(frames_of(tmp_path / "v.avi", 100)) == len(LEVELS)


def test_a_name_with_colons_is_a_file_not_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "v.avi", LEVELS).rename("12:30:00.avi")
    assert len(open_frames(parse("12:30:00.avi"))) == len(LEVELS)
    assert levels(open_source("12:30:00.avi", every_frame=True)) == LEVELS


class Overstated:
    """A `cv2.VideoCapture` of 5 frames whose container counts `stated`."""

    stated = 8

    def __init__(self, path: str) -> None:
        self._place = 0

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def get(self, what: int) -> float:
        return {cv2.CAP_PROP_FRAME_COUNT: float(self.stated), cv2.CAP_PROP_FPS: 25.0}[what]

    def set(self, what: int, place: int) -> None:
        assert what == cv2.CAP_PROP_POS_FRAMES
        self._place = place

    def read(self) -> tuple[bool, object]:
        self._place += 1
        return self._place <= 5, grey(self._place % 256)

    def release(self) -> None: ...


@pytest.mark.parametrize(("stated", "count"), [(8, 5), (5, 5), (3, 3), (4_000, 4_000)])
def test_the_count_is_what_can_be_read_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: int, count: int
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Overstated)
    monkeypatch.setattr(Overstated, "stated", stated)
    (tmp_path / "v.mp4").touch()
    with closing(VideoFile(tmp_path / "v.mp4")) as video:
        assert video.count() == count


def test_a_container_without_a_count_is_refused_by_number_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Overstated)
    monkeypatch.setattr(Overstated, "stated", 0)
    (tmp_path / "v.mp4").touch()
    with closing(VideoFile(tmp_path / "v.mp4", "drive/v.mp4")) as video:
        for read in (video.count, lambda: video.read(0)):
            with pytest.raises(InputError, match=r"video drive/v\.mp4 cannot be read"):
                read()


def test_what_a_decoder_gives_that_is_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(VideoFile(write_video(tmp_path / "v.avi", LEVELS))) as video:
        monkeypatch.setattr(Overstated, "read", lambda self: (True, np.zeros((4, 4), np.uint8)))
        video.capture = Overstated("")
        with pytest.raises(InputError, match=r"frame 3 of video .*v\.avi cannot be read"):
            video.read(3)
