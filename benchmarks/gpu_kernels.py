"""Time the CUDA kernels on the GPU that is here: frame -> input and logits -> labels, beside torch's operators.

    python benchmarks/gpu_kernels.py               -> benchmarks/results/<device>/gpu_kernels.json

Everything lies on the GPU: the network's logits are float16, a quarter of its 512x512 input, as TensorRT gives them
(NHWC, channels padded to a multiple of 8), torch's channels_last. torch is eager, and compiled by torch.compile. A
sample is a hundred calls in one CUDA graph, so that what launching costs on the host is left out for all; contenders
take turns. `bytes` is what has to be moved, each value once; `copied` the share of what a copy within the GPU's memory
moves in that time. What fits into the GPU's cache can move faster than its memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from head import noise, realistic
from machine import gpu, save
from torch.nn import functional

from refinenet_edge.records import Bilinear, FrameSpec, Size
from refinenet_edge.runtime.cuda import Cuda
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.head import upsample_argmax
from refinenet_edge.runtime.kernels.device import DeviceFrame, DeviceHead

INPUT = (512, 512)
FRAMES: tuple[Size, ...] = ((512, 512), (1080, 1920))
CLASSES = (8, 21, 150)
CALLS, ROUNDS = 100, 21
HOW = Bilinear(align_corners=True)
Work = Callable[[], Any]


def captured(work: Work, calls: int = CALLS, stream: torch.cuda.Stream | None = None) -> torch.cuda.CUDAGraph:
    """`calls` times `work` in one graph; captured on `stream`, where the work queues itself on one."""
    side = stream or torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(calls):
            work()
    return graph


def milliseconds(launches: dict[str, tuple[Work, torch.cuda.Stream]], calls: int = CALLS) -> dict[str, list[float]]:
    """Each contender's ms a call, a sample a round; in another order every round."""
    samples: dict[str, list[float]] = {name: [] for name in launches}
    random = np.random.default_rng(0)
    for name in [name for _ in range(ROUNDS + 1) for name in random.permutation(list(launches))]:
        launch, stream = launches[name]
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(stream):
            begin.record()
            launch()
            end.record()
        end.synchronize()
        samples[name].append(begin.elapsed_time(end) / calls)
    return {name: times[1:] for name, times in samples.items()}


def ours(cuda: Cuda, scope: Any, work: Work) -> tuple[Work, torch.cuda.Stream]:
    """`CALLS` times what `work` queues on our stream, as one graph."""
    graphs = cuda.provider.graphs
    assert graphs is not None
    graph = scope.graph(lambda: [work() for _ in range(CALLS)])
    return lambda: graphs.launch(graph, cuda.stream), torch.cuda.ExternalStream(cuda.stream)


def theirs(work: Work) -> tuple[Work, torch.cuda.Stream]:
    return captured(work).replay, torch.cuda.current_stream()


def summary(samples: dict[str, list[float]], moved: int, bandwidth: float) -> dict[str, Any]:
    """Medians and quartiles in microseconds; how many times as long as ours."""
    mine = np.array(samples["ours"])
    return {
        name: {
            "us": [float(np.percentile(times, q) * 1000) for q in (25, 50, 75)],
            "times_ours": float(np.median(np.array(times) / mine)),
            "copied": moved / (np.median(times) / 1000) / bandwidth,
        }
        for name, times in samples.items()
    }


def copy_bandwidth() -> float:
    """Bytes read and written a second by a copy of 2 GiB within the GPU's memory."""
    source = torch.randint(0, 255, (1 << 31,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = []
    for _ in range(12):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return float(2 * source.numel() / np.median(times[2:]))


@torch.inference_mode()
def head_case(cuda: Cuda, kind: str, classes: int, size: Size, bandwidth: float) -> dict[str, Any]:
    """Logits -> labels."""
    quarter = (INPUT[0] // 4, INPUT[1] // 4)
    made = {"realistic": realistic, "noise": noise}[kind](np.random.default_rng(classes), classes, quarter)
    logits = made.astype(np.float16)
    padded = -(-classes // 8) * 8
    laid_out = np.zeros((*quarter, padded), np.float16)
    laid_out[..., :classes] = logits.transpose(1, 2, 0)
    there = torch.from_numpy(laid_out).cuda()
    nchw = there.permute(2, 0, 1)[None, :classes]

    def eager() -> torch.Tensor:
        full = functional.interpolate(nchw, size, mode="bilinear", align_corners=True)
        return full.argmax(1)[0].to(torch.uint8)

    compiled = torch.compile(eager, dynamic=False)
    with cuda.use():
        scope = cuda.scope()
        head = DeviceHead(scope, "float16", (classes, *quarter), size, HOW, padded)
        labels, sure = (scope.memory(size[0] * size[1]) for _ in range(2))
        contenders = {
            "ours": ours(cuda, scope, lambda: head.label(there.data_ptr(), labels)),
            "ours, with confidence": ours(cuda, scope, lambda: head.label(there.data_ptr(), labels, sure)),
            "torch eager": theirs(eager),
            "torch.compile": theirs(compiled),
        }
        samples = milliseconds(contenders)
        head.label(there.data_ptr(), labels)
        found = np.empty(size, np.uint8)
        cuda.provider.download(found, labels, cuda.stream)
        cuda.provider.synchronize(cuda.stream)
        scope.close()
    known = upsample_argmax(logits, size, HOW)
    moved = 2 * logits.size + size[0] * size[1]
    return {
        "kernel": "logits to labels",
        "logits": f"{kind}, {classes}x{quarter[0]}x{quarter[1]} float16",
        "frame": f"{size[0]}x{size[1]}",
        "bytes": moved,
        "same_as_cpu": float((found == known).mean()),
        "same_as_torch_eager": float((found == eager().cpu().numpy()).mean()),
        "contenders": summary(samples, moved, bandwidth),
    }


@torch.inference_mode()
def frame_case(cuda: Cuda, size: Size, bandwidth: float) -> dict[str, Any]:
    """Frame -> input, float16, NHWC padded to 8 channels (torch: channels_last, 3)."""
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    there = torch.from_numpy(frame).cuda()
    spec = FrameSpec(INPUT)
    mean, std = (torch.tensor(each, device="cuda").view(1, 3, 1, 1) for each in (spec.mean, spec.std))

    def eager() -> torch.Tensor:
        image = there.permute(2, 0, 1)[None].flip(1).float().div(255)
        if size != INPUT:
            image = functional.interpolate(image, INPUT, mode="bilinear", align_corners=False)
        return ((image - mean) / std).half().contiguous(memory_format=torch.channels_last)

    compiled = torch.compile(eager, dynamic=False)
    with cuda.use():
        scope = cuda.scope()
        kernel = DeviceFrame(scope, spec, size, "float16", 8)
        contenders = {
            "ours": ours(cuda, scope, lambda: kernel.prepare(there.data_ptr(), 3 * size[1])),
            "torch eager": theirs(eager),
            "torch.compile": theirs(compiled),
        }
        samples = milliseconds(contenders)
        found = np.empty((1, *INPUT, 8), np.float16)
        cuda.provider.download(found, kernel.address, cuda.stream)
        cuda.provider.synchronize(cuda.stream)
        scope.close()
    known = prepare(frame, spec, "float16", 8)
    moved = frame.nbytes * (1 if size == INPUT else min(1.0, 4 * INPUT[0] * INPUT[1] / (size[0] * size[1])))
    moved = int(moved) + found.nbytes
    return {
        "kernel": "frame to input",
        "frame": f"{size[0]}x{size[1]}",
        "input": f"{INPUT[0]}x{INPUT[1]} float16, 8 channels",
        "bytes": moved,
        "same_as_cpu": float((found.transpose(0, 3, 1, 2) == known).mean()),
        "contenders": summary(samples, moved, bandwidth),
    }


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="[benchmarks/results/<device>/gpu_kernels.json]")
def main(out: Path | None) -> None:
    if not torch.cuda.is_available():
        raise click.ClickException("this torch has no CUDA: the kernels are not timed beside its operators")
    device = gpu()
    torch.cuda.init()
    cuda = Cuda()
    bandwidth = copy_bandwidth()
    cases = [frame_case(cuda, size, bandwidth) for size in FRAMES]
    for kind in ("realistic", "noise"):
        cases += [head_case(cuda, kind, classes, size, bandwidth) for classes in CLASSES for size in FRAMES]
    cuda.close()
    record = {"device": device, "torch": torch.__version__, "copy_gb_s": bandwidth / 1e9, "cases": cases}
    print(save(record, "gpu_kernels.json", out, device["name"]))
    for case in cases:
        print(case["kernel"], case.get("logits", case.get("input")), "->", case["frame"], case["same_as_cpu"])
        for name, each in case["contenders"].items():
            print(f"    {name:22} {each['us'][1]:8.1f} us, {each['times_ours']:6.2f} times ours, {each['copied']:.2f}")


if __name__ == "__main__":
    main()
