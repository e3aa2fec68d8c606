"""What all commands have: the group, how errors end them, the options that several take."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict

import click

from refinenet_edge import __version__
from refinenet_edge.bundle import Bundle, open_bundle
from refinenet_edge.cli import help as helps
from refinenet_edge.cli import screen
from refinenet_edge.cli.screen import err, styled
from refinenet_edge.errors import InputError, MissingExtra, PartFailed, RefineNetEdgeError, first_line, require_local
from refinenet_edge.recipe import parse_size
from refinenet_edge.records import WHOLE, Inference, MultiScale, Tiles

EXPORT = "'refinenet-edge[export]'"

# docs/commands.md has the table; click ends wrong usage with 2, too
EXIT_EXPECTED = 2
EXIT_CODES = {MissingExtra: 3, PartFailed: 4}
# C++, torch, OpenCV, the system, OpenVINO, Python's threads, a library that is loaded
OUT_OF_MEMORY = (
    *("bad_alloc", "can't alloc", "insufficient memory", "cannot allocate memory", "failed to allocate"),
    *("can't start new thread", "failed to map segment"),
)
EXIT_INTERRUPTED = 130
TAKE_URLS = ("source", "sources", "folder", "images", "frames", "calib", "judge", "ray", "public_url")


option = functools.partial(click.option, cls=helps.Option)
CONTEXT = {"help_option_names": ["-h", "--help"]}


class _Printing(click.Command):
    """A command whose help may not be printed, either; what Python says of an exception has no escape codes."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        sys.excepthook = lambda *raised: err.print("".join(traceback.format_exception(*raised)), soft_wrap=True)
        try:
            return super().main(*args, **kwargs)
        except OSError as exc:
            _print_error(_said_by_system(exc))
            raise SystemExit(EXIT_EXPECTED) from None


class Command(_Printing):
    """A command that turns our errors into one line, and says as much or as little as it is asked to."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"context_settings": CONTEXT, **kwargs})
        flags = (
            (["-q", "--quiet"], "Say nothing but results and errors."),
            (["-v", "--verbose"], "Say what is done, too."),
            (["--debug"], "Show the whole log, and the trace of an error."),
        )
        self.params += [click.Option(names, is_flag=True, help=text) for names, text in flags]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        helps.write_options(self, ctx, formatter)
        helps.write_examples(ctx, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        debug, verbose, quiet = (ctx.params.pop(name) for name in ("debug", "verbose", "quiet"))
        for printed in (sys.stdout, sys.stderr):
            if isinstance(printed, io.TextIOWrapper):
                printed.reconfigure(errors="backslashreplace")  # a terminal of ASCII has no "±"
        level = logging.DEBUG if debug else logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
        _log_to_stderr(level)
        screen.quiet = quiet
        code = 1
        try:
            _require_names(ctx.params)
            result = super().invoke(ctx)
            sys.stdout.flush()
            code = 0
            return result
        except RefineNetEdgeError as exc:
            said = _of_memory(exc)
            code = EXIT_EXPECTED if said else EXIT_CODES.get(type(exc), EXIT_EXPECTED)
            if debug:
                err.print(traceback.format_exc().rstrip(), soft_wrap=True)
            else:
                _print_error(said or str(exc))
        except BrokenPipeError:
            raise
        except (OSError, UnicodeEncodeError) as exc:
            if debug:
                raise
            code = EXIT_EXPECTED
            _print_error(_of_memory(exc) or _said_by_system(exc))
        except KeyboardInterrupt:
            code = EXIT_INTERRUPTED
            err.print("interrupted; nothing was left half-written")
        except Exception as exc:  # of whatever library: each has its own way to say that there is no memory
            if debug or not (said := _of_memory(exc)):
                raise
            code = EXIT_EXPECTED
            _print_error(said)
        finally:
            if stream := sys.modules.get("refinenet_edge.demo.stream"):
                stream.exit_with(code)
        return ctx.exit(code)


def _require_names(given: dict[str, Any]) -> None:
    """Raise `InputError` for a name that no result could be written with, as results are UTF-8, and for a URL where
    a file or folder is expected.
    """
    for name, value in given.items():
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and name not in TAKE_URLS:
                require_local(text)
            if isinstance(text, (str, Path)):
                try:
                    str(text).encode()
                except UnicodeEncodeError as exc:
                    raise InputError(f"{str(text)!r} is not UTF-8, as results are: rename it, or link to it") from exc


def _print_error(said: str) -> None:
    """One line, whatever the library below said."""
    err.print(styled("error:", "red", f" {' '.join(said.split())}"), soft_wrap=True)


def _of_memory(exc: Exception) -> str:
    """What is to be said where memory ran out, whichever library noticed it; "" where that is not what happened."""
    if isinstance(exc, SystemError) and isinstance(exc.__cause__, Exception):  # OpenCV's, with the reason as its cause
        exc = exc.__cause__
    if not isinstance(exc, MemoryError) and not any(words in str(exc).lower() for words in OUT_OF_MEMORY):
        return ""
    said = first_line(exc).split("; ")[0][:200]
    return (
        f"there is not enough memory ({said}): close what else takes it, or take a smaller network, frame or number of "
        "threads"
    )


def _said_by_system(exc: OSError | UnicodeEncodeError) -> str:
    if isinstance(exc, UnicodeEncodeError):
        return (
            f"{exc.object[max(exc.start - 40, 0) : exc.end]!r} is not UTF-8, as results are: rename that file or folder"
        )
    if exc.filename is None and exc.errno in (errno.ENOSPC, errno.EIO):
        with contextlib.suppress(OSError, ValueError):  # or it would be tried again at the end, and end in a trace
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return f"what is printed cannot be written: {exc.strerror}"
    return f"{exc.filename}: {exc.strerror}" if exc.filename and exc.strerror else str(exc)


class Group(_Printing, click.Group):
    """A group whose commands are ours."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"context_settings": CONTEXT, **kwargs})

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        helps.write_commands(self, ctx, formatter)


@click.group(cls=Group)
@click.version_option(__version__)
def main() -> None:
    """RefineNet segmentation on Jetson and desktop NVIDIA GPUs: checkpoint, engine, mask."""


allow_host_code = option(
    "--allow-host-code", is_flag=True, help="Run the runtime in a version-compatible plan: for bundles you trust."
)
with_json = option("--json", "as_json", is_flag=True, help="Print the result as JSON (docs/commands.md has its keys).")
BACKENDS = ("auto", "tensorrt", "tensorrt-lean", "tensorrt-dispatch", "tensorrt-rtx", "openvino", "onnxruntime")
MASK_FORMATS = ("png", "geojson", "coco", "coco-polygons", "csv")
with_backend = option("--backend", type=click.Choice(BACKENDS), default="auto", help="What runs the network.")


class LocalPath(click.Path):
    """A file or folder of this machine."""

    def __init__(self, **options: bool) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            require_local(str(value))  # as a path it would lose a slash
        except InputError as exc:
            self.fail(str(exc), param, ctx)
        return super().convert(value, param, ctx)


class Parsed(click.ParamType[Any]):
    """What `parse` makes of an option's text, which its help calls `name`; `parse` raises `InputError`."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parse(value) if isinstance(value, str) else value
        except InputError as exc:
            self.fail(str(exc), param, ctx)


SIZE = Parsed("HEIGHTxWIDTH", parse_size)


class Running(TypedDict):
    """How a network is run, by the names that `Segmenter` has for it."""

    backend: str
    allow_host_code: bool
    inference: Inference
    beside: tuple[Bundle, ...]


def with_running(command: Callable[..., None]) -> Callable[..., None]:
    """`command` gets `running`, what is said of how its network is run."""

    @with_backend
    @option("--scales", metavar="A,B,...", help="Average class scores over these scales, such as 0.8,1,1.2.")
    @option("--short-side", metavar="LEAST,MOST", help="Pixels of a frame's shorter side at scale 1, such as 450,800.")
    @option("--flip", is_flag=True, help="Average the class scores of the mirrored frame, too.")
    @option(
        "--with",
        "beside",
        multiple=True,
        metavar="BUNDLE",
        type=LocalPath(),
        help="A bundle of the network at another fixed size: its class scores are averaged, too. Repeatable.",
    )
    @option("--tiles", type=SIZE, help="Segment frames at their own size, in tiles of this size: for large ones.")
    @option(
        "--overlap",
        type=int,
        metavar="PIXELS",
        show_default="256, at most half a tile",
        help="How far tiles overlap, at least.",
    )
    @allow_host_code
    @functools.wraps(command)
    def asked(
        *,
        backend: str,
        scales: str | None,
        short_side: str | None,
        flip: bool,
        beside: tuple[Path, ...],
        tiles: Any,
        overlap: int | None,
        allow_host_code: bool,
        **more: Any,
    ) -> None:
        inference: Inference = WHOLE
        if tiles and (scales or short_side or flip):
            raise InputError("--tiles and --scales, --short-side or --flip exclude each other: leave one out")
        if overlap is not None and not tiles:
            raise InputError("--overlap is of --tiles: name their size, too")
        if tiles:
            inference = Tiles(tiles) if overlap is None else Tiles(tiles, overlap)
        if scales or short_side or flip:
            looks = _numbers(scales, "--scales 0.8,1,1.2") if scales else (1.0,)
            inference = MultiScale(looks, flip, _short_side(short_side) if short_side else None)
        others = tuple(map(open_bundle, beside))
        running = Running(backend=backend, allow_host_code=allow_host_code, inference=inference, beside=others)
        command(running=running, **more)

    return asked


def _numbers(text: str, example: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError as exc:
        raise InputError(f"{text!r} is not numbers with commas between, such as {example}") from exc


def _short_side(text: str) -> tuple[int, int]:
    sides = _numbers(text, "--short-side 450,800")
    if len(sides) != 2 or not all(side.is_integer() for side in sides):
        raise InputError(f"--short-side {text}: expected the least and the most pixels, such as 450,800")
    return int(sides[0]), int(sides[1])


unknown_below = option(
    "--unknown-below",
    "least",
    type=click.FloatRange(0, 1),
    metavar="CONFIDENCE",
    help="Make labels that are less sure than this unknown: 255.",
)


with_ray = option(
    "--ray",
    default="off",
    metavar="off|auto|ADDRESS",
    help="Use a Ray cluster; auto: the one that runs, else one on this machine. The result is the same.",
)


@contextlib.contextmanager
def heavy(install: str) -> Iterator[None]:
    """Imports of a stage that a device does not have; `install`: what pip is to install for it."""
    try:
        yield
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("refinenet_edge"):
            raise
        raise MissingExtra(f"{exc.name} is not installed: pip install {install}") from exc


class _OnScreen(logging.Handler):
    """The log on stderr, above the progress bar; warnings and worse in red."""

    def emit(self, record: logging.LogRecord) -> None:
        name = record.levelname
        style = "red" if record.levelno >= logging.WARNING else ""
        err.print(styled(f"{name}:", style, f" {record.getMessage()}"), soft_wrap=True)


def _log_to_stderr(level: int) -> None:
    package = logging.getLogger("refinenet_edge")
    package.handlers[:] = [_OnScreen()]
    package.setLevel(level)
