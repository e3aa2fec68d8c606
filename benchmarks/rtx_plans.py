"""Build all seven models as TensorRT-RTX plans, fp32 and fp16, and record what the builder reports of each.

    python benchmarks/rtx_plans.py                          -> benchmarks/results/tensorrt-rtx/plans.json
    python benchmarks/rtx_plans.py --model rf_lw_mbv2 --size 128x128 --out plans.json

Random weights: layers, memory and sizes do not depend on them. No GPU is needed, and nothing here is about speed.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
import onnx_ir as ir
import torch
from rich.console import Console
from rich.table import Table

from refinenet_edge import precision
from refinenet_edge.engine import EngineOptions, build_plan
from refinenet_edge.errors import BuildError
from refinenet_edge.files import write_atomically
from refinenet_edge.fusion import fuse
from refinenet_edge.model import MODELS, create
from refinenet_edge.recipe import parse_size
from refinenet_edge.trace import to_bytes, trace

RESULTS = Path(__file__).parent / "results" / "tensorrt-rtx" / "plans.json"


@click.command(help=__doc__)
@click.option("--model", "names", multiple=True, type=click.Choice(MODELS), default=MODELS)
@click.option("--size", default="512x512", show_default=True)
@click.option("--classes", default=21, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(names: tuple[str, ...], size: str, classes: int, out: Path) -> None:
    rows = []
    for name in names:
        torch.manual_seed(0)
        model = trace(create(name, classes), parse_size(size))
        fired = {firing.name: firing.fired for firing in fuse(model)}
        for kind in precision.PRECISIONS:
            plan, info = build_plan(to_bytes(precision.apply(ir_copy(model), kind)), "tensorrt-rtx", EngineOptions())
            rows.append({"model": name, "precision": kind, "plan_bytes": len(plan), "rewrites": fired, **asdict(info)})
    out.parent.mkdir(parents=True, exist_ok=True)
    record = {"size": size, "classes": classes, "weights": "random", "plans": rows}
    write_atomically(out, (json.dumps(record, indent=2) + "\n").encode(), BuildError)
    table = Table("model", "precision", "layers", "activations MB", "weights MB", "plan MB", "build s", title=size)
    for row in rows:
        sizes = (f"{row[key] / 1e6:.1f}" for key in ("activation_bytes", "weight_bytes", "plan_bytes"))
        table.add_row(row["model"], row["precision"], str(row["layers"]), *sizes, str(row["build_seconds"]))
    Console().print(table)
    Console().print(f"written to {out}")


def ir_copy(model: ir.Model) -> ir.Model:
    """An independent copy: typing a graph changes it in place."""
    return ir.from_proto(ir.to_proto(model))


if __name__ == "__main__":
    main()
