"""What comes from files is shown as it is: nothing in it is markup, and no control character reaches the terminal."""

from __future__ import annotations

import io
import logging

import pytest
from click.testing import CliRunner
from rich.table import Table

from refinenet_edge import cli
from refinenet_edge.cli import command, screen
from refinenet_edge.cli.screen import Screen, print_next, progress_bar, styled

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
