"""One grammar for what frames come from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from refinenet_edge.errors import InputError
from refinenet_edge.evaluation import open_dataset
from refinenet_edge.frames import Address, Camera, Images, Scenes, Url, Video, open_frames, open_source, parse
from refinenet_edge.frames.address import MAX_SCENES
from refinenet_edge.frames.images import write_image
from refinenet_edge.scenes import VALIDATION, VALIDATION_COUNT
from tests.demo.fakes import grey, write_video


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("scenes", Scenes(VALIDATION, VALIDATION_COUNT)),
        ("scenes:7", Scenes(7, VALIDATION_COUNT)),
        ("scenes:0:3", Scenes(0, 3)),
        (f"scenes:{10**18 - 1}:{MAX_SCENES}", Scenes(10**18 - 1, MAX_SCENES)),
        ("./scenes", Images(Path("scenes"))),
        ("scenes_2026", Images(Path("scenes_2026"))),
        ("0", Camera("0")),
        ("/dev/null", Camera("/dev/null")),
        ("2012", Images(Path("2012"))),
        ("csi", Camera("0", csi=True)),
        ("csi:1", Camera("1", csi=True)),
        ("csi:x", Images(Path("csi:x"))),
        ("rtsp://cam/a", Url("rtsp://cam/a")),
        ("s3://bucket/year", Url("s3://bucket/year")),
        ("drive.MP4", Video(Path("drive.MP4"))),
        ("12:30:00.mp4", Video(Path("12:30:00.mp4"))),
        ("photo.jpg", Images(Path("photo.jpg"))),
        ("photos/", Images(Path("photos"))),
        ("a\0b", Images(Path("a\0b"))),
        ("", Images(Path())),
    ],
)
def test_what_a_text_names(text: str, address: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse(text) == address


def test_each_caller_has_its_own_defaults() -> None:
    assert [parse(text, seed=2, count=64) for text in ("scenes", "scenes:9", "scenes:9:1")] == [
        Scenes(2, 64),
        Scenes(9, 64),
        Scenes(9, 1),
    ]


NO_SCENES = ["scenes:", "scenes:5:", "scenes:1:0", f"scenes:1:{MAX_SCENES + 1}", "scenes:-1:4", "scenes:x", "scenes:²"]
NO_SCENES += ["scenes:1:2:3", "scenes:" + "9" * 19, "scenes:1:" + "9" * 5000, "scenes://host"]


@pytest.mark.parametrize("text", NO_SCENES)
def test_scenes_that_are_none(text: str) -> None:
    for open_ in (parse, open_dataset, open_source):
        with pytest.raises(InputError, match=r"expected scenes, scenes:SEED or scenes:SEED:COUNT .* \./scenes"):
            open_(text)


def test_a_file_of_another_ending_is_what_it_begins_like(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", grey(7))
    write_video(tmp_path / "v.avi", [7])
    image, video = (tmp_path / "a.png").rename(tmp_path / "a"), (tmp_path / "v.avi").rename(tmp_path / "v.ts")
    assert parse(str(image)) == Images(image)
    assert parse(str(video)) == Video(video)
    assert open_frames(parse(str(image))).read(0)[0, 0, 0] == 7
    assert abs(float(open_frames(parse(str(video))).read(0).mean()) - 7) < 3


def test_a_file_that_begins_like_neither(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("nothing")
    with pytest.raises(InputError, match=r"a\.txt is not a whole PNG, JPEG, BMP or WebP file, and no video"):
        open_frames(parse(str(tmp_path / "a.txt")))


@pytest.mark.parametrize("name", ["clip.mp4", "2026.v1"])
def test_a_folder_is_images_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert parse(str(tmp_path / name)) == Images(tmp_path / name)


@pytest.mark.parametrize("name", ["scenes", "scenes:7:2", "0", "csi"])
def test_a_folder_of_such_a_name_is_reached_and_the_other_is_said(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    write_image(Path(name, "a.png"), grey(9))
    frames = open_frames(parse(f"./{name}"))
    assert frames.names == ("a.png",)
    assert parse(frames.source) == Images(Path(name))  # what a message prints of it is the folder again
    assert not caplog.text
    assert not isinstance(parse(name), Images)
    assert f"that is ./{name}" in caplog.text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_read_to_see_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert parse(str(tmp_path / "pipe")) == Images(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe"):
        open_frames(parse(str(tmp_path / "pipe")))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://admin:hunter2@10.0.0.9:554/stream1?key=abc", "rtsp://10.0.0.9:554/stream1"),
        ("rtsp://admin:hunt@er2@10.0.0.9/a", "rtsp://10.0.0.9/a"),
        ("s3://key:secret@bucket/a@2x?region=eu#x", "s3://bucket/a@2x"),
        ("s3://AKIA:wJalr/K7MD+ENG@bucket/a@2x?region=eu", "s3://bucket/a@2x"),
        ("s3://AKIA:123/K7MD@bucket/a", "s3://bucket/a"),
        ("rtsp://admin:hunt?er#2@10.0.0.9/a", "rtsp://10.0.0.9/a"),
        ("http://user:12345@cam/a", "http://cam/a"),
        ("http://cam:8080/a@2x?mail=a@b", "http://cam:8080/a@2x"),
        ("http://cam/a@2x", "http://cam/a@2x"),
        ("http://[", "http://["),
    ],
)
def test_a_password_is_not_shown(text: str, shown: str) -> None:
    assert str(parse(text)) == shown


@pytest.mark.parametrize("text", ["0", "/dev/null", "csi", "rtsp://u:p@cam/a"])
def test_what_has_no_frames_to_number(text: str) -> None:
    with pytest.raises(InputError, match=r"expected images, a video or scenes"):
        open_frames(parse(text))


@pytest.mark.parametrize("text", ["nowhere", "nowhere.mp4", "nowhere.png", "csi:x", "", "a\0b"])
def test_what_is_not_there(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"there is no video|no image"):
        open_frames(parse(text))
    if text:
        with pytest.raises(InputError, match=r"expected a camera \(0\), csi"):
            open_source(text)
