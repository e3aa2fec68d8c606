"""TensorRT-RTX plans in INT8, ours against nvidia-modelopt's PTQ and ONNX Runtime's own, and fp32 and fp16 beside them.

    python benchmarks/rtx_int8.py                         -> benchmarks/results/tensorrt-rtx/int8.json
    python benchmarks/rtx_int8.py --model rf_lw_mbv2 --out int8.json

Ours are bundles as `refinenet-edge build` makes them, INT8 in a float16 graph. Peers quantise the plain float32 export,
modelopt with float16 around it, its default, and with float32. Kernels and bytes are counted as in rtx_plans.py, memory
is what the builder reports. rf_lw_mbv2 has its trained weights, rf_lw50 random ones. Calibration is on a few frames
only: none of this depends on the scales. No GPU is needed, and nothing here is a time.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from int8_peers import Quantiser, modelopt, onnxruntime, quantise
from machine import RESULTS, save
from rich.console import Console
from rich.table import Table
from rtx_plans import kernels

from refinenet_edge.build import build
from refinenet_edge.bundle import PLAN
from refinenet_edge.calibration import calibration_frames
from refinenet_edge.errors import BuildError
from refinenet_edge.model import create, load_checkpoint
from refinenet_edge.precision import QUANTISED
from refinenet_edge.records import PRECISIONS, EngineInfo, FrameSpec, Recipe
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.tensorrt.builder import EngineOptions, build_plan

WEIGHTS = {"rf_lw_mbv2": "scenes", "rf_lw50": None}
CLASSES = 21  # of random weights
PLANS = RESULTS / "tensorrt-rtx" / "int8.json"
SIZE = (512, 512)
QUANTISERS: dict[str, Quantiser] = {
    "modelopt INT8, fp16 around": modelopt("max", "fp16"),
    "modelopt INT8, fp32 around": modelopt("max", "fp32"),
    "onnxruntime INT8": onnxruntime(signed=True),
}


def row(who: str, plan: bytes, info: EngineInfo) -> dict[str, Any]:
    counted = kernels(plan) or (None, None)
    return {
        "graph": who,
        "kernels": counted[0],
        "bytes_moved": counted[1],
        "activation_bytes": info.activation_bytes,
        "weight_bytes": info.weight_bytes,
        "plan_bytes": len(plan),
        "version": info.version,
    }


def ours(name: str, calib: str) -> list[dict[str, Any]]:
    rows = []
    for precision in PRECISIONS:
        with tempfile.TemporaryDirectory() as folder:
            recipe = Recipe(
                f"{folder}/{precision}",
                name,
                WEIGHTS[name],
                size=SIZE,
                precision=precision,
                calib=calib if precision in QUANTISED else None,
                backend="tensorrt-rtx",
                force=True,
            )
            built = build(recipe)
            assert built.manifest.engine is not None
            rows.append(row(f"ours {precision}", (built.path / PLAN).read_bytes(), built.manifest.engine))
    return rows


def peers(name: str, calib: str) -> list[dict[str, Any]]:
    checkpoint = WEIGHTS[name]
    torch.manual_seed(0)
    module = (load_checkpoint(checkpoint) if checkpoint else create(name, CLASSES)).eval()
    source = calibration_frames(calib)
    frames = np.concatenate([prepare(source.read(index), FrameSpec(SIZE)) for index in range(len(source))])
    quantised = quantise(module, frames, QUANTISERS)
    rows = [{"graph": who, "error": why} for who, why in quantised.missing.items()]
    for who, graph in quantised.graphs.items():
        try:
            rows.append(row(who, *build_plan(graph.read_bytes(), "tensorrt-rtx", EngineOptions())))
        except BuildError as exc:
            rows.append({"graph": who, "error": str(exc)})
    return rows


def measure(names: tuple[str, ...], calib: str, console: Console) -> dict[str, list[dict[str, Any]]]:
    """The plans of each network, ours and the peers', and a table of them."""
    found = {}
    for name in names:
        found[name] = ours(name, calib) + peers(name, calib)
        table = Table("", "kernels", "moved MB", "activations MB", "weights MB", "plan MB", title=f"{name}, 512x512")
        for entry in found[name]:
            if "error" in entry:
                console.print(f"{entry['graph']}: {entry['error']}")
                continue
            sizes = [entry[key] for key in ("bytes_moved", "activation_bytes", "weight_bytes", "plan_bytes")]
            shown = ("" if size is None else f"{size / 1e6:.1f}" for size in sizes)
            table.add_row(entry["graph"], str(entry["kernels"]), *shown)
        console.print(table)
    return found


@click.command(help=__doc__)
@click.option("--model", "names", multiple=True, type=click.Choice(list(WEIGHTS)), default=list(WEIGHTS))
@click.option("--calib", default="scenes:2:16", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=PLANS, show_default=True)
def main(names: tuple[str, ...], calib: str, out: Path) -> None:
    logging.disable(logging.WARNING)  # quantisers and exporter tell what they do
    console = Console(width=120)
    found = measure(names, calib, console)
    record = {"size": SIZE, "calibration": calib, "weights": {name: WEIGHTS[name] or "random" for name in names}}
    save({**record, "plans": found}, out.name, out)
    console.print(f"written to {out}")


if __name__ == "__main__":
    main()
