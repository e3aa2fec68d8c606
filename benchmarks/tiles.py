"""Large pictures in tiles against the whole: mIoU, labels, time and memory of the scenes model.

    python benchmarks/tiles.py      ten minutes on two cores, 8 GB of memory   -> benchmarks/results/<cpu>/tiles.json

4096x4096 pixels, as one drawn street and as 64 unseen ones of the size that the model was trained on, on OpenVINO in
float32 with free sides: once whole, then in tiles of 512 with several overlaps. Then 8192x8192 and less in tiles:
the most memory that a process of its own took beyond what it had before the picture.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from machine import save
from rich.console import Console

from refinenet_edge.build import build
from refinenet_edge.evaluation import Confusion
from refinenet_edge.records import WHOLE, Frame, Inference, LabelMap, Recipe, Tiles
from refinenet_edge.runtime import Segmenter
from refinenet_edge.scenes import VALIDATION, scene

SIDE, TILE = 4096, 512
OVERLAPS = (0, 64, 128, 256)


def one_street() -> tuple[Frame, LabelMap]:
    return scene(VALIDATION, 0, (SIDE, SIDE))


def many_streets() -> tuple[Frame, LabelMap]:
    """64 scenes beside each other."""
    scenes = [scene(VALIDATION, index) for index in range((SIDE // TILE) ** 2)]
    rows = [scenes[start : start + SIDE // TILE] for start in range(0, len(scenes), SIDE // TILE)]
    frames, truths = ([np.concatenate([one[part] for one in row], axis=1) for row in rows] for part in (0, 1))
    return np.concatenate(frames), np.concatenate(truths)


def labelled(bundle: Path, frame: Frame, inference: Inference) -> tuple[LabelMap, float]:
    with Segmenter(bundle, inference=inference) as segmenter:
        started = time.perf_counter()
        return segmenter.segment(frame).labels, time.perf_counter() - started


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


@click.command()
@click.option("--one", "alone", nargs=2, hidden=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(alone: tuple[str, str] | None, out: Path | None) -> None:
    """Compare tiles with the whole."""
    if alone:
        one(Path(alone[0]), int(alone[1]))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = build(Recipe(f"{folder}/scenes", checkpoint="scenes", dynamic=True, backend="openvino")).path
        for name, (frame, truth) in (("64 streets", many_streets()), ("one street", one_street())):
            whole, _ = labelled(bundle, frame, WHOLE)
            for overlap in (None, *OVERLAPS):
                way: Inference = WHOLE if overlap is None else Tiles((TILE, TILE), overlap)
                labels, seconds = labelled(bundle, frame, way)
                row = {"picture": name, "overlap": overlap, "miou": Confusion.of(truth, labels, 8).miou}
                rows.append(row | {"agreement": float((labels == whole).mean()), "seconds": seconds})
                Console().print(rows[-1])
        memory = [memory_of(bundle, side) for side in (1024, 4096, 8192)]
        Console().print(memory)
    save({"tiles": rows, "memory": memory}, "tiles.json", out)


if __name__ == "__main__":
    main()
