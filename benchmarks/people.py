"""The people model on real photographs: IoU per class in fp32, fp16 and INT8, by calibrator and beside others' INT8.

    python benchmarks/people.py DATA      -> benchmarks/results/<cpu>/people.json, calib/people.ranges.json, and the
                                             tables of docs/training.md

DATA is Clothing Co-Parsing as examples/train_people.py takes it; its validation photos are what is measured on, at
512x352, which is their shape. INT8 is calibrated on 64 training photos, unless its name says otherwise: "on drawn
streets" has ranges of another world. All contenders are labelled by the same head. fp16 is the typed graph
run node by node by ONNX Runtime, so that every value is rounded; the rest runs in OpenVINO. Intervals are over the
photos, paired. A person is every class but background.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import onnxruntime as ort
import openvino
from int8 import FLOAT, INT8, QUANTISERS, accuracies, prepared, scored
from int8_peers import quantise
from machine import cpu, save
from rich.console import Console

from refinenet_edge.build import build
from refinenet_edge.bundle import MODEL, open_bundle
from refinenet_edge.calibration import calibrate, calibration_frames, parse_method, write_ranges
from refinenet_edge.files import write_atomically
from refinenet_edge.labels import PEOPLE
from refinenet_edge.model import load_checkpoint
from refinenet_edge.onnx_import import read_onnx
from refinenet_edge.records import Recipe
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.openvino import OpenVinoSession
from refinenet_edge.runtime.ort import OrtSession

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from train_people import Photos, open_photos

HERE = Path(__file__).parents[1]
CHECKPOINT, SIZE = "people", (512, 352)
FP16, WRONG_DOMAIN = "ours fp16", "ours INT8, on drawn streets"
METHODS = {
    INT8: None,
    "ours INT8, minmax": "minmax",
    "ours INT8, mse": "mse",
    "ours INT8, entropy": "entropy",
}
CALIBRATION = 64  # photos
LAID_OUT = Path("build", "people")  # relative: ranges say what they were measured on
RANGES = HERE / "calib" / "people.ranges.json"
PAGE = HERE / "docs" / "training.md"
BLOCK = re.compile(r"(<!-- people\.json -->\n).*?(<!-- end of people\.json -->)", re.DOTALL)
NAMED = {"mean": "**mean of the classes**", "person": "a person against the background"}


def laid_out(photos: Photos, folder: Path) -> tuple[str, str]:
    """The validation photos as a data set for `eval`, and a folder of training photos to calibrate on."""
    shutil.rmtree(folder, ignore_errors=True)
    for kind in ("images", "masks", "calibration"):
        (folder / kind).mkdir(parents=True)
    for photo in photos.unseen:
        shutil.copyfile(photo, folder / "images" / photo.name)
        cv2.imwrite(str(folder / "masks" / f"{photo.stem}.png"), photos.read(photo)[1])
    for photo in photos.training[:: len(photos.training) // CALIBRATION][:CALIBRATION]:
        shutil.copyfile(photo, folder / "calibration" / photo.name)
    return f"plain:{folder}", str(folder / "calibration")


def of_every_method(float32: Path, calib: str, streets: str, folder: Path) -> dict[str, Path]:
    """INT8 bundles by calibration method, and one that saw drawn streets only."""
    opened, bundles = open_bundle(float32), {}
    asked = [(who, calib, method) for who, method in METHODS.items()] + [(WRONG_DOMAIN, streets, None)]
    for number, (who, frames, method) in enumerate(asked):
        model, chosen = read_onnx(opened.path / MODEL), [parse_method(method)] if method else []
        ranges = calibrate(model, opened.manifest.frame, calibration_frames(frames), *chosen)
        path = RANGES if who == INT8 else folder / f"{number}.ranges.json"
        write_ranges(path, ranges)
        bundles[who] = build(
            opened.manifest.recipe.in_precision("int8", str(folder / f"int8_{number}"), str(path))
        ).path
    return bundles


def iou(matrices: Sequence[np.ndarray]) -> dict[str, float]:
    """IoU per class, of their mean, and of a person against the background."""
    table = np.sum(matrices, 0)
    hits = np.diag(table)
    each = hits / (table.sum(0) + table.sum(1) - hits)
    person = table[1:, 1:].sum()
    found = dict(zip(PEOPLE.names, each.tolist(), strict=True))
    return {**found, "mean": float(each.mean()), "person": float(person / (table.sum() - table[0, 0]))}


def markdown(record: Mapping[str, Any]) -> str:
    """The tables of docs/training.md from a result."""
    shown = [who for who in (FLOAT, FP16, INT8) if who in record["iou"]]
    size = "x".join(map(str, record["size"]))
    heads = " | ".join(who.removeprefix("ours ") for who in shown)
    lines = [f"| IoU, % on {record['photos']} unseen photos, {size} | {heads} |", "|---" * (1 + len(shown)) + "|"]
    for name in record["iou"][FLOAT]:
        cells = " | ".join(f"{100 * record['iou'][who][name]:.2f}" for who in shown)
        lines.append(f"| {NAMED.get(name, name)} | {cells} |")
    lines += ["", "| | mIoU, % | points lost (95 %) | fp32's labels kept, % |", "|---|---|---|---|"]
    for who, row in record["accuracy"].items():
        if who != FLOAT:
            value, low, high = (row["lost"][key] for key in ("value", "low", "high"))
            lost = f"{value:.2f} ({low:.2f} to {high:.2f})"
            lines.append(f"| {who} | {row['miou']:.2f} | {lost} | {100 * row['agreement']:.2f} |")
    return "\n".join(lines)


def filled(text: str, record: Mapping[str, Any]) -> str:
    """The page `text` with the tables of a result between its markers."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{markdown(record)}\n\n{found[2]}", text)


@click.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--peer", "names", multiple=True, type=click.Choice(list(QUANTISERS)), default=list(QUANTISERS))
@click.option("--out", type=click.Path(path_type=Path))
def main(data: Path, names: tuple[str, ...], out: Path | None) -> None:
    logging.disable(logging.WARNING)  # quantisers and exporter tell what they do
    console, load = Console(width=120), os.getloadavg()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        unseen, calib = laid_out(open_photos(data, HERE / "examples" / "people.toml"), LAID_OUT)
        recipe = Recipe(str(folder / "fp32"), checkpoint=CHECKPOINT, size=SIZE, backend="openvino")
        console.print("build and calibrate ours")
        bundles = {FLOAT: build(recipe).path}
        bundles |= of_every_method(bundles[FLOAT], calib, "scenes:2:64", folder)
        segmenters = {who: stack.enter_context(Segmenter(path, "openvino")) for who, path in bundles.items()}
        spec, labels = segmenters[FLOAT].frame_spec, segmenters[FLOAT].labels
        fp16 = build(recipe.in_precision("fp16", str(folder / "fp16"))).path / MODEL
        segmenters[FP16] = stack.enter_context(Segmenter.from_session(OrtSession(fp16, optimised=False), spec, labels))
        console.print("quantise as others do")
        chosen = {name: QUANTISERS[name] for name in names}
        quantised = quantise(load_checkpoint(CHECKPOINT).eval(), prepared(calib, segmenters[FLOAT]), chosen)
        for who, graph in quantised.graphs.items():
            segmenters[who] = stack.enter_context(Segmenter.from_session(OpenVinoSession(graph), spec, labels))
        console.print("label the validation photos")
        results = scored(segmenters, unseen)
    for who, why in quantised.missing.items():
        console.print(f"{who} cannot be had here: {why}")
    record = {
        "cpu": cpu(),
        "load_before": load,
        "openvino": openvino.__version__,
        "onnxruntime": ort.__version__,
        "checkpoint": CHECKPOINT,
        "size": SIZE,
        "photos": len(results[FLOAT].matrices),
        "missing": quantised.missing,
        "accuracy": {who: asdict(row) for who, row in accuracies(results).items()},
        "iou": {who: iou(each.matrices) for who, each in results.items()},
    }
    click.echo(markdown(record))
    console.print(f"written to {save(record, 'people.json', out)}")
    if out is None:
        write_atomically(PAGE, filled(PAGE.read_text("utf-8"), record).encode())


if __name__ == "__main__":
    main()
