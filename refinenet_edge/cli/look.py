"""What there is, and what works: inspect, models, doctor, dla-check. Nothing is built or run."""

import dataclasses
import sys
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from refinenet_edge.bundle import PLAN, open_bundle
from refinenet_edge.cli.command import EXPORT, SIZE, LocalPath, heavy, main, option, with_json
from refinenet_edge.cli.screen import folding, harms_table, manifest_table, numbers, out, percent, print_json
from refinenet_edge.records import ONE

NAMES = 8  # of nodes in a row


@main.command("inspect")
@click.argument("path", type=LocalPath())
@with_json
def inspect(path: Path, as_json: bool) -> None:
    """Show what is in a bundle, or in a .plan file; needs no GPU."""
    from refinenet_edge.runtime.tensorrt.engine import read_header

    if path.is_dir():
        manifest = open_bundle(path).manifest
        if as_json:
            print_json(manifest)
            return
        out.print(manifest_table(manifest, str(path)))
        if manifest.budget and manifest.budget.harms:
            out.print(harms_table(manifest.budget))
        if PLAN not in manifest.files:
            return
        path = path / PLAN
    header = read_header(path)
    if as_json:
        print_json({"flavour": header.flavour, "version": header.version, "bytes": path.stat().st_size})
        return
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    out.print(f"{path}: a plan of {size}, written by {header.flavour} {header.version}")


@main.command("models")
@option("--size", type=SIZE, default="512x512", help="Size of the network's input.")
@option("--classes", type=click.IntRange(1, 255), default=21, help="Number of classes.")
@with_json
def models(size: tuple[int, int], classes: int, as_json: bool) -> None:
    """List the networks with their parameters and multiplications."""
    with heavy(EXPORT):
        from refinenet_edge.model import MODELS
        from refinenet_edge.model.cost import cost
    costs = {name: cost(name, classes, size) for name in MODELS}
    if as_json:
        print_json(
            [{"model": name, "parameters": spent.parameters, "macs": spent.macs} for name, spent in costs.items()]
        )
        return
    columns = numbers("parameters", f"GMAC at {size[0]}x{size[1]}")
    table = Table("model", *columns, title=f"{classes} classes")
    for name, spent in costs.items():
        table.add_row(name, f"{spent.parameters / 1e6:.2f} M", f"{spent.macs / 1e9:.1f}")
    out.print(table)


@main.command("doctor")
@with_json
def doctor(as_json: bool) -> None:
    """Say which backends work here, what does not fit together, and the fix for each.

    On a Jetson also: JetPack, TensorRT and CUDA, the GPU in TensorRT's wheel, power mode, clocks, memory, DLA.
    """
    from refinenet_edge.doctor import examine

    colours = {"ok": "green", "absent": "yellow", "limited": "yellow", "wrong": "red"}
    table = Table("", "what", "found", "fix")
    findings = list(examine())
    for finding in findings:
        table.add_row(Text(finding.state, colours[finding.state]), finding.subject, finding.detail, finding.fix)
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        out.print(table)
    if any(finding.state == "wrong" for finding in findings):
        sys.exit(1)


@main.command("dla-check")
@click.argument("bundle", type=LocalPath())
@with_json
def dla_check(bundle: Path, as_json: bool) -> None:
    """Say which nodes of BUNDLE would not run on DLA and why, by NVIDIA's documents; nothing is built."""
    opened = open_bundle(bundle)
    with heavy("onnx-ir"):
        from refinenet_edge import dla
        from refinenet_edge.onnx_import.bundled import read_graph
    batch = opened.manifest.batch
    report = dla.check(read_graph(opened, batch.best))  # DLA takes a fixed number of frames
    if as_json:
        print_json(report)
        return
    reasons = Table(
        *folding("falls back", "nodes", "which", "on", "says"),
        title=str(bundle) + (f", {batch.best} frames at once" if batch != ONE else ""),
    )
    for reason in report.reasons:
        why = reason.reason if reason.certain else f"perhaps: {reason.reason}"
        names = [*reason.nodes[:NAMES], *(["..."] if len(reason.nodes) > NAMES else [])]
        on = "all" if reason.where == tuple(dla.WHERE) else ", ".join(reason.where)
        reasons.add_row(why, str(len(reason.nodes)), "\n".join(names), on, reason.source)
    out.print(reasons if report.reasons else f"no known reason for a node of {bundle} to fall back")
    table = Table(*folding("on", "has DLA with", "nodes on DLA", "MACs on DLA", "changes of device"))
    for place in report.placements:
        share = "sizes are free" if place.macs is None else percent((place.macs_on_dla or 0) / max(place.macs, 1))
        table.add_row(
            place.where, dla.WHERE[place.where], f"{place.on_dla} of {place.nodes}", share, f"{place.switches} or more"
        )
    out.print(table)
    out.print(dla.NOWHERE, soft_wrap=True)
