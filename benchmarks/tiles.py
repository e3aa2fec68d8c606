"""Large pictures in tiles against the whole: mIoU, labels, time and memory of the scenes model.

    python benchmarks/tiles.py                 ten minutes on two cores, 9 GB   -> benchmarks/results/<cpu>/tiles.json
    python benchmarks/tiles.py --side 2048     five minutes, 2 GB

A picture of that many pixels a side, as unseen streets of the size that the model was trained on beside each other, and
as one drawn street (at 4096x4096 its things are eight times as large as any that the model was trained on), on OpenVINO
in float32 with free sides: once whole, then in tiles. Then the labels of a tile by their distance from its border, and
8192x8192 and less in tiles: the most memory that a process of its own took beyond what it had before the picture.
"""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from machine import save
from rich.console import Console

from refinenet_edge.build import build
from refinenet_edge.evaluation import Confusion
from refinenet_edge.records import WHOLE, Frame, Inference, LabelMap, Recipe, Tiles
from refinenet_edge.runtime import Segmenter
from refinenet_edge.scenes import VALIDATION, scene

TILE = 512  # also the side of a scene
WAYS = ((512, 64), (512, 128), (512, 256), (1024, 128), (1024, 256), (1024, 512), (2048, 512), (2048, 1024))


def many_streets(side: int) -> tuple[Frame, LabelMap]:
    """Scenes of the usual size beside each other."""
    across = side // TILE
    scenes = [scene(VALIDATION, index) for index in range(across**2)]
    rows = [scenes[start : start + across] for start in range(0, len(scenes), across)]
    frames, truths = ([np.concatenate([one[part] for one in row], axis=1) for row in rows] for part in (0, 1))
    return np.concatenate(frames), np.concatenate(truths)


def labelled(bundle: Path, frame: Frame, inference: Inference) -> tuple[LabelMap, float]:
    with Segmenter(bundle, inference=inference) as segmenter:
        started = time.perf_counter()
        return segmenter.segment(frame).labels, time.perf_counter() - started


def inside(bundle: Path, frame: Frame, tile: int = 1024, step: int = 32) -> list[float]:
    """How many labels of a tile are those of the whole frame, by their distance from its border, in steps of pixels."""
    labels = labelled(bundle, frame, WHOLE)[0]
    from_border = np.minimum(np.arange(tile), np.arange(tile)[::-1])
    distance = np.minimum(from_border[:, None], from_border[None]) // step
    alike, count = (np.zeros(tile // 2 // step) for _ in range(2))
    places = range(256, len(frame) - 256 - tile + 1, 256)  # away from the border of the frame
    with Segmenter(bundle) as segmenter:
        for top, left in itertools.product(places, places):
            part = slice(top, top + tile), slice(left, left + tile)
            same = segmenter.segment(np.ascontiguousarray(frame[part])).labels == labels[part]
            alike += np.bincount(distance.ravel(), same.ravel(), len(alike))
            count += np.bincount(distance.ravel(), minlength=len(count))
    return [float(share) for share in alike / count]


def memory_of(bundle: Path, side: int) -> dict[str, float]:
    """MB that a picture of that side takes, besides itself and its labels, and seconds."""
    run = subprocess.run(
        [sys.executable, __file__, "--one", str(bundle), str(side)], capture_output=True, text=True, check=True
    )
    return {"side": side, **json.loads(run.stdout)}


def one(bundle: Path, side: int) -> None:
    frame = np.tile(scene(VALIDATION, 0)[0], (side // TILE, side // TILE, 1))
    with Segmenter(bundle, inference=Tiles((TILE, TILE))) as segmenter:
        segmenter.segment(frame[:TILE, :TILE])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        labels = segmenter.segment(frame).labels
        seconds = time.perf_counter() - started
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 - labels.nbytes / 2**20
    print(json.dumps({"mib": more, "frame_mib": frame.nbytes / 2**20, "seconds": seconds}))


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table of mIoU: a line for each way, the whole first, and a column for each picture."""
    lines = [
        "| tile, overlap | streets beside each other | labels as the whole's | one large street | labels |",
        "|---|---|---|---|---|",
    ]
    for tile, overlap in dict.fromkeys((row["tile"], row["overlap"]) for row in rows):
        line = f"| {tile}, {overlap} |" if tile else "| the whole |"
        for row in (row for row in rows if (row["tile"], row["overlap"]) == (tile, overlap)):
            whole = next(each["miou"] for each in rows if each["picture"] == row["picture"] and not each["tile"])
            points = f" ({100 * (row['miou'] - whole):+.2f})" if tile else ""
            line += f" {100 * row['miou']:.2f} %{points} | {100 * row['agreement']:.1f} % |"
        lines.append(line)
    return "\n".join(lines)


@click.command()
@click.option("--side", default=4096, show_default=True, help="Of the pictures that are also labelled whole.")
@click.option("--one", "alone", nargs=2, hidden=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(side: int, alone: tuple[str, str] | None, out: Path | None) -> None:
    """Compare tiles with the whole."""
    if alone:
        one(Path(alone[0]), int(alone[1]))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = build(Recipe(f"{folder}/scenes", checkpoint="scenes", dynamic=True, backend="openvino")).path
        streets = (("streets", many_streets(side)), ("one street", scene(VALIDATION, 0, (side, side))))
        for name, (frame, truth) in streets:
            whole, seconds = labelled(bundle, frame, WHOLE)
            row: dict[str, object] = {"picture": name, "side": side, "tile": None, "overlap": None}
            rows.append(row | {"miou": Confusion.of(truth, whole, 8).miou, "agreement": 1.0, "seconds": seconds})
            for tile, overlap in ((tile, overlap) for tile, overlap in WAYS if tile < side):
                labels, seconds = labelled(bundle, frame, Tiles((tile, tile), overlap))
                row |= {"tile": tile, "overlap": overlap, "miou": Confusion.of(truth, labels, 8).miou}
                rows.append(row | {"agreement": float((labels == whole).mean()), "seconds": seconds})
                Console().print(rows[-1])
        by_distance = inside(bundle, many_streets(2048)[0])
        memory = [memory_of(bundle, one_side) for one_side in (2048, 8192)]
        Console().print(memory)
    save({"tiles": rows, "inside_1024_by_32": by_distance, "memory": memory}, "tiles.json", out)


if __name__ == "__main__":
    main()
