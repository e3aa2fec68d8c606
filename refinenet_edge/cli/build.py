"""checkpoint -> bundle: build (and `build-engine`), calibrate, plan."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shlex
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from refinenet_edge import __version__
from refinenet_edge.bundle import MODEL, open_bundle
from refinenet_edge.cli.command import (
    EXPORT,
    SIZE,
    Command,
    LocalPath,
    Parsed,
    heavy,
    main,
    option,
    with_ray,
)
from refinenet_edge.cli.screen import harms_table, manifest_table, out, percent, print_next, progress_bar
from refinenet_edge.errors import BundleError, InputError
from refinenet_edge.files import make_folder
from refinenet_edge.recipe import parse_channels, read_recipe
from refinenet_edge.records import ONE, PRECISIONS, Backend, Batch, Recipe

if TYPE_CHECKING:
    from refinenet_edge.fusion import Firing
    from refinenet_edge.records import Manifest, Range, Ranges

CHANNELS = Parsed("A,B,C", parse_channels)
BUILDERS = ("auto", *typing.get_args(Backend))


def _choice(flag: str, help: str, show_default: str | None = None) -> Any:
    """The option of a field of `Recipe` that is one of several words, or None."""
    words = typing.get_args(typing.get_type_hints(Recipe)[flag.removeprefix("--")])
    if not isinstance(words[0], str):
        words = typing.get_args(words[0])
    return option(flag, type=click.Choice(words), show_default=show_default, help=help)


def _switch(name: str, help: str, show_default: str | None = None) -> Any:
    """The option of a field of `Recipe` that is true or false; None: neither was said."""
    return option(f"--{name}/--no-{name}", default=None, show_default=show_default, help=help)


PLAN_OPTIONS = (
    option(
        "--target", multiple=True, metavar="SM", help="GPUs to build for, sm_75 to sm_121 (TensorRT-RTX). Repeatable."
    ),
    option("--workspace-mib", type=click.IntRange(16), show_default="1024", help="The builder's scratch memory."),
    option("--timing-cache", metavar="FILE", help="Read TensorRT's timings from here, and keep them."),
)
# the fields of `Recipe`, and what is said while it is built
BUILD_OPTIONS = (
    click.argument("recipe", required=False, type=LocalPath()),
    option("--out", "--output", "-o", "output", metavar="FOLDER", help="The bundle to write, such as engines/NAME."),
    option(
        "--model",
        metavar="NAME",
        show_default="the checkpoint's",
        help="The network: rf50, rf101, rf152, rf_lw50, rf_lw101, rf_lw152, rf_lw_mbv2 or rf_lw_effnet_lite0.",
    ),
    option(
        "--checkpoint",
        metavar="FILE",
        show_default="random weights",
        help='The weights: a file, or "people" or "scenes", which ship.',
    ),
    option("--onnx", metavar="FILE", help="Anybody's segmentation model, instead: an image in, scores or labels out."),
    option("--output-name", metavar="NAME", help="Which of the ONNX file's outputs, where there are several."),
    _choice("--layout", "How the ONNX file's input lies, where it cannot say."),
    option(
        "--size",
        type=SIZE,
        show_default="the file's, or 512x512",
        help="What the network takes; frames are resized to it.",
    ),
    _switch("dynamic", "Keep height and width free; --size is the usual one."),
    option(
        "--batch",
        type=Parsed("N|LEAST:MOST|LEAST:BEST:MOST", Batch.parse),
        show_default="the file's, or 1",
        help="Frames that go in at once: a number, or a range with the one that it is tuned for.",
    ),
    option("--precision", type=click.Choice(PRECISIONS), show_default="fp32", help="What the network computes in."),
    option(
        "--calib",
        metavar="RANGES|DIR|VIDEO|scenes",
        help="For int8 and fp8: a file of ranges, or frames to calibrate on.",
    ),
    option(
        "--max-miou-drop",
        type=float,
        metavar="POINTS",
        help="Points of mIoU that int8 may cost on --judge; layers go back to float until it holds.",
    ),
    option(
        "--min-agreement",
        type=float,
        metavar="PERCENT",
        help="Share of pixels of --judge whose label int8 must keep; likewise.",
    ),
    option(
        "--judge",
        metavar="DATASET|FRAMES",
        show_default="the frames of --calib",
        help="What a budget is judged on: a data set as of eval, or frames.",
    ),
    _choice("--cpu", "Processors that int8 is right on; any: with 7-bit weights.", "this"),
    option("--backend", type=click.Choice(BUILDERS), show_default="auto", help="What the bundle is built for."),
    option("--labels", metavar="NAME|FILE", help="Classes: voc, nyu40, sun37, person, context, ade150, cityscapes ..."),
    _choice("--preprocess", "How the frames were prepared that it was trained on.", "imagenet"),
    option("--mean", type=CHANNELS, help="Mean of each channel, in the channels' order, taken from x / scale."),
    option("--std", type=CHANNELS, help="Deviation of each channel, which the rest is divided by."),
    option("--scale", type=float, metavar="NUMBER", help="What a byte is divided by first: 255, or 1."),
    _choice("--order", "Order of the channels."),
    _choice("--resize", "What is done to frames of another shape.", "stretch"),
    _choice("--upsample", "How logits reach the frame's size.", "bilinear"),
    _switch("align-corners", "How the network interpolates, where the checkpoint cannot say.", "as the ports"),
    _choice("--crp", "Order in chained residual pooling, where the checkpoint cannot say.", "as the ports"),
    option(
        "--state-key",
        metavar="KEY",
        show_default="the average",
        help="Which of a checkpoint's several weights: model, ema ...",
    ),
    option("--collapse-ind", metavar="LISTS", help="The decoder's collapse_ind, of a DenseTorch checkpoint."),
    _choice("--io", "Ends of a TensorRT plan in float16: as fast as can be, or as in the ONNX.", "padded"),
    _choice("--gives", "What the graph ends with.", "logits"),
    _switch("plan", "Build TensorRT's plan now, or leave it to `refinenet-edge plan` on the board.", "plan"),
    option("--without", multiple=True, metavar="REWRITE", help="Leave a rewrite out. Repeatable."),
    *PLAN_OPTIONS,
    _switch("version-compatible", "Build a plan that later TensorRTs run, too."),
    _switch("hardware-compatible", "Build a plan for Ampere and every newer GPU."),
    _switch("force", "Build what is slower, or loses most labels."),
    option("--explain", is_flag=True, help="Say how often each rewrite fired, and why not elsewhere."),
)


def _with(options: tuple[Any, ...], command: Any) -> Any:
    """`command` with `options`."""
    for decorate in reversed(options):
        command = decorate(command)
    return command


def _build(recipe: Path | None, explain: bool, **given: Any) -> None:
    """Build a bundle from options, or from a RECIPE (TOML) with options on top."""
    chosen = {name: value for name, value in given.items() if value not in (None, ())}
    if recipe is not None:
        with heavy(EXPORT):
            wanted = dataclasses.replace(read_recipe(recipe), **chosen)
    elif "output" not in chosen:
        raise InputError("where to? Give --out engines/NAME, or a recipe: build-engine engines/NAME.toml")
    else:
        wanted = Recipe(**chosen)
    with heavy(EXPORT):
        from refinenet_edge.build import build as build_bundle
    with progress_bar("start") as bar:
        built = build_bundle(wanted, bar.step, bar.phase)
    if explain:
        out.print(_firings(built.firings))
    if built.manifest.budget and built.manifest.budget.harms:
        out.print(harms_table(built.manifest.budget))
    out.print(manifest_table(built.manifest, str(built.path)))
    print_next(f"refinenet-edge run {shlex.quote(str(built.path))} IMAGE --out DIR")


main.command("build")(_with(BUILD_OPTIONS, _build))


build_engine = click.version_option(__version__)(
    click.command("build-engine", cls=Command)(_with(BUILD_OPTIONS, _build))
)


@main.command("plan")
@click.argument("bundle", type=LocalPath())
@option(
    "--backend", type=click.Choice(["tensorrt", "tensorrt-rtx"]), default="tensorrt", help="Whose plan it is to be."
)
@functools.partial(_with, PLAN_OPTIONS)
@option("--size", type=SIZE, help="The usual size, for a bundle that takes any.")
def plan(
    bundle: Path,
    backend: Any,
    target: tuple[str, ...],
    workspace_mib: int | None,
    timing_cache: str | None,
    size: tuple[int, int] | None,
) -> None:
    """Build a bundle's TensorRT plan on this machine, from the graph inside: on a Jetson, without torch."""
    from refinenet_edge.runtime.tensorrt.builder import EngineOptions, add_plan, profile_of

    opened = open_bundle(bundle)
    workspace, timings = workspace_mib or Recipe.workspace_mib, Path(timing_cache) if timing_cache else None
    options = EngineOptions(target, workspace << 20, profile_of(opened.manifest, size), timings)
    with progress_bar(f"build the {backend} engine") as bar:
        manifest = add_plan(opened, backend, options, bar.phase)
    out.print(manifest_table(manifest, str(bundle)))


@main.command("calibrate")
@click.argument("bundle", type=LocalPath())
@option("--frames", "source", required=True, metavar="DIR|VIDEO|scenes[:SEED:COUNT]", help="Frames to look at.")
@option(
    "--out",
    "-o",
    "path",
    type=LocalPath(dir_okay=False),
    required=True,
    help="File for the ranges, such as calib/NAME.ranges.json.",
)
@option(
    "--method", show_default="percentile:99.99", help="How a range is chosen: minmax, percentile:99.99, entropy or mse."
)
@option("--method-for", "special", multiple=True, metavar="GLOB=METHOD", help="How for some tensors. Repeatable.")
@with_ray
def calibrate(bundle: Path, source: str, path: Path, method: str | None, special: tuple[str, ...], ray: str) -> None:
    """Observe the activations of a fp32 BUNDLE on frames: the ranges that INT8 needs.

    A run that was stopped goes on where it was when it is started again.
    """
    with heavy(EXPORT):
        from refinenet_edge import calibration
        from refinenet_edge.onnx_import import read_onnx
        from refinenet_edge.runtime.first_run import require_runs

    opened = open_bundle(bundle)
    manifest = opened.manifest
    _require_calibratable(bundle, manifest)
    if path.suffix != ".json":
        raise InputError(f"{path}: ranges are written as .json, which --calib knows them by: {path}.json")
    overrides = calibration.parse_overrides(special)
    make_folder(path.parent)
    graph = opened.read_graph()
    require_runs(graph, manifest.files[MODEL].sha256, "onnxruntime", BundleError, str(opened.path / MODEL))
    model = read_onnx(opened.path / MODEL, None, graph)
    frames = calibration.calibration_frames(source)
    with progress_bar("observe") as bar, contextlib.ExitStack() as stack:
        observer = None
        if ray != "off":
            from refinenet_edge.cluster.calibrate import distributed
            from refinenet_edge.cluster.pool import open_pool

            observer = distributed(model, manifest.frame, source, len(frames), stack.enter_context(open_pool(ray)))
        ranges = calibration.calibrate(
            model,
            manifest.frame,
            frames,
            calibration.parse_method(method) if method else calibration.DEFAULT,
            overrides,
            path,
            bar.count,
            observer,
        )
    out.print(_cut(ranges))
    out.print(f"{len(ranges.tensors)} tensors over {ranges.count} frames, by {ranges.key.method}: {path}")
    print_next(manifest.recipe.in_precision("int8", f"{bundle}_int8", str(path)).command)


def _require_calibratable(bundle: Path, manifest: Manifest) -> None:
    """Raise `InputError` for a bundle that ranges cannot be measured on, with the command that builds one."""
    if manifest.precision != "fp32":
        if manifest.precision in ("int8", "fp8") and manifest.calibration is None:
            raise InputError(f"{bundle} has the Q/DQ of the ONNX file it is of: there is nothing to calibrate")
        raise InputError(
            f"{bundle} is {manifest.precision}: ranges are measured on a fp32 bundle of the same network; build it: "
            + manifest.recipe.in_precision("fp32", f"{bundle}_fp32").command
        )
    if manifest.recipe.gives != "logits":
        raise InputError(f"{bundle} gives {manifest.recipe.gives}: build it without --gives to calibrate it")
    if manifest.batch != ONE:
        raise InputError(
            f"{bundle} takes {manifest.batch} frames at once; ranges are measured frame by frame, and serve any batch: "
            "calibrate the same network without --batch: "
            + dataclasses.replace(manifest.recipe, batch=ONE, output=f"{bundle}_1").command
        )


def _cut(ranges: Ranges) -> Table:
    """The tensors that lose most: where the largest value is furthest beyond what INT8 will hold."""

    def share(tensor: Range) -> float:
        return tensor.amax / largest if (largest := max(abs(tensor.low), abs(tensor.high))) else 1.0

    table = Table("tensor", "from", "to", "INT8 holds", "method", title="cut most")
    for name, tensor in sorted(ranges.tensors.items(), key=lambda item: share(item[1]))[:5]:
        numbers = (f"{value:.4g}" for value in (tensor.low, tensor.high))
        table.add_row(name, *numbers, f"±{tensor.amax:.4g}, {percent(min(share(tensor), 1.0))}", tensor.method)
    return table


def _firings(firings: tuple[Firing, ...]) -> Table:
    table = Table(
        "rewrite", "fired", "GMAC", "MB", "refused", "because", title="rewrites in order, the cost after each"
    )
    for firing in firings:
        cost = (f"{firing.cost.macs / 1e9:.2f}", f"{firing.cost.bytes / 1e6:.0f}") if firing.cost else ("", "")
        why = "" if firing.fired or firing.refused else "its pattern is nowhere"
        table.add_row(firing.name, str(firing.fired), *cost, "", why)
        for reason, places in firing.refused.items():
            table.add_row("", "", "", "", str(places), reason)
    return table
