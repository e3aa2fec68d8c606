"""Text -> frames, and a piece -> its frames, whoever reads it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from refinenet_edge.cluster import storage
from refinenet_edge.cluster.work import (
    PIECE,
    Counter,
    InputFile,
    Piece,
    Read,
    Reader,
    everywhere,
    find,
    is_video,
    pieces_of,
)
from refinenet_edge.errors import InputError
from refinenet_edge.frames.images import read_image
from refinenet_edge.frames.video import VideoFile
from refinenet_edge.scenes import VALIDATION_COUNT, scene
from tests.cluster.inputs import pictures
from tests.videos import number_of, written


def pieces(source: str | Path) -> list[Piece]:
    """As `batch` makes them."""
    files, count = find(str(source)), Counter(str(source)) if Path(source).exists() else None
    lengths = {name: count(name)[0] for name in files if count and is_video(name)}
    return pieces_of(str(source), {name: InputFile(file.stamp, lengths.get(name)) for name, file in files.items()})


def frames(reader: Reader, piece: Piece) -> list[Read]:
    return [read() for read in reader.frames(piece)]


def ids(source: str | Path) -> list[list[str]]:
    return [[item.id for item in piece] for piece in pieces(source)]


def test_a_folder_is_all_that_is_below_it_and_not_hidden(tmp_path: Path) -> None:
    pictures(tmp_path, 4)
    for name in (".hidden.png", ".folder/0.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert ids(tmp_path) == [["0.png", "2.png", "street/1.png", "street/3.png"]]
    assert ids(tmp_path / "street" / "1.png") == [["1.png"]]
    items = pieces(tmp_path)[0]
    for item, frame in frames(Reader(str(tmp_path)), items):
        assert np.array_equal(frame, read_image(tmp_path / item.id))


def test_scenes_in_pieces() -> None:
    assert list(map(len, pieces(f"scenes:7:{2 * PIECE + 5}"))) == [PIECE, PIECE, 5]
    assert ids("scenes:7:2") == [["scenes-7/000000", "scenes-7/000001"]]
    ((_, second),) = frames(Reader("scenes:7:2"), pieces("scenes:7:2")[0][1:])
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
    written(tmp_path / "sub" / "drive.avi", PIECE + 9)
    first, second = pieces(tmp_path)
    assert (len(first), len(second), second[0].id) == (PIECE, 9, f"sub/drive.avi/{PIECE:06d}")
    one = Reader(str(tmp_path))
    for reader, piece in ((one, first), (one, second), (one, first), (Reader(str(tmp_path)), second)):
        for item, frame in frames(reader, piece if left == "all" else piece[-2:]):
            assert isinstance(frame, np.ndarray), frame
            assert number_of(frame) == item.place


def test_images_are_read_by_whom_they_are_given_to(tmp_path: Path) -> None:
    """Not by who takes them: that is left to others."""
    pictures(tmp_path, 3)
    (piece,) = pieces(tmp_path)
    reads = list(Reader(str(tmp_path)).frames(piece))
    (tmp_path / piece[1].file).unlink()
    found = [read() for read in reversed(reads)]
    assert [item for item, _ in found] == list(reversed(piece))
    assert [isinstance(frame, InputError) for _, frame in found] == [False, True, False]


def test_a_worker_decodes_on_and_no_frame_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "drive.avi", 2 * PIECE + 9)
    found, opened, reader = pieces(tmp_path), [], Reader(str(tmp_path))
    open_ = VideoFile._open
    monkeypatch.setattr(VideoFile, "_open", lambda self: (opened.append(None), open_(self)))
    assert [number_of(frame) for piece in found for _, frame in frames(reader, piece)] == list(range(2 * PIECE + 9))
    assert len(opened) == 1
    reader.close()


def test_frames_that_cannot_be_read_are_said_and_the_rest_comes(tmp_path: Path) -> None:
    pictures(tmp_path, 3)
    (tmp_path / "0.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    (tmp_path / "b.mp4").write_bytes(b"no video")
    found = [pair for piece in pieces(tmp_path) for pair in frames(Reader(str(tmp_path)), piece)]
    wrong = {item.id: str(frame) for item, frame in found if isinstance(frame, InputError)}
    assert wrong.keys() == {"0.png", "b.mp4/000000"}
    assert "0.png has a part of" in wrong["0.png"] and "it is damaged" in wrong["0.png"]
    assert "video b.mp4 cannot be read" in wrong["b.mp4/000000"]
    assert len(found) == 4


@pytest.mark.parametrize("name", ["a.avi", "0.png"])
def test_a_file_that_was_replaced_after_it_was_listed_is_not_read(tmp_path: Path, name: str) -> None:
    written(tmp_path / "a.avi", 6)
    pictures(tmp_path, 1)
    found = {piece[0].file: piece for piece in pieces(tmp_path)}
    data = (tmp_path / name).read_bytes()
    replaced = (tmp_path / name).stat()
    (tmp_path / "other").write_bytes(data)
    os.utime(tmp_path / "other", ns=(replaced.st_atime_ns, replaced.st_mtime_ns))  # as cp -p and tar do
    (tmp_path / "other").replace(tmp_path / name)
    read = [frame for _, frame in frames(Reader(str(tmp_path)), found[name])]
    assert {str(frame) for frame in read} == {f"{name} has changed since it was listed: start the run again"}


def test_a_video_that_is_written_to_while_it_is_read(tmp_path: Path) -> None:
    written(tmp_path / "a.avi", 6)
    (piece,) = pieces(tmp_path)
    reads = Reader(str(tmp_path)).frames(piece)
    assert number_of(next(reads)()[1]) == 0
    with (tmp_path / "a.avi").open("ab") as file:
        file.write(b"more")
    assert "a.avi has changed since it was opened" in str(next(reads)()[1])


@pytest.mark.parametrize(("name", "said"), [("notes.txt", "no image or video in"), ("a\udc80.png", "rename it")])
def test_folders_that_are_not(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=said):
        find(str(tmp_path))
    with pytest.raises(InputError, match="there is no file or folder"):
        find(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Cannot parse URI: 's3://AKIA:wJalr/K7MD@bucket/a'", "it is no URL that can be read; a secret has / as %2F"),
        ("no host in K7MD@bucket", "it is no URL that can be read"),
        ("no region is set", "no region is set"),
    ],
)
def test_a_secret_is_not_in_what_a_library_says(said: str, shown: str) -> None:
    found = storage._without_secret(said, "s3://AKIA:wJalr/K7MD@bucket/a?region=eu")
    assert found.startswith(shown)
    assert "K7MD" not in found
