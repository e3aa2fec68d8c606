"""INT8 beside accuracy and speed: a damaged layer, rf50, and the memory of TensorRT-RTX's plans.

Each function measures one thing and says its goal; int8.py runs them all.

    python benchmarks/int8_checks.py benchmarks/results/<cpu>/int8.json       rf50 again, the rest of the result stays
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import openvino
import torch
from machine import save
from torch import nn

from refinenet_edge.bench import Estimate
from refinenet_edge.build import build
from refinenet_edge.bundle import MODEL
from refinenet_edge.calibration import calibration_frames, read_ranges, write_ranges
from refinenet_edge.errors import InputError
from refinenet_edge.model import SegmentationNet, create, save_checkpoint
from refinenet_edge.records import Budget, FrameSpec, Recipe
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.scenes import scene

DAMAGED = "encoder.layer5.0.output.2.0/Conv"  # the layer whose scale is shrunk
SHRUNK = 100
JUDGE, DROP = "scenes:3:40", 0.3  # points of mIoU

RF50_SIZE, RF50_CALIB = (256, 256), "scenes:2:16"
RF50_FRAMES, RF50_AGREEMENT = "scenes:4:8", 98.0  # what is asked, and on which scenes
RF50_JUDGE, RF50_BUDGET = "scenes:3:8", 98.6  # other scenes decide what stays float, so a little more

# MB: the least of any precision in what was measured before, a plain export on the same TensorRT-RTX
LEAST_ACTIVATIONS = {"rf_lw50": 50.1, "rf_lw_mbv2": 55.1}


@dataclass(frozen=True)
class Criterion:
    what: str
    measured: Estimate
    bound: str
    verdict: str  # holds, fails, unclear


def criterion(what: str, measured: Estimate | float, bound: float, at_most: bool = False) -> Criterion:
    """Unclear where the bound lies inside the interval; a number has none."""
    if not isinstance(measured, Estimate):
        measured = Estimate(measured, measured, measured)
    clear = not measured.low < bound < measured.high
    holds = measured.value <= bound if at_most else measured.value >= bound
    verdict = "unclear" if not clear else "holds" if holds else "fails"
    return Criterion(what, measured, f"{'<=' if at_most else '>='} {bound:g}", verdict)


def damaged_layer(exact: Path, ranges: Path, folder: Path) -> tuple[Budget, list[Criterion]]:
    """Shrink one scale of the shipped model's `ranges` a hundredfold and give the build a budget.

    `exact` is its float32 bundle, which knows what the layer reads.
    """
    (node,) = [node for node in onnx.load(exact / MODEL).graph.node if node.name == DAMAGED]
    held = read_ranges(ranges)
    broken = dataclasses.replace(held.tensors[node.input[0]], amax=held.tensors[node.input[0]].amax / SHRUNK)
    path = folder / "damaged.ranges.json"
    write_ranges(path, dataclasses.replace(held, tensors={**held.tensors, node.input[0]: broken}))
    recipe = Recipe(
        str(folder / "damaged"),
        checkpoint="scenes",
        precision="int8",
        calib=str(path),
        backend="openvino",
        max_miou_drop=DROP,
        judge=JUDGE,
    )
    budget = build(recipe).manifest.budget
    assert budget is not None
    place = next(place for place, harm in enumerate(budget.harms) if DAMAGED in harm.layers)
    kept = [name for harm in budget.harms if harm.kept for name in harm.layers]
    return budget, [
        criterion("the damaged layer's place in the table", place + 1, 1, at_most=True),
        criterion("it was put back (1: yes)", float(DAMAGED in kept), 1),
        criterion("layers put back", len(kept), 1, at_most=True),
        criterion("points of mIoU lost with it back", budget.reached, DROP, at_most=True),
        criterion("points of mIoU lost with it damaged", budget.full, DROP),
    ]


def rf50(folder: Path) -> tuple[dict[str, Any], list[Criterion]]:
    """INT8 of rf50 with random weights that keep activations sane, held to float32's labels on other scenes."""
    load = os.getloadavg()
    save_checkpoint(_sane("rf50"), folder / "rf50.safetensors")
    weights = str(folder / "rf50.safetensors")
    float32 = Recipe(str(folder / "rf50_fp32"), checkpoint=weights, size=RF50_SIZE, backend="openvino")
    int8 = dataclasses.replace(
        float32,
        output=str(folder / "rf50"),
        precision="int8",
        calib=RF50_CALIB,
        min_agreement=RF50_BUDGET,
        judge=RF50_JUDGE,
    )
    build(float32)
    start = time.perf_counter()
    manifest = build(int8).manifest
    seconds = time.perf_counter() - start
    frames = calibration_frames(RF50_FRAMES)
    with Segmenter(float32.output) as exact, Segmenter(int8.output) as rounded:
        same = [
            float((exact.segment(frame).labels == rounded.segment(frame).labels).mean())
            for frame in map(frames.read, range(len(frames)))
        ]
    agreement = 100 * float(np.mean(same))
    speed, budget = manifest.speed, manifest.budget
    assert speed is not None
    assert budget is not None
    record = {
        "load_before": load,
        "openvino": openvino.__version__,
        "size": RF50_SIZE,
        "calibration": RF50_CALIB,
        "frames": RF50_FRAMES,
        "agreement": agreement,
        "layers": sum(len(harm.layers) for harm in budget.harms),
        "layers_in_float": sum(len(harm.layers) for harm in budget.harms if harm.kept),
        "speed": dataclasses.asdict(speed),
        "budget": dataclasses.asdict(budget),
        "build_seconds": seconds,
    }
    return record, [
        criterion("% of rf50's labels that stay", agreement, RF50_AGREEMENT),
        criterion("times as fast as float32, rf50's network", Estimate(speed.times, speed.low, speed.high), 2),
    ]


@torch.inference_mode()
def _sane(name: str) -> SegmentationNet:
    """A network with random weights, each convolution scaled so that what it gives for a scene has deviation 1."""
    torch.manual_seed(0)
    module = create(name, 21).eval()

    def unit(layer: nn.Conv2d, _: Any, output: torch.Tensor) -> torch.Tensor:
        deviation = output.std()
        for weights in (layer.weight, layer.bias):
            if weights is not None:
                weights /= deviation
        return output / deviation

    hooks = [layer.register_forward_hook(unit) for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    module(torch.from_numpy(prepare(scene(2, 0, RF50_SIZE)[0], FrameSpec(RF50_SIZE))))
    for hook in hooks:
        hook.remove()
    return module


def memory_of_plans(found: Mapping[str, list[dict[str, Any]]], folder: Path) -> list[Criterion]:
    """What rtx_int8.py `found`: memory of our INT8 plans, and that they need --force."""
    by_name = {name: {row["graph"]: row for row in rows if "error" not in row} for name, rows in found.items()}
    checks = []
    for name, rows in by_name.items():
        ours, fp16, fp32 = (rows[f"ours {precision}"] for precision in ("int8", "fp16", "fp32"))
        limit = fp32["weight_bytes"] / 4 * 1.1 if name == "rf_lw50" else fp16["weight_bytes"]
        checks += [
            criterion(f"MB of weights, RTX, {name}", ours["weight_bytes"] / 1e6, round(limit / 1e6, 2), at_most=True),
            criterion(
                f"MB of activations, RTX, {name}", ours["activation_bytes"] / 1e6, LEAST_ACTIVATIONS[name], at_most=True
            ),
        ]
    checks.append(criterion("INT8 for RTX is refused without --force (1: yes)", float(_refused(folder)), 1))
    return checks


def _refused(folder: Path) -> bool:
    try:
        build(Recipe(str(folder / "rtx"), "rf_lw50", precision="int8", calib="scenes:2:1", backend="tensorrt-rtx"))
    except InputError as exc:
        return "--force" in str(exc)
    return False


@click.command()
@click.argument("result", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(result: Path) -> None:
    """Measure rf50 again, and put it into RESULT, the int8.json of this machine."""
    logging.disable(logging.WARNING)  # the exporter tells what it does
    record = json.loads(result.read_text())
    with tempfile.TemporaryDirectory() as folder:
        record["rf50"], checks = rf50(Path(folder))
    others = [check for check in record["criteria"] if "rf50" not in check["what"]]
    record["criteria"] = others + [dataclasses.asdict(check) for check in checks]
    for check in checks:
        click.echo(f"{check.what}: {check.measured} ({check.bound}) {check.verdict}")
    save(record, result.name, result)


if __name__ == "__main__":
    main()
