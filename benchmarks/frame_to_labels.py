"""Frame to labels, ours against the peers, side by side in one run: BGR uint8 frame in, uint8 labels of its size out.

    python benchmarks/frame_to_labels.py                       -> benchmarks/results/<cpu>/frame_to_labels.json
    python benchmarks/frame_to_labels.py --size 512x512 --model rf_lw_mbv2 --rounds 20

Ours is the Segmenter on an OpenVINO bundle. A peer is the plain torch export, or torch itself, with the usual code
around it: normalise and transpose in numpy, cv2.resize of the logits, numpy.argmax. All are float32, on the same frame,
and run in turn, round after round, so that the machine's drift meets all of them; figures are medians. rf_lw_mbv2 has
its trained weights, rf_lw50 random ones, whose busier label maps are harder on our head.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import onnxruntime as ort
import openvino
import torch
from machine import cpu, save
from rich.console import Console
from rich.table import Table

from refinenet_edge.bench import Contender, Stages, take_turns, timed
from refinenet_edge.build import build
from refinenet_edge.model import SegmentationNet, create, load_checkpoint
from refinenet_edge.recipe import Recipe, parse_size
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.head import implementation, labels_of
from refinenet_edge.scenes import VALIDATION, scene

MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
WEIGHTS = {"rf_lw_mbv2": "scenes", "rf_lw50": None}
CLASSES = 21  # of random weights


def usual_prepare(frame: np.ndarray) -> np.ndarray:
    image = (frame[:, :, ::-1].astype(np.float32) / 255 - MEAN) / STD
    return np.ascontiguousarray(image.transpose(2, 0, 1))[None]


def usual_labels(logits: np.ndarray, frame: np.ndarray) -> np.ndarray:
    large = cv2.resize(logits[0].transpose(1, 2, 0), frame.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return large.argmax(2).astype(np.uint8)


def usual(network: Callable[[np.ndarray], np.ndarray], frame: np.ndarray) -> Contender:
    """A peer: the usual code around `network`."""

    def run() -> Stages:
        stages: Stages = {}
        image = timed(stages, "prepare", usual_prepare, frame)
        logits = timed(stages, "network", network, image)
        timed(stages, "head", usual_labels, logits, frame)
        return stages

    return run


def ours(segmenter: Segmenter, frame: np.ndarray) -> Contender:
    session = segmenter.session

    def run() -> Stages:
        stages: Stages = {}
        image = timed(stages, "prepare", prepare, frame, segmenter.frame, session.inputs[0].dtype)
        logits = timed(stages, "network", session.run, {session.inputs[0].name: image})[session.outputs[0].name]
        timed(stages, "head", labels_of, logits, frame.shape[:2], segmenter.frame.upsample)
        return stages

    return run


def usual_openvino(plain: Path, frame: np.ndarray) -> Contender:
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(str(plain), "CPU", hints).create_infer_request()
    return usual(lambda image: request.infer({0: image}, share_inputs=True)[0], frame)


def peers(module: SegmentationNet, frame: np.ndarray, folder: Path) -> dict[str, Contender]:
    plain = folder / "plain.onnx"
    torch.onnx.export(module, (torch.zeros(1, 3, *frame.shape[:2]),), plain, dynamo=True, verbose=False)
    session = ort.InferenceSession(plain, providers=["CPUExecutionProvider"])
    last = torch.channels_last
    eager = module.to(memory_format=last)
    inductor = torch.compile(module)

    def torch_network(function: Any) -> Callable[[np.ndarray], np.ndarray]:
        @torch.inference_mode()
        def network(image: np.ndarray) -> np.ndarray:
            return function(torch.from_numpy(image).to(memory_format=last)).numpy()

        return network

    source = session.get_inputs()[0].name
    networks = {
        "onnxruntime, plain export": lambda image: session.run(None, {source: image})[0],
        "torch.compile, channels_last": torch_network(inductor),
        "torch eager, channels_last": torch_network(eager),
    }
    rest = {who: usual(network, frame) for who, network in networks.items()}
    return {"openvino, plain export": usual_openvino(plain, frame), **rest}


def measure(name: str, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    frame = scene(VALIDATION, 0, size)[0]
    checkpoint = WEIGHTS[name]
    torch.manual_seed(0)
    module = (load_checkpoint(checkpoint) if checkpoint else create(name, CLASSES)).eval()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        recipe = Recipe(str(folder / "ours"), name, checkpoint, size=size, backend="openvino")
        with Segmenter(build(recipe).path, "openvino") as segmenter:
            timing = take_turns({"ours": ours(segmenter, frame), **peers(module, frame, folder)}, rounds)
    medians = {who: timing.stages(who) for who in timing.runs}
    totals = {who: timing.ms(who) for who in timing.runs}
    fastest = min((who for who in totals if who != "ours"), key=totals.__getitem__)
    around = medians["ours"]["prepare"] + medians["ours"]["head"]
    return {
        "model": name,
        "weights": checkpoint or "random",
        "size": size,
        "rounds": rounds,
        "ms": totals,
        "stages_ms": medians,
        "times_ours": {who: timing.ratio(who, "ours").value for who in timing.runs},
        "fastest_peer": fastest,
        "prepare_and_head_share_of_its": around / (medians[fastest]["prepare"] + medians[fastest]["head"]),
        "head_share_of_frame": medians["ours"]["head"] / totals["ours"],
        "samples_ms": {who: [round(ms, 3) for ms in timing.samples(who)] for who in timing.runs},
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
    out = save(record, "frame_to_labels.json", out)
    console.print(f"written to {out}")


if __name__ == "__main__":
    main()
