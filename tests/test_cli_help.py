"""How the commands explain themselves, and what they print for programs: help, examples, exit codes, JSON."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from refinenet_edge.cli import build_engine, help, main, screen

PAGE = (Path(__file__).parents[1] / "docs/commands.md").read_text("utf-8")
OURS = {"debug", "quiet", "verbose", "help", "version"}


def commands(group: click.Group = main, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command with its name, such as "bench run"."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


ALL = {**dict(commands()), "build-engine": build_engine}


@pytest.mark.parametrize("name", ALL)
def test_every_option_has_a_heading_and_a_sentence(name: str) -> None:
    headed = {option for options in help.HEADINGS.values() for option in options}
    for option in ALL[name].params:
        if isinstance(option, click.Option) and option.name not in OURS:
            assert option.name in headed, f"{name}: {option.opts}"
            said = option.help or ""
            assert re.fullmatch(r"[A-Z-].*(\.| \.\.\.)", said), f"{name} {option.opts}: {said!r}"
            assert not re.search(r"\[[^]]*\]", said), f"{name} {option.opts}: defaults are told by show_default"
            if isinstance(option.default, (str, int, float)) and option.default and not option.is_flag:
                assert option.show_default, f"{name} {option.opts}"


@pytest.mark.parametrize("name", ALL)
def test_the_help_of_a_command(name: str) -> None:
    words = [] if name == "build-engine" else name.split()
    command = build_engine if name == "build-engine" else main
    for flag in ("-h", "--help"):
        done = CliRunner().invoke(command, [*words, flag])
        assert done.exit_code == 0
        assert "Examples:" in done.output
        for example in help.EXAMPLES[name]:
            assert f"  {example}\n" in done.output
    assert CliRunner().invoke(command, ["--version"]).exit_code == 0


@pytest.mark.parametrize("name", ALL)
def test_examples_are_commands(name: str) -> None:
    for example in help.EXAMPLES[name]:
        program, *words = shlex.split(example)
        if program == "build-engine":
            build_engine.make_context(program, words)
            continue
        assert program == "refinenet-edge"
        group: Any = main
        while isinstance(group, click.Group):
            context = group.make_context(program, list(words), resilient_parsing=True)
            name, group, words = group.resolve_command(context, [*context._protected_args, *context.args])
        group.make_context(name, words)


def test_summaries_are_whole() -> None:
    said = CliRunner().invoke(main, ["--help"], terminal_width=80).output
    assert "..." not in said.partition("Commands:")[2].replace("BUNDLE...", "")


def test_the_output_is_out_everywhere() -> None:
    for name, command in ALL.items():
        writes = [option for option in command.params if isinstance(option, click.Option) and "-o" in option.opts]
        assert all("--out" in option.opts for option in writes), name
        assert writes or name in ("plan", "inspect", "models", "doctor", "dla-check", "compare", "bench compare")


# --- JSON


def said_as_json(*words: object) -> Any:
    done = CliRunner().invoke(main, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def row(command: str) -> str:
    """What docs/commands.md says of a command's JSON."""
    (found,) = (line for line in PAGE.splitlines() if line.startswith(f"| `{command}` |"))
    return found


def documented(command: str, record: dict[str, Any]) -> None:
    whole = "..." not in row(command)
    named = set(re.findall(r"`(\w+)`", row(command)))
    assert set(record) <= named or not whole, command
    assert named & set(record), command


def test_json(mobile_bundle: Path, photos: Path, tmp_path: Path) -> None:
    (finding, *_) = said_as_json("doctor") if CliRunner().invoke(main, ["doctor"]).exit_code == 0 else [{}]
    if finding:
        documented("doctor", finding)
    assert said_as_json("inspect", mobile_bundle)["model"] == "rf_lw_mbv2"
    (first, *_) = said_as_json("models", "--size", "64x64")
    documented("models", first)
    ran = said_as_json("run", mobile_bundle, photos, "-o", tmp_path / "out")
    documented("run", ran)
    documented("run", ran["images"][0])
    sizes = {image["image"]: (image["height"], image["width"]) for image in ran["images"]}
    assert sizes == {"a": (50, 70), "b": (96, 64)}
    assert sum(ran["images"][0]["shares"].values()) == pytest.approx(1)
    compared = said_as_json("compare", mobile_bundle, mobile_bundle, photos, "--second-backend", "onnxruntime")
    documented("compare", compared)
    documented("compare", compared["images"][0])
    checked = said_as_json("dla-check", mobile_bundle)
    documented("dla-check", checked)
    documented("dla-check", checked["placements"][0])
    documented("estimate", said_as_json("estimate", "rf_lw_mbv2", "--device", "orin-nano"))


def test_an_evaluation_as_json(tmp_path: Path) -> None:
    from tests.cluster.inputs import tiny_bundle
    from tests.evaluation.data import plain
    from tests.runtime.tinynet import CLASSES

    bundle = tiny_bundle(tmp_path / "tiny")
    result = said_as_json("eval", bundle, plain(tmp_path / "data", CLASSES))
    named = set(re.findall(r"`(\w+)`", row("eval")))
    assert named - {"eval"} <= set(result)


# --- exit codes and what is printed


def test_a_part_that_fails_ends_with_four(mobile_bundle: Path, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.png").write_bytes((photos / "a.png").read_bytes())
    (folder / "bad.png").write_bytes(b"no image")
    done = CliRunner().invoke(main, ["run", str(mobile_bundle), str(folder), "-o", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 4
    assert [image["image"] for image in json.loads(done.stdout)["images"]] == ["good"]
    assert "bad.png" in done.stderr


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(screen.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("quiet", [False, True])
def test_long_work_off_a_terminal_says_how_far_it_is(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    said = io.StringIO()
    monkeypatch.setattr(screen, "err", Console(file=said, width=80))
    monkeypatch.setattr(screen, "quiet", quiet)
    with screen.progress_bar() as bar:
        task = bar.add_task("trace", total=None)
        for second in range(1, 101):
            clock[0] += 1
            if second == 5:
                bar.update(task, description="prove")  # nothing is said of what is short
            if second == 20:
                bar.update(task, description="judge", total=160, completed=0)
            if second > 20:
                bar.advance(task)
    lines = (
        "20 s: judge, 0 of 160",
        "50 s: judge, 30 of 160, about 130 s more",
        "80 s: judge, 60 of 160, about 100 s more",
    )
    assert said.getvalue().splitlines() == ([] if quiet else list(lines))


def test_columns_of_numbers_are_never_broken() -> None:
    from rich.table import Table

    said = io.StringIO()
    table = Table("what", *screen.numbers("p50 ms", "times as fast"))
    table.add_row(
        "a name that is as long as a line of eighty columns, and then a bit longer", "1234.5", "0.329 (0.31..0.35)"
    )
    Console(file=said, width=60).print(table)
    assert "0.329 (0.31..0.35)" in said.getvalue()
    assert "1234.5" in said.getvalue()
