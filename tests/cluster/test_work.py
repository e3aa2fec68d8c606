"""Text -> frames, and a piece -> its frames, whoever reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from refinenet_edge.cluster.work import PIECE, Item, Reader, everywhere, find
from refinenet_edge.errors import InputError
from refinenet_edge.frames.images import read_image
from refinenet_edge.scenes import VALIDATION_COUNT, scene
from tests.cluster.inputs import number_of, pictures, video


def ids(source: str | Path) -> list[list[str]]:
    return [[item.id for item in piece] for piece in find(str(source))]


def test_a_folder_is_all_that_is_below_it_and_not_hidden(tmp_path: Path) -> None:
    pictures(tmp_path, 4)
    for name in (".hidden.png", ".folder/0.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert ids(tmp_path) == [["0.png", "2.png", "street/1.png", "street/3.png"]]
    assert ids(tmp_path / "street" / "1.png") == [["1.png"]]
    items = find(str(tmp_path))[0]
    for item, frame in Reader(str(tmp_path)).frames(items):
        assert np.array_equal(frame, read_image(tmp_path / item.id))


def test_scenes_in_pieces() -> None:
    assert list(map(len, find(f"scenes:7:{2 * PIECE + 5}"))) == [PIECE, PIECE, 5]
    assert ids("scenes:7:2") == [["scenes-7/000000", "scenes-7/000001"]]
    ((_, second),) = Reader("scenes:7:2").frames(find("scenes:7:2")[0][1:])
    assert np.array_equal(second, scene(7, 1)[0])


@pytest.mark.parametrize("source", ["scenes:7:0", "scenes:-1:3"])
def test_scenes_that_are_not(source: str) -> None:
    with pytest.raises(InputError, match="expected scenes, scenes:SEED or scenes:SEED:COUNT"):
        find(source)


def test_a_source_means_the_same_to_every_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert everywhere("scenes:7") == f"scenes:7:{VALIDATION_COUNT}"
    assert everywhere("s3://key:secret@bucket/year") == "s3://key:secret@bucket/year"
    assert everywhere("./scenes") == str(tmp_path / "scenes")
    with pytest.raises(InputError, match=r"0 is a camera: expected files, a folder \(\./0\)"):
        everywhere("0")


@pytest.mark.parametrize("left", ["all", "the last of a piece"])
def test_a_frame_of_a_video_is_the_same_whoever_reads_it(tmp_path: Path, left: str) -> None:
    video(tmp_path / "sub" / "drive.avi", PIECE + 9)
    pieces = find(str(tmp_path))
    assert [len(piece) for piece in pieces] == [PIECE, 9]
    assert pieces[1][0] == Item(f"sub/drive.avi/{PIECE:06d}", "sub/drive.avi", PIECE)
    for piece in pieces:
        for item, frame in Reader(str(tmp_path)).frames(piece if left == "all" else piece[-2:]):
            assert isinstance(frame, np.ndarray)
            assert number_of(frame) == item.place


def test_frames_that_cannot_be_read_are_said_and_the_rest_comes(tmp_path: Path) -> None:
    pictures(tmp_path, 3)
    (tmp_path / "0.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    (tmp_path / "b.mp4").write_bytes(b"no video")
    pieces = find(str(tmp_path))
    found = [pair for piece in pieces for pair in Reader(str(tmp_path)).frames(piece)]
    wrong = {item.id: str(frame) for item, frame in found if isinstance(frame, InputError)}
    assert wrong.keys() == {"0.png", "b.mp4/000000"}
    assert "0.png cannot be decoded" in wrong["0.png"]
    assert "video b.mp4 cannot be read" in wrong["b.mp4/000000"]
    assert len(found) == 4


def test_a_video_that_was_cut_after_it_was_listed(tmp_path: Path) -> None:
    video(tmp_path / "a.avi", 6)
    (piece,) = find(str(tmp_path))
    video(tmp_path / "a.avi", 4)
    found = [frame for _, frame in Reader(str(tmp_path)).frames(piece)]
    assert [isinstance(frame, InputError) for frame in found] == [False] * 4 + [True] * 2
    assert str(found[4]) == "frame 4 of video a.avi cannot be read"


@pytest.mark.parametrize(("name", "said"), [("notes.txt", "no image or video in"), ("a\udc80.png", "rename it")])
def test_folders_that_are_not(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=said):
        find(str(tmp_path))
    with pytest.raises(InputError, match="there is no file or folder"):
        find(str(tmp_path / "none"))
