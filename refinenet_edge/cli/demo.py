"""camera -> masks on a screen: demo."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from refinenet_edge import __version__
from refinenet_edge.bundle import open_bundle
from refinenet_edge.cli.command import (
    EXPORT,
    LocalPath,
    allow_host_code,
    heavy,
    main,
    option,
    with_backend,
)
from refinenet_edge.cli.screen import err, out, progress_bar
from refinenet_edge.errors import BundleError, CheckpointError, InputError
from refinenet_edge.files import make_folder, sha256
from refinenet_edge.records import DEFAULT_SIZE, Recipe, Size

if TYPE_CHECKING:
    from refinenet_edge.demo import LiveSource, Show
    from refinenet_edge.demo.show import DemoSummary

PEOPLE = Path(__file__).parents[1] / "photos" / "people"
CAMERA = Path("/dev/video0")


@main.command("demo")
@click.argument("bundles", nargs=-1, metavar="[BUNDLE]...", type=LocalPath())
@option("--source", "sources", multiple=True, metavar="0|csi|URL|FILE|DIR|scenes", help="What to look at. Repeatable.")
@option("--together", is_flag=True, help="All sources at once, in a grid; one engine takes them in turn.")
@option(
    "--view",
    type=click.Choice(["web", "window", "none"]),
    show_default="window where there is one, otherwise web",
    help="Where it is shown.",
)
@option(
    "--out",
    "-o",
    "--record",
    "record",
    type=LocalPath(dir_okay=False),
    metavar="OUT.webm",
    help="File to record into what is shown: .webm or .mp4.",
)
@option(
    "--rate",
    type=click.Choice(["own", "full"]),
    default="own",
    help="How fast a file is played; full: its every frame, at once.",
)
@option("--opacity", type=click.FloatRange(0, 1), default=0.5, help="Of the classes on the frame.")
@option("--frames", type=click.IntRange(1), help="Stop after so many.")
@option("--port", type=click.IntRange(0, 65535), default=8321, help="Port of the web page.")
@option("--host", default="127.0.0.1", help="Address of the web page; 0.0.0.0: others may look, with a token.")
@option(
    "--token", envvar="REFINENET_EDGE_TOKEN", show_default="made for another --host", help="What others need to look."
)
@option("--public-url", metavar="URL", help="Where others see the page: behind a proxy, or by a name.")
@with_backend
@allow_host_code
def demo(
    bundles: tuple[Path, ...],
    sources: tuple[str, ...],
    together: bool,
    view: str | None,
    record: Path | None,
    rate: str,
    opacity: float,
    frames: int | None,
    port: int,
    host: str,
    token: str | None,
    public_url: str | None,
    backend: str,
    allow_host_code: bool,
) -> None:
    """Segment what a camera sees, while it sees it: in a web page or a window.

    Sources: 0 or /dev/video0, csi (Jetson), rtsp:// and http:// streams, video files, image folders, drawn scenes.
    Without BUNDLE it is a shipped model: for people, or for drawn scenes, as the source is. Without a camera or SOURCE
    these are drawn scenes, with their mIoU, and photos of people. Several bundles or sources: switch there, or see all
    sources --together.
    """
    # what OpenCV and FFmpeg say of a camera that is away, we say; they read this when they are imported
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    from refinenet_edge.demo import Model, Recording, Show, open_source
    from refinenet_edge.demo.figures import RecentWatts
    from refinenet_edge.overlay import OverlayStyle
    from refinenet_edge.runtime.cuda import gpu_bus_id
    from refinenet_edge.sensors import Meters

    repeat = view != "none" and record is None
    names = dict.fromkeys(sources) or _default_sources(bool(bundles))
    chosen = sources or tuple(names)
    _require_elsewhere(record, chosen)
    opened = [open_source(text, every_frame=rate == "full", repeat=repeat) for text in chosen]
    opened = [replace(source, name=names[text] or source.name) for text, source in zip(chosen, opened, strict=True)]
    # without bundles each source has the shipped model that was made for it
    shipped = [] if bundles else [_recipe_for(text) for text in chosen]
    recipes = list(dict.fromkeys(shipped))
    with contextlib.ExitStack() as stack:
        paths = bundles or [shipped_bundle(*recipe) for recipe in recipes]
        models = [stack.enter_context(Model.open(path, backend, allow_host_code)) for path in paths]
        recording = Recording(record, _rate_of(opened, together) if rate == "full" else None) if record else None
        # read when figures are made, not in a thread
        meters = stack.enter_context(Meters(gpu=gpu_bus_id(), period=None))
        model_of_source = [recipes.index(recipe) for recipe in shipped]
        show = Show(opened, models, OverlayStyle(opacity), recording, RecentWatts(meters), model_of_source, together)
        stack.callback(show.close)
        if view != "none" and not _opens_window(show, view):
            _serve(show, host, port, token, public_url)
        if not sources and not CAMERA.exists():
            out.print(
                "; next source: ".join(source.name for source in opened), "(--source names another)", soft_wrap=True
            )
        with _until_interrupted():
            show.run(frames)
    _say(show.summary(), record)


def _say(summary: DemoSummary, record: Path | None) -> None:
    rest = f", {summary.drops} that were older by then dropped" if summary.drops else ""
    out.print(f"{summary.frames} frames in {summary.seconds:.1f} s{rest}" + (f": {record}" if record else ""))


def _require_elsewhere(record: Path | None, sources: Sequence[str]) -> None:
    """Raise `InputError` where what is looked at would be recorded over."""
    for text in sources:
        if record and record.exists() and Path(text).exists() and record.samefile(text):
            raise InputError(f"{record} is what is looked at: give --record another name")


def _rate_of(sources: Sequence[LiveSource], together: bool) -> float | None:
    """Pictures a second of a recording with every frame in it; None: as they come."""
    rates = [source.rate for source in (sources if together else sources[:1])]
    known = [rate for rate in rates if rate is not None]
    return sum(known) if len(known) == len(rates) else None


def _opens_window(show: Show, view: str | None) -> bool:
    """Show it in a window, where that is asked for, or nothing is and there are windows; whether it is."""
    from refinenet_edge.demo.window import KEYS, Window, has_windows

    if view == "web" or (view is None and not has_windows()):
        return False
    show.views.append(Window(show))
    out.print(f"keys: {KEYS}")
    return True


def _serve(show: Show, host: str, port: int, token: str | None, public: str | None) -> None:
    """Show it in a web page too, and say where that is."""
    with heavy("'refinenet-edge[demo]'"):
        from refinenet_edge.demo.web import Web
    from refinenet_edge.demo.window import has_display

    web = Web(show, host, port, token, public)
    show.views.append(web)
    web.start()
    click.echo(f"open {click.style(web.address, bold=True)} (Ctrl-C ends it)")  # with its token
    if has_display() and out.is_terminal:
        click.launch(web.address)


def _default_sources(own_model: bool) -> dict[str, str | None]:
    """What is looked at where nobody said, and what the page calls it (None: by its address).

    The camera, where there is one, and what ships.
    """
    if CAMERA.exists():
        return {"0": None, "scenes": "drawn streets"}
    people = {} if own_model else {str(PEOPLE): "photos of people"}
    return {"scenes": f"drawn streets, as there is no camera at {CAMERA}", **people}


def _recipe_for(source: str) -> tuple[str, Size]:
    """The shipped model for a source, and the size it takes frames at: cameras lie, photos lie or stand."""
    from refinenet_edge.frames import Images, Scenes, parse

    address = parse(source)
    if isinstance(address, Scenes):
        return "scenes", DEFAULT_SIZE
    return "people", (448, 448) if isinstance(address, Images) else (384, 512)


def shipped_bundle(name: str, size: Size) -> Path:
    """The shipped model `name` for this machine and frames of `size`: built the first time, and kept."""
    from refinenet_edge.runtime.cache import cache_folder

    (weights,) = (Path(__file__).parents[1] / "weights").glob(f"*_{name}.safetensors")
    path = (
        cache_folder().with_name("bundles")
        / f"{__version__}-{sha256(weights, CheckpointError)[:12]}"
        / f"{name}-{size[0]}x{size[1]}"
    )
    try:
        open_bundle(path)
    except BundleError:
        with heavy(EXPORT):
            from refinenet_edge.build import build as build_bundle
        err.print(f"the shipped model is built into {path}, this once", soft_wrap=True)
        make_folder(path.parent, "name a bundle, or another place for such files by XDG_CACHE_HOME")
        recipe = Recipe(str(path), checkpoint=name, size=size)
        with progress_bar("start") as bar:
            build_bundle(recipe, bar.step)
    return path


@contextlib.contextmanager
def _until_interrupted() -> Iterator[None]:
    """What ends by Ctrl-C, and by SIGTERM as a service does; also where a shell ignores Ctrl-C for what it starts."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
