"""INT8, ours against nvidia-modelopt's PTQ and ONNX Runtime's own, side by side in one run: accuracy, speed, goals.

    python benchmarks/int8.py         half an hour on two cores     -> benchmarks/results/<cpu>/int8.json
    python benchmarks/int8.py --quick --scenes 20 --rounds 20        without the checks at the end

The shipped model at 512x512. Every quantiser calibrates on the same prepared frames; peers quantise the plain float32
export. Accuracy is mIoU on unseen scenes, all with the same exact head; intervals are over the scenes, paired. Frame to
labels: BGR uint8 frame in, uint8 labels of its size out, each graph with our prepare and head, and each peer's also as
people write it (numpy's normalisation and transpose, OpenVINO, cv2.resize of the logits, numpy.argmax). Contenders run
in turn; see bench/measure.py. A verdict is unclear when the bound lies inside the interval. A quantiser that cannot be
had here is named with the reason. nvidia-modelopt is installed under build/ at first use. Then a damaged layer, rf50,
and TensorRT-RTX's plans: int8_checks.py, rtx_int8.py.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime as ort
import openvino
import rtx_int8
from int8_checks import Criterion, criterion, damaged_layer, memory_of_plans, rf50
from int8_peers import Quantised, Quantiser, modelopt, node_counts, onnxruntime, quantise
from machine import cpu, save
from rich.console import Console
from rich.table import Table

from refinenet_edge.baselines import OnnxBaseline
from refinenet_edge.bench.measure import RESAMPLES, Contender, Estimate, Timing, bounds, take_turns
from refinenet_edge.bench.record import Case, Subject
from refinenet_edge.build import build
from refinenet_edge.bundle import MODEL, open_bundle
from refinenet_edge.calibration import calibrate, calibration_frames, write_ranges
from refinenet_edge.evaluation import Confusion, open_dataset
from refinenet_edge.model import load_checkpoint
from refinenet_edge.onnx_import import read_onnx
from refinenet_edge.records import FrameSpec, Identity, Ranges, Recipe
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.head import implementation
from refinenet_edge.runtime.openvino import OpenVinoSession
from refinenet_edge.scenes import VALIDATION, scene

NAME, CHECKPOINT, SIZE = "rf_lw_mbv2", "scenes", (512, 512)
FLOAT, INT8 = "ours fp32", "ours INT8"
USUAL = ", numpy and cv2"
QUANTISERS: dict[str, Quantiser] = {
    "modelopt, entropy": modelopt("entropy", "fp32"),
    "modelopt, max": modelopt("max", "fp32"),
    "onnxruntime, signed": onnxruntime(signed=True),
    "onnxruntime, unsigned": onnxruntime(signed=False),
}


@dataclass(frozen=True)
class Accuracy:
    """`lost` to float32 and `behind` ours INT8, in points of mIoU with their intervals over the scenes."""

    miou: float
    lost: Estimate
    behind: Estimate
    agreement: float  # share of the pixels that have float32's label


@dataclass(frozen=True)
class Scored:
    """Of one contender: a confusion matrix for each frame, and the share of pixels that have float32's label."""

    matrices: list[np.ndarray]
    agreement: float


def scored(segmenters: Mapping[str, Segmenter], dataset: str) -> dict[str, Scored]:
    """All of them on the same frames, each read once."""
    samples = open_dataset(dataset).samples
    classes = len(segmenters[FLOAT].labels.names)
    matrices: dict[str, list[np.ndarray]] = {who: [] for who in segmenters}
    same = dict.fromkeys(segmenters, 0.0)
    for sample in samples:
        frame, truth = sample.read()
        labels = {who: segmenter.segment(frame).labels for who, segmenter in segmenters.items()}
        for who, found in labels.items():
            matrices[who].append(Confusion.of(truth, found, classes).matrix)
            same[who] += float((found == labels[FLOAT]).mean()) / len(samples)
    return {who: Scored(matrices[who], same[who]) for who in segmenters}


def accuracies(results: Mapping[str, Scored]) -> dict[str, Accuracy]:
    """The mIoU of each, and how far behind float32 and ours INT8 it is, resampled over the frames."""
    count = len(results[FLOAT].matrices)
    picks = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    times = np.vstack([np.ones(count, int), picks])  # how often each frame counts: first every one once
    points = {who: 100 * np.array([_miou(row, each.matrices) for row in times]) for who, each in results.items()}

    def less(who: str, than: str) -> Estimate:
        differences = points[than] - points[who]
        return Estimate(float(differences[0]), *bounds(differences[1:]))

    return {
        who: Accuracy(float(points[who][0]), less(who, FLOAT), less(who, INT8), each.agreement)
        for who, each in results.items()
    }


def _miou(times: np.ndarray, matrices: list[np.ndarray]) -> float:
    return Confusion(np.tensordot(times, np.array(matrices), 1)).miou


def criteria(accuracy: Mapping[str, Accuracy], timing: Timing, peers: list[str]) -> list[Criterion]:
    """Accuracy and speed beside what was aimed at."""
    found = [criterion("points of mIoU lost to fp32", accuracy[INT8].lost, 0.3, at_most=True)]
    found += [criterion(f"points of mIoU above {peer}", accuracy[peer].behind, 0) for peer in peers]
    found.append(criterion("times as fast as our fp32", timing.ratio(FLOAT, INT8), 2))
    found += [criterion(f"times as fast as {peer}, same head", timing.ratio(peer, INT8), 1) for peer in peers]
    if peers:
        best = min((peer + USUAL for peer in peers), key=timing.ms)
        found.append(criterion(f"times as fast as {best}, the best such", timing.ratio(best, INT8), 2))
    return found


def stages(timing: Timing, who: str) -> dict[str, float]:
    """The median ms of each stage."""
    runs = timing.runs[who]
    return {stage: float(np.median([run[stage] for run in runs])) for stage in runs[0]}


def show(
    nodes: Mapping[str, Mapping[str, int]], accuracy: Mapping[str, Accuracy], timing: Timing, checks: list[Criterion]
) -> list[Table]:
    first = Table("", "Q", "DQ", "INT8 stored", "mIoU", "points lost", "fp32's labels, %", title="accuracy")
    for who, row in accuracy.items():
        counts = map(str, nodes[who].values())
        first.add_row(who, *counts, f"{row.miou:.2f}", str(row.lost), f"{100 * row.agreement:.2f}")
    second = Table("", "ms", "prepare", "engine", "head", "times ours INT8", title="frame to labels, 512x512")
    for who in sorted(timing.runs, key=timing.ms):
        parts = (f"{ms:.1f}" for ms in stages(timing, who).values())
        second.add_row(who, f"{timing.ms(who):.1f}", *parts, str(timing.ratio(who, INT8)))
    third = Table("ours INT8", "measured", "goal", "", title="goals")
    for check in checks:
        third.add_row(check.what, str(check.measured), check.bound, check.verdict)
    return [first, second, third]


def _staged(segmenter: Segmenter, frame: np.ndarray) -> Contender:
    return lambda: segmenter.staged(frame)[1]


@contextmanager
def _usual(graph: Path, frame: np.ndarray) -> Iterator[Contender]:
    """`graph` with the usual code around it."""
    subject = Subject(graph.stem, "peer", Identity(NAME, CHECKPOINT, "", None, None), "openvino")
    with OnnxBaseline(subject, graph, FrameSpec(SIZE)).open(Case(SIZE)) as run:
        yield lambda: run([frame])


def timed_record(timing: Timing) -> dict[str, object]:
    """What `timing` says, for the result."""
    return {
        "rounds": len(timing.samples(INT8)),
        "ended": timing.ended,
        "ms": {who: timing.ms(who) for who in timing.runs},
        "stages_ms": {who: stages(timing, who) for who in timing.runs},
        "times_ours_int8": {who: asdict(timing.ratio(who, INT8)) for who in timing.runs},
        "samples_ms": {who: [round(ms, 3) for ms in timing.samples(who)] for who in timing.runs},
    }


def prepared(calib: str, segmenter: Segmenter) -> np.ndarray:
    frames = calibration_frames(calib)
    return np.concatenate([prepare(frames.read(index), segmenter.frame_spec) for index in range(len(frames))])


def calibrated(bundle: Path, calib: str) -> Ranges:
    opened = open_bundle(bundle)
    return calibrate(read_onnx(opened.path / MODEL), opened.manifest.frame, calibration_frames(calib))


def checked(float32: Path, ranges: Path, folder: Path, console: Console) -> tuple[dict[str, Any], list[Criterion]]:
    """The checks beside accuracy and speed: what was measured, and the verdicts."""
    console.print("a damaged layer")
    budget, damaged = damaged_layer(float32, ranges, folder)
    console.print("rf50")
    network, labels = rf50(folder)
    console.print("plans of TensorRT-RTX")
    plans = rtx_int8.measure(("rf_lw_mbv2", "rf_lw50"), "scenes:2:16", console)
    checks = [*damaged, *labels, *memory_of_plans(plans, folder)]
    return {"damaged": asdict(budget), "rf50": network, "rtx_plans": plans}, checks


@click.command(help=__doc__)
@click.option("--calib", default="scenes:2:64", show_default=True)
@click.option("--scenes", "count", default=1000, show_default=True, help="Of mIoU.")
@click.option("--peer", "names", multiple=True, type=click.Choice(list(QUANTISERS)), default=list(QUANTISERS))
@click.option("--rounds", default=60, show_default=True, help="Of timing.")
@click.option("--quick", is_flag=True, help="accuracy and speed only")
@click.option("--out", type=click.Path(path_type=Path))
def main(calib: str, count: int, names: tuple[str, ...], rounds: int, quick: bool, out: Path | None) -> None:
    logging.disable(logging.WARNING)  # quantisers and exporter tell what they do
    console = Console(width=120)
    load = os.getloadavg()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def bundle(precision: str, calib: str | None = None) -> Path:
            path = f"{folder}/{precision}"
            return build(Recipe(path, NAME, CHECKPOINT, precision=precision, calib=calib, backend="openvino")).path

        console.print("build ours")
        bundles = {FLOAT: bundle("fp32")}
        ranges = folder / "scenes.ranges.json"
        write_ranges(ranges, calibrated(bundles[FLOAT], calib))
        bundles[INT8] = bundle("int8", str(ranges))
        segmenters = {who: stack.enter_context(Segmenter(path, "openvino")) for who, path in bundles.items()}
        console.print(f"quantise on {calib}")
        module, frames = load_checkpoint(CHECKPOINT).eval(), prepared(calib, segmenters[FLOAT])
        quantised: Quantised = quantise(module, frames, {name: QUANTISERS[name] for name in names})
        for who, graph in quantised.graphs.items():
            spec, labels = segmenters[FLOAT].frame_spec, segmenters[FLOAT].labels
            segmenters[who] = stack.enter_context(Segmenter.from_session(OpenVinoSession(graph), spec, labels))
        console.print(f"mIoU on {count} scenes")
        accuracy = accuracies(scored(segmenters, f"scenes:{VALIDATION}:{count}"))
        console.print("frame to labels")
        frame = scene(VALIDATION, 0, SIZE)[0]
        usual = {"plain fp32": quantised.plain, **quantised.graphs}
        timing = take_turns(
            {who: _staged(segmenter, frame) for who, segmenter in segmenters.items()}
            | {who + USUAL: stack.enter_context(_usual(graph, frame)) for who, graph in usual.items()},
            rounds,
        )
        graphs = {who: path / MODEL for who, path in bundles.items()} | quantised.graphs
        nodes = {who: node_counts(graph) for who, graph in graphs.items()}
        measured, more = ({}, []) if quick else checked(bundles[FLOAT], ranges, folder, console)
    checks = [*criteria(accuracy, timing, list(quantised.graphs)), *more]
    console.print(*show(nodes, accuracy, timing, checks), sep="\n")
    for who, why in quantised.missing.items():
        console.print(f"{who} cannot be had here: {why}")
    record = {
        "cpu": cpu(),
        "threads": os.cpu_count(),
        "load_before": load,
        "head": implementation(),
        "openvino": openvino.__version__,
        "onnxruntime": ort.__version__,
        "model": NAME,
        "checkpoint": CHECKPOINT,
        "size": SIZE,
        "calibration": calib,
        "scenes": f"scenes:{VALIDATION}:{count}",
        "missing": quantised.missing,
        "nodes": nodes,
        "accuracy": {who: asdict(row) for who, row in accuracy.items()},
        "criteria": [asdict(check) for check in checks],
        **measured,
        **timed_record(timing),
    }
    out = save(record, "int8.json", out)
    console.print(f"{len(timing.samples(INT8))} rounds, ended by: {timing.ended}; written to {out}")


if __name__ == "__main__":
    main()
