"""What the README tells people to type is there to be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import readme

from refinenet_edge.cli import build_engine, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def commands() -> list[list[str]]:
    """The words of each command line in the README's shell blocks."""
    lines: list[str] = []
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL):
        lines += block.replace("\\\n", " ").splitlines()
    inline = re.findall(r"`((?:build-engine|refinenet-edge) [^`]+)`", README)
    return [words for line in [*lines, *inline] if (words := shlex.split(line, comments=True))]


def test_there_are_commands() -> None:
    assert len([words for words in commands() if words[0] == "refinenet-edge"]) >= 5


@pytest.mark.parametrize("words", [w for w in commands() if w[0] in ("refinenet-edge", "build-engine")], ids=" ".join)
def test_a_command_is_understood(words: list[str]) -> None:
    program, *arguments = words
    command: click.Command = build_engine
    if program == "refinenet-edge":
        command = main.commands[arguments.pop(0)]
    if arguments:  # `doctor` and a bare `eval` in a sentence are names
        command.make_context(program, arguments)


@pytest.mark.parametrize("words", [w for w in commands() if w[0] == "make"], ids=" ".join)
def test_a_make_target_exists(words: list[str]) -> None:
    assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


def test_the_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert all((ROOT / link).exists() for link in links)


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_the_python_compiles_and_its_imports_are_there(block: str) -> None:
    compile(block, "README.md", "exec")
    exec("\n".join(line for line in block.splitlines() if line.startswith(("import ", "from "))))


def test_the_results_are_those_of_the_files() -> None:
    assert readme.filled(README) == README
    assert readme.BLOCK.search(README)
