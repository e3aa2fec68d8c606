"""The pools of the shipped model as they are and rewritten, per precision and CPU backend: ms of a frame of 512x512.

    python benchmarks/integer_pools.py              -> benchmarks/results/<cpu>/integer_pools.json

In turn, round after round; a ratio below 1 is what rewriting wins. Both must give the same bits. The builds rewrite
those of INT8 alone (precision/integer_pools.py); those of float32 are put in two passes here, to see what that costs.
"""

from __future__ import annotations

import functools
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnx_ir as ir
from machine import cpu, save
from rich.console import Console
from rich.table import Table

from refinenet_edge import precision
from refinenet_edge.bench.measure import take_turns
from refinenet_edge.build import build
from refinenet_edge.bundle import MODEL
from refinenet_edge.graph import Names, to_bytes
from refinenet_edge.precision.integer_pools import pool_in_two_passes, pool_integers
from refinenet_edge.records import Recipe
from refinenet_edge.runtime.openvino import OpenVinoSession
from refinenet_edge.runtime.ort import OrtSession

BACKENDS = {"openvino": OpenVinoSession, "onnxruntime": OrtSession}


def graphs(name: str, folder: Path) -> dict[str, bytes]:
    """The graph with its pools as they are, and rewritten."""
    calib = "calib/scenes.ranges.json" if name == "int8" else None
    recipe = Recipe(str(folder / name), checkpoint="scenes", precision=name, calib=calib, backend="openvino")
    precision.pool_integers = lambda _: None
    try:
        before = (build(recipe).path / MODEL).read_bytes()
    finally:
        precision.pool_integers = pool_integers
    model = ir.from_proto(onnx.load_model_from_string(before))
    if name == "int8":
        pool_integers(model)
    else:
        names = Names(model.graph)
        for pool in [node for node in model.graph if node.op_type == "MaxPool"]:
            pool_in_two_passes(pool, names)
    return {"as they are": before, "rewritten": to_bytes(model)}


def rows(cells: list[dict[str, Any]]) -> list[str]:
    """The lines of the table in docs/measurements.md."""
    told: dict[str, list[str]] = {}
    for cell in cells:
        ratio = cell["times_as_long"]
        told.setdefault(cell["precision"], []).append(
            f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
        )
    return [f"| {precision} | {' | '.join(ratios)} |" for precision, ratios in told.items()]


@click.command(help=__doc__)
@click.option("--rounds", default=40, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(rounds: int, out: Path | None) -> None:
    feeds = {"image": np.random.default_rng(0).standard_normal((1, 3, 512, 512)).astype(np.float32)}
    table = Table("precision", "backend", "as they are, ms", "rewritten", "times as long", title=cpu())
    cells = []
    for name in ("fp32", "int8"):
        with tempfile.TemporaryDirectory() as folder:
            written = graphs(name, Path(folder))
        for backend, session_of in BACKENDS.items():
            sessions = {who: session_of(graph) for who, graph in written.items()}
            one, two = (session.run(feeds)["logits"].copy() for session in sessions.values())
            if not np.array_equal(one, two):
                raise SystemExit(f"{name} by {backend}: rewritten pools give other logits")

            def turn(session: Any) -> dict[str, float]:
                began = time.perf_counter()
                session.run(feeds)
                return {"engine": 1000 * (time.perf_counter() - began)}

            timing = take_turns({who: functools.partial(turn, session) for who, session in sessions.items()}, rounds)
            ratio, ms = timing.ratio("rewritten", "as they are"), {who: timing.ms(who) for who in sessions}
            cells.append({"precision": name, "backend": backend, "ms": ms, "times_as_long": asdict(ratio)})
            table.add_row(name, backend, *(f"{value:.1f}" for value in ms.values()), str(ratio))
    Console().print(table)
    save({"cpu": cpu(), "rounds": rounds, "cells": cells}, "integer_pools.json", out)


if __name__ == "__main__":
    main()
