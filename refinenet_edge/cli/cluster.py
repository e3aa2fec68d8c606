"""Beyond one machine, and into other servers: batch, export-triton, export-deepstream."""

from pathlib import Path
from typing import Any

import click

from refinenet_edge.bundle import open_bundle
from refinenet_edge.cli.command import (
    EXPORT,
    MASK_FORMATS,
    LocalPath,
    Running,
    heavy,
    main,
    option,
    unknown_below,
    with_ray,
    with_running,
)
from refinenet_edge.cli.screen import err, out, progress_bar
from refinenet_edge.errors import PartFailed


@main.command("batch")
@click.argument("bundle", type=LocalPath())
@click.argument("source", metavar="INPUT")
@option("--out", "-o", "folder", required=True, metavar="DIR", help="Folder for the labels, or a URL such as s3://...")
@option(
    "--format",
    "form",
    type=click.Choice([*MASK_FORMATS, "parquet"]),
    default="png",
    help="How they are kept: label PNGs, polygons, run lengths or polygons as COCO has them, shares, or tables.",
)
@option("--confidence", is_flag=True, help="Keep how sure each label is, too: its softmax in 255ths.")
@unknown_below
@with_running
@with_ray
def batch(
    bundle: Path,
    source: str,
    folder: str,
    form: Any,
    confidence: bool,
    least: float | None,
    running: Running,
    ray: str,
) -> None:
    """Label every frame of INPUT: images, videos, a folder of them (or its URL), or scenes:SEED:COUNT.

    A run that was stopped does what is missing when it is started again. A frame that cannot be labelled is written
    down in DIR/problems.json, and the rest goes on.
    """
    from refinenet_edge.cluster.batch import PROBLEMS, label

    with progress_bar("label") as bar:
        done = label(
            open_bundle(bundle),
            source,
            folder,
            form=form,
            ray=ray,
            confidence=confidence,
            unknown_below=least,
            progress=bar.count,
            **running,
        )
    rate = ""
    if done.labelled:
        cost = 1000 * done.cpu_seconds / done.labelled
        rate = f", {done.labelled / done.seconds:.1f} a second, {cost:.0f} ms of CPU each"
    before = f", {done.before} were there" if done.before else ""
    said = f"{done.labelled} of {done.frames} frames labelled on {done.backend}{rate}{before}"
    out.print(f"{said}: {folder}", soft_wrap=True)
    if done.problems:
        for problem in done.problems[:5]:
            err.print(f"  {problem.id}: {problem.reason}", soft_wrap=True)
        raise PartFailed(f"{len(done.problems)} not labelled: see {PROBLEMS} in {folder}")


@main.command("export-triton")
@click.argument("bundle", type=LocalPath())
@option(
    "--out",
    "-o",
    "--repository",
    "repository",
    type=LocalPath(file_okay=False),
    required=True,
    metavar="DIR",
    help="The model repository.",
)
@option("--name", show_default="the bundle's", help="Name of the model that takes frames.")
def export_triton(bundle: Path, repository: Path, name: str | None) -> None:
    """Put BUNDLE into a model repository of Triton Inference Server: NAME, frames to labels, and NAME_network.

    A model that is there gets a new version, which Triton then serves.
    """
    with heavy("'refinenet-edge[triton]'"):
        from refinenet_edge.cluster.triton import export

    for exported in export(open_bundle(bundle), repository, name):
        out.print(str(exported), soft_wrap=True)


@main.command("export-deepstream")
@click.argument("bundle", type=LocalPath())
@option("--out", "-o", "folder", type=LocalPath(), required=True, metavar="DIR", help="Folder to be written.")
def export_deepstream(bundle: Path, folder: Path) -> None:
    """Write a folder for DeepStream: nvinfer's configuration of BUNDLE, its graph, class names and colours."""
    with heavy(EXPORT):
        from refinenet_edge.deepstream import export
    out.print(str(export(open_bundle(bundle), folder)), soft_wrap=True)
