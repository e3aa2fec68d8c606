"""A real tritonserver under many clients: latency, throughput, and whether every answer is the local runtime's.

    build/cluster/bin/python benchmarks/triton_load.py BUNDLE -> benchmarks/results/<cpu>/triton.json

The bundle is exported, and its frames-to-labels model served by the tritonserver of nvidia-pytriton; clients are
threads of this process, on the same cores as the server. Each client sends its next request when it has its answer.
`--requests` go through every number of clients, half JPEG files, half raw frames, over gRPC and HTTP in turn.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import tritonclient
import tritonclient.grpc
import tritonclient.http
from machine import cpu, save
from rich.console import Console
from rich.table import Table
from triton_server import Server, serve

from refinenet_edge.bundle import open_bundle
from refinenet_edge.cluster.triton import export
from refinenet_edge.runtime import Segmenter
from refinenet_edge.scenes import VALIDATION, scene

CLIENTS = (1, 2, 4, 8, 16, 32)
FRAMES = 8
NAME = "frames"


class Load:
    """What is asked, and the answers that are right."""

    def __init__(self, bundle: Path) -> None:
        jpegs = [cv2.imencode(".jpg", scene(VALIDATION, index)[0])[1] for index in range(FRAMES)]
        self.jpegs = [np.asarray(jpeg)[None] for jpeg in jpegs]
        self.frames = [np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)) for jpeg in jpegs]
        with Segmenter(bundle) as segmenter:
            self.expected = [segmenter.segment(frame).labels[None] for frame in self.frames]
            started = time.perf_counter()
            for frame in self.frames:
                segmenter.segment(frame)
            self.alone_ms = (time.perf_counter() - started) * 1000 / FRAMES

    def client(self, server: Server, number: int, requests: int) -> tuple[list[float], int, int]:
        """The milliseconds of each of `requests`, how many answers were wrong, and how many were errors."""
        module, address = ((tritonclient.grpc, server.grpc), (tritonclient.http, server.http))[number % 2]
        times, wrong, errors = [], 0, 0
        with module.InferenceServerClient(address) as asking:
            for turn in range(requests):
                index = (number + turn) % FRAMES
                raw = turn % 2
                array = self.frames[index][None] if raw else self.jpegs[index]
                tensor = module.InferInput("frame" if raw else "image", array.shape, "UINT8")
                started = time.perf_counter()
                tensor.set_data_from_numpy(array)
                try:
                    answer = asking.infer(NAME, [tensor]).as_numpy("labels")
                except tritonclient.utils.InferenceServerException:
                    errors += 1
                    continue
                times.append((time.perf_counter() - started) * 1000)
                wrong += not np.array_equal(answer, self.expected[index])
        return times, wrong, errors


def measure(load: Load, server: Server, clients: int, requests: int) -> dict[str, Any]:
    each = -(-requests // clients)
    with ThreadPoolExecutor(clients) as pool:
        started = time.perf_counter()
        found = list(pool.map(lambda number: load.client(server, number, each), range(clients)))
        seconds = time.perf_counter() - started
    times = sorted(ms for one in found for ms in one[0])
    cuts = statistics.quantiles(times, n=100)
    return {
        "clients": clients,
        "requests": each * clients,
        "errors": sum(one[2] for one in found),
        "wrong": sum(one[1] for one in found),
        "p50_ms": cuts[49],
        "p99_ms": cuts[98],
        "per_second": len(times) / seconds,
    }


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--requests", default=1000, show_default=True)
@click.option("--clients", multiple=True, type=int, default=CLIENTS, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(bundle: Path, requests: int, clients: tuple[int, ...], out: Path | None) -> None:
    opened, console = open_bundle(bundle), Console()
    load = Load(bundle)
    table = Table("clients", "requests", "errors", "wrong", "p50 ms", "p99 ms", "a second")
    with tempfile.TemporaryDirectory() as text:
        export(opened, Path(text) / "repository", NAME)
        with serve(Path(text) / "repository", (NAME,), Path(text)) as server:
            load.client(server, 0, FRAMES)  # both ways are warm
            load.client(server, 1, FRAMES)
            cells = [measure(load, server, count, requests) for count in clients]
    for cell in cells:
        numbers = (f"{cell[name]:.1f}" for name in ("p50_ms", "p99_ms", "per_second"))
        table.add_row(*(str(cell[name]) for name in ("clients", "requests", "errors", "wrong")), *numbers)
    console.print(table)
    record = {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "bundle": opened.manifest.model,
        "size": opened.manifest.frame.size,
        "backend": opened.manifest.backend,
        "frame": list(load.frames[0].shape),
        "local_ms": load.alone_ms,
        "cells": cells,
    }
    console.print(f"written to {save(record, 'triton.json', out)}")


if __name__ == "__main__":
    main()
