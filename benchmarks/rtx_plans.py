"""TensorRT-RTX plans of all models: the plain export against our fused graph, and what the builder reports.

    python benchmarks/rtx_plans.py                          -> benchmarks/results/tensorrt-rtx/plans.json
    python benchmarks/rtx_plans.py --model rf_lw_mbv2 --size 128x128 --out plans.json

"plain" is what torch's exporter gives with batch norms folded; "ours" is after all rewrites, and in fp16 with channels
padded for channel-last ends. Both are typed by the same code. Layers and memory are the builder's own words. Kernels
and the bytes they move are counted from the program text that TensorRT-RTX 1.7 keeps in its plans, an undocumented
format: every tensor argument once, caches ignored. Random weights: none of this depends on them. No GPU is needed, and
nothing here is a time.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from math import prod
from pathlib import Path

import click
import onnx
import onnx_ir as ir
import torch
from machine import RESULTS, save
from rich.console import Console
from rich.table import Table

from refinenet_edge import precision
from refinenet_edge.fusion import REWRITES, fuse
from refinenet_edge.graph import to_bytes
from refinenet_edge.model import MODELS, create
from refinenet_edge.recipe import parse_size
from refinenet_edge.runtime.tensorrt.builder import EngineOptions, build_plan
from refinenet_edge.trace import trace

PLANS = RESULTS / "tensorrt-rtx" / "plans.json"
PLAIN = ("fold_constants", "remove_identities", "fold_batch_norm")
ITEM = {"float": 4, "half": 2, "int8": 1, "uint8": 1, "int32": 4, "int64": 8, "bool": 1}  # bytes
NO_KERNEL = ("signal", "wait", "tensor", "region", "shape_call")


def statements(plan: bytes) -> list[str] | None:
    """The kernels of a plan's main program, each as its text; None when it has none that we can read."""
    blocks = re.split(r"\n\s*label bb\d+:", plan.decode("latin1"))
    if len(blocks) < 2:
        return None
    found = re.findall(r"(?s)\n\s*([a-z_]+)=\{ (name=.*?)\}(?=\n)", blocks[1])
    return [body for kind, body in found if kind not in NO_KERNEL]


def kernels(plan: bytes, free: int = 1) -> tuple[int, int] | None:
    """(kernels, bytes they read and write) of a plan's main program; None when it has none that we can read.

    A side that the plan leaves free, which it has by a name, is taken for `free`.
    """
    text = plan.decode("latin1")
    sizes: dict[str, int] = {}
    for body, kind in re.findall(r"tensor=\{ (.*?) type=(\w+) \}", text):
        name, sides = re.search(r'name="([^"]*)"', body), re.search(r"dims=\{([^}]*)\}", body)
        if name:
            sizes[name[1]] = ITEM.get(kind, 4) * (
                prod(free if side.startswith('"') else int(side) for side in sides[1].split()) if sides else 1
            )
    program = statements(plan)
    if program is None:
        return None
    moved = 0
    for body in program:
        for roles in (("input", "input_args"), ("output", "output_args")):
            lists = next((found for role in roles if (found := re.findall(rf"\b{role}=\{{([^}}]*)\}}", body))), [])
            moved += sum(sizes.get(name, 0) for names in lists for name in re.findall(r'"([^"]*)"', names))
    return len(program), moved


@click.command(help=__doc__)
@click.option("--model", "names", multiple=True, type=click.Choice(MODELS), default=MODELS)
@click.option("--size", default="512x512", show_default=True)
@click.option("--classes", default=21, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=PLANS, show_default=True)
def main(names: tuple[str, ...], size: str, classes: int, out: Path) -> None:
    rows = []
    for name in names:
        torch.manual_seed(0)
        traced = to_bytes(trace(create(name, classes), parse_size(size)))
        for graph, rewrites in (("plain", [r for r in REWRITES if r.name in PLAIN]), ("ours", REWRITES)):
            for kind in ("fp32", "fp16"):
                model = ir.from_proto(onnx.load_model_from_string(traced))
                fired = {firing.name: firing.fired for firing in fuse(model, rewrites)}
                precision.apply(model, kind)
                if graph == "ours":
                    precision.pad_channels(model)
                plan, info = build_plan(to_bytes(model), "tensorrt-rtx", EngineOptions())
                counted = kernels(plan) or (None, None)
                row = {"model": name, "graph": graph, "precision": kind, "plan_bytes": len(plan), "rewrites": fired}
                rows.append({**row, "kernels": counted[0], "bytes_moved": counted[1], **asdict(info)})
    record = {"size": size, "classes": classes, "weights": "random", "plans": rows}
    save(record, out.name, out)
    heads = ("kernels", "moved MB", "layers", "activations MB", "weights MB", "plan MB")
    table = Table("model", "precision", "graph", *heads, title=f"{size}, {classes} classes")
    for row in rows:
        sizes = (f"{row[key] / 1e6:.1f}" for key in ("activation_bytes", "weight_bytes", "plan_bytes"))
        moved = "" if row["bytes_moved"] is None else f"{row['bytes_moved'] / 1e6:.1f}"
        counts = (str(row["kernels"]), moved, str(row["layers"]))
        table.add_row(row["model"], row["precision"], row["graph"], *counts, *sizes)
    Console(width=120).print(table)
    Console().print(f"written to {out}")


if __name__ == "__main__":
    main()
