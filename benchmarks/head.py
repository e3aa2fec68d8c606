"""Time logits -> labels: ours in C++ and in numpy, torch's interpolate + argmax, cv2.resize + numpy's argmax.

    python benchmarks/head.py                          -> benchmarks/results/<cpu>/head.json
    python benchmarks/head.py --rounds 3 --out head.json

The contenders take turns, in a new order every round, so that what else the machine does meets them alike. Logits are a
quarter of the frame, float32, half-pixel centres (cv2 knows no others). Each case also says which share of its cells
the short cut leaves to be evaluated, and how many pixels of a contender differ from ours.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import torch
from machine import cpu, save
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from refinenet_edge.records import Bilinear, Size
from refinenet_edge.runtime import head

HOW = Bilinear(align_corners=False)
SIZES: list[Size] = [(512, 512), (1080, 1920)]
CLASSES = (21, 8)


def smooth(random: np.random.Generator, classes: int, size: Size) -> np.ndarray:
    coarse = random.standard_normal((size[0] // 16 + 2, size[1] // 16 + 2, classes))
    # one at a time: OpenCV 5 takes no image of more than 128 channels
    return np.stack([cv2.resize(coarse[..., c], size[::-1], interpolation=cv2.INTER_CUBIC) for c in range(classes)])


def realistic(random: np.random.Generator, classes: int, size: Size) -> np.ndarray:
    """The logits of a label map of some twenty overlapping things, sure of themselves away from the borders."""
    truth = np.zeros(size, np.uint8)
    for _ in range(20):
        centre = [int(random.integers(side)) for side in size[::-1]]
        axes = [int(random.integers(side // 16, side // 4)) for side in size[::-1]]
        cv2.ellipse(truth, centre, axes, float(random.uniform(0, 180)), 0, 360, int(random.integers(classes)), -1)
    scores = np.stack([cv2.GaussianBlur((truth == c).astype(np.float64), (0, 0), 1.0) for c in range(classes)])
    return 12 * scores + 0.5 * smooth(random, classes, size)


def noise(random: np.random.Generator, classes: int, size: Size) -> np.ndarray:
    """Nearly every cell has a boundary in it."""
    return random.standard_normal((classes, *size))


def by_torch(logits: np.ndarray, size: Size) -> np.ndarray:
    with torch.inference_mode():
        full = functional.interpolate(torch.from_numpy(logits)[None], size, mode="bilinear", align_corners=False)
        return full.argmax(1)[0].to(torch.uint8).numpy()


def by_cv2(logits: np.ndarray, size: Size) -> np.ndarray:
    return cv2.resize(logits.transpose(1, 2, 0), size[::-1]).argmax(axis=2).astype(np.uint8)


def by_numpy(logits: np.ndarray, size: Size) -> np.ndarray:
    compiled, head._head = head._head, None  # type: ignore[assignment]
    try:
        return head.upsample_argmax(logits, size, HOW)
    finally:
        head._head = compiled


def by_cpp(logits: np.ndarray, size: Size) -> np.ndarray:
    return head.upsample_argmax(logits, size, HOW)


MAPS = (smooth, realistic, noise)
CONTENDERS: dict[str, Callable[[np.ndarray, Size], np.ndarray]] = {
    "ours, C++": by_cpp,
    "ours, numpy": by_numpy,
    "torch": by_torch,
    "cv2 + numpy": by_cv2,
}


def boundary_share(logits: np.ndarray) -> float:
    best = logits.argmax(axis=0)
    same = (best[:-1, :-1] == best[1:, :-1]) & (best[:-1, :-1] == best[:-1, 1:]) & (best[:-1, :-1] == best[1:, 1:])
    return 1 - float(same.mean())


def measure(logits: np.ndarray, size: Size, rounds: int) -> dict[str, Any]:
    results = {name: run(logits, size) for name, run in CONTENDERS.items()}  # also the warm-up
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    random = np.random.default_rng(0)
    for _ in range(rounds):
        for name in random.permutation(list(CONTENDERS)):
            begin = time.perf_counter()
            CONTENDERS[name](logits, size)
            times[name].append((time.perf_counter() - begin) * 1e3)
    ours = results["ours, C++"]
    return {
        name: {
            "min_ms": min(values),
            "median_ms": float(np.median(values)),
            "times_ours": float(np.median(np.divide(values, times["ours, C++"]))),
            "other_pixels": int((results[name] != ours).sum()),
            "ms": values,
        }
        for name, values in times.items()
    }


@click.command(help=__doc__)
@click.option("--rounds", default=15, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="[default: benchmarks/results/<cpu>/head.json]")
def main(rounds: int, out: Path | None) -> None:
    if head.implementation() != "c++":
        raise click.ClickException("the C++ extension is not built: pip install -e .")
    load = os.getloadavg()
    cases = []
    table = Table("frame", "classes", "logits", "boundary", *(f"{name}, ms" for name in CONTENDERS), "other pixels")
    for size in SIZES:
        for classes in CLASSES:
            for make in MAPS:
                small = (size[0] // 4, size[1] // 4)
                logits = np.ascontiguousarray(make(np.random.default_rng(0), classes, small), np.float32)
                runs = measure(logits, size, rounds)
                share = boundary_share(logits)
                cases.append(
                    {"size": size, "classes": classes, "logits": make.__name__, "boundary_share": share, "runs": runs}
                )
                cells = (f"{run['min_ms']:.2f} ({run['times_ours']:.0f}x)" for run in runs.values())
                other = "/".join(str(run["other_pixels"]) for run in runs.values())
                table.add_row(f"{size[1]}x{size[0]}", str(classes), make.__name__, f"{share:.2f}", *cells, other)
    machine = {
        "cpu": cpu(),
        "threads": {"ours": head.THREADS, "torch": torch.get_num_threads(), "cv2": cv2.getNumThreads()},
        "load_before": load,
        "versions": {module.__name__: module.__version__ for module in (np, torch, cv2)},
    }
    record = {"unit": "ms", "rounds": rounds, "machine": machine, "cases": cases}
    out = save(record, "head.json", out)
    console = Console()
    console.print(table)
    console.print(f"shortest of {rounds} rounds (median ratio to ours); load before: {load[0]:.1f}; written to {out}")


if __name__ == "__main__":
    main()
