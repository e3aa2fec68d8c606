"""How long it takes: bench, report, estimate."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from refinenet_edge.cli.command import EXPORT, Group, SizeType, allow_host_code, heavy, main, make_folder
from refinenet_edge.cli.screen import err, folding, out, percent, print_next, progress_bar, styled
from refinenet_edge.errors import InputError
from refinenet_edge.records import Recipe

if TYPE_CHECKING:
    from refinenet_edge.bench import BenchmarkRun, Case
    from refinenet_edge.records import Size


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
@click.option("--frames", default="scenes", metavar="DIR|VIDEO|scenes", show_default=True)
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

    scope = bench.Scope(tuple(filter(None, against.split(","))), sizes, batches, streams, judge, source)
    with progress_bar() as bar:
        task = bar.add_task("start", total=None)

        def step(name: str) -> None:
            bar.update(task, description=name)

        if len(what) == 1 and what[0].endswith(".toml"):
            suite = bench.read_suite(Path(what[0]), Path("build", "suites", Path(what[0]).stem))
            what = tuple(_built_again(recipe, step) for recipe in suite.bundles.values())
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
        measured = bench.run(entries, options, shlex.join(["refinenet-edge", *sys.argv[1:]]), step)
    bench.write_run(result, measured)
    for case in measured.cases():
        out.print(_timings(measured, case))
    for note in measured.notes:
        err.print(styled("left out:", "yellow", f" {note}"), soft_wrap=True)
    print_next(shlex.join(["refinenet-edge", "report", str(result), "-o", str(result.with_suffix(".html"))]))


@bench_group.command("compare")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--threshold", type=click.FloatRange(0), default=5.0, show_default=True, metavar="PERCENT")
@click.option("--force", is_flag=True, help="Compare different devices or power modes.")
def bench_compare(before: Path, after: Path, threshold: float, force: bool) -> None:
    """Say what became faster or slower from BEFORE to AFTER; exit 1 when anything is certainly slower by PERCENT."""
    from refinenet_edge import bench

    changes = bench.compare(bench.read_run(before), bench.read_run(after), force)
    table = Table(*folding("", "case", "before ms", "after ms", "times as long", "verdict", "mIoU, points"))
    for change in changes:
        miou = "-" if change.miou is None else f"{change.miou:+.2f}"
        medians = f"{change.before_ms:.2f}", f"{change.after_ms:.2f}"
        table.add_row(change.subject, str(change.case), *medians, str(change.verdict.times), change.verdict.word, miou)
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
    out.print(f"{page}: open it in a browser")


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
    with heavy(EXPORT):
        from refinenet_edge import estimate as estimates

        bounds = estimates.estimate(model, device, size, classes)
    height, width = bounds.size
    title = f"{model} at {height}x{width} on {bounds.device.title}, {bounds.device.mode}"
    table = Table("", "at best, ms", "frames/s", "expect, ms", title=title)
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
        out.print(f"from: {source}", soft_wrap=True)
    if result is not None:
        from refinenet_edge.files import write_atomically
        from refinenet_edge.records import to_json

        write_atomically(result, to_json(bounds).encode(), InputError)


def _built_again(recipe: Recipe, step: Callable[[str], None]) -> str:
    """The folder of a suite's bundle, built anew: a result is of the toolkit that measures it."""
    with heavy(EXPORT):
        from refinenet_edge.build import build as build_bundle
    return str(build_bundle(recipe, lambda stage: step(f"{Path(recipe.output).name}: {stage}")).path)


def _timings(run: BenchmarkRun, case: Case) -> Table:
    from refinenet_edge.bench import ratios, summary

    headings = folding("", "p50 ms", "p90", "p99", "frames/s", "times as long", "", "mIoU")
    table = Table(*headings, title=f"frame to labels, {case}")
    verdicts = ratios(run, case)
    for name, measurement in run.of(case).items():
        figures = summary(measurement.ms)
        verdict = verdicts.get(name)
        miou = run.subject(name).miou
        table.add_row(
            name,
            *(f"{ms:.1f}" for ms in (figures.p50, figures.p90, figures.p99)),
            f"{measurement.frames_per_second:.1f}",
            *((str(verdict.times), verdict.word) if verdict else ("1", "")),
            "-" if miou is None else percent(miou),
        )
    return table
