"""What comes from files is shown as it is: nothing in it is markup, and no control character reaches the terminal."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from click.testing import CliRunner
from rich.table import Table

from refinenet_edge import cli
from refinenet_edge.cli import command, screen
from refinenet_edge.cli.screen import Screen, print_next, progress_bar, styled
from tests.runtime.tinynet import CLASSES, tiny

HOSTILE = "[/] [red]x[/red] :car: \x1b[2J\x1b]0;title\x07 \x9b31m a\rb \u202e\udc80"
SHOWN = r"[/] [red]x[/red] :car: \x1b[2J\x1b]0;title"  # rich itself drops a bell and a carriage return
LEAKS = ("\x1b", "\x07", "\x9b", "\r", "\u202e", "\udc80")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What both screens write, as wide as it has to be, without styles."""
    written = io.StringIO()
    for module in (screen, command):
        for name in ("out", "err"):
            if hasattr(module, name):
                shown = Screen()
                shown.file, shown.width, shown.no_color = written, 500, True
                monkeypatch.setattr(module, name, shown)
    return written


def clean(written: io.StringIO) -> str:
    text = written.getvalue()
    assert SHOWN in text
    assert not [ascii(leak) for leak in LEAKS if leak in text]
    return text


def test_text_a_title_and_a_cell(terminal: io.StringIO) -> None:
    table = Table("heading", title=HOSTILE)
    table.add_row(HOSTILE)
    screen.out.print(HOSTILE, soft_wrap=True)
    screen.out.print(table)
    screen.out.print(styled("error:", "red", HOSTILE), soft_wrap=True)
    print_next(HOSTILE)
    assert clean(terminal).count(SHOWN) == 5


def test_a_progress_bar(terminal: io.StringIO) -> None:
    bar = progress_bar()
    bar.add_task(HOSTILE, total=3)
    screen.err.print(bar)
    clean(terminal)


def test_an_error_with_and_without_its_trace(terminal: io.StringIO) -> None:
    for words in (["inspect", HOSTILE], ["inspect", HOSTILE, "--debug"]):
        assert CliRunner().invoke(cli.main, words).exit_code == 2
    assert "Traceback (most" in clean(terminal)


def test_a_warning_of_the_log(terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest would keep it for its report, which xdist cannot send with half a surrogate pair in it
    monkeypatch.setattr(logging.getLogger("refinenet_edge"), "propagate", False)
    CliRunner().invoke(cli.main, ["inspect", "none"])  # which sets the log up
    logging.getLogger("refinenet_edge.bundle").warning("%s", HOSTILE)
    clean(terminal)


def test_styles_still_reach_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = Screen()
    with shown.capture() as captured:
        shown.print(styled("error:", "red", f" {HOSTILE}"), soft_wrap=True)
    assert captured.get().startswith(f"\x1b[31merror:\x1b[0m {SHOWN}")


LINES = (
    "build --onnx net.onnx --labels labels.txt --backend onnxruntime --out net --explain -v",
    "build --onnx net.onnx --output-name none --out none",
    "build --onnx odd.onnx --out none",
    "build --checkpoint weights.pth --out none",
    "inspect net",
    "run net scenes:1:1 --out out --debug",
    "dla-check net",
    "calibrate net --frames scenes:1:1 --out r.json",
)
PROGRAM = """
import shlex, sys
from refinenet_edge.cli import main
for line in sys.argv[1:]:
    try:
        main(shlex.split(line))
    except SystemExit as exc:
        assert exc.code in (0, 2)
class Broken(Exception): ...
main.commands["models"].callback = lambda **_: (_ for _ in ()).throw(Broken("models \\x1b[2J"))
main(["models"])
"""


def test_no_name_in_a_file_reaches_the_terminal_as_it_is(tmp_path: Path) -> None:
    """Nor by way of a library that writes to the terminal itself, nor in a trace of Python's."""
    bad = "\x1b[2J\x9b31m"
    model = tiny("float32", (32, 48))
    (node,) = model.graph.node
    node.name = f"node{bad}"
    for names in (node.input, node.output):
        names[:] = [f"{name}{bad}" for name in names]
    for named in (model.graph, *model.graph.input, *model.graph.output, *model.graph.initializer):
        named.name += bad
    onnx.save(model, tmp_path / "net.onnx")
    node.op_type += bad
    onnx.save(model, tmp_path / "odd.onnx")
    (tmp_path / "labels.txt").write_text("".join(f"c{label}{bad}\n" for label in range(CLASSES)))
    torch.save({f"weight{bad}": torch.zeros(2)}, tmp_path / "weights.pth")
    done = subprocess.run([sys.executable, "-c", PROGRAM, *LINES], cwd=tmp_path, capture_output=True, check=False)
    printed = (done.stdout + done.stderr).decode()
    for name in ("logits", "c0", "weight", "Conv", "models "):
        assert f"{name}\\x1b[2J" in printed, name
    assert not {character for character in printed if not character.isprintable()} - {"\n"}
    assert "Traceback (most" in printed and "Broken" in printed and done.returncode == 1
