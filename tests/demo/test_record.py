from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from refinenet_edge.demo import Recording, record
from refinenet_edge.errors import InputError
from tests.demo.fakes import grey, read_video


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
    times = iter([100.0, 100.1, 100.5, 100.51, 101.0])
    monkeypatch.setattr(record.time, "monotonic", lambda: next(times))
    recording = Recording(tmp_path / "out.mp4")
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
    with pytest.raises(InputError, match=r"\.mp4|cannot be written"):
        Recording(tmp_path / name)
