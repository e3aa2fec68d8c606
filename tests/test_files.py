"""Files are written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from refinenet_edge import files
from refinenet_edge.bench.record import read_run
from refinenet_edge.calibration.ranges import read_ranges
from refinenet_edge.errors import BuildError, CheckpointError, InputError, RefineNetEdgeError
from refinenet_edge.estimate.devices import read_devices
from refinenet_edge.evaluation import layouts
from refinenet_edge.evaluation.masks import read_mask
from refinenet_edge.files import list_files, read_text, sha256, write_atomically
from refinenet_edge.frames.images import read_image
from refinenet_edge.labels import read_label_file
from refinenet_edge.model.checkpoint import load_checkpoint
from refinenet_edge.onnx_import import read_onnx
from refinenet_edge.recipe import read_recipe
from refinenet_edge.runtime.tensorrt import builder
from refinenet_edge.runtime.tensorrt.engine import read_header


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
    [(b"Jetson\0", "Jetson"), (b" a\nb \n", "a\nb"), (b"\n", ""), (b"\0", ""), (b"\xff", "\ufffd"), (None, "")],
)
def test_what_a_file_of_the_system_says(tmp_path: Path, data: bytes | None, text: str) -> None:
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


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path: Path) -> None:
    code = "import os; os.replace = lambda *_: os._exit(9); from tests.test_files import *; "
    code += f"write_atomically(Path({str(tmp_path / 'weights')!r}), b'killed', BuildError)"
    for _ in range(2):
        ended = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False)
        assert ended.returncode == 9
        assert [path.name for path in tmp_path.iterdir()] == [".weights.refinenet-edge"]
    write_atomically(tmp_path / "weights", b"new", BuildError)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"weights": b"new"}


def test_writers_of_one_file_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    with ThreadPoolExecutor(8) as pool:
        for written in [pool.submit(write_atomically, path, bytes([i]) * 9999, BuildError) for i in range(64)]:
            written.result()
    assert len(set(path.read_bytes())) == 1
    assert path.stat().st_size == 9999
    assert [left.name for left in tmp_path.iterdir()] == ["weights"]


def test_a_writer_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    held = files.claim(tmp_path / ".weights.refinenet-edge")
    with pytest.raises(BuildError, match=r"weights cannot be written: another process is writing it"):
        write_atomically(tmp_path / "weights", b"new", BuildError)
    os.close(held)


@pytest.mark.parametrize("link", ["elsewhere", "none"])
def test_a_link_where_it_is_written_is_not_followed(tmp_path: Path, link: str) -> None:
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (tmp_path / ".weights.refinenet-edge").symlink_to(tmp_path / link)
    with pytest.raises(BuildError, match="weights cannot be written"):
        write_atomically(tmp_path / "weights", b"new", BuildError)
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["a\0b", ""])
def test_a_name_that_no_file_has(name: str) -> None:
    with pytest.raises(BuildError, match="cannot be written"):
        write_atomically(Path(name), b"new", BuildError)


READERS: dict[str, Any] = {
    "recipe": read_recipe,
    "devices": read_devices,
    "labels": read_label_file,
    "ranges": read_ranges,
    "result": read_run,
    "image": read_image,
    "mask": read_mask,
    "list": layouts._lines,
    "timing cache": builder._timings,
    "plan": read_header,
    "digest": lambda path: sha256(path, InputError),
    "checkpoint": load_checkpoint,
    "onnx": read_onnx,
}


@pytest.mark.parametrize("name", READERS)
def test_only_regular_files_are_read(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(
            RefineNetEdgeError, match="it is a folder" if (name, path) == ("recipe", tmp_path) else "not a regular file"
        ):
            READERS[name](path)


@pytest.mark.parametrize("name", [name for name in READERS if name not in ("digest", "plan", "onnx", "checkpoint")])
def test_files_are_read_within_bounds(tmp_path: Path, name: str) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RefineNetEdgeError, match=r"is larger than \d+ bytes"):
        READERS[name](tmp_path / "large")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


@pytest.mark.parametrize("how", ["written over", "put in its place"])
def test_a_stamp_follows_bytes_whose_size_and_time_are_the_same(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    before, when = files.stamp_of(path), path.stat().st_mtime_ns
    until = time.monotonic() + 60
    while files.stamp_of(path) == before and time.monotonic() < until:  # the clock of files has steps
        other = path if how == "written over" else tmp_path / "other"
        other.write_bytes(b"two")
        os.utime(other, ns=(when, when))
        other.replace(path)
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (when, 3)
    assert files.stamp_of(path) != before
    assert files.stamp_of(path) == files.stamp_of(path)
    assert files.stamp_of(tmp_path / "none") == files.stamp_of(None) == "-"


def test_an_exchange(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").mkdir()
    assert files.exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").is_dir()
    assert (tmp_path / "b").read_text() == "a"
    with pytest.raises(FileNotFoundError):
        files.exchange(tmp_path / "a", tmp_path / "none")


@pytest.mark.parametrize("replace", [True, False])
def test_a_folder_takes_another_ones_place_only_where_it_is_asked_to(tmp_path: Path, replace: bool) -> None:
    place = tmp_path / "there"
    place.mkdir()
    (place / "old").touch()

    def put() -> None:
        with files.folder_beside(place) as new:
            files.write_synced(new / "new", b"")
            files.put_folder(new, place, replace)

    with contextlib.nullcontext() if replace else pytest.raises(OSError, match="not empty"):
        put()
    assert [path.name for path in place.iterdir()] == ["new" if replace else "old"]
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("done", [0, 1])
def test_what_is_done_is_kept_until_all_of_it_is(tmp_path: Path, done: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path, state, seen = tmp_path / "result.partial", ["none"], []

    def run(stopped: bool) -> None:
        with files.resumable(path, lambda: state[0].encode(), lambda: done, InputError) as save:
            for wait, state[0] in ((1e9, "some"), (-1, "more"), (1e9, "most")):
                seen.append(path.read_text())
                monkeypatch.setattr(files, "SAVE_SECONDS", wait)
                save()
            if stopped:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(stopped=True)
    assert seen == [
        "none",
        "none",
        "more",
    ]  # at once, so that a bad place is found out; then when it is time
    assert [kept.read_text() for kept in tmp_path.iterdir()] == ["most"] * done
    run(stopped=False)
    assert not list(tmp_path.iterdir())
