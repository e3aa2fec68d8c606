"""Frame to labels, ours against the peers, side by side in one run: BGR uint8 frame in, uint8 labels of its size out.

    python benchmarks/frame_to_labels.py                       -> benchmarks/results/<cpu>/frame_to_labels.json
    python benchmarks/frame_to_labels.py --size 512x512 --model rf_lw_mbv2 --rounds 20

Ours is the Segmenter on an OpenVINO bundle. A peer is the plain torch export, or torch itself, with the usual code
around it: normalise and transpose in numpy, cv2.resize of the logits, numpy.argmax. All are float32, on the same frame,
and run in turn, round after round, so that the machine's drift meets all of them; figures are medians. rf_lw_mbv2 has
its trained weights, rf_lw50 random ones, whose busier label maps are harder on our head.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import onnxruntime as ort
import openvino
import torch
from machine import cpu, results
from rich.console import Console
from rich.table import Table

from refinenet_edge.build import build
from refinenet_edge.errors import BuildError
from refinenet_edge.files import write_atomically
from refinenet_edge.model import SegmentationNet, create, load_checkpoint
from refinenet_edge.recipe import Recipe, parse_size
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.head import implementation, labels_of
from refinenet_edge.scenes import VALIDATION, scene

MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
WEIGHTS = {"rf_lw_mbv2": "scenes", "rf_lw50": None}
CLASSES = 21  # of random weights

Stages = dict[str, float]  # ms


def timed(stages: Stages, name: str, function: Callable[..., Any], *args: Any) -> Any:
    start = time.perf_counter()
    result = function(*args)
    stages[name] = 1000 * (time.perf_counter() - start)
    return result


def usual_prepare(frame: np.ndarray) -> np.ndarray:
    image = (frame[:, :, ::-1].astype(np.float32) / 255 - MEAN) / STD
    return np.ascontiguousarray(image.transpose(2, 0, 1))[None]


def usual_labels(logits: np.ndarray, frame: np.ndarray) -> np.ndarray:
    large = cv2.resize(logits[0].transpose(1, 2, 0), frame.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return large.argmax(2).astype(np.uint8)


def usual(network: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], Stages]:
    """A peer: the usual code around `network`."""

    def run(frame: np.ndarray) -> Stages:
        stages: Stages = {}
        image = timed(stages, "prepare", usual_prepare, frame)
        logits = timed(stages, "network", network, image)
        timed(stages, "head", usual_labels, logits, frame)
        return stages

    return run


def ours(segmenter: Segmenter) -> Callable[[np.ndarray], Stages]:
    session = segmenter.session

    def run(frame: np.ndarray) -> Stages:
        stages: Stages = {}
        image = timed(stages, "prepare", prepare, frame, segmenter.frame, session.inputs[0].dtype)
        logits = timed(stages, "network", session.run, {session.inputs[0].name: image})[session.outputs[0].name]
        timed(stages, "head", labels_of, logits, frame.shape[:2], segmenter.frame.upsample)
        return stages

    return run


def peers(module: SegmentationNet, size: tuple[int, int], folder: Path) -> dict[str, Callable[[np.ndarray], Stages]]:
    plain = folder / "plain.onnx"
    torch.onnx.export(module, (torch.zeros(1, 3, *size),), plain, dynamo=True, verbose=False)
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(str(plain), "CPU", hints)
    request = compiled.create_infer_request()
    session = ort.InferenceSession(plain, providers=["CPUExecutionProvider"])
    last = torch.channels_last
    eager = module.to(memory_format=last)
    inductor = torch.compile(module)

    def torch_network(function: Any) -> Callable[[np.ndarray], np.ndarray]:
        @torch.inference_mode()
        def network(image: np.ndarray) -> np.ndarray:
            return function(torch.from_numpy(image).to(memory_format=last)).numpy()

        return network

    return {
        "openvino, plain export": usual(lambda image: request.infer({0: image}, share_inputs=True)[0]),
        "onnxruntime, plain export": usual(lambda image: session.run(None, {session.get_inputs()[0].name: image})[0]),
        "torch.compile, channels_last": usual(torch_network(inductor)),
        "torch eager, channels_last": usual(torch_network(eager)),
    }


def measure(name: str, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    frame = scene(VALIDATION, 0, size)[0]
    checkpoint = WEIGHTS[name]
    torch.manual_seed(0)
    module = (load_checkpoint(checkpoint) if checkpoint else create(name, CLASSES)).eval()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        recipe = Recipe(str(folder / "ours"), name, checkpoint, size=size, backend="openvino")
        with Segmenter(build(recipe).path, "openvino") as segmenter:
            contenders = {"ours": ours(segmenter), **peers(module, size, folder)}
            runs: dict[str, list[Stages]] = {who: [] for who in contenders}
            for turn in range(rounds + 2):
                for who, run in contenders.items():
                    stages = run(frame)
                    if turn >= 2:  # the first two rounds warm up
                        runs[who].append(stages)
    medians = {
        who: {stage: statistics.median(run[stage] for run in found) for stage in found[0]}
        for who, found in runs.items()
    }
    totals = {who: statistics.median(sum(run.values()) for run in found) for who, found in runs.items()}
    paired = {
        who: statistics.median(sum(a.values()) / sum(b.values()) for a, b in zip(found, runs["ours"], strict=True))
        for who, found in runs.items()
    }
    fastest = min((who for who in totals if who != "ours"), key=totals.__getitem__)
    around = medians["ours"]["prepare"] + medians["ours"]["head"]
    return {
        "model": name,
        "weights": checkpoint or "random",
        "size": size,
        "rounds": rounds,
        "ms": totals,
        "stages_ms": medians,
        "times_ours": paired,
        "fastest_peer": fastest,
        "prepare_and_head_share_of_its": around / (medians[fastest]["prepare"] + medians[fastest]["head"]),
        "head_share_of_frame": medians["ours"]["head"] / totals["ours"],
        "samples_ms": {who: [round(sum(run.values()), 3) for run in found] for who, found in runs.items()},
    }


@click.command(help=__doc__)
@click.option("--model", "names", multiple=True, type=click.Choice(list(WEIGHTS)), default=list(WEIGHTS))
@click.option("--size", "sizes", multiple=True, default=["512x512", "1080x1920"], show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(names: tuple[str, ...], sizes: tuple[str, ...], rounds: int, out: Path | None) -> None:
    console = Console()
    cells = []
    for name in names:
        for size in sizes:
            cell = measure(name, parse_size(size), rounds)
            cells.append(cell)
            table = Table("", "ms", "prepare", "network", "head", "times ours", title=f"{name} at {size}, fp32")
            for who, total in sorted(cell["ms"].items(), key=lambda item: item[1]):
                stages = (f"{cell['stages_ms'][who][stage]:.1f}" for stage in ("prepare", "network", "head"))
                table.add_row(who, f"{total:.1f}", *stages, f"{cell['times_ours'][who]:.2f}")
            console.print(table)
            console.print(
                f"prepare and head: {100 * cell['prepare_and_head_share_of_its']:.0f} % of what {cell['fastest_peer']} "
                f"spends on them; head: {100 * cell['head_share_of_frame']:.1f} % of our frame"
            )
    versions = {"torch": torch.__version__, "openvino": openvino.__version__, "onnxruntime": ort.__version__}
    record = {"cpu": cpu(), "threads": torch.get_num_threads(), "head": implementation(), **versions, "cells": cells}
    out = out or results("frame_to_labels.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, (json.dumps(record, indent=1) + "\n").encode(), BuildError)
    console.print(f"written to {out}")


if __name__ == "__main__":
    main()
