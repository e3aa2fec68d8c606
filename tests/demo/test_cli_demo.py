from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import cv2
import pytest
from click.testing import CliRunner

from refinenet_edge import cli
from refinenet_edge.cli import main
from tests.demo.fakes import read_video, write_video
from tests.patience import TooSlow, promises_a_time


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(main, ["demo", *map(str, arguments)])


def test_a_file_becomes_a_recording(mobile_bundle: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "in.avi", [10, 90, 170, 250], rate=8)
    out = tmp_path / "out.mp4"
    given = ("--source", tmp_path / "in.avi", "--rate", "full", "--view", "none", "--record", out, "--opacity", "0")
    done = run(mobile_bundle, *given)
    assert done.exit_code == 0, done.output
    assert "4 frames" in done.output and "dropped" not in done.output
    assert len(read_video(out)) == 4


def test_it_stops_after_so_many_frames(mobile_bundle: Path) -> None:
    done = run(mobile_bundle, "--source", "scenes", "--view", "none", "--frames", "2")
    assert done.exit_code == 0 and done.output.startswith("2 frames in")


def test_sources_together_share_one_recording(mobile_bundle: Path, tmp_path: Path) -> None:
    for name, count in (("a.avi", 3), ("b.avi", 2)):
        write_video(tmp_path / name, [60] * count, rate=8)
    out = tmp_path / "out.webm"
    sources = [part for name in ("a.avi", "b.avi") for part in ("--source", tmp_path / name)]
    done = run(mobile_bundle, *sources, "--together", "--rate", "full", "--view", "none", "--record", out)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("5 frames") and "dropped" not in done.output
    frames = read_video(out)
    assert len(frames) == 5 and frames[0].shape == (360, 1280, 3)
    assert cv2.VideoCapture(str(out)).get(cv2.CAP_PROP_FPS) == 16


def test_a_web_page_says_where_it_is(mobile_bundle: Path) -> None:
    done = run(mobile_bundle, "--source", "scenes", "--view", "web", "--port", "0", "--frames", "2")
    assert done.exit_code == 0 and re.search(r"http://127\.0\.0\.1:\d+/ ", done.output), done.output


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--source", "nowhere"), "no source"),
        (("--source", "97", "--view", "none"), "camera 97 does not open"),
        (("--record", "out.avi"), ".mp4"),
        (("--view", "web", "--token", "short"), "token"),
        (("--view", "window"), "--view web"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_line(
    mobile_bundle: Path, given: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    done = run(mobile_bundle, *given)
    assert done.exit_code == 2 and said in done.output
    assert len(done.output.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["scenes", "people"])
def test_a_shipped_model_is_built_once(
    name: str, mobile_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Path] = []
    sizes: list[tuple[int, int]] = []

    def build(recipe: Any, step: Any) -> None:
        assert recipe.checkpoint == name
        sizes.append(recipe.size)
        built.append(Path(recipe.output))
        os.symlink(mobile_bundle, recipe.output)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("refinenet_edge.build.build", build)
    assert cli.demo.shipped_bundle(name, (64, 96)) == cli.demo.shipped_bundle(name, (64, 96)) == built[0]
    assert len(built) == 1 and tmp_path in built[0].parents
    assert cli.demo.shipped_bundle(name, (96, 64)) == built[1] != built[0]
    assert sizes == [(64, 96), (96, 64)]


def test_where_a_shipped_model_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--out of demo is for pictures: it is not what helps."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    done = run("--source", "scenes", "--view", "none", "--frames", "1")
    assert done.exit_code == 2
    assert "cannot be made: Not a directory; name a bundle, or another place" in " ".join(done.output.split())
    assert "--out" not in done.output


@pytest.mark.parametrize(
    ("sources", "opened", "said"),
    [
        (("scenes",), ["scenes 512x512"], ""),
        (("PHOTOS",), ["people 448x448"], ""),
        (("PHOTOS", "scenes:3:4", "scenes"), ["people 448x448", "scenes 512x512"], ""),
        ((), ["scenes 512x512", "people 448x448"], "; next source: photos of people (--source names another)"),
    ],
)
def test_without_a_bundle_each_source_has_the_shipped_model_made_for_it(
    sources: tuple[str, ...],
    opened: list[str],
    said: str,
    photos: Path,
    mobile_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = bundles_asked_for(mobile_bundle, monkeypatch)
    monkeypatch.setattr(cli.demo, "CAMERA", Path("/nowhere/video0"))
    options = [part for text in sources for part in ("--source", text.replace("PHOTOS", str(photos)))]
    done = run(*options, "--view", "none", "--frames", "2")
    assert done.exit_code == 0, done.output
    assert asked == opened
    assert said in done.output


NO_CAMERA = "drawn streets, as there is no camera at /nowhere/video0"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("BUNDLE",), (NO_CAMERA,)),
        ((), (NO_CAMERA, "photos of people")),
        (("BUNDLE", "--source", "scenes:3:4"), ("scenes:3:4",)),
    ],
    ids=str,
)
def test_the_page_says_what_is_looked_at_and_why(
    given: tuple[str, ...], named: tuple[str, ...], mobile_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, ...]] = []

    class Seen:
        """A page that keeps what its list of sources has."""

        written = False

        def wanted(self) -> bool:
            return True

        def show(self, _: Any, figures: Any) -> None:
            seen.append(figures.playing.sources)

        def close(self) -> None: ...

    bundles_asked_for(mobile_bundle, monkeypatch)
    monkeypatch.setattr(cli.demo, "CAMERA", Path("/nowhere/video0"))
    monkeypatch.setattr(cli.demo, "_serve", lambda show, *_: show.views.append(Seen()))
    done = run(*(mobile_bundle if word == "BUNDLE" else word for word in given), "--view", "web", "--frames", "2")
    assert done.exit_code == 0, done.output
    assert set(seen) == {named}
    assert ("no camera at /nowhere/video0" in done.output) == (NO_CAMERA in named)


def bundles_asked_for(instead: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fills with the shipped bundles that are asked for; `instead` is what everybody gets."""
    asked: list[str] = []

    def shipped_bundle(name: str, size: tuple[int, int]) -> Path:
        asked.append(f"{name} {size[0]}x{size[1]}")
        return instead

    monkeypatch.setattr(cli.demo, "shipped_bundle", shipped_bundle)
    return asked


def test_a_camera_that_is_there_is_looked_at_with_the_model_for_people(
    mobile_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = bundles_asked_for(mobile_bundle, monkeypatch)
    monkeypatch.setattr(cli.demo, "CAMERA", tmp_path)
    done = run("--view", "none", "--frames", "2")
    assert asked == ["people 384x512", "scenes 512x512"]
    assert done.exit_code == 2 and "camera 0 does not open" in done.output  # there is none behind that path


@promises_a_time
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("name", "most"), [("out.webm", 2), ("out.mp4", 10)])  # VP9 is slow on a busy machine
def test_ctrl_c_leaves_a_recording_that_plays(
    mobile_bundle: Path, tmp_path: Path, number: signal.Signals, name: str, most: float
) -> None:
    out = tmp_path / name
    command = [sys.executable, "-u", "-m", "refinenet_edge.cli", "demo", str(mobile_bundle), "--source", "scenes"]
    demo = subprocess.Popen(
        [*command, "--view", "web", "--port", "0", "--record", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert demo.stdout
        address = re.search(r"http://\S+", demo.stdout.readline())
        assert address
        with urllib.request.urlopen(address[0] + "stream", timeout=30) as stream:
            stream.read(300_000)  # a few pictures were shown, so the recording has begun
            shown_until = time.monotonic() + 2.5  # a busy machine records one picture a second
            while time.monotonic() < shown_until:
                stream.read(20_000)
            begun = time.monotonic()
            demo.send_signal(number)
            rest, _ = demo.communicate(timeout=60)
            taken = time.monotonic() - begun
    finally:
        demo.kill()
    assert demo.returncode == 0, rest
    assert "frames in" in rest and "Traceback" not in rest
    assert len(read_video(out)) > 1
    assert list(tmp_path.iterdir()) == [out]
    if taken >= most:
        raise TooSlow(f"{taken:.2f} s, expected less than {most}")
