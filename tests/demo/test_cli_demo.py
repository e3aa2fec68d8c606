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

import pytest
from click.testing import CliRunner

from refinenet_edge import cli
from refinenet_edge.cli import main
from tests.demo.fakes import read_video, write_video


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


def test_the_shipped_model_is_built_once(mobile_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Path] = []

    def build(recipe: Any, step: Any) -> None:
        assert recipe.checkpoint == "scenes"
        built.append(Path(recipe.output))
        os.symlink(mobile_bundle, recipe.output)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("refinenet_edge.build.build", build)
    assert cli.demo.shipped_bundle() == cli.demo.shipped_bundle() == built[0]
    assert len(built) == 1 and tmp_path in built[0].parents


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_recording_that_plays(mobile_bundle: Path, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out.mp4"
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
            stream.read(300_000)  # a few pictures were shown
            begun = time.monotonic()
            demo.send_signal(number)
            rest, _ = demo.communicate(timeout=20)
            taken = time.monotonic() - begun
    finally:
        demo.kill()
    assert demo.returncode == 0, rest
    assert "frames in" in rest and "Traceback" not in rest
    assert len(read_video(out)) > 1
    assert list(tmp_path.iterdir()) == [out]
    assert taken < 2
