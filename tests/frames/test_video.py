from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from refinenet_edge.errors import InputError
from refinenet_edge.frames import Video, open_frames, open_source, parse
from refinenet_edge.frames.video import STOPS_AT_STATED, VideoFile, frames_of
from refinenet_edge.records import Frame
from tests.demo.fakes import levels, write_video
from tests.videos import miscounted, number_of, timed, uncounted

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
    timed(tmp_path / "v.mp4", [1 / 30] * 9).rename("12:30:00.mp4")  # which FFmpeg alone reads
    assert len(open_frames(parse("12:30:00.mp4"))) == 9


MISLEADING = {
    "a second is missing": lambda path: timed(path / "v.mp4", [1 / 30] * 20 + [1.0] + [1 / 30] * 29),
    "the rate changes": lambda path: timed(path / "v.mp4", [1 / 30, 1 / 10] * 25),
    "more are counted": lambda path: miscounted(path / "v.avi", 50, 90),
    "fewer are counted": lambda path: miscounted(path / "v.avi", 50, 10),
    "none are counted": lambda path: uncounted(path / "v.mkv", 50),
}


@pytest.mark.parametrize("what", MISLEADING)
def test_frames_are_numbered_as_they_are_decoded(tmp_path: Path, what: str) -> None:
    if what == "fewer are counted" and STOPS_AT_STATED:
        with pytest.raises(InputError, match=r"says that it has 10 frames and has more, .* ffmpeg -i .*v\.avi -c copy"):
            open_frames(parse(str(MISLEADING[what](tmp_path))))
        return
    frames = open_frames(parse(str(MISLEADING[what](tmp_path))))
    assert len(frames) == 50
    for index in (*range(50), 3, 49, 40, 25, 25, 26, 0):
        assert number_of(frames.read(index)) == index
    some = frames_of(next(tmp_path.iterdir()), 4)
    assert some.names == ("frame_000000", "frame_000016", "frame_000033", "frame_000049")
    assert [number_of(some.read(index)) for index in range(4)] == [0, 16, 33, 49]


def test_a_place_that_there_is_not_is_refused_and_the_rest_stays(tmp_path: Path) -> None:
    with closing(VideoFile(miscounted(tmp_path / "v.avi", 4, 9), "drive/v.avi")) as video:
        with pytest.raises(InputError, match=r"frame 6 of video drive/v\.avi cannot be read: it has 4"):
            video.read(6)
        assert (number_of(video.read(3)), video.count(), number_of(video.read(1))) == (3, 4, 1)


@pytest.mark.parametrize("name", ["a.ts", "b.H264", "c.3gp", "d.mpg"])
def test_what_else_video_files_are_called(tmp_path: Path, name: str) -> None:
    path = uncounted(tmp_path / name, 3)
    assert isinstance(parse(str(path)), Video)
    assert len(open_frames(parse(str(path)))) == 3


def test_what_a_decoder_gives_that_is_no_image(tmp_path: Path) -> None:
    class Grey:
        def grab(self) -> bool:
            return True

        def retrieve(self) -> tuple[bool, object]:
            return True, np.zeros((4, 4), np.uint8)

        def release(self) -> None: ...

    with closing(VideoFile(write_video(tmp_path / "v.avi", LEVELS))) as video:
        video.capture = Grey()
        with pytest.raises(InputError, match=r"frame 3 of video .*v\.avi cannot be read"):
            video.read(3)
