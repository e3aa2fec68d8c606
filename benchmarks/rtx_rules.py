"""What each rule costs in TensorRT-RTX's plans: those of the placement of Q/DQ, the padding of channels, the rewrites.

    python benchmarks/rtx_rules.py                        -> benchmarks/results/tensorrt-rtx/rules.json
    python benchmarks/rtx_rules.py --model rf_lw_mbv2 --classes 40 --out rules40.json

Each row is the plan as the build makes it, but for one rule. Kernels and bytes are counted as in rtx_plans.py, memory
is what the builder reports. Random weights, calibrated on two scenes: none of this depends on them. No GPU is needed,
and nothing here is a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import onnx
import onnx_ir as ir
import torch
from machine import RESULTS, save
from rich.console import Console
from rich.table import Table
from rtx_int8 import CLASSES, SIZE, WEIGHTS, row

from refinenet_edge.calibration import calibrate, calibration_frames
from refinenet_edge.fusion import REWRITES, fuse
from refinenet_edge.graph import copy_of, to_bytes
from refinenet_edge.model import create
from refinenet_edge.precision import pad_channels, quantise, to_fp16
from refinenet_edge.precision.placement import FP8, RTX, Placement
from refinenet_edge.records import FrameSpec
from refinenet_edge.runtime.tensorrt.builder import EngineOptions, build_plan
from refinenet_edge.trace import trace

RULES = RESULTS / "tensorrt-rtx" / "rules.json"
PLACED = {
    "int8": RTX,
    "int8, after depthwise convolutions too": replace(RTX, after_depthwise=True),
    "int8, and depthwise convolutions": replace(RTX, after_depthwise=True, depthwise=True),
    "int8, skips in a convolution's epilogue too": replace(RTX, epilogues=True),
    "int8, without sums": replace(RTX, sums=False),
    "int8, without pools": replace(RTX, pools=False),
    "int8, without resizes": replace(RTX, resizes=False),
    "int8, the classifier too": replace(RTX, classifier=True),
    "int8, weights per channel": replace(RTX, per_channel=True),
    "fp8": FP8,
    "fp8, pools too": replace(FP8, pools=True),
    "fp8, pools and sums too": replace(FP8, pools=True, sums=True),
    "fp8, weights per channel": replace(FP8, per_channel=True),
}


def variants(name: str, classes: int) -> Iterator[tuple[str, ir.Model]]:
    """(what is left out or added, the float16 graph of `name` so)."""
    torch.manual_seed(0)
    traced = to_bytes(trace(create(name, classes), SIZE))

    def fused(without: str = "") -> ir.Model:
        model = ir.from_proto(onnx.load_model_from_string(traced))
        fuse(model, [rewrite for rewrite in REWRITES if rewrite.name != without])
        return model

    def padded(model: ir.Model) -> ir.Model:
        pad_channels(model)
        return model

    yield "fp16", padded(to_fp16(fused()))
    yield "fp16, channels not padded", to_fp16(fused())
    for rewrite in ("merge_pointwise", "merge_siblings", "carry_sums", "split_pooling_tail"):
        yield f"fp16, without {rewrite}", padded(to_fp16(fused(rewrite)))
    model = fused()
    ranges = calibrate(copy_of(model), FrameSpec(SIZE), calibration_frames("scenes:2:2"))

    def placed(placement: Placement) -> ir.Model:
        return padded(to_fp16(quantise(copy_of(model), ranges, placement)))

    for what, placement in PLACED.items():
        yield what, placed(placement)


@click.command(help=__doc__)
@click.option("--model", "names", multiple=True, type=click.Choice(list(WEIGHTS)), default=list(WEIGHTS))
@click.option("--classes", default=CLASSES, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RULES, show_default=True)
def main(names: tuple[str, ...], classes: int, out: Path) -> None:
    logging.disable(logging.WARNING)  # a few frames are few, and that is all that is needed
    console = Console(width=120)
    plans = {}
    for name in names:
        plans[name] = [
            row(what, *build_plan(to_bytes(model), "tensorrt-rtx", EngineOptions()))
            for what, model in variants(name, classes)
        ]
        heads = ("kernels", "moved MB", "activations MB", "weights MB")
        table = Table("", *heads, title=f"{name}, {classes} classes, 512x512")
        for plan in plans[name]:
            sizes = (plan[key] for key in ("bytes_moved", "activation_bytes", "weight_bytes"))
            table.add_row(plan["graph"], str(plan["kernels"]), *(f"{size / 1e6:.1f}" for size in sizes))
        console.print(table)
    save({"size": SIZE, "classes": classes, "weights": "random", "plans": plans}, out.name, out)
    console.print(f"written to {out}")


if __name__ == "__main__":
    main()
