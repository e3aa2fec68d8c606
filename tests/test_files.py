"""Files are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from refinenet_edge import files
from refinenet_edge.errors import BuildError, CheckpointError
from refinenet_edge.files import list_files, read_text, sha256, write_atomically


def test_a_file_is_written(tmp_path: Path) -> None:
    write_atomically(tmp_path / "weights", b"new", BuildError)
    assert (tmp_path / "weights").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"old and longer")
    write_atomically(tmp_path / "weights", b"new", BuildError)
    assert (tmp_path / "weights").read_bytes() == b"new"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_it_has_the_rights_of_an_ordinary_file(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "weights", b"new", BuildError)
        assert os.umask(umask) == umask, "the umask was left changed"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "weights").stat().st_mode) == mode


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    (tmp_path / "weights").write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(BuildError, match=r"weights cannot be written: No space left on device; free the space"):
        write_atomically(tmp_path / "weights", b"new", BuildError)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"weights": b"old"}


def test_ctrl_c_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").write_bytes(b"old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "weights", b"new", BuildError)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"weights": b"old"}


@pytest.mark.parametrize("name", ["missing/weights", "folder"])
def test_a_place_that_takes_no_file_is_an_error_of_the_callers(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=f"{name} cannot be written"):
        write_atomically(tmp_path / name, b"new", CheckpointError)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("size", [0, 3, (1 << 20) + 1])
def test_the_digest_is_that_of_the_whole_file(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "weights").write_bytes(data[:size])
    assert sha256(tmp_path / "weights", BuildError) == hashlib.sha256(data[:size]).hexdigest()


def test_the_digest_of_no_file_is_an_error_of_the_callers(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="weights cannot be read: No such file"):
        sha256(tmp_path / "weights", CheckpointError)


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"Jetson\0", "Jetson"), (b" a\nb \n", "a\nb"), (b"\n", None), (b"\0", None), (b"\xff", "\ufffd"), (None, None)],
)
def test_what_a_file_of_the_system_says(tmp_path: Path, data: bytes | None, text: str | None) -> None:
    if data is not None:
        (tmp_path / "model").write_bytes(data)
    assert read_text(tmp_path / "model") == text


def test_the_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("b", "a.png", "a/z", "a/.hidden", ".hidden/c", ".d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert list_files(tmp_path, BuildError) == ["a.png", "b"]
    assert list_files(tmp_path, BuildError, below=True) == ["a.png", "a/z", "b"]


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    scandir = os.scandir

    def closed(path: str) -> object:
        if path.endswith("a"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(BuildError, match=r"folder .*/a cannot be listed: Permission denied"):
        list_files(tmp_path, BuildError, below=True)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"folder .*none cannot be listed: No such file"):
        list_files(tmp_path / "none", BuildError)
