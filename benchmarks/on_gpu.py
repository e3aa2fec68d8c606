"""Frame to labels on the NVIDIA GPU that is here, through the Segmenter that people use.

    python benchmarks/on_gpu.py                     -> benchmarks/results/<device>/frame_to_labels.json
    python benchmarks/on_gpu.py engines/voc50       a bundle whose plan was built here; needs no torch

Without a bundle it builds the shipped model in fp16 for every TensorRT that is installed. Timed are single frames from
host memory to host memory (percentiles), the same frames as a stream with two on their way, and the engine's layers.
On an integrated GPU, mapped memory takes turns with copying, and the runtime uses the faster from then on. The result
says which device it was, in which power mode, and how each measurement ended.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from machine import cpu, gpu, save

from refinenet_edge.bench import take_turns, timed
from refinenet_edge.build import build
from refinenet_edge.bundle import open_bundle
from refinenet_edge.errors import RefineNetEdgeError
from refinenet_edge.records import Recipe
from refinenet_edge.runtime import Segmenter, backends
from refinenet_edge.runtime.cache import keep, memory_choice
from refinenet_edge.runtime.cuda import Cuda
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.libraries import MODULES
from refinenet_edge.runtime.tensorrt.session import TrtSession
from refinenet_edge.scenes import VALIDATION, scene

BACKENDS = ("tensorrt", "tensorrt-rtx")
SIZE = (512, 512)
FRAMES = 8  # different ones
STREAM = 200  # frames


def single(segmenter: Segmenter, frame: np.ndarray) -> dict[str, float]:
    stages: dict[str, float] = {}
    timed(stages, "frame", segmenter.segment, frame)
    return stages


def measure(segmenter: Segmenter, frames: list[np.ndarray]) -> dict[str, Any]:
    """What `segmenter` takes for `frames`, in ms."""
    timing = take_turns({"segment": partial(single, segmenter, frames[0])})
    samples = timing.samples("segment")
    list(segmenter.segment_stream(frames * 2))  # warm
    started = time.perf_counter()
    count = sum(1 for _ in segmenter.segment_stream(frames[n % len(frames)] for n in range(STREAM)))
    record: dict[str, Any] = {
        "backend": segmenter.session.name,
        "frame": "x".join(map(str, frames[0].shape[:2])),
        "ms": {f"p{p}": float(np.percentile(samples, p)) for p in (50, 90, 99)},
        "samples": len(samples),
        "ended": timing.ended,
        "stream_ms": 1000 * (time.perf_counter() - started) / count,
    }
    if isinstance(segmenter.session, TrtSession):
        spec = segmenter.session.inputs[0]
        image = prepare(frames[0], segmenter.frame_spec, spec.dtype, int(spec.shape[1]))
        record["provider"] = segmenter.session.cuda.provider.name
        record["layers_ms"] = [(layer.name, layer.ms) for layer in segmenter.session.layer_times({spec.name: image})]
    return record


def measured(path: Path, backend: str, frames: list[np.ndarray]) -> dict[str, Any]:
    """The record of the bundle at `path`."""
    bundle = open_bundle(path)
    memory = choose_memory(path, backend, frames[0])
    with Segmenter(bundle, backend) as segmenter:
        engine = bundle.manifest.engine
        about = {"model": bundle.manifest.model, "precision": bundle.manifest.precision}
        return {**about, "engine": engine and engine.version, "memory": memory, **measure(segmenter, frames)}


def choose_memory(path: Path, backend: str, frame: np.ndarray) -> dict[str, Any] | None:
    """Mapped memory against copying, on an integrated GPU only; the faster is kept as the runtime's choice."""
    cuda = Cuda()
    cuda.close()
    if not cuda.integrated:
        return None
    choice = memory_choice(cuda.capability)
    with ExitStack() as stack:
        contenders = {}
        for memory in ("mapped", "copied"):
            keep(choice, memory.encode())
            contenders[memory] = partial(single, stack.enter_context(Segmenter(path, backend)), frame)
        timing = take_turns(contenders)
    ratio = timing.ratio("copied", "mapped")
    picked = "copied" if ratio.high < 1 else "mapped"
    keep(choice, picked.encode())
    return {**{f"{memory}_ms": timing.ms(memory) for memory in contenders}, "ratio": asdict(ratio), "picked": picked}


def built_and_measured(backend: str, frames: list[np.ndarray]) -> dict[str, Any]:
    """The record of the shipped model, built here in fp16."""
    if reason := backends.available()[backend]:
        raise RefineNetEdgeError(reason)
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder, backend))
        built = build(Recipe(output, "rf_lw_mbv2", "scenes", size=SIZE, precision="fp16", backend=backend))
        return measured(built.path, backend, frames)


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="[benchmarks/results/<device>/frame_to_labels.json]")
def main(bundle: Path | None, out: Path | None) -> None:
    """Measure BUNDLE, or the shipped model on every TensorRT here; what fails is in the result, too."""
    installed = [backend for backend in BACKENDS if importlib.util.find_spec(MODULES[backend])]
    if backends.gpu_problem() or not (bundle or installed):
        raise click.ClickException(backends.available()["tensorrt"])
    frames = [scene(VALIDATION, index, SIZE)[0] for index in range(FRAMES)]
    device = gpu()
    runs: list[dict[str, Any]] = []
    for backend in ["auto"] if bundle else installed:
        try:
            runs.append(measured(bundle, backend, frames) if bundle else built_and_measured(backend, frames))
        except Exception as exc:  # the other backend is measured all the same
            traceback.print_exc()
            runs.append({"backend": backend, "error": f"{type(exc).__name__}: {exc}"})
        print(save({"device": device, "host": cpu(), "runs": runs}, "frame_to_labels.json", out, device["name"]))
    sys.exit(any("error" in run for run in runs))


if __name__ == "__main__":
    main()
