"""What messages tell the user to type: every command and option of it exists, and what is printed most is run."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import onnx
import pytest
import tomllib
from click.testing import CliRunner, Result

from refinenet_edge.bundle import MODEL, open_bundle
from refinenet_edge.cli import build_engine, main
from tests.cluster.inputs import pictures
from tests.runtime.tinynet import tiny

ROOT = Path(__file__).parents[1]
COMMANDS: dict[str, click.Command] = {"build-engine": build_engine, **main.commands}
FOREIGN = {  # options of pip and apt, venv, NVRTC and nvcc, git, ray, trtexec; a variable of CSS
    *("--force-reinstall", "--no-deps", "--no-cache-dir", "--reinstall", "--system-site-packages"),
    *("--gpu-architecture", "--std", "--fmad", "--ptxas-options", "--version"),
    *("--always", "--exclude", "--abbrev", "--dirty", "--head", "--save", "--strongly", "--page", "--no-"),
}
Message = tuple[str, str]  # where it is written, its text with X for what is filled in


def options_of(command: click.Command) -> set[str]:
    own = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    return own.union({"--help"}, *map(options_of, inner))


def messages() -> Iterator[Message]:
    """Every text in the package that is no docstring, in one piece where it is written in several."""
    for path in sorted((ROOT / "refinenet_edge").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                yield where, "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner | documents:
                yield where, node.value


MESSAGES = list(messages())


def found(pattern: str) -> list[Message]:
    return [(where, match[1]) for where, text in MESSAGES for match in re.finditer(pattern, text)]


def test_every_option_that_is_named_exists() -> None:
    known = set().union(*(options_of(command) for command in COMMANDS.values())) | FOREIGN
    named = found(r"(?<![\w-])(--[a-z][a-z-]*)")
    assert len(named) > 150
    assert [one for one in named if one[1] not in known] == []


def test_every_command_that_is_named_exists_and_has_its_options() -> None:
    named = found(r"(refinenet-edge [a-z][a-z-]*(?: [^\s;,()]+)*|build-engine(?: [^\s;,()]+)*)")
    assert len(named) > 15
    for where, text in named:
        first, *words = text.split()
        name = first if first == "build-engine" else words.pop(0)
        assert name in COMMANDS or name in {"says", "keeps", "on"}, (where, text)
        if name in COMMANDS:
            options = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert options <= options_of(COMMANDS[name]), (where, text)


def test_every_extra_that_is_named_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = [(where, extra) for where, text in found(r"refinenet-edge\[([a-z,]+)\]") for extra in text.split(",")]
    assert len(named) > 8
    assert [one for one in named if one[1] not in extras] == []


def typed(line: str) -> Result:
    """What a line does, as a shell would take it."""
    program, *words = shlex.split(line)
    return CliRunner().invoke(build_engine if program == "build-engine" else main, words)


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle in the working folder, whose name a shell would take apart."""
    monkeypatch.chdir(tmp_path)
    onnx.save(tiny("float32", (32, 48)), "tiny net.onnx")
    done = typed("build-engine --onnx 'tiny net.onnx' --size 32x48 --backend onnxruntime --output 'a b; $(c)'")
    assert done.exit_code == 0, done.output
    return Path("a b; $(c)")


def test_a_damaged_bundle_is_built_again_by_the_command_in_its_error(odd: Path) -> None:
    before = open_bundle(odd).digest
    (odd / MODEL).write_bytes(b"damaged")
    refused = typed(f"refinenet-edge inspect {shlex.quote(str(odd))}")
    assert refused.exit_code == 2
    assert typed(" ".join(refused.stderr.split()).partition("build it again: ")[2]).exit_code == 0
    assert open_bundle(odd).digest == before


def test_the_ranges_of_a_bundle_are_built_by_the_command_that_follows_them(odd: Path) -> None:
    pictures(Path("in"), 2)
    done = typed(f"refinenet-edge calibrate {shlex.quote(str(odd))} --frames in --out 'my ranges.json'")
    assert done.exit_code == 0, done.output
    again = typed(done.stdout.rpartition("next: ")[2])
    assert again.exit_code == 0, again.output
    assert open_bundle(f"{odd}_int8").manifest.precision == "int8"


def test_a_result_is_reported_by_the_command_that_follows_it(odd: Path) -> None:
    name = shlex.quote(str(odd))
    done = typed(f"refinenet-edge bench {name} --brief --rounds 2 --frames scenes:1:1 --out 'r 1.json'")
    assert done.exit_code == 0, done.output
    again = typed(done.stdout.rpartition("next: ")[2])
    assert again.exit_code == 0, again.output
    assert Path("r 1.html").stat().st_size > 1000
