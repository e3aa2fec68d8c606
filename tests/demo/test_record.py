from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from refinenet_edge.cli import main
from refinenet_edge.demo import Recording, record
from refinenet_edge.errors import InputError
from tests.cluster.inputs import tiny_bundle
from tests.demo.fakes import grey, read_video, write_video


def test_a_recording_plays(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    recording = Recording(path, rate=10)
    for level in range(0, 200, 20):
        recording.write(grey(level))
    assert not path.exists()
    recording.close()
    recording.close()
    frames = read_video(path)
    assert [frame.shape for frame in frames] == 10 * [(48, 64, 3)]
    assert np.abs([frame.mean() - level for frame, level in zip(frames, range(0, 200, 20), strict=True)]).max() < 5
    assert list(tmp_path.iterdir()) == [path]


def test_a_live_recording_plays_as_fast_as_it_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 100.0, 100.1, 100.5, 100.51, 101.0, 101.0])
    monkeypatch.setattr(record, "CODECS", {".mp4": ("vp09",)})
    monkeypatch.setattr(Recording, "_try", lambda *_: 0.001)  # as if it were fast
    recording = Recording(tmp_path / "out.mp4")
    monkeypatch.setattr(record.time, "monotonic", lambda: next(times))
    for level in (0, 60, 120, 180, 240):
        recording.write(grey(level))
    recording.close()
    levels = [round(frame.mean() / 60) for frame in read_video(tmp_path / "out.mp4")]
    # a second is 25 frames; what came between two frames is not seen
    assert len(levels) == 26 and levels == sorted(levels)
    assert (levels[0], levels[1], levels[12], levels[25]) == (0, 1, 2, 4)


def test_other_sizes_are_fitted_in(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "out.mp4", rate=5)
    recording.write(grey(200, (49, 65)))
    recording.write(grey(200, (96, 64)))
    recording.write(grey(200, (1, 1)))
    recording.close()
    first, second, third = read_video(tmp_path / "out.mp4")
    assert first.shape == second.shape == third.shape == (48, 64, 3)
    assert first.min() > 180
    assert second[:, 32].min() > 150 and second[:, 2].max() < 40 and second[:, -2].max() < 40
    assert third[24, 32].min() > 150


def test_nothing_recorded_leaves_nothing(tmp_path: Path) -> None:
    Recording(tmp_path / "out.mp4").close()
    assert list(tmp_path.iterdir()) == []


def test_an_old_recording_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_bytes(b"old")
    recording = Recording(tmp_path / "out.mp4", rate=5)
    recording.write(grey(1))
    assert (tmp_path / "out.mp4").read_bytes() == b"old"
    recording.close()
    assert len(read_video(tmp_path / "out.mp4")) == 1


@pytest.mark.parametrize("name", ["out.avi", "out", "nowhere/out.mp4"])
def test_where_no_recording_can_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"\.webm or \.mp4|cannot be written"):
        Recording(tmp_path / name)


@pytest.mark.parametrize("name", ["out.mp4", "out.webm"])
@pytest.mark.parametrize(
    ("rate", "size"), [(119.873, (48, 64)), (1000 / 7, (48, 64)), (25, (16, 8200)), (25, (8400, 16)), (0.2, (48, 64))]
)
def test_any_rate_and_size(tmp_path: Path, rate: float, size: tuple[int, int], name: str) -> None:
    recording = Recording(tmp_path / name, rate=rate)
    for level in (20, 220):
        recording.write(grey(level, size))
    recording.close()
    assert [(frame.shape, frame.mean() > 100) for frame in read_video(tmp_path / name)] == [
        ((*size, 3), False),
        ((*size, 3), True),
    ]


@pytest.mark.parametrize(("rate", "size"), [(119.873, (48, 64)), (1000 / 7, (48, 64)), (25, (16, 8200))])
def test_what_mpeg_4_does_not_take_is_rounded_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float, size: tuple[int, int]
) -> None:
    monkeypatch.setitem(record.CODECS, ".mp4", ("mp4v",))
    (tmp_path / "out.mp4").write_bytes(b"old")
    recording = Recording(tmp_path / "out.mp4", rate=rate)
    with contextlib.closing(recording):
        if max(size) > 8191:
            with pytest.raises(InputError, match=r"no codec of this OpenCV .* writes 16x8200 pixels at 25 a second"):
                recording.write(grey(20, size))
        else:
            for level in (20, 220):
                recording.write(grey(level, size))
    assert size[1] > 8191 or len(read_video(tmp_path / "out.mp4")) == 2
    assert (size[1] > 8191) == ((tmp_path / "out.mp4").read_bytes() == b"old")


@pytest.mark.parametrize(("name", "codecs"), [("out.mp4", (b"vp09", b"avc1")), ("out.webm", (b"V_VP8",))])
def test_browsers_play_it(tmp_path: Path, name: str, codecs: tuple[bytes, ...], capfd: pytest.CaptureFixture) -> None:
    recording = Recording(tmp_path / name, rate=10)
    for level in range(0, 200, 20):
        recording.write(grey(level))
    recording.close()
    data = (tmp_path / name).read_bytes()
    assert any(codec in data for codec in codecs) and b"mp4v" not in data
    frames = read_video(tmp_path / name)
    assert np.abs([frame.mean() - level for frame, level in zip(frames, range(0, 200, 20), strict=True)]).max() < 5
    assert capfd.readouterr().err == ""


def test_ctrl_c_before_a_frame_is_counted_loses_none(tmp_path: Path) -> None:
    class Interrupted:
        """Stands for a writer whose last frame was written when the signal came."""

        def __init__(self, writer: object) -> None:
            self._writer = writer

        def write(self, picture: object) -> None:
            self._writer.write(picture)  # type: ignore[attr-defined]
            raise KeyboardInterrupt

        release = property(lambda self: self._writer.release)

    recording = Recording(tmp_path / "out.webm", rate=10)
    recording.write(grey(100))
    recording._writer = Interrupted(recording._writer)
    with pytest.raises(KeyboardInterrupt):
        recording.write(grey(200))
    recording.close()
    assert len(read_video(tmp_path / "out.webm")) == 2


@pytest.mark.parametrize(("name", "files"), [("out.webm", 1), ("out.mp4", 3)])
def test_what_a_killed_recording_left_goes_with_the_next(tmp_path: Path, name: str, files: int) -> None:
    code = f"""
import os
from pathlib import Path
from refinenet_edge.demo import Recording
from tests.demo.fakes import grey
recording = Recording(Path({str(tmp_path / name)!r}), rate=10)
recording.write(grey(100))
os._exit(9)
"""
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 9
        assert len(list(tmp_path.iterdir())) == files
    recording = Recording(tmp_path / name, rate=10)
    recording.write(grey(100))
    recording.close()
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_without_a_better_codec_it_is_mpeg_4_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = cv2.VideoWriter

    class NoVp9:
        fourcc = writer.fourcc

        def __new__(cls, path: str, api: int, code: int, *rest: object) -> object:
            return writer() if code != writer.fourcc(*"mp4v") else writer(path, api, code, *rest)

    monkeypatch.setattr(cv2, "VideoWriter", NoVp9)
    recording = Recording(tmp_path / "out.mp4", rate=10)
    recording.write(grey(100))
    recording.close()
    assert len(read_video(tmp_path / "out.mp4")) == 1
    assert "out.mp4 is MPEG-4, which browsers do not play: record " in caplog.text
    assert "out.webm, which they do" in caplog.text


class Failing:
    """Stands for `cv2.VideoWriter` on a disk that is full after the trial: the rest of the file is not there."""

    fourcc = cv2.VideoWriter.fourcc
    opened = 0

    def __init__(self, path: str, *rest: object) -> None:
        Failing.opened += 1
        self._path, self._real, self._last = path, REAL(path, *rest), Failing.opened > self.good

    good = 1
    isOpened = property(lambda self: self._real.isOpened)  # noqa: N815
    write = property(lambda self: self._real.write)

    def release(self) -> None:
        self._real.release()
        if self._last:
            data = Path(self._path).read_bytes()
            Path(self._path).write_bytes(data[: len(data) // 2])


REAL = cv2.VideoWriter


def test_a_full_disk_is_an_error_and_the_old_recording_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"old")
    monkeypatch.setattr(record, "CODECS", {".mp4": ("vp09",)})
    monkeypatch.setattr(Failing, "opened", 0)
    monkeypatch.setattr(Failing, "good", 2)  # a whole one, and a piece of it
    monkeypatch.setattr(cv2, "VideoWriter", Failing)
    recording = Recording(path, rate=10)
    for level in range(12):
        recording.write(grey(20 * level))
    with pytest.raises(
        InputError, match=r"out\.mp4 was not written: 0 of its 12 frames can be read again; is the disk"
    ):
        recording.close()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_codec_that_writes_nothing_that_reads_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Failing, "good", 0)
    monkeypatch.setattr(cv2, "VideoWriter", Failing)
    (tmp_path / "out.mp4").write_bytes(b"old")
    recording = Recording(tmp_path / "out.mp4")
    with pytest.raises(InputError, match=r"no codec of this OpenCV .* writes 48x64 pixels at 25 a second, or the disk"):
        recording.write(grey(1))
    recording.close()
    assert (tmp_path / "out.mp4").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_vp9_has_little_left_to_encode_when_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its encoder keeps 25 frames back: it is told to end, and encodes them, every few pictures."""
    released: list[int] = []

    class Counted:
        """Stands for `cv2.VideoWriter`, and counts the pictures that each was given by its end."""

        fourcc = REAL.fourcc

        def __init__(self, *rest: object) -> None:
            self._real, self._given = REAL(*rest), 0

        isOpened = property(lambda self: self._real.isOpened)  # noqa: N815

        def write(self, picture: np.ndarray) -> None:
            self._given += picture.ndim == 3  # others are packets
            self._real.write(picture)

        def release(self) -> None:
            self._real.release()
            released.append(self._given)

    monkeypatch.setattr(record, "CODECS", {".mp4": ("vp09",)})
    monkeypatch.setattr(cv2, "VideoWriter", Counted)
    monkeypatch.setattr(Recording, "_try", lambda *_: 0.1)
    recording = Recording(tmp_path / "out.mp4", rate=10)
    for level in range(0, 240, 20):
        recording.write(grey(level))
    before = sum(released)
    recording.close()
    assert before >= 12 - 2 * 5 and released == [5, 5, 2, 0]
    frames = read_video(tmp_path / "out.mp4")
    assert np.abs([frame.mean() - level for frame, level in zip(frames, range(0, 240, 20), strict=True)]).max() < 5
    assert list(tmp_path.iterdir()) == [tmp_path / "out.mp4"]


def test_ctrl_c_in_any_line_of_vp9_loses_no_frame_that_was_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "CODECS", {".mp4": ("vp09",)})
    monkeypatch.setattr(Recording, "_try", lambda *_: 0.2)
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., object] | None:
        nonlocal lines
        if not frame.f_code.co_filename.endswith("pieces.py"):
            return None
        lines += event == "line"
        if lines == at:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    at = ended = 0
    while not ended:
        at, lines = at + 1, 0
        recording = Recording(tmp_path / "out.mp4", rate=10)
        sys.settrace(trace)
        try:
            for level in range(0, 140, 20):
                recording.write(grey(level))
            ended = 1
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        recording.close()  # it is whole, or this raises
    assert at > 30 and len(read_video(tmp_path / "out.mp4")) == 7


def test_a_name_with_colons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recording = Recording(Path("12:30:00.mp4"), rate=10)
    recording.write(grey(100))
    recording.close()
    assert [path.name for path in tmp_path.iterdir()] == ["12:30:00.mp4"]
    assert len(read_video(tmp_path / "12:30:00.mp4")) == 1


def test_a_slow_codec_makes_a_slower_recording_that_lasts_as_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([100.0, *(100 + 0.01 * n for n in range(201)), 103.0])
    monkeypatch.setattr(record, "CODECS", {".mp4": ("vp09",)})
    monkeypatch.setattr(Recording, "_try", lambda *_: 0.1)
    recording = Recording(tmp_path / "out.mp4")
    monkeypatch.setattr(record.time, "monotonic", lambda: next(times))
    for level in range(201):
        recording.write(grey(level))
    recording.close()
    video = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert (video.get(cv2.CAP_PROP_FPS), recording.frames, len(read_video(tmp_path / "out.mp4"))) == (4.0, 13, 13)


@pytest.mark.parametrize("name", ["drive.mp4", "../in/drive.mp4", "link.mp4"])
def test_the_source_is_not_recorded_onto(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    source = write_video(tmp_path / "in" / "drive.avi", [10, 200]).rename(tmp_path / "in" / "drive.mp4")
    before = source.read_bytes()
    (tmp_path / "in" / "link.mp4").symlink_to(source)
    command = ["demo", str(tiny_bundle(tmp_path / "tiny")), "--source", str(source), "--view", "none", "--rate", "full"]
    done = CliRunner().invoke(main, [*command, "--record", str(tmp_path / "in" / name)])
    assert (done.exit_code, "is what is looked at: give --record another name" in done.stderr) == (2, True)
    assert source.read_bytes() == before
