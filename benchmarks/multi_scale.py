"""What several scales and the mirrored frame gain the models that ship, and what they cost.

    python benchmarks/multi_scale.py DATA      ten minutes on two cores   -> benchmarks/results/<cpu>/multi_scale.json

DATA is Clothing Co-Parsing as examples/train_people.py takes it. A bundle for each scale, on OpenVINO in float32: the
size that the model is evaluated at, and others about 0.6, 0.8 and 1.2 times that. Each frame is labelled in every way
one after the other; gains are in points of mIoU, paired over the frames, times are the medians of the frames' ratios.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np
from machine import save
from people import HERE, laid_out
from rich.console import Console
from rich.table import Table
from train_people import open_photos

from refinenet_edge.bench.measure import RESAMPLES, bounds
from refinenet_edge.build import build
from refinenet_edge.evaluation import Confusion, open_dataset
from refinenet_edge.records import MultiScale, Recipe, Size, to_json
from refinenet_edge.runtime import Segmenter

SIZES: dict[str, tuple[Size, ...]] = {
    "people": ((512, 352), (320, 224), (416, 288), (608, 416)),
    "scenes": ((512, 512), (320, 320), (416, 416), (608, 608)),
}
WAYS = {"whole": (1, False), "mirrored": (1, True), "scales": (4, False), "scales and mirrored": (4, True)}


def mious(matrices: np.ndarray, picked: np.ndarray) -> np.ndarray:
    """Of each resample: `matrices` is frames x C x C, `picked` resamples x frames."""
    counts = np.stack([np.bincount(row, minlength=len(matrices)) for row in picked])
    return np.array([Confusion(np.tensordot(row, matrices, 1)).miou for row in counts])


def measured(model: str, dataset: str, most: int) -> list[dict[str, object]]:
    data = open_dataset(dataset)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bundles = []
        for size in SIZES[model]:
            name = f"{folder}/{size[0]}x{size[1]}"
            bundles.append(build(Recipe(name, checkpoint=model, size=size, backend="openvino")).path)
        segmenters = {}
        for way, (scales, flip) in WAYS.items():
            more = {"inference": MultiScale(flip=flip), "beside": bundles[1:scales]} if way != "whole" else {}
            segmenters[way] = stack.enter_context(Segmenter(bundles[0], **more))  # type: ignore[arg-type]
        matrices: dict[str, list[np.ndarray]] = {way: [] for way in WAYS}
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for sample in data.samples[:most]:
            frame, truth = sample.read()
            for way, segmenter in segmenters.items():
                started = time.perf_counter()
                labels = segmenter.segment(frame).labels
                seconds[way].append(time.perf_counter() - started)
                matrices[way].append(Confusion.of(truth, labels, len(segmenter.labels.names)).matrix)
        records = [(way, segmenter.inference) for way, segmenter in segmenters.items()]
    frames = len(matrices["whole"])
    picked = np.random.default_rng(0).integers(frames, size=(RESAMPLES, frames))
    whole = mious(np.array(matrices["whole"]), picked)
    rows: list[dict[str, object]] = []
    for way, inference in records:
        every = np.array(matrices[way])
        miou = Confusion(every.sum(0)).miou
        low, high = bounds(100 * (mious(every, picked) - whole))
        gained = 100 * (miou - Confusion(np.sum(matrices["whole"], 0)).miou)
        longer = float(np.median(np.divide(seconds[way], seconds["whole"])))
        row = {"model": model, "way": way, "inference": to_json(inference), "frames": frames, "miou": miou}
        rows.append(row | {"points_gained": gained, "low": low, "high": high, "times_as_long": longer})
    return rows


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--frames", default=200, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(data: Path, frames: int, out: Path | None) -> None:
    """Evaluate the models that ship, whole and in several ways."""
    with tempfile.TemporaryDirectory() as folder:
        photos, _ = laid_out(open_photos(data, HERE / "examples" / "people.toml"), Path(folder, "people"))
        rows = measured("people", photos, frames) + measured("scenes", "scenes", frames)
    table = Table("model", "way", "mIoU", "points gained", "times as long")
    for row in rows:
        gained = f"{row['points_gained']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        table.add_row(str(row["model"]), str(row["way"]), f"{row['miou']:.4f}", gained, f"{row['times_as_long']:.1f}")
    Console().print(table)
    save(rows, "multi_scale.json", out)


if __name__ == "__main__":
    main()
