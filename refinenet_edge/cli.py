"""The commands: `refinenet-edge COMMAND`, and `build-engine`, which is `refinenet-edge build`.

Each command imports its stage when it runs, so that `run` works where torch is absent. What goes wrong is one line on
stderr and exit code 2; `--debug` shows the trace instead.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
import os
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from refinenet_edge import __version__
from refinenet_edge.errors import InputError, RefineNetEdgeError
from refinenet_edge.recipe import Recipe, parse_size, read_recipe
from refinenet_edge.records import Bilinear, Cubic, Interpolation

if TYPE_CHECKING:
    from refinenet_edge.bench import Case, Run
    from refinenet_edge.evaluation import Result
    from refinenet_edge.fusion import Firing
    from refinenet_edge.records import Budget, Frame, Manifest, Mask, Profile, Range, Ranges, Size

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

EXPORT = "'refinenet-edge[export]'"
NAMES = 8  # of nodes in a row

EXIT_EXPECTED = 2
EXIT_INTERRUPTED = 130

UPSAMPLINGS: dict[str, Interpolation] = {
    "bilinear": Bilinear(align_corners=False),
    "bilinear-corners": Bilinear(align_corners=True),
    "cubic": Cubic(),
}


class Command(click.Command):
    """A command that turns our errors into one line, and has `--debug`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(click.Option(["--debug"], is_flag=True, help="Show the log and the trace of an error."))

    def invoke(self, ctx: click.Context) -> Any:
        debug = ctx.params.pop("debug")
        _log_to_stderr(logging.DEBUG if debug else logging.WARNING)
        try:
            return super().invoke(ctx)
        except RefineNetEdgeError as exc:
            if debug:
                raise
            # one line, whatever the library below said
            err.print(f"[red]error:[/] {_plain(' '.join(str(exc).split()))}", soft_wrap=True)
            ctx.exit(EXIT_EXPECTED)
        except KeyboardInterrupt:
            err.print("interrupted; nothing was left half-written")
            ctx.exit(EXIT_INTERRUPTED)


class Group(click.Group):
    """A group whose commands are ours."""

    command_class = Command


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """RefineNet segmentation on Jetson and desktop NVIDIA GPUs: checkpoint, engine, mask."""


allow_host_code = click.option(
    "--allow-host-code", is_flag=True, help="Run the runtime in a version-compatible plan: for bundles you trust."
)


with_ray = click.option(
    "--ray",
    default="off",
    show_default=True,
    metavar="off|auto|ADDRESS",
    help="On a Ray cluster; auto: the one that runs, else one on this machine. The result is the same.",
)


class SizeType(click.ParamType[Any]):
    """HEIGHTxWIDTH in pixels."""

    name = "HEIGHTxWIDTH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return parse_size(value) if isinstance(value, str) else value
        except InputError as exc:
            self.fail(str(exc), param, ctx)


def _build_options(command: Any) -> Any:
    """The options of `build-engine`: the fields of `Recipe`."""
    options = [
        click.argument("recipe", required=False, type=click.Path(path_type=Path)),
        click.option("--output", "-o", metavar="FOLDER", help="The bundle to write, such as engines/NAME."),
        click.option("--model", help="rf50, rf101, rf152, rf_lw50, rf_lw101, rf_lw152 or rf_lw_mbv2."),
        click.option(
            "--checkpoint", metavar="FILE", help='Weights: .pth, .safetensors, ..., or "scenes". None: random.'
        ),
        click.option("--onnx", metavar="FILE", help="A segmentation model of anybody's instead: 1x3xHxW -> 1xCxhxw."),
        click.option("--size", type=SizeType(), help="What the network takes; frames are resized. [512x512]"),
        click.option(
            "--dynamic/--no-dynamic", default=None, help="Keep height and width free; --size is the usual one."
        ),
        click.option("--precision", type=click.Choice(["fp32", "fp16", "int8", "fp8"]), help="[fp32]"),
        click.option(
            "--calib", metavar="RANGES|DIR|VIDEO|scenes", help="Of int8, fp8: a ranges file, or frames to calibrate on."
        ),
        click.option("--max-miou-drop", type=float, metavar="POINTS", help="That int8 may cost on --judge (labelled)."),
        click.option("--min-agreement", type=float, metavar="PERCENT", help="Pixels of --judge that keep their label."),
        click.option(
            "--judge", metavar="DATASET|FRAMES", help="Of a budget: a data set as of eval, or frames. [as --calib]"
        ),
        click.option(
            "--backend",
            type=click.Choice(["auto", "tensorrt", "tensorrt-rtx", "openvino", "onnxruntime"]),
            help="[auto]",
        ),
        click.option(
            "--labels", metavar="NAME|FILE", help="voc, nyu40, sun37, person, context, cityscapes, camvid, ..."
        ),
        click.option("--upsample", type=click.Choice(["bilinear", "cubic"]), help="How logits reach the frame's size."),
        click.option(
            "--align-corners/--no-align-corners", default=None, help="If the checkpoint cannot say. [as the ports]"
        ),
        click.option("--crp", type=click.Choice(["pool_conv", "conv_pool"]), help="If the checkpoint cannot say."),
        click.option("--without", multiple=True, metavar="REWRITE", help="Leave a rewrite out. Repeatable."),
        click.option("--target", multiple=True, metavar="SM", help="sm_75 .. sm_121 (TensorRT-RTX). Repeatable."),
        click.option("--workspace-mib", type=click.IntRange(16), help="The builder's scratch memory. [1024]"),
        click.option("--timing-cache", metavar="FILE", help="Read and keep TensorRT's timings here."),
        click.option("--version-compatible/--no-version-compatible", default=None, help="Runs on later TensorRTs."),
        click.option("--hardware-compatible/--no-hardware-compatible", default=None, help="Runs on Ampere and newer."),
        click.option("--force/--no-force", default=None, help="Build what is known to be slower."),
        click.option("--explain", is_flag=True, help="Say how often each rewrite fired, and why not elsewhere."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _build(recipe: Path | None, explain: bool, **given: Any) -> None:
    """Build a bundle from options, or from a RECIPE (TOML) with options on top."""
    chosen = {name: value for name, value in given.items() if value not in (None, ())}
    if recipe is not None:
        with _heavy(EXPORT):
            wanted = dataclasses.replace(read_recipe(recipe), **chosen)
    elif "output" not in chosen:
        raise InputError("where to? Give --output engines/NAME, or a recipe: build-engine engines/NAME.toml")
    else:
        wanted = Recipe(**chosen)
    with _heavy(EXPORT):
        from refinenet_edge.build import build as build_bundle
    with _bar() as bar:
        task = bar.add_task("start", total=None)
        built = build_bundle(
            wanted,
            lambda step: bar.update(task, description=step, total=None),
            lambda phase, done, steps: bar.update(task, description=phase, completed=done, total=steps or None),
        )
    if explain:
        out.print(_firings(built.firings))
    if built.manifest.budget:
        out.print(_harms(built.manifest.budget))
    out.print(_manifest(built.manifest, str(built.path)))
    out.print(f"next: [bold]refinenet-edge run {_plain(built.path)} IMAGE --out DIR[/]", soft_wrap=True)


main.command("build")(_build_options(_build))
build_engine = click.command("build-engine", cls=Command)(_build_options(_build))


@main.command("plan")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--backend", type=click.Choice(["tensorrt", "tensorrt-rtx"]), default="tensorrt", show_default=True)
@click.option("--target", multiple=True, metavar="SM", help="sm_75 .. sm_121 (TensorRT-RTX). Repeatable.")
@click.option("--workspace-mib", type=click.IntRange(16), default=1024, show_default=True)
@click.option("--timing-cache", type=click.Path(path_type=Path))
@click.option("--size", type=SizeType(), help="The usual size, for a bundle that takes any.")
def plan(
    bundle: Path,
    backend: Any,
    target: tuple[str, ...],
    workspace_mib: int,
    timing_cache: Path | None,
    size: tuple[int, int] | None,
) -> None:
    """Build a bundle's TensorRT plan on this machine, from the graph inside: on a Jetson, without torch."""
    from refinenet_edge.bundle import open_bundle
    from refinenet_edge.engine import EngineOptions, add_plan

    opened = open_bundle(bundle)
    options = EngineOptions(target, workspace_mib << 20, _profile(opened.manifest, size), timing_cache)
    with _bar() as bar:
        task = bar.add_task(f"build the {backend} engine", total=None)
        manifest = add_plan(
            opened,
            backend,
            options,
            lambda phase, done, steps: bar.update(task, description=phase, completed=done, total=steps),
        )
    out.print(_manifest(manifest, str(bundle)))


@main.command("calibrate")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--frames", "source", required=True, metavar="DIR|VIDEO|scenes[:SEED:COUNT]", help="What to look at.")
@click.option(
    "--out", "-o", "path", type=click.Path(dir_okay=False, path_type=Path), required=True, help="calib/NAME.ranges.json"
)
@click.option("--method", help="minmax, percentile:99.99, entropy or mse. [percentile:99.99]")
@click.option("--method-for", "special", multiple=True, metavar="GLOB=METHOD", help="For some tensors. Repeatable.")
@click.option("--trt-cache", "cache", type=click.Path(path_type=Path), help="TensorRT's calibration cache, too.")
@with_ray
def calibrate(
    bundle: Path, source: str, path: Path, method: str | None, special: tuple[str, ...], cache: Path | None, ray: str
) -> None:
    """Observe the activations of a fp32 BUNDLE on frames: the ranges that INT8 needs.

    A run that was stopped goes on where it was when it is started again.
    """
    from refinenet_edge.bundle import MODEL, open_bundle

    with _heavy(EXPORT):
        from refinenet_edge import calibration
        from refinenet_edge.trace import read_onnx

    opened = open_bundle(bundle)
    manifest = opened.manifest
    if manifest.precision != "fp32":
        raise InputError(
            f"{bundle} is {manifest.precision}: ranges are measured on a fp32 bundle of the same network; build it: "
            + _build_again(manifest, {"--precision": "fp32", "--output": f"{bundle}_fp32"}, without=("--calib",))
        )
    pairs = [item.rpartition("=") for item in special]
    if wrong := next((method for glob, _, method in pairs if not glob), None):
        raise InputError(f"--method-for {wrong}: GLOB=METHOD is meant, such as '*relu*=percentile:99.9'")
    overrides = {glob: calibration.parse_method(text) for glob, _, text in pairs}
    _make_folder(path.parent)
    state = path.with_name(f".{path.name}.partial.npz")
    model, frames = read_onnx(opened.path_of(MODEL), None), calibration.open_frames(source)
    with _bar() as bar, contextlib.ExitStack() as stack:
        task = bar.add_task("observe", total=None)
        by = None
        if ray != "off":
            from refinenet_edge.cluster.calibrate import Spread
            from refinenet_edge.cluster.pool import open_pool

            by = Spread(model, manifest.frame, source, len(frames), stack.enter_context(open_pool(ray)))
        ranges = calibration.calibrate(
            model,
            manifest.frame,
            frames,
            calibration.parse_method(method) if method else calibration.DEFAULT,
            overrides,
            state,
            lambda done, count: bar.update(task, completed=done, total=count),
            by,
        )
    calibration.write_ranges(path, ranges)
    state.unlink(missing_ok=True)
    if cache is not None:
        calibration.write_cache(cache, ranges)
    out.print(_cut(ranges))
    out.print(f"{len(ranges.tensors)} tensors over {ranges.count} frames, by {ranges.key.method}: {_plain(path)}")
    chosen = {"--precision": "int8", "--calib": str(path), "--output": f"{bundle}_int8"}
    out.print(f"next: [bold]{_plain(_build_again(manifest, chosen))}[/]", soft_wrap=True)


@main.command("run")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("images")
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True, help="Where overlays and labels go.")
@click.option("--backend", default="auto", show_default=True)
@click.option("--opacity", type=click.FloatRange(0, 1), default=0.5, show_default=True)
@allow_host_code
def run(bundle: Path, images: str, folder: Path, backend: str, opacity: float, allow_host_code: bool) -> None:
    """Segment IMAGES, an image file, a folder or scenes:SEED:COUNT: an overlay and a label PNG each."""
    from refinenet_edge.images import write_image, write_png
    from refinenet_edge.runtime import Segmenter

    frames = _frames(images)
    table = Table("image", "size", "ms", "classes", title=_plain(bundle))
    failures: list[str] = []
    with Segmenter(bundle, backend, allow_host_code=allow_host_code) as segmenter, _bar() as bar:
        _make_folder(folder)
        for name, read in bar.track(frames, description="segment"):
            try:
                frame = read()
                started = time.perf_counter()
                mask = segmenter.segment(frame)
                taken = 1000 * (time.perf_counter() - started)
            except InputError as exc:
                if len(frames) == 1:
                    raise
                failures.append(str(exc))
                continue
            write_image(folder / f"{name}_overlay.jpg", mask.overlay(frame, opacity))
            write_png(folder / f"{name}_labels.png", mask.labels)
            table.add_row(_plain(name), f"{frame.shape[1]}x{frame.shape[0]}", f"{taken:.0f}", _plain(_shares(mask)))
    out.print(table)
    out.print(f"{len(frames) - len(failures)} of {len(frames)} images segmented into {_plain(folder)}")
    if failures:
        raise InputError(f"{len(failures)} images could not be used: {'; '.join(failures[:3])}")


@main.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
def inspect(path: Path) -> None:
    """Show what is in a bundle, or in a .plan file; needs no GPU."""
    from refinenet_edge.bundle import PLAN, open_bundle
    from refinenet_edge.plan import read_header

    if path.is_dir():
        manifest = open_bundle(path).manifest
        out.print(_manifest(manifest, str(path)))
        if manifest.budget:
            out.print(_harms(manifest.budget))
        if PLAN not in manifest.files:
            return
        path = path / PLAN
    header = read_header(path)
    out.print(
        f"{_plain(path)}: a plan of {path.stat().st_size / 1e6:.1f} MB, written by {header.flavour} {header.version}"
    )


@main.command("compare")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path))
@click.option("--backend", default="auto", show_default=True, help="What runs FIRST.")
@click.option("--second-backend", default="auto", show_default=True, help="What runs SECOND.")
@allow_host_code
def compare(first: Path, second: Path, images: Path, backend: str, second_backend: str, allow_host_code: bool) -> None:
    """Compare two bundles, or one bundle on two backends: logit error and label agreement on IMAGES."""
    from refinenet_edge.compare import compare_bundles
    from refinenet_edge.images import list_images
    from refinenet_edge.runtime import Segmenter

    paths = list_images(images)
    opened = functools.partial(Segmenter, allow_host_code=allow_host_code)
    with opened(first, backend) as a, opened(second, second_backend) as b, _bar() as bar:
        differences = list(bar.track(compare_bundles(a, b, paths), total=len(paths), description="compare"))
        title = f"{first} on {a.session.name} and {second} on {b.session.name}"
    table = Table("image", "logit error", "label agreement", title=_plain(title))
    for d in differences:
        error = "other size" if d.relative_error is None else f"{d.relative_error:.2e}"
        table.add_row(_plain(d.image), error, f"{100 * d.label_agreement:.3f} %")
    out.print(table)
    mean = sum(d.label_agreement for d in differences) / len(differences)
    out.print(f"mean label agreement {100 * mean:.3f} % over {len(differences)} images")


@main.command("eval")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("dataset")
@click.option("--out", "result_path", type=click.Path(dir_okay=False, path_type=Path), help="The result as JSON.")
@click.option("--backend", default="auto", show_default=True)
@click.option("--upsample", type=click.Choice(list(UPSAMPLINGS)), help="How logits reach the frame's size. [as built]")
@click.option("--strict", is_flag=True, help="Stop at the first sample that cannot be used.")
@with_ray
@allow_host_code
def evaluate(
    bundle: Path,
    dataset: str,
    result_path: Path | None,
    backend: str,
    upsample: str | None,
    strict: bool,
    ray: str,
    allow_host_code: bool,
) -> None:
    """Measure mIoU on DATASET: scenes, scenes:SEED:COUNT, or a folder.

    Folders: Cityscapes, VOC, CamVid (SegNet's), NYUv2-40, or images/ and masks/. PATH:SPLIT takes another split than
    val; cityscapes:PATH, voc:, nyu40: (masks 0..39), nyu40-from1: (1..40), camvid: and plain: name the layout.

    With --out, a run that was stopped goes on where it was when it is started again.
    """
    from refinenet_edge import evaluation
    from refinenet_edge.bundle import open_bundle
    from refinenet_edge.evaluation.score import Comparing, Here
    from refinenet_edge.runtime import Segmenter

    opened, data = open_bundle(bundle), evaluation.open_dataset(dataset)
    way = UPSAMPLINGS[upsample] if upsample else None
    with contextlib.ExitStack() as stack, _bar() as bar:
        by: Comparing
        if ray == "off":
            segmenter = stack.enter_context(Segmenter(opened, backend, allow_host_code=allow_host_code))
            by = Here(segmenter, way)
        else:
            from refinenet_edge.cluster.bundles import gpus_of, resolve
            from refinenet_edge.cluster.evaluate import Spread
            from refinenet_edge.cluster.pool import open_pool

            wanted = resolve(opened, backend, ray)
            pool = stack.enter_context(open_pool(ray, gpus=gpus_of(wanted)))
            by = Spread(opened, wanted, pool, way, allow_host_code)
        task = bar.add_task("evaluate", total=len(data.samples))
        result = evaluation.evaluate(
            by,
            data,
            subject=evaluation.subject_of(opened),
            out=result_path,
            strict=strict,
            progress=lambda done, samples: bar.update(task, completed=done, total=samples),
        )
    out.print(_scores(result, _plain(f"{bundle} on {data.name}")))
    out.print(
        f"mIoU [bold]{_percent(result.miou)}[/], pixel accuracy {_percent(result.pixel_accuracy)}, {result.counted} of "
        f"{result.samples} samples on {result.backend}, {_upsampling(result.frame.upsample)}",
        soft_wrap=True,
    )
    if result.problems:
        kinds = Counter(problem.kind for problem in result.problems)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        err.print(f"[yellow]{len(result.problems)} not used:[/] {counts}")
        for problem in result.problems[:5]:
            err.print(_plain(f"  {problem.sample}: {problem.detail}"), soft_wrap=True)


@main.command("batch")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("source", metavar="INPUT")
@click.option(
    "--out", "folder", required=True, metavar="DIR", help="Where the labels go: a folder, or a URL such as s3://..."
)
@click.option("--format", "form", type=click.Choice(["png", "parquet"]), default="png", show_default=True)
@click.option("--backend", default="auto", show_default=True)
@with_ray
@allow_host_code
def batch(bundle: Path, source: str, folder: str, form: Any, backend: str, ray: str, allow_host_code: bool) -> None:
    """Label every frame of INPUT: images, videos, a folder of them (or its URL), or scenes:SEED:COUNT.

    A run that was stopped does what is missing when it is started again. A frame that cannot be labelled is written
    down in DIR/problems.json, and the rest goes on.
    """
    from refinenet_edge.bundle import open_bundle
    from refinenet_edge.cluster.batch import PROBLEMS, label

    with _bar() as bar:
        task = bar.add_task("label", total=None)
        done = label(
            open_bundle(bundle),
            source,
            folder,
            form=form,
            backend=backend,
            ray=ray,
            allow_host_code=allow_host_code,
            progress=lambda finished, frames: bar.update(task, completed=finished, total=frames),
        )
    rate = ""
    if done.labelled:
        cost = 1000 * done.cpu_seconds / done.labelled
        rate = f", {done.labelled / done.seconds:.1f} a second, {cost:.0f} ms of CPU each"
    before = f", {done.before} were there" if done.before else ""
    said = f"{done.labelled} of {done.frames} frames labelled on {done.backend}{rate}{before}"
    out.print(f"{said}: {_plain(folder)}", soft_wrap=True)
    if done.problems:
        err.print(f"[yellow]{len(done.problems)} not labelled, see {PROBLEMS}:[/]", soft_wrap=True)
        for problem in done.problems[:5]:
            err.print(_plain(f"  {problem.id}: {problem.reason}"), soft_wrap=True)


@main.command("export-triton")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--repository", type=click.Path(file_okay=False, path_type=Path), required=True, metavar="DIR")
@click.option("--name", help="Of the model that takes frames. [the bundle's]")
def export_triton(bundle: Path, repository: Path, name: str | None) -> None:
    """Put BUNDLE into a model repository of Triton Inference Server: NAME, frames to labels, and NAME_network.

    A model that is there gets a new version, which Triton then serves.
    """
    from refinenet_edge.bundle import open_bundle

    with _heavy("'refinenet-edge[triton]'"):
        from refinenet_edge.cluster.triton import export

    for exported in export(open_bundle(bundle), repository, name):
        out.print(f"{_plain(exported)}", soft_wrap=True)


@main.command("demo")
@click.argument("bundles", nargs=-1, metavar="[BUNDLE]...", type=click.Path(path_type=Path))
@click.option(
    "--source", "sources", multiple=True, metavar="0|csi|URL|FILE|DIR|scenes", help="What to look at. Repeatable."
)
@click.option("--view", type=click.Choice(["web", "window", "none"]), help="[window where there is one, otherwise web]")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), metavar="OUT.mp4", help="What is shown.")
@click.option("--rate", type=click.Choice(["own", "full"]), default="own", help="full: a file's every frame, at once.")
@click.option("--opacity", type=click.FloatRange(0, 1), default=0.5, show_default=True)
@click.option("--frames", type=click.IntRange(1), help="Stop after so many.")
@click.option("--port", type=click.IntRange(0, 65535), default=8321, show_default=True, help="Of the web page.")
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0: others may look, with a token.")
@click.option("--token", envvar="REFINENET_EDGE_TOKEN", help="What others need to look. [made for another --host]")
@click.option("--backend", default="auto", show_default=True)
@allow_host_code
def demo(
    bundles: tuple[Path, ...],
    sources: tuple[str, ...],
    view: str | None,
    record: Path | None,
    rate: str,
    opacity: float,
    frames: int | None,
    port: int,
    host: str,
    token: str | None,
    backend: str,
    allow_host_code: bool,
) -> None:
    """Segment what a camera sees, while it sees it: in a web page or a window.

    Sources: 0 or /dev/video0, csi (Jetson), rtsp:// and http:// streams, video files, image folders, drawn scenes.
    Without BUNDLE it is the shipped model on drawn scenes, with its mIoU. Several bundles or sources: switch there.
    """
    # what OpenCV and FFmpeg say of a camera that is away, we say; they read this when they are imported
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    from refinenet_edge.bundle import open_bundle
    from refinenet_edge.demo import Look, Model, Recording, Show, open_source
    from refinenet_edge.demo.power import Watts
    from refinenet_edge.demo.window import KEYS, Window, has_display, has_windows
    from refinenet_edge.runtime import Segmenter

    if view is None:
        view = "window" if has_windows() else "web"
    repeat = view != "none" and record is None
    camera = bool(bundles) and Path("/dev/video0").exists()
    chosen = sources or (("0", "scenes") if camera else ("scenes",))
    opened = [open_source(text, every_frame=rate == "full", repeat=repeat) for text in chosen]
    with contextlib.ExitStack() as stack:
        models = []
        for path in bundles or (_shipped_bundle(),):
            bundle = open_bundle(path)
            segmenter = stack.enter_context(Segmenter(bundle, backend, allow_host_code=allow_host_code))
            models.append(Model(path.name, bundle.manifest.precision, segmenter))
        recording = Recording(record, opened[0].rate if rate == "full" else None) if record else None
        watts = Watts()
        stack.callback(watts.close)
        show = Show(opened, models, Look(opacity), recording, watts)
        stack.callback(show.close)
        if view == "window":
            show.views.append(Window(show))
            out.print(f"keys: {KEYS}")
        elif view == "web":
            with _heavy("'refinenet-edge[demo]'"):
                from refinenet_edge.demo.web import Web
            web = Web(show, host, port, token)
            show.views.append(web)
            out.print(f"open [bold]{_plain(web.address)}[/] (Ctrl-C ends it)", soft_wrap=True)
            if has_display() and out.is_terminal:
                click.launch(web.address)
        with _until_interrupted():
            show.run(frames)
    summary = show.summary()
    rest = f", {summary.drops} that were older by then dropped" if summary.drops else ""
    out.print(f"{summary.frames} frames in {summary.seconds:.1f} s{rest}" + (f": {_plain(record)}" if record else ""))


class BenchGroup(Group):
    """`bench BUNDLE...` is `bench run BUNDLE...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@main.group("bench", cls=BenchGroup)
def bench_group() -> None:
    """Time bundles and what people run instead, side by side; `bench BUNDLE...` is `bench run BUNDLE...`."""


@bench_group.command("run")
@click.argument("what", nargs=-1, required=True, metavar="BUNDLE...|SUITE.toml")
@click.option("-o", "--out", "result", type=click.Path(dir_okay=False, path_type=Path), required=True, metavar="JSON")
@click.option("--backend", default="auto", show_default=True)
@click.option("--against", default="", metavar="NAMES", help="torch,compile,onnxruntime,openvino,FILE.onnx")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Of torch and its exports. [as the first bundle]")
@click.option("--size", "sizes", type=SizeType(), multiple=True, help="Of the frames. Repeatable. [the bundle's]")
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, help="Frames at once. Repeatable. [1]")
@click.option("--streams", type=click.IntRange(1), multiple=True, help="Threads, each its own. Repeatable. [1]")
@click.option("--frames", default="scenes", metavar="scenes|DIR", show_default=True)
@click.option("--judge", metavar="DATASET", help="Measure the bundles' mIoU too, as eval does.")
@click.option("--source", metavar="SOURCE", help="Measure camera to screen too, on a source of the demo.")
@click.option("--rounds", type=click.IntRange(2), help="Instead of the rule that ends a measurement.")
@click.option("--brief", is_flag=True, help="Nothing about start, memory, power and layers.")
@allow_host_code
def bench_run(
    what: tuple[str, ...],
    result: Path,
    backend: str,
    against: str,
    checkpoint: Path | None,
    sizes: tuple[Size, ...],
    batches: tuple[int, ...],
    streams: tuple[int, ...],
    frames: str,
    judge: str | None,
    source: str | None,
    rounds: int | None,
    brief: bool,
    allow_host_code: bool,
) -> None:
    """Time BUNDLEs, or what a SUITE builds, from frame to labels, and write everything to a JSON file.

    Everybody takes turns on the same frames; the first bundle is what the others are compared with. What a suite says
    counts where no option does; --against is added to it.
    """
    from refinenet_edge import bench
    from refinenet_edge.evaluation import open_dataset

    rivals = tuple(filter(None, against.split(",")))
    with _bar() as bar:
        task = bar.add_task("start", total=None)

        def step(said: str) -> None:
            bar.update(task, description=said)

        if len(what) == 1 and what[0].endswith(".toml"):
            suite = bench.read_suite(Path(what[0]), Path("build", "suites", Path(what[0]).stem))
            what = tuple(_built_again(recipe, step) for recipe in suite.bundles.values())
            rivals += suite.against
            sizes, batches, streams = sizes or suite.sizes, batches or suite.batches, streams or suite.streams
            judge, source = judge or suite.judge, source or suite.source
        bundles = [bench.bundle_entry(Path(path), backend, allow_host_code) for path in what]
        entries: list[bench.Entry] = [*bundles]
        if rivals:
            with _heavy(EXPORT):
                from refinenet_edge.peers import peers
            entries += peers(rivals, bundles[0], checkpoint)
        points = itertools.product(sizes or (bundles[0].size,), batches or (1,), streams or (1,))
        options = bench.Options(
            tuple(bench.Case(*point) for point in points),
            frames,
            rounds,
            open_dataset(judge) if judge else None,
            source,
            brief,
        )
        _make_folder(result.parent)
        measured = bench.run(entries, options, shlex.join(["refinenet-edge", *sys.argv[1:]]), step)
    bench.write_run(result, measured)
    for case in measured.cases():
        out.print(_timings(measured, case))
    for note in measured.notes:
        err.print(f"[yellow]left out:[/] {_plain(note)}", soft_wrap=True)
    out.print(
        f"next: [bold]refinenet-edge report {_plain(result)} -o {_plain(result.with_suffix('.html'))}[/]",
        soft_wrap=True,
    )


@bench_group.command("compare")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--threshold", type=click.FloatRange(0), default=5.0, show_default=True, metavar="PERCENT")
@click.option("--force", is_flag=True, help="Compare different devices or power modes.")
def bench_compare(before: Path, after: Path, threshold: float, force: bool) -> None:
    """Say what became faster or slower from BEFORE to AFTER; exit 1 when anything is certainly slower by PERCENT."""
    from refinenet_edge import bench

    changes = bench.compare(bench.read_run(before), bench.read_run(after), force)
    table = Table(*_folding("", "case", "before ms", "after ms", "times as long", "verdict", "mIoU, points"))
    for change in changes:
        miou = "-" if change.miou is None else f"{change.miou:+.2f}"
        medians = f"{change.before_ms:.2f}", f"{change.after_ms:.2f}"
        table.add_row(
            _plain(change.subject), str(change.case), *medians, str(change.verdict.times), change.verdict.word, miou
        )
    out.print(table)
    worse = [change for change in changes if change.regressed(threshold / 100)]
    if worse:
        err.print(f"{len(worse)} of {len(changes)} take more than {threshold:g} % longer")
        sys.exit(1)


@main.command("report")
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--out", "page", type=click.Path(dir_okay=False, path_type=Path), required=True, metavar="HTML")
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), help="Tables for a README, too.")
def report(results: tuple[Path, ...], page: Path, markdown: Path | None) -> None:
    """Write the RESULTS of bench as one page that needs nothing else."""
    from refinenet_edge.report import write_report

    write_report(results, page, markdown)
    out.print(f"{_plain(page)}: open it in a browser")


@main.command("estimate")
@click.argument("model", metavar="MODEL|BUNDLE")
@click.option("--device", required=True, metavar="NAME|FILE", help="orin-nano, orin-nx, agx-orin, thor, rtx4090, ...")
@click.option("--size", type=SizeType(), help="Of the network's input. [512x512, a bundle's own]")
@click.option("--classes", type=click.IntRange(1, 255), help="[21, a bundle's own]")
@click.option("--out", "result", type=click.Path(dir_okay=False, path_type=Path), help="The same as JSON.")
def estimate(model: str, device: str, size: tuple[int, int] | None, classes: int | None, result: Path | None) -> None:
    """Say how fast MODEL can be at best on a board, by its published peak rates, and what binds each block.

    A floor, for choosing a board before owning it; and what to expect, from published measurements of other networks.
    """
    with _heavy(EXPORT):
        from refinenet_edge import estimate as estimates

        bounds = estimates.estimate(model, device, size, classes)
    height, width = bounds.size
    title = f"{model} at {height}x{width} on {bounds.device.title}, {bounds.device.mode}"
    table = Table("", "at best, ms", "frames/s", "expect, ms", title=_plain(title))
    for bound in bounds.bounds:
        low, middle, high = (f"{ms:.2f}" for ms in bound.expected_ms)
        table.add_row(
            bound.precision, f"{bound.ms:.2f}", f"{bound.frames_per_second:.0f}", f"{middle} ({low} to {high})"
        )
    out.print(table)
    blocks = Table("block", *(f"{bound.precision}, ms" for bound in bounds.bounds), title="at best, and bound by")
    for parts in zip(*(bound.blocks for bound in bounds.bounds), strict=True):
        blocks.add_row(_plain(parts[0].block), *(f"{part.ms:.3f} {part.bound_by}" for part in parts))
    out.print(blocks)
    for source in bounds.device.source:
        out.print(_plain(f"from: {source}"), soft_wrap=True)
    if result is not None:
        from refinenet_edge.files import write_atomically
        from refinenet_edge.records import to_json

        write_atomically(result, to_json(bounds).encode(), InputError)


@main.command("doctor")
def doctor() -> None:
    """Say which backends work here, what does not fit together, and the fix for each.

    On a Jetson also: JetPack, TensorRT and CUDA, the GPU in TensorRT's wheel, power mode, clocks, memory, DLA.
    """
    from refinenet_edge.doctor import examine

    colours = {"ok": "green", "absent": "yellow", "limited": "yellow", "wrong": "red"}
    table = Table("", "what", "found", "fix")
    findings = list(examine())
    for finding in findings:
        mark = f"[{colours[finding.state]}]{finding.state}[/]"
        table.add_row(mark, finding.subject, _plain(finding.detail), _plain(finding.fix))
    out.print(table)
    if any(finding.state == "wrong" for finding in findings):
        sys.exit(1)


@main.command("dla-check")
@click.argument("bundle", type=click.Path(path_type=Path))
def dla_check(bundle: Path) -> None:
    """Say which nodes of BUNDLE would not run on DLA and why, by NVIDIA's documents; nothing is built."""
    from refinenet_edge.bundle import open_bundle

    opened = open_bundle(bundle)
    with _heavy("onnx-ir"):
        from refinenet_edge import dla
    report = dla.check(dla.read_graph(opened))
    reasons = Table(*_folding("falls back", "nodes", "which", "on", "says"), title=_plain(bundle))
    for reason in report.reasons:
        why = reason.reason if reason.certain else f"perhaps: {reason.reason}"
        names = [*reason.nodes[:NAMES], *(["..."] if len(reason.nodes) > NAMES else [])]
        on = "all" if reason.where == tuple(dla.WHERE) else ", ".join(reason.where)
        reasons.add_row(why, str(len(reason.nodes)), _plain("\n".join(names)), on, reason.source)
    out.print(reasons if report.reasons else f"no known reason for a node of {_plain(bundle)} to fall back")
    table = Table(*_folding("on", "has DLA with", "nodes on DLA", "MACs on DLA", "changes of device"))
    for place in report.placements:
        share = "sizes are free" if place.macs is None else _percent((place.macs_on_dla or 0) / max(place.macs, 1))
        table.add_row(
            place.where, dla.WHERE[place.where], f"{place.on_dla} of {place.nodes}", share, f"{place.switches} or more"
        )
    out.print(table)
    out.print(dla.NOWHERE, soft_wrap=True)


@main.command("models")
@click.option("--size", type=SizeType(), default="512x512", show_default=True)
@click.option("--classes", type=click.IntRange(1, 255), default=21, show_default=True)
def models(size: tuple[int, int], classes: int) -> None:
    """List the networks with their parameters and multiplications."""
    with _heavy(EXPORT):
        from refinenet_edge.model import MODELS
        from refinenet_edge.model.cost import cost
    table = Table("model", "parameters", f"GMAC at {size[0]}x{size[1]}", title=f"{classes} classes")
    for name in MODELS:
        spent = cost(name, classes, size)
        table.add_row(name, f"{spent.parameters / 1e6:.2f} M", f"{spent.macs / 1e9:.1f}")
    out.print(table)


@contextlib.contextmanager
def _heavy(install: str) -> Iterator[None]:
    """Imports of a stage that a device does not have; `install`: what pip is to install for it."""
    from refinenet_edge.errors import MissingExtra

    try:
        yield
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("refinenet_edge"):
            raise
        raise MissingExtra(f"{exc.name} is not installed: pip install {install}") from exc


def _shipped_bundle() -> Path:
    """The shipped model for this machine: built the first time, and kept."""
    from refinenet_edge.bundle import open_bundle
    from refinenet_edge.errors import BundleError, CheckpointError
    from refinenet_edge.files import sha256
    from refinenet_edge.runtime.cache import cache_folder

    digest = sha256(Path(__file__).parent / "weights" / "rf_lw_mbv2_scenes.safetensors", CheckpointError)
    path = cache_folder().with_name("bundles") / f"{__version__}-{digest[:12]}" / "scenes"
    try:
        open_bundle(path)
    except BundleError:
        with _heavy(EXPORT):
            from refinenet_edge.build import build as build_bundle
        err.print(f"the shipped model is built into {_plain(path)}, this once", soft_wrap=True)
        _make_folder(path.parent)
        with _bar() as bar:
            task = bar.add_task("start", total=None)
            build_bundle(Recipe(str(path), checkpoint="scenes"), lambda step: bar.update(task, description=step))
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


def _profile(manifest: Manifest, size: tuple[int, int] | None) -> Profile | None:
    """The frame sizes of a plan: a range in the bundle is its own, not the device's."""
    from refinenet_edge.engine import profile_for

    if manifest.frame.size is not None:
        if size is not None:
            raise InputError(f"the bundle is fixed to {'x'.join(map(str, manifest.frame.size))}: leave --size out")
        return None
    if size is not None:
        return profile_for(size)
    if manifest.engine is None or manifest.engine.profile is None:
        raise InputError("the bundle takes frames of any size: name the usual one with --size HEIGHTxWIDTH")
    return manifest.engine.profile


def _bar() -> Progress:
    """A progress bar on stderr: what a command prints stays clean."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


def _manifest(manifest: Manifest, title: str) -> Table:
    table = Table(title=_plain(title), show_header=False)

    def row(*cells: str) -> None:
        # a manifest comes from elsewhere
        table.add_row(*map(_plain, cells))

    row("model", f"{manifest.model}, weights: {manifest.checkpoint}")
    row("classes", f"{len(manifest.labels.names)} ({manifest.labels.name})")
    for kind, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        for spec in specs:
            row(kind, f"{spec.name} {spec.dtype} {'x'.join(map(str, spec.shape))}")
    row("precision", manifest.precision)
    row("built for", manifest.backend)
    row("upsampling", _upsampling(manifest.frame.upsample))
    row("rewrites", ", ".join(f"{name} {fired}" for name, fired in manifest.rewrites.items()))
    for name, cost in (("traced", manifest.traced_cost), ("fused", manifest.fused_cost)):
        if cost is not None:
            row(f"cost, {name}", f"{cost.macs / 1e9:.2f} GMAC, {cost.bytes / 1e6:.0f} MB moved, {cost.nodes} nodes")
    for p in manifest.parity:
        agreement = f"{100 * p.label_agreement:.2f} % same labels"
        row(f"parity, {p.stage}", f"{p.frame}: error {p.relative_error:.1e}, {agreement}")
    if budget := manifest.budget:
        unit = "points of mIoU" if budget.loss == "miou" else "% of the labels"
        lost = f"{budget.reached:.3f} {unit} lost on {budget.judge}, {budget.allowed:g} allowed"
        kept = sum(len(harm.layers) for harm in budget.harms if harm.kept)
        row("budget", f"{lost}; {kept} layers back in float, {budget.full:.3f} lost without")
    if speed := manifest.speed:
        row("speed", f"{speed.times:.2f} ({speed.low:.2f}..{speed.high:.2f}) times as fast as {speed.than}")
    if engine := manifest.engine:
        row("engine", f"{engine.flavour} {engine.version} for {', '.join(engine.targets)}")
        sizes = ("activations", engine.activation_bytes), ("weights", engine.weight_bytes)
        said = [f"{value / 1e6:.1f} MB {name}" for name, value in sizes if value is not None]
        row("", ", ".join([f"{engine.layers} layers", *said]))
    for name, digest in manifest.files.items():
        row("file", f"{name} {digest.size / 1e6:.1f} MB, sha256 {digest.sha256[:12]}")
    row("built by", manifest.command)
    return table


def _build_again(manifest: Manifest, options: Mapping[str, str], without: tuple[str, ...] = ()) -> str:
    """The command that built a bundle, with these options instead of its own."""
    try:
        words = shlex.split(manifest.command)
    except ValueError:  # a manifest comes from elsewhere
        words = []
    if words[:2] != ["refinenet-edge", "build"]:
        words = ["refinenet-edge", "build"]
    kept = [
        word
        for index, word in enumerate(words)
        if word not in (*options, *without) and words[index - 1] not in (*options, *without)
    ]
    return shlex.join([*kept, *(word for option in options.items() for word in option)])


def _cut(ranges: Ranges) -> Table:
    """The tensors that lose most: where the largest value is furthest beyond what INT8 will hold."""

    def share(tensor: Range) -> float:
        return tensor.amax / largest if (largest := max(abs(tensor.low), abs(tensor.high))) else 1.0

    table = Table("tensor", "from", "to", "INT8 holds", "method", title="cut most")
    for name, tensor in sorted(ranges.tensors.items(), key=lambda item: share(item[1]))[:5]:
        numbers = (f"{value:.4g}" for value in (tensor.low, tensor.high))
        table.add_row(_plain(name), *numbers, f"±{tensor.amax:.4g}, {_percent(min(share(tensor), 1.0))}", tensor.method)
    return table


def _harms(budget: Budget) -> Table:
    """The worst layers, what was decided, and the rest in groups that were not told apart."""
    title = f"what quantising harms, in {budget.runs} runs; {budget.judged} candidates judged with {budget.backend}"
    table = Table("layer", "error of the logits", "decision", title=title)
    for harm in budget.harms:
        names = harm.layers[0] if len(harm.layers) == 1 else f"{len(harm.layers)} from {harm.layers[0]} on"
        table.add_row(_plain(names), f"{harm.harm:.1e}", "back in float" if harm.kept else "quantised")
    return table


def _upsampling(how: Interpolation) -> str:
    return f"{how.kind}, align_corners={how.align_corners}" if isinstance(how, Bilinear) else how.kind


def _built_again(recipe: Recipe, step: Callable[[str], None]) -> str:
    """The folder of a suite's bundle, built anew: a result is of the toolkit that measures it."""
    with _heavy(EXPORT):
        from refinenet_edge.build import build as build_bundle
    return str(build_bundle(recipe, lambda said: step(f"{Path(recipe.output).name}: {said}")).path)


def _timings(run: Run, case: Case) -> Table:
    from refinenet_edge.bench import ratios, summary

    headings = _folding("", "p50 ms", "p90", "p99", "frames/s", "times as long", "", "mIoU")
    table = Table(*headings, title=f"frame to labels, {case}")
    verdicts = ratios(run, case)
    for name, measurement in run.of(case).items():
        figures = summary(measurement.ms)
        verdict = verdicts.get(name)
        miou = run.subject(name).miou
        table.add_row(
            _plain(name),
            *(f"{ms:.1f}" for ms in (figures.p50, figures.p90, figures.p99)),
            f"{measurement.frames_per_second:.1f}",
            *((str(verdict.times), verdict.word) if verdict else ("1", "")),
            "-" if miou is None else _percent(miou),
        )
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


def _scores(result: Result, title: str) -> Table:
    table = Table("class", "IoU", "share of truth", "most often taken for", title=title)
    pixels = max(sum(map(sum, result.confusion)), 1)
    for label, row in enumerate(result.confusion):
        others = [0 if other == label else count for other, count in enumerate(row)]
        most = max(range(len(row)), key=others.__getitem__)
        taken = f"{result.classes[most]}, {_percent(others[most] / sum(row))}" if others[most] else ""
        share = _percent(sum(row) / pixels)
        table.add_row(_plain(result.classes[label]), _percent(result.iou[label]), share, _plain(taken))
    return table


def _folding(*headings: str) -> list[Column]:
    """Columns that break a long name, where others would cut it."""
    return [Column(heading, overflow="fold") for heading in headings]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def _shares(mask: Mask) -> str:
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in list(mask.shares().items())[:4] if share >= 0.005)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise InputError(f"folder {folder} cannot be made: {exc.strerror}; name another with --out") from exc


def _frames(images: str) -> list[tuple[str, Callable[[], Frame]]]:
    """Names and readers of the frames that `images` means."""
    from refinenet_edge.evaluation import open_dataset
    from refinenet_edge.images import list_images, read_image

    if images.partition(":")[0] == "scenes" and not Path(images).exists():
        samples = open_dataset(images).samples
        return [(f"scene_{index:04d}", lambda s=sample: s.read()[0]) for index, sample in enumerate(samples)]  # type: ignore[misc]
    paths = list_images(images)
    stems = [path.stem for path in paths]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise InputError(f"two images are named {twice}: their results would overwrite each other, rename one")
    return [(path.stem, functools.partial(read_image, path)) for path in paths]


def _plain(text: object) -> str:
    """Text whose square brackets are no markup."""
    from rich.markup import escape

    return escape(str(text))


def _log_to_stderr(level: int) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    package = logging.getLogger("refinenet_edge")
    package.handlers[:] = [handler]
    package.setLevel(level)


if __name__ == "__main__":
    main()
