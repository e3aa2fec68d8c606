"""What messages tell the user to type: every command and option of it exists, and what is printed most is run."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import click
import onnx
import pytest
import tomllib
from click.testing import CliRunner, Result
from packaging.requirements import Requirement

from refinenet_edge.bundle import MODEL, open_bundle
from refinenet_edge.cli import build_engine, main
from refinenet_edge.frames.images import read_image, write_image
from tests.cluster.inputs import pictures
from tests.demo.fakes import write_video
from tests.evaluation.data import plain
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


# each command that a message or a help page has, as it is found; below it, where that is another, the line that is run
# for it, in this order: what is a user's own has a name, what takes long is small, TensorRT-RTX stands for TensorRT
LINES = """
refinenet-edge build --checkpoint people -o engines/people
    refinenet-edge build --checkpoint people -o engines/people --size 64x64 --backend onnxruntime
refinenet-edge build
    refinenet-edge build --checkpoint people -o engines/people --size 64x64 --backend onnxruntime
build-engine --onnx model.onnx -o engines/mine
    build-engine --onnx model.onnx -o engines/mine --backend onnxruntime
build-engine engines/scenes_int8.toml
    build-engine engines/scenes_int8.toml --size 64x64 --backend onnxruntime
build-engine engines/NAME.toml
    build-engine engines/scenes_int8.toml --size 64x64 --backend onnxruntime
refinenet-edge calibrate engines/people --frames photos -o calib/mine.ranges.json
refinenet-edge calibrate
    refinenet-edge calibrate engines/people --frames photos -o calib/mine.ranges.json
refinenet-edge calibrate BUNDLE --frames X X --out FILE
    refinenet-edge calibrate engines/mine --frames photos --method minmax --out r.json
refinenet-edge inspect engines/people
refinenet-edge models --size 1080x1920
refinenet-edge doctor
refinenet-edge dla-check engines/people
refinenet-edge dla-check BUNDLE
    refinenet-edge dla-check engines/people
refinenet-edge run engines/people photo.jpg -o masks
refinenet-edge run
    refinenet-edge run engines/people photo.jpg -o masks
refinenet-edge run X IMAGE --out DIR
    refinenet-edge run engines/people photo.jpg --out masks
refinenet-edge run engines/people a.mp4 -o masks
refinenet-edge compare engines/people engines/people_int8 photos
    refinenet-edge compare engines/people engines/people photos
refinenet-edge eval engines/scenes scenes:1:20
    refinenet-edge eval engines/scenes_int8 scenes:1:2
refinenet-edge eval engines/mine voc:data -o r.json
    refinenet-edge eval engines/people plain:data -o r.json
refinenet-edge demo
    refinenet-edge demo engines/people --source photo.jpg --view none --frames 1
refinenet-edge demo engines/people --source rtsp://camera/stream
    refinenet-edge demo engines/people --source a.mp4 --view none --frames 1
refinenet-edge bench engines/people --against torch,onnxruntime -o result.json
    refinenet-edge bench engines/people --against onnxruntime -o before.json --brief --rounds 2 --frames scenes:1:1
refinenet-edge bench BUNDLE -o result.json
    refinenet-edge bench engines/mine -o result.json --brief --rounds 2 --frames scenes:1:1
refinenet-edge bench -o X
    refinenet-edge bench engines/people -o after.json --brief --rounds 2 --frames scenes:1:1
refinenet-edge bench compare before.json after.json
refinenet-edge report result.json -o result.html
refinenet-edge estimate rf_lw50 --device orin-nano
refinenet-edge batch engines/people videos -o labels
refinenet-edge export-deepstream engines/plain -o deepstream
refinenet-edge export-triton engines/people -o repository
refinenet-edge plan engines/people --backend tensorrt
    refinenet-edge plan engines/mine --backend tensorrt-rtx --workspace-mib 256
refinenet-edge plan
    refinenet-edge plan engines/mine --backend tensorrt-rtx --workspace-mib 256
refinenet-edge plan X --backend X
    refinenet-edge plan engines/mine --backend tensorrt-rtx --workspace-mib 256
refinenet-edge plan ... --workspace-mib 256
    refinenet-edge plan engines/mine --backend tensorrt-rtx --workspace-mib 256
refinenet-edge inspect engines/people/model.plan
    refinenet-edge inspect engines/mine/model.plan
"""


def printed() -> list[str]:
    """The commands as they are found, without what follows them in a sentence."""
    texts = {text for _, text in found(r"((?:refinenet-edge (?=[a-z])|build-engine (?=[-e])).*?)(?:, |;|`|\.?$)")}
    return sorted(text.removesuffix(", with X") for text in texts if text.split()[1] not in {"says", "keeps", "on"})


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the commands name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for folder in ("engines", "calib"):
        (tmp_path / folder).mkdir()
    onnx.save(tiny("float32", (32, 48)), "model.onnx")
    Path("engines/scenes_int8.toml").write_text('checkpoint = "scenes"\noutput = "engines/scenes_int8"\n')
    pictures(Path("photos"), 1)
    write_image("photo.jpg", read_image("photos/0.png"))
    write_video(tmp_path / "a.avi", [10, 200]).rename("a.mp4")
    Path("videos").mkdir()
    shutil.copy("a.mp4", "videos")
    plain(Path("data"), 2, 2)
    done = typed("build-engine --onnx model.onnx -o engines/plain --io plain --backend tensorrt-rtx --no-plan")
    assert done.exit_code == 0, done.output
    return tmp_path


def test_each_command_that_is_printed_does_what_it_says(prepared: Path) -> None:
    lines: dict[str, str] = {}
    for line in LINES.strip().splitlines():
        if line.startswith(" "):
            lines[list(lines)[-1]] = line.strip()
        else:
            lines[line] = line
    assert sorted(lines) == printed()
    failed = {}
    for line in dict.fromkeys(lines.values()):
        needs = {"export-triton": "tritonclient", "engines/mine/model.plan": "tensorrt_rtx", " plan ": "tensorrt_rtx"}
        if all(find_spec(library) for word, library in needs.items() if word in line):
            done = typed(line)
            slower = "bench compare" in line and "% longer" in done.output  # two runs of two rounds, on a busy machine
            if done.exit_code and not slower:
                failed[line] = done.output[-600:] or repr(done.exception)
    assert failed == {}


def test_what_is_told_to_be_installed_is_what_pip_understands() -> None:
    named = found(r"pip install ([^;|]*?)(?:, (?!<)|;| builds| needs|$|\. )")
    assert len(named) > 20
    for where, text in named:
        for word in shlex.split(text):
            if word.startswith("-"):
                assert word in {"--force-reinstall", "--no-deps", "--no-cache-dir"}, (where, text)
            elif "X" not in word:
                assert Requirement(word).name, (where, text)
