"""Every step of writing fails once: the old or the new is there, whole, with one error and no litter."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result

from refinenet_edge import files
from refinenet_edge.bench.record import read_run
from refinenet_edge.bundle import open_bundle
from refinenet_edge.calibration.ranges import read_ranges
from refinenet_edge.cli import main
from refinenet_edge.frames.images import read_image
from refinenet_edge.frames.video import VideoFile
from tests.demo.fakes import write_video
from tests.evaluation.data import plain
from tests.runtime.tinynet import CLASSES, tiny

STEPS = ("open", "mkdir", "fsync", "replace", "rename")
MOST = 60  # steps of a command


def images(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        read_image(path)


def plays(path: Path) -> None:
    with contextlib.closing(VideoFile(path)) as video:
        assert video.count() == FRAMES


FRAMES = 4
LIVE = f"demo net --source drive.avi --frames {FRAMES} --rate full --view none"
COMMANDS: dict[str, tuple[str, str, Callable[[Path], object]]] = {  # what writes, what it writes, how that is read
    "build": ("build --onnx net.onnx --backend onnxruntime --out net", "net", open_bundle),
    "calibrate": ("calibrate net --frames scenes:1:2 --out r.ranges.json", "r.ranges.json", read_ranges),
    "bench": ("bench net --brief --rounds 2 --frames scenes:1:1 --out r.json", "r.json", read_run),
    "batch": ("batch net scenes:1:2 --out labels", "labels", images),
    "run": ("run net scenes:1:1 --out masks", "masks", images),
    "eval": ("eval net plain:data --out score.json", "score.json", Path.read_bytes),
    "record": (f"{LIVE} --record r.mp4", "r.mp4", plays),
}


def typed(line: str) -> Result:
    return CliRunner().invoke(main, shlex.split(line))


class Failing:
    """Lets step number `at` of the package's own writing fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, number: int) -> None:
        self.seen, self._at, self._number = 0, at, number
        for name in STEPS:
            monkeypatch.setattr(os, name, self._step(name, getattr(os, name)))

    def _step(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*given: Any, **named: Any) -> Any:
            ours = sys._getframe(1).f_globals["__name__"].startswith("refinenet_edge")
            if ours and (name != "open" or given[1] & os.O_CREAT):
                self.seen += 1
                if self.seen == self._at:
                    raise OSError(self._number, os.strerror(self._number), str(given[0]))
            return real(*given, **named)

        return step


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    onnx.save(tiny("float32", (32, 48)), "net.onnx")
    plain(Path("data"), CLASSES, 1)
    write_video(Path("drive.avi"), range(0, 10 * FRAMES, 10))
    done = typed(COMMANDS["build"][0])
    assert done.exit_code == 0, done.output
    return tmp_path / "work"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_step_of_writing_fails_once(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line, out, read = COMMANDS[name]
    done = typed(line)
    assert done.exit_code == 0, done.output
    read(folder / out)
    clean = sorted(folder.rglob("*"))
    for at in range(1, MOST):
        number = (errno.ENOSPC, errno.EROFS, errno.EIO)[at % 3]
        with monkeypatch.context() as patched:
            failing = Failing(patched, at, number)
            if name == "batch":  # or there is nothing to do
                for path in (folder / out).glob("**/*.png"):
                    path.unlink()
            done = typed(line)
        assert isinstance(done.exception, (SystemExit, type(None))), (at, done.exception)
        assert done.exit_code in (0, 2, 4), (at, done.output)
        if done.exit_code:
            errors = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
            assert len(errors) <= 1 and "Traceback" not in done.output, (at, done.output)
        read(folder / out)
        if name != "batch" or not done.exit_code:
            # where it goes on the next time
            assert [path for path in sorted(folder.rglob("*")) if ".partial" not in path.name] == clean, at
        if failing.seen < at:
            break
    assert 1 < at < MOST - 1
    assert typed(line).exit_code == 0
    assert sorted(folder.rglob("*")) == clean


class Disk:
    """What would be there after a power cut: the bytes and names that were synced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._synced: dict[int, tuple[int, int]] = {}
        self.put: list[str] = []
        self.unnamed: set[int] = set()  # folders in which names changed since
        fsync, replace, rename, exchange = os.fsync, os.replace, os.rename, files.exchange

        def syncing(descriptor: int) -> None:
            fsync(descriptor)
            status = os.fstat(descriptor)
            self._synced[status.st_ino] = (status.st_size, status.st_mtime_ns)
            self.unnamed.discard(status.st_ino)

        def checked(put: Callable[..., Any]) -> Callable[..., Any]:
            def step(new: Any, place: Any) -> Any:
                if sys._getframe(1).f_globals["__name__"].startswith("refinenet_edge"):
                    self._look(Path(new), Path(place))
                    self.unnamed.add(Path(place).parent.stat().st_ino)
                return put(new, place)

            return step

        monkeypatch.setattr(os, "fsync", syncing)
        for name, put in (("replace", replace), ("rename", rename)):
            monkeypatch.setattr(os, name, checked(put))
        monkeypatch.setattr(files, "exchange", checked(exchange))

    def _look(self, new: Path, place: Path) -> None:
        for path in (new, *new.rglob("*")) if new.is_dir() else (new,):
            status = path.stat()
            known = (status.st_size, status.st_mtime_ns)
            assert self._synced.get(status.st_ino) == known, f"{path} is put at {place} and may not be on the disk"
        self.put.append(place.name)


# what they write, and whether its name is on the disk at the end, too
SYNCED = {
    **{name: (line, out, name == "build") for name, (line, out, _) in COMMANDS.items()},
    "report": ("report r.json --out r.html", "r.html", False),
    "export-deepstream": ("export-deepstream net --out stream", "stream", True),
    "export-triton": ("export-triton net --out models", "net", True),
}


@pytest.mark.parametrize("name", SYNCED)
def test_what_is_put_in_its_place_is_on_the_disk(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line, out, named = SYNCED[name]
    if name == "export-triton":
        pytest.importorskip("google.protobuf")
    if name == "report":
        assert typed(COMMANDS["bench"][0]).exit_code == 0
    disk = Disk(monkeypatch)
    for _ in range(1 if name.startswith("export") else 2):  # where nothing was, and where there is one
        done = typed(line)
        assert done.exit_code == 0, done.output
    assert (Path(out).name in disk.put) or name in ("batch", "run"), disk.put
    assert disk.put
    where = folder / "models" if name == "export-triton" else folder
    assert not named or where.stat().st_ino not in disk.unnamed


@pytest.mark.parametrize("name", ["export-deepstream", "export-triton"])
def test_what_a_killed_export_left_goes_with_the_next(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "export-triton":
        pytest.importorskip("google.protobuf")
    line, out, _ = SYNCED[name]
    out = "models" if name == "export-triton" else out
    left = folder / f".{out}.refinenet-edge"
    (left / "1").mkdir(parents=True)
    (left / "1" / "model.onnx").write_bytes(b"half")
    done = typed(line)
    assert done.exit_code == 0, done.output
    assert not left.exists()
    assert (folder / out).is_dir() and not list((folder / out).rglob(".*"))
