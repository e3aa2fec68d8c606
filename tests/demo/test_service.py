"""The service of examples/: what it runs is a command of ours, and systemd takes the unit."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from refinenet_edge.cli.demo import demo

EXAMPLES = Path(__file__).parents[2] / "examples"
UNIT = (EXAMPLES / "refinenet-edge-demo.service").read_text("utf-8")
SETTINGS = dict(
    line.split("=", 1)
    for line in (EXAMPLES / "refinenet-edge-demo.env").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
)


def started() -> list[str]:
    """The words of ExecStart, with the settings in their places."""
    (line,) = re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
    return [re.sub(r"\$\{(\w+)\}", lambda name: SETTINGS[name[1]], word) for word in shlex.split(line)]


def test_what_it_runs_is_a_command_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    program, command, *arguments = started()
    assert Path(program).name == "refinenet-edge" and command == "demo"
    asked = demo.make_context(command, arguments).params
    assert asked["bundles"] == (Path(SETTINGS["BUNDLE"]),) and asked["sources"] == ("0",)
    assert (asked["view"], asked["host"], asked["port"]) == ("web", "0.0.0.0", 8321)
    assert asked["token"] is None  # one is made
    monkeypatch.setenv("REFINENET_EDGE_TOKEN", "a-token-of-some-length")
    assert demo.make_context(command, arguments).params["token"] == "a-token-of-some-length"


def test_every_setting_is_read() -> None:
    (token,) = [option.envvar for option in demo.params if isinstance(option, click.Option) and option.name == "token"]
    assert {*re.findall(r"\$\{(\w+)\}", UNIT), token} == SETTINGS.keys()


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze: apt-get install systemd")
    program = tmp_path / "refinenet-edge"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "refinenet-edge-demo.service"
    unit.write_text(UNIT.replace(started()[0], str(program)))
    found = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, timeout=60, env=os.environ)
    assert (found.returncode, found.stderr) == (0, "")
    unit.write_text(UNIT.replace(started()[0], str(program)).replace("Restart=always", "Restart=forever"))
    found = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, timeout=60, env=os.environ)
    assert "forever" in found.stderr
