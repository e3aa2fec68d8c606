"""What each rewrite is worth on the CPU backends: the network with all of them against the network without one.

    python benchmarks/rewrites.py                       -> benchmarks/results/<cpu>/rewrites.json

Per model and backend, every variant once a round, in random order; a ratio above 1 is what leaving the rewrite out
costs.
float32, 512x512, random weights: none of this depends on them.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import click
import numpy as np
import onnx
import onnx_ir as ir
import torch
from machine import cpu, save
from rich.console import Console
from rich.table import Table

from refinenet_edge.fusion import REWRITES, fuse
from refinenet_edge.graph import to_bytes
from refinenet_edge.model import create
from refinenet_edge.runtime.openvino import OpenVinoSession
from refinenet_edge.runtime.ort import OrtSession
from refinenet_edge.trace import trace

# what torch's own exporter or any runtime would do is no choice of ours
CHOICES = [r.name for r in REWRITES if r.name not in ("fold_constants", "remove_identities", "fold_batch_norm")]
BACKENDS = {"openvino": OpenVinoSession, "onnxruntime": OrtSession}


def variants(name: str) -> dict[str, bytes]:
    """All rewrites, and all but each one that fires."""
    torch.manual_seed(0)
    traced = to_bytes(trace(create(name, 21), (512, 512)))

    def without(left_out: str) -> tuple[bytes, dict[str, int]]:
        model = ir.from_proto(onnx.load_model_from_string(traced))
        fired = fuse(model, [rewrite for rewrite in REWRITES if rewrite.name != left_out])
        return to_bytes(model), {firing.name: firing.fired for firing in fired}

    everything, fired = without("")
    return {"all": everything} | {choice: without(choice)[0] for choice in CHOICES if fired[choice]}


@click.command(help=__doc__)
@click.option("--model", "names", multiple=True, default=["rf_lw_mbv2", "rf_lw50"], show_default=True)
@click.option("--rounds", default=40, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(names: tuple[str, ...], rounds: int, out: Path | None) -> None:
    rng = np.random.default_rng(0)
    feeds = {"image": rng.standard_normal((1, 3, 512, 512)).astype(np.float32)}
    table = Table("model", "backend", "without", "ms", "all ms", "ratio", title="what leaving a rewrite out costs")
    rows = []
    for name in names:
        graphs = variants(name)
        for backend, session_of in BACKENDS.items():
            sessions = {variant: session_of(graph) for variant, graph in graphs.items()}
            times: dict[str, list[float]] = {variant: [] for variant in graphs}
            for turn in range(rounds + 2):
                for variant in rng.permutation(list(graphs)):
                    start = time.perf_counter()
                    sessions[variant].run(feeds)
                    if turn >= 2:
                        times[variant].append(1000 * (time.perf_counter() - start))
            for variant in list(graphs)[1:]:
                ratio = statistics.median(a / b for a, b in zip(times[variant], times["all"], strict=True))
                medians = statistics.median(times[variant]), statistics.median(times["all"])
                rows.append({"model": name, "backend": backend, "without": variant, "ms": medians, "ratio": ratio})
                table.add_row(name, backend, variant, *(f"{value:.1f}" for value in medians), f"{ratio:.3f}")
    Console().print(table)
    record = {"cpu": cpu(), "rounds": rounds, "size": [512, 512], "rows": rows}
    save(record, "rewrites.json", out)


if __name__ == "__main__":
    main()
