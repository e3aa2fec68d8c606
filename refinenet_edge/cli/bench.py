"""How long it takes: bench, report, estimate."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from refinenet_edge.cli.command import (
    EXPORT,
    SIZE,
    Group,
    LocalPath,
    Parsed,
    allow_host_code,
    heavy,
    main,
    option,
    with_backend,
    with_json,
)
from refinenet_edge.cli.screen import (
    err,
    folding,
    numbers,
    out,
    percent,
    print_cited,
    print_json,
    print_next,
    progress_bar,
    styled,
)
from refinenet_edge.errors import InputError
from refinenet_edge.files import make_folder, write_atomically
from refinenet_edge.records import MAX_BATCH, Recipe, to_json
from refinenet_edge.urls import shown

if TYPE_CHECKING:
    from refinenet_edge.bench import BatchCurve, BenchmarkRun, Case
    from refinenet_edge.records import Size


def _counts(text: str) -> tuple[int, ...]:
    """Numbers of frames, commas between them."""
    numbers = text.split(",")
    if not all(number.strip().isdecimal() and int(number) for number in numbers):
        raise InputError(f"{text!r}: expected whole numbers from 1 on, such as 1,2,4,8")
    return tuple(map(int, numbers))


BATCHES = Parsed("N,N...", _counts)


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
@option(
    "--out", "-o", "result", type=LocalPath(dir_okay=False), required=True, metavar="JSON", help="File for the result."
)
@with_backend
@option(
    "--against",
    default="",
    metavar="NAMES",
    help="Compare with these: torch, compile, onnxruntime, openvino, FILE.onnx, commas between them.",
)
@option("--checkpoint", type=LocalPath(), show_default="as the first bundle", help="Weights of torch and its exports.")
@option("--size", "sizes", type=SIZE, multiple=True, show_default="the bundle's", help="Size of frames. Repeatable.")
@option(
    "--batch",
    "batches",
    type=BATCHES,
    multiple=True,
    show_default="1",
    help="Frames at once, one number or several: 1,2,4,8. Repeatable.",
)
@option(
    "--streams",
    type=click.IntRange(1),
    multiple=True,
    show_default="1",
    help="Threads at once, each with a session of its own. Repeatable.",
)
@option("--frames", default="scenes", metavar="DIR|VIDEO|scenes", help="Frames to run on.")
@option("--judge", metavar="DATASET", help="Measure mIoU, too, as eval does, and show a few frames.")
@option("--source", metavar="SOURCE", help="Measure camera to screen, too, on a source of the demo.")
@option("--rounds", type=click.IntRange(2), show_default="until it is certain", help="Rounds of a measurement.")
@option("--brief", is_flag=True, help="Measure no start, memory, power and layers.")
@allow_host_code
def bench_run(
    what: tuple[str, ...],
    result: Path,
    backend: str,
    against: str,
    checkpoint: Path | None,
    sizes: tuple[Size, ...],
    batches: tuple[tuple[int, ...], ...],
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

    scope = bench.BenchScope(tuple(filter(None, against.split(","))), sizes, sum(batches, ()), streams, judge, source)
    with progress_bar("start") as bar:
        if len(what) == 1 and what[0].endswith(".toml"):
            suite = bench.read_suite(Path(what[0]), Path("build", "suites", Path(what[0]).stem))
            what = tuple(_built_again(recipe, bar.step) for recipe in suite.bundles.values())
            scope = scope.before(suite.scope)
        bundles = [bench.bundle_entry(Path(path), backend, allow_host_code) for path in what]
        entries: list[bench.Entry] = [*bundles]
        if scope.against:
            with heavy(EXPORT):
                from refinenet_edge.baselines import baselines_for
            entries += baselines_for(scope.against, bundles[0], checkpoint)
        dataset = open_dataset(scope.judge) if scope.judge else None
        options = bench.Options(scope.cases(bundles[0].size), frames, rounds, dataset, scope.source, brief)
        make_folder(result.parent)
        measured = bench.run(entries, options, shlex.join(["refinenet-edge", *map(shown, sys.argv[1:])]), bar.step)
    bench.write_run(result, measured)
    for case in measured.cases():
        out.print(_timings(measured, case))
    if curves := bench.batch_curves(measured):
        out.print(_batches(curves))
    for note in measured.notes:
        err.print(styled("left out:", "yellow", f" {note}"), soft_wrap=True)
    print_next(shlex.join(["refinenet-edge", "report", str(result), "-o", str(result.with_suffix(".html"))]))


@bench_group.command("compare")
@click.argument("before", type=LocalPath())
@click.argument("after", type=LocalPath())
@option(
    "--threshold",
    type=click.FloatRange(0),
    default=5.0,
    metavar="PERCENT",
    help="How much slower ends the command with 1.",
)
@option("--strict", is_flag=True, help="End with 1, too, where something was measured in one of the files only.")
@option("--force", is_flag=True, help="Compare different devices or power modes.")
@with_json
def bench_compare(before: Path, after: Path, threshold: float, strict: bool, force: bool, as_json: bool) -> None:
    """Say what became faster or slower from BEFORE to AFTER; exit 1 when anything is certainly slower by PERCENT."""
    from refinenet_edge import bench

    runs = bench.read_run(before), bench.read_run(after)
    changes = bench.compare(*runs, force)
    alone = bench.measured_once(*runs)
    if as_json:
        print_json({"changes": [dataclasses.asdict(change) for change in changes], "in_one_file_only": alone})
    columns = [*folding("", "case"), *numbers("before ms", "after ms", "times as fast")]
    table = Table(*columns, "verdict", *numbers("mIoU, points"))
    for change in changes:
        miou = "-" if change.miou is None else f"{change.miou:+.2f}"
        medians = f"{change.before_ms:.2f}", f"{change.after_ms:.2f}"
        times = str(bench.faster(change.verdict.times))
        table.add_row(change.subject, str(change.case), *medians, times, change.verdict.word, miou)
    if not as_json:
        out.print(table)
    for what in alone:
        err.print(styled("in one file only:", "yellow", f" {what}"), soft_wrap=True)
    worse = [change for change in changes if change.regressed(threshold / 100)]
    if worse:
        err.print(f"{len(worse)} of {len(changes)} take more than {threshold:g} % longer")
    if worse or (strict and alone):
        sys.exit(1)


@main.command("report")
@click.argument("results", nargs=-1, required=True, type=LocalPath())
@option("--out", "-o", "page", type=LocalPath(dir_okay=False), required=True, metavar="HTML", help="File for the page.")
@option("--markdown", type=LocalPath(dir_okay=False), help="File for tables to put into a README, too.")
def report(results: tuple[Path, ...], page: Path, markdown: Path | None) -> None:
    """Write the RESULTS of bench as one page that needs nothing else."""
    from refinenet_edge.report import write_report

    write_report(results, page, markdown)
    out.print(f"{page}: open it in a browser")


@main.command("estimate")
@click.argument("model", metavar="MODEL|BUNDLE")
@option(
    "--device",
    required=True,
    metavar="NAME|FILE",
    help="A board (orin-nano, orin-nx, agx-orin, thor, rtx4090 ...), or a file.",
)
@option("--size", type=SIZE, show_default="512x512, or the bundle's", help="Size of the network's input.")
@option("--classes", type=click.IntRange(1, 255), show_default="21, or the bundle's", help="Number of classes.")
@option(
    "--batch",
    type=click.IntRange(1, MAX_BATCH),
    show_default="1, or the bundle's best",
    help="Frames at once; what is said is of one of them.",
)
@option("--out", "-o", "result", type=LocalPath(dir_okay=False), help="File for the result (JSON).")
@with_json
def estimate(
    model: str,
    device: str,
    size: tuple[int, int] | None,
    classes: int | None,
    batch: int | None,
    result: Path | None,
    as_json: bool,
) -> None:
    """Say how fast MODEL can be at best on a board, by its published peak rates, and what binds each block.

    A floor, for choosing a board before owning it; and what to expect, from published measurements of other networks.
    """
    with heavy(EXPORT):
        from refinenet_edge import estimate as estimates

        bounds = estimates.estimate(model, device, size, classes, batch)
    if result is not None:
        write_atomically(result, to_json(bounds).encode(), InputError)
    if as_json:
        print_json(bounds, cites="source")
        return
    height, width = bounds.size
    together = f", a frame of {bounds.batch} at once" if bounds.batch > 1 else ""
    title = f"{model} at {height}x{width} on {bounds.device.title}, {bounds.device.mode}{together}"
    table = Table("", *numbers("at best, ms", "frames/s", "expect, ms"), title=title)
    for bound in bounds.bounds:
        low, middle, high = (f"{ms:.2f}" for ms in bound.expected_ms)
        table.add_row(
            bound.precision, f"{bound.ms:.2f}", f"{bound.frames_per_second:.0f}", f"{middle} ({low} to {high})"
        )
    out.print(table)
    blocks = Table("block", *(f"{bound.precision}, ms" for bound in bounds.bounds), title="at best, and bound by")
    for parts in zip(*(bound.blocks for bound in bounds.bounds), strict=True):
        blocks.add_row(parts[0].block, *(f"{part.ms:.3f} {part.bound_by}" for part in parts))
    out.print(blocks)
    for source in bounds.device.source:
        print_cited(f"from: {source}")


def _built_again(recipe: Recipe, step: Callable[[str], None]) -> str:
    """The folder of a suite's bundle, built anew: a result is of the toolkit that measures it."""
    with heavy(EXPORT):
        from refinenet_edge.build import build as build_bundle
    return str(build_bundle(recipe, lambda stage: step(f"{Path(recipe.output).name}: {stage}")).path)


def _batches(curves: Sequence[BatchCurve]) -> Table:
    table = Table(*folding(""), *numbers("frames at once", "ms", "ms a frame"), "", title="several frames at once")
    for curve in curves:
        name = f"{curve.subject}, {curve.size[0]}x{curve.size[1]}"
        for batch, ms in curve.ms.items():
            flat = "more gain little" if batch == curve.flat_from else ""
            table.add_row(name, str(batch), f"{ms:.1f}", f"{curve.per_frame[batch]:.1f}", flat)
    return table


def _timings(run: BenchmarkRun, case: Case) -> Table:
    from refinenet_edge.bench import faster, rows

    columns = [*folding(""), *numbers("p50 ms", "p90", "p99", "frames/s", "times as fast")]
    table = Table(*columns, "", *numbers("mIoU"), title=f"frame to labels, {case}")
    for row in rows(run, case):
        table.add_row(
            row.subject.name,
            *(f"{ms:.1f}" for ms in (row.times.p50, row.times.p90, row.times.p99)),
            f"{row.measurement.frames_per_second:.1f}",
            *((str(faster(row.verdict.times)), row.verdict.word) if row.verdict else ("1", "")),
            percent(row.subject.miou),
        )
    return table
