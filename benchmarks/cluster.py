"""Frames on a Ray cluster in this machine: what a worker adds, and what the loss of a node costs.

    build/cluster/bin/python benchmarks/cluster.py BUNDLE     -> benchmarks/results/<cpu>/cluster_{scaling,loss}.json

Scaling: scenes labelled by 1, 2, 3 and 4 workers of one thread each, and by this process with all its threads. A rate
is that between the first and the last piece: starting Ray and its workers is told apart. Every number of workers takes
its turn in every round, and the median counts. Where other work shares the machine the CPU time of a frame still holds.

Loss: `--scenes` scenes through two nodes, one of which is killed when a quarter is done; then by this process alone;
the two folders are compared byte by byte. The memory of Ray's workers and of this process is looked at all the time.

Ray thinks there are 4 CPUs (2 a node) whatever there are.
"""

from __future__ import annotations

import functools
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import click
import ray
from machine import cpu, save
from ray.cluster_utils import Cluster
from rich.console import Console
from rich.table import Table

from refinenet_edge.bundle import Bundle, open_bundle
from refinenet_edge.cluster import batch, work
from refinenet_edge.cluster.batch import label
from refinenet_edge.cluster.pool import open_pool

ROOT = Path(__file__).parents[1]
NODE = 2  # logical CPUs
WORKERS = (1, 2, 3, 4)
SEED = 11


@contextmanager
def two_nodes() -> Iterator[tuple[Cluster, Any]]:
    """The cluster and the node that may be lost; this process is connected."""
    os.environ["PYTHONPATH"] = str(ROOT)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": NODE})
    second = cluster.add_node(num_cpus=NODE)
    ray.init(cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()
    try:
        yield cluster, second
    finally:
        ray.shutdown()
        cluster.shutdown()


class Memory(threading.Thread):
    """The resident memory of Ray's workers, in MB: at most so far, and how the largest grew."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, float, float]] = []  # time, the largest worker, this process
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.5):
            workers = [_resident(path) for path in Path("/proc").glob("[0-9]*") if _is_worker(path)]
            self.samples.append((time.monotonic(), max(workers, default=0.0), _resident(Path("/proc/self"))))

    def stop(self) -> dict[str, Any]:
        self.stopped.set()
        self.join()
        quarter = max(1, len(self.samples) // 4)
        parts = [self.samples[i * quarter : (i + 1) * quarter] for i in range(4)]
        return {
            "largest_worker_mb_by_quarter": [round(max((s[1] for s in part), default=0)) for part in parts],
            "driver_mb_by_quarter": [round(max((s[2] for s in part), default=0)) for part in parts],
        }


def _is_worker(path: Path) -> bool:
    try:
        return path.joinpath("cmdline").read_bytes().startswith(b"ray::")
    except OSError:
        return False


def _resident(path: Path) -> float:
    try:
        status = path.joinpath("status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith("VmRSS")), 0.0)


def rated(bundle: Bundle, scenes: int, out: Path, how: str) -> dict[str, float]:
    """Frames a second between the first piece and the last, and the seconds before the first."""
    ticks: list[tuple[float, int]] = []
    started = time.perf_counter()
    done = label(
        bundle,
        f"scenes:{SEED}:{scenes}",
        str(out),
        ray=how,
        progress=lambda done, _: ticks.append((time.perf_counter(), done)),
    )
    shutil.rmtree(out)
    first, last = ticks[1], ticks[-1]
    return {
        "per_second": (last[1] - first[1]) / (last[0] - first[0]),
        "cpu_ms_per_frame": 1000 * done.cpu_seconds / done.labelled,
        "first_after_s": first[0] - started,
    }


def scaling(bundle: Bundle, scenes: int, rounds: int, folder: Path) -> dict[str, Any]:
    ways: dict[str, int | None] = {"this process": None, **{f"{n} workers": n for n in WORKERS}}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, workers in ways.items():
            pool = functools.partial(open_pool, size=workers)
            with mock.patch.object(batch, "open_pool", pool):  # the command takes as many as there is room for
                found[name].append(rated(bundle, scenes, folder / "out", "auto" if workers else "off"))
    rates = {name: statistics.median(one["per_second"] for one in runs) for name, runs in found.items()}
    one = rates["1 workers"]
    return {
        "scenes": scenes,
        "rounds": rounds,
        "per_second": rates,
        "cpu_ms_per_frame": {
            name: statistics.median(one["cpu_ms_per_frame"] for one in runs) for name, runs in found.items()
        },
        "efficiency": {f"{n} workers": rates[f"{n} workers"] / (n * one) for n in WORKERS},
        "first_piece_after_s": {
            name: statistics.median(run["first_after_s"] for run in runs) for name, runs in found.items()
        },
        "samples": found,
    }


def loss(bundle: Bundle, scenes: int, cluster: Cluster, second: Any, folder: Path) -> dict[str, Any]:
    source, out, alone = f"scenes:{SEED}:{scenes}", folder / "ray", folder / "alone"
    lost: dict[str, float] = {}

    def lose() -> None:
        while (there := len(list(out.rglob("*.png")))) < scenes // 4:
            time.sleep(0.2)
        cluster.remove_node(second, allow_graceful=False)
        lost.update(after_labels=there, nodes_left=sum(node["Alive"] for node in ray.nodes()))

    losing, memory = threading.Thread(target=lose), Memory()
    losing.start()
    memory.start()
    done = label(bundle, source, str(out), ray="auto")
    losing.join()
    held = memory.stop()
    single = label(bundle, source, str(alone))
    names = sorted(path.relative_to(alone) for path in alone.rglob("*") if path.is_file())
    same = sum((out / name).read_bytes() == (alone / name).read_bytes() for name in names)
    complete = names == sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    return {
        "scenes": scenes,
        "lost": lost,
        "labelled": done.labelled,
        "problems": len(done.problems),
        "files": len(names),
        "files_identical_to_one_process": same,
        "no_other_files": complete,
        "seconds": done.seconds,
        "seconds_of_one_process": single.seconds,
        "cpu_seconds": done.cpu_seconds,
        "cpu_seconds_of_one_process": single.cpu_seconds,
        "memory": held,
    }


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--only", type=click.Choice(["scaling", "loss"]))
@click.option("--scenes", default=2000, show_default=True, help="Of the run that loses a node.")
@click.option("--scaling-scenes", default=320, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--piece", default=8, show_default=True, help="Frames that a worker is given at a time.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path))
def main(
    bundle: Path, only: str | None, scenes: int, scaling_scenes: int, rounds: int, piece: int, out: Path | None
) -> None:
    console = Console()
    work.PIECE = piece
    opened = open_bundle(bundle)
    subject = {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "ray": ray.__version__,
        "bundle": opened.manifest.model,
        "size": opened.manifest.frame.size,
        "backend": opened.manifest.backend,
        "piece": piece,
    }
    with tempfile.TemporaryDirectory() as text, two_nodes() as (cluster, second):
        if only != "loss":
            scaled = scaling(opened, scaling_scenes, rounds, Path(text))
            table = Table("", "frames a second", "efficiency", "CPU ms a frame", "first piece after, s")
            for name, rate in scaled["per_second"].items():
                share = scaled["efficiency"].get(name)
                cost, first = scaled["cpu_ms_per_frame"][name], scaled["first_piece_after_s"][name]
                table.add_row(name, f"{rate:.2f}", f"{share:.0%}" if share else "", f"{cost:.0f}", f"{first:.1f}")
            console.print(table)
            _save(console, {**subject, **scaled}, "cluster_scaling.json", out)
        if only != "scaling":
            lossy = loss(opened, scenes, cluster, second, Path(text))
            console.print(lossy)
            _save(console, {**subject, **lossy}, "cluster_loss.json", out)


def _save(console: Console, record: dict[str, Any], name: str, out: Path | None) -> None:
    path = save({**record, "load": os.getloadavg()[0]}, name, out / name if out else None)
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
