"""TensorRT-RTX plans of batches beside those of one frame: what a frame then costs.

    python benchmarks/rtx_batch.py                        -> benchmarks/results/tensorrt-rtx/batch.json
    python benchmarks/rtx_batch.py --model rf_lw_mbv2 --size 64x96 --out batch.json

float16, channels padded for channel-last ends, as the build makes them. Kernels and bytes are counted as in
rtx_plans.py and divided by the frames that go in at once: a kernel is launched, and weights are read, once for all of
them. A plan with a range is counted with the most that it takes. Memory is what the builder reports. Random weights:
none of this depends on them. No GPU is needed, and nothing here is a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import torch
from machine import RESULTS, save
from rich.console import Console
from rich.table import Table
from rtx_plans import kernels

from refinenet_edge import precision
from refinenet_edge.fusion import fuse
from refinenet_edge.graph import copy_of, to_bytes
from refinenet_edge.graph.batch import set_batch
from refinenet_edge.model import MODELS, create
from refinenet_edge.recipe import parse_size
from refinenet_edge.records import Batch, Size
from refinenet_edge.runtime.tensorrt.builder import EngineOptions, build_plan
from refinenet_edge.trace import trace

PLANS = RESULTS / "tensorrt-rtx" / "batch.json"
NAMES = ("rf_lw_mbv2", "rf_lw50")
BATCHES = ("1", "4", "1:8")


def plans(name: str, classes: int, size: Size, batches: tuple[str, ...] = BATCHES) -> list[dict[str, Any]]:
    """What the plan of each batch of a network has."""
    torch.manual_seed(0)
    model = trace(create(name, classes), size)
    fuse(model)
    precision.apply(model, "fp16")
    precision.pad_channels(model)
    rows = []
    for text in batches:
        batch = Batch.parse(text)
        graph = to_bytes(set_batch(copy_of(model), batch))
        plan, info = build_plan(graph, "tensorrt-rtx", EngineOptions(batch=batch))
        launched, moved = kernels(plan, free=batch.most) or (None, None)
        rows.append(
            {
                "batch": text,
                "frames": batch.most,
                "kernels": launched,
                "bytes_moved": moved,
                "bytes_moved_per_frame": None if moved is None else moved / batch.most,
                "activation_bytes": info.activation_bytes,
                "weight_bytes": info.weight_bytes,
                "plan_bytes": len(plan),
                "version": info.version,
            }
        )
    return rows


@click.command(help=__doc__)
@click.option("--model", "names", multiple=True, type=click.Choice(MODELS), default=NAMES)
@click.option("--size", default="512x512", show_default=True)
@click.option("--classes", default=21, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=PLANS, show_default=True)
def main(names: tuple[str, ...], size: str, classes: int, out: Path) -> None:
    found = {name: plans(name, classes, parse_size(size)) for name in names}
    save({"size": size, "classes": classes, "weights": "random", "plans": found}, out.name, out)
    heads = ("kernels", "kernels a frame", "moved MB a frame", "activations MB", "weights MB")
    table = Table("model", "batch", *heads, title=f"{size}, {classes} classes, fp16")
    for name, rows in found.items():
        for row in rows:
            counts = (str(row["kernels"]), f"{(row['kernels'] or 0) / row['frames']:.1f}")
            keys = ("bytes_moved_per_frame", "activation_bytes", "weight_bytes")
            table.add_row(name, row["batch"], *counts, *(f"{(row[key] or 0) / 1e6:.1f}" for key in keys))
    Console(width=120).print(table)
    Console().print(f"written to {out}")


if __name__ == "__main__":
    main()
