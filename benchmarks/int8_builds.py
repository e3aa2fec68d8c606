"""The shipped INT8 recipe as the code of two days builds it: mIoU and time of both bundles beside fp32, in one run.

    python benchmarks/int8_builds.py FP32 BEFORE AFTER    -> benchmarks/results/<cpu>/int8_builds.json

FP32, BEFORE and AFTER are bundles of engines/scenes.toml and engines/scenes_int8.toml, BEFORE built by a worktree of an
older commit. Today's runtime runs all of them in turn, in a new order every round, so that what else the machine does
meets them alike: ratios within the run count, not milliseconds. Accuracy is mIoU on unseen scenes, the same for each;
intervals are over the scenes, paired.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import click
import openvino
from int8 import FLOAT, INT8, SIZE, accuracies, scored
from machine import cpu, save

from refinenet_edge.bench.measure import Estimate, Timing, take_turns
from refinenet_edge.bundle import MODEL
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.head import implementation
from refinenet_edge.runtime.processor import processor
from refinenet_edge.scenes import VALIDATION, scene

BEFORE = "INT8 before"


@click.command(help=__doc__)
@click.argument("bundles", nargs=3, type=click.Path(exists=True, path_type=Path))
@click.option("--scenes", "count", default=1000, show_default=True, help="Of mIoU.")
@click.option("--rounds", default=400, show_default=True, help="Of timing.")
@click.option("--out", type=click.Path(path_type=Path))
def main(bundles: tuple[Path, ...], count: int, rounds: int, out: Path | None) -> None:
    load = os.getloadavg()
    folders = dict(zip((FLOAT, BEFORE, INT8), bundles, strict=True))
    frame = scene(VALIDATION, 0, SIZE)[0]
    with ExitStack() as stack:
        segmenters = {who: stack.enter_context(Segmenter(path, "openvino")) for who, path in folders.items()}
        turns = {who: lambda run=each: run.staged(frame)[1] for who, each in segmenters.items()}
        timing = take_turns(turns, rounds)  # type: ignore[arg-type]
        accuracy = accuracies(scored(segmenters, f"scenes:{VALIDATION}:{count}"))
    ratios = {
        f"{who} / {INT8}": {"frame to labels": timing.ratio(who, INT8), "engine": _engine(timing, who)}
        for who in (FLOAT, BEFORE)
    }
    record = {
        "cpu": cpu(),
        "kind": processor(),
        "threads": os.cpu_count(),
        "load_before": load,
        "load_after": os.getloadavg(),
        "head": implementation(),
        "openvino": openvino.__version__,
        "sha256": {who: hashlib.sha256((path / MODEL).read_bytes()).hexdigest() for who, path in folders.items()},
        "scenes": f"scenes:{VALIDATION}:{count}",
        "accuracy": {who: asdict(row) for who, row in accuracy.items()},
        "rounds": rounds,
        "ms": {who: timing.ms(who) for who in timing.runs},
        "times": {name: {what: asdict(ratio) for what, ratio in pair.items()} for name, pair in ratios.items()},
    }
    for who, row in accuracy.items():
        print(f"{who}: mIoU {row.miou:.2f}, lost to fp32 {row.lost}, behind {INT8} {row.behind}")
    for name, pair in ratios.items():
        print(f"{name}: {', '.join(f'{what} {ratio}' for what, ratio in pair.items())}")
    print(f"written to {save(record, 'int8_builds.json', out)}")


def _engine(timing: Timing, who: str) -> Estimate:
    """How many times as long the engine alone of `who` takes."""
    return Timing({name: [{"engine": run["engine"]} for run in timing.runs[name]] for name in (who, INT8)}, "").ratio(
        who, INT8
    )


if __name__ == "__main__":
    main()
