"""Frames per second of several frames at once on the GPU that is here, beside torch.compile at the same batch.

    python benchmarks/gpu_batches.py        -> benchmarks/results/<device>/gpu_batches.json

From BGR bytes to labels, all on the GPU, 512x512, float16. "torch.compile" compiles all of it. "ours" has the frame and
head kernels of the runtime around the same compiled network, which stands where TensorRT's engine would: so the
difference is what these kernels bring, and says nothing of an engine. Each is timed as a CUDA graph of some calls, in
turns. Labels must be, bit for bit, those of the CPU from the same logits, and those of each frame alone.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from gpu_kernels import HOW, Work, captured, milliseconds
from machine import gpu, save
from torch import Tensor, nn
from torch.nn import functional

from refinenet_edge.model import create, load_checkpoint
from refinenet_edge.records import FrameSpec
from refinenet_edge.runtime.cuda import Cuda
from refinenet_edge.runtime.head import upsample_argmax
from refinenet_edge.runtime.kernels.device import DeviceFrames, DeviceHeads, FrameOfBatch, TargetOfBatch
from refinenet_edge.scenes import VALIDATION, scene

SIZE = (512, 512)
BATCHES = (1, 2, 4, 8, 16)
MODELS = ("rf_lw_mbv2", "rf_lw50")
NETWORKS, KERNELS = 20, 100  # calls in a graph


class Memory:
    """Device memory of ours as torch sees it."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: str) -> None:
        self.__cuda_array_interface__ = {"data": (address, False), "shape": shape, "typestr": dtype, "version": 3}

    def tensor(self) -> Tensor:
        return torch.as_tensor(self, device="cuda")


def network(name: str) -> tuple[nn.Module, int]:
    """The model in float16 and how many classes it has: the shipped weights, or random ones."""
    if name == "rf_lw_mbv2":
        module: nn.Module = load_checkpoint("scenes").cuda()
        classes = 8
    else:
        torch.manual_seed(0)
        classes = 21
        module = create(name, classes).cuda().train()  # for batch norms that keep float16 in range
        with torch.no_grad():
            for _ in range(8):
                module(torch.randn(4, 3, *SIZE, device="cuda"))
    return module.eval().half().to(memory_format=torch.channels_last), classes


def to_input(frames: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    image = frames.permute(0, 3, 1, 2).flip(1).float().div(255)
    return ((image - mean) / std).half()


def to_labels(logits: Tensor) -> Tensor:
    return functional.interpolate(logits, SIZE, mode="bilinear", align_corners=True).argmax(1).to(torch.uint8)


class Ours:
    """The runtime's kernels around a network of torch, for `batch` frames on the GPU."""

    def __init__(self, cuda: Cuda, frames: Tensor, classes: int, run: Callable[[Tensor], Tensor]) -> None:
        spec, (batch, height, width, _) = FrameSpec(SIZE), frames.shape
        self.scope, self.batch, self.width = cuda.scope(), batch, width
        self._run, shape = run, (classes, height // 4, width // 4)
        self._frames = DeviceFrames(self.scope, spec, SIZE, batch, "float16")
        self._heads = DeviceHeads(self.scope, "float16", shape, HOW, batch)
        self.image = Memory(self._frames.address, (batch, 3, *SIZE), "<f2").tensor()
        labels = self.scope.memory(batch * height * width)
        self.labels = Memory(labels, (batch, height, width), "|u1").tensor()
        self.logits = Memory(self.scope.memory(2 * batch * int(np.prod(shape))), (batch, *shape), "<f2").tensor()
        sampled, targets = [], []
        for number in range(batch):
            one, target = self._frames.sampled(self.scope, SIZE), self._heads.target(self.scope, SIZE, None)
            one.pixels, one.pitch = frames[number].data_ptr(), 3 * width
            target.labels = labels + number * height * width
            sampled.append(one)
            targets.append(target)
        described = b"".join(map(bytes, (*sampled, *targets)))
        assert len(described) == batch * (ctypes.sizeof(FrameOfBatch) + ctypes.sizeof(TargetOfBatch))
        self._described = self.scope.put(np.frombuffer(described, np.uint8).copy())

    def prepare(self) -> None:
        self._frames.prepare(self._described, self.batch)

    def head(self) -> None:
        targets = self._described + self.batch * ctypes.sizeof(FrameOfBatch)
        self._heads.label(self.logits.data_ptr(), targets, self.batch, self.width, False)

    def all(self) -> None:
        self.prepare()
        self.logits.copy_(self._run(self.image))
        self.head()


def checked(ours: Ours) -> None:
    """The labels are the CPU's from the same logits."""
    torch.cuda.synchronize()
    for number in {0, ours.batch - 1}:
        known = upsample_argmax(ours.logits[number].cpu().numpy(), SIZE, HOW)
        found = ours.labels[number].cpu().numpy()
        if not np.array_equal(found, known):
            raise SystemExit(f"batch {ours.batch}: {(found != known).sum()} labels of frame {number} are not the CPU's")


@torch.inference_mode()
def measured(cuda: Cuda, module: nn.Module, name: str, classes: int, batch: int) -> dict[str, Any]:
    spec = FrameSpec(SIZE)
    shot = np.stack([scene(VALIDATION, number, SIZE)[0] for number in range(batch)])
    frames = torch.from_numpy(shot).cuda()
    mean, std = (torch.tensor(each, device="cuda").view(1, 3, 1, 1) for each in (spec.mean, spec.std))
    together = functools.partial(torch.compile, dynamic=False)
    run = together(lambda image: module(image.contiguous(memory_format=torch.channels_last)))
    whole = together(lambda pixels: to_labels(module(to_input(pixels, mean, std))))
    before, after = together(lambda pixels: to_input(pixels, mean, std)), together(to_labels)
    with cuda.use():
        ours = Ours(cuda, frames, classes, run)
        stream = torch.cuda.ExternalStream(cuda.stream)
        networks: dict[str, Work] = {
            "ours": ours.all,
            "torch.compile": lambda: whole(frames),
            "network, torch.compile": lambda: run(ours.image),
        }
        kernels: dict[str, Work] = {
            "frame, ours": ours.prepare,
            "frame, torch.compile": lambda: before(frames),
            "head, ours": ours.head,
            "head, torch.compile": lambda: after(ours.logits),
        }
        samples: dict[str, list[float]] = {}
        for works, calls in ((networks, NETWORKS), (kernels, KERNELS)):
            launches: dict[str, tuple[Work, torch.cuda.Stream]] = {
                each: (captured(work, calls, stream).replay, stream) for each, work in works.items()
            }
            checked(ours)
            samples |= milliseconds(launches, calls)
            checked(ours)
        del launches
        torch.cuda.synchronize()
        ours.scope.close()
    return {
        "model": name,
        "classes": classes,
        "batch": batch,
        "frames_per_second": {
            each: round(1000 * batch / float(np.median(samples[each])), 1) for each in ("ours", "torch.compile")
        },
        "times_the_frames": float(np.median(np.array(samples["torch.compile"]) / np.array(samples["ours"]))),
        "us_a_frame": {each: round(float(np.median(times)) * 1000 / batch, 2) for each, times in samples.items()},
    }


def rows(cells: list[dict[str, Any]]) -> list[str]:
    """The lines of the table in docs/measurements.md."""
    lines = []
    for cell in cells:
        rates, us = cell["frames_per_second"], cell["us_a_frame"]
        whole = f"{rates['ours']:.0f} | {rates['torch.compile']:.0f} | {cell['times_the_frames']:.3f}"
        parts = (f"{us[f'{part}, {whose}']:.2f}" for part in ("frame", "head") for whose in ("ours", "torch.compile"))
        lines.append(f"| `{cell['model']}`, {cell['batch']} | {whole} | {' | '.join(parts)} |")
    return lines


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--only", type=(str, int), help="One model and batch, which is not saved: fills torch's cache.")
@click.option("--out", type=click.Path(path_type=Path), help="[benchmarks/results/<device>/gpu_batches.json]")
def main(only: tuple[str, int] | None, out: Path | None) -> None:
    if not torch.cuda.is_available():
        raise click.ClickException("this torch has no CUDA: nothing to compare with")
    torch.cuda.init()  # type: ignore[no-untyped-call]
    cuda = Cuda()
    cells: list[dict[str, Any]] = []
    for name in MODELS if only is None else only[:1]:
        module, classes = network(name)
        for batch in BATCHES if only is None else only[1:]:
            torch._dynamo.reset()  # else it stops compiling after eight
            cells.append(measured(cuda, module, name, classes, batch))
            cell = cells[-1]
            print(f"{name}, batch {batch}: frames/s {cell['frames_per_second']}, us {cell['us_a_frame']}", flush=True)
            if only is None:  # each time: what was measured stays when the rest is cut off
                record: dict[str, Any] = {"device": gpu(), "torch": torch.__version__, "cells": cells}
                written = save(record, "gpu_batches.json", out, record["device"]["name"])
    cuda.close()
    if only is None:
        print(written)


if __name__ == "__main__":
    main()
