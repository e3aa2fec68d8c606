"""Train rf_lw_mbv2 on the procedural street scenes, from random weights: plain PyTorch, no data to download.

    python examples/train_scenes.py --out runs/scenes

On two CPU cores that is 70 minutes (mIoU 0.80 after 58): first crops, which show details; then whole but small frames,
which show what stands where at the same price; at the end the full 512x512. Every sample is a pure function of its
number (training: scenes of stream `seed`; validation: scenes 0, 1, ... of stream VALIDATION, never trained on), so a
run that was stopped (Ctrl-C) goes on with the very next batch when the same command is given again.

OUT gets

    last.pt                          all that resuming needs, every other minute
    curve.csv                        step, images, minutes, loss, validation mIoU (of the averaged weights)
    rf_lw_mbv2_scenes.safetensors    the averaged weights in float16
    card.json                        how they were made, and their IoU per class on 200 unseen scenes

On a Linux CPU, memory that goes back to the system at every step and threads that spin while they wait cost half the
time; where that matters, set OMP_WAIT_POLICY=passive MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 before.
"""

from __future__ import annotations

import copy
import csv
import json
import logging
import math
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from refinenet_edge.errors import CheckpointError
from refinenet_edge.files import sha256
from refinenet_edge.labels import SCENES
from refinenet_edge.model import create, load_checkpoint, save_checkpoint
from refinenet_edge.scenes import VALIDATION, VALIDATION_COUNT, scene

logger = logging.getLogger("train_scenes")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # RGB
CLASSES = len(SCENES.names)
# about (share of the pixels) ** -0.35: thin classes count more, but not so much that they swell
WEIGHTS = (1.9, 1.9, 1.5, 2.9, 1.9, 2.1, 4.0, 3.5)
NAME = "rf_lw_mbv2_scenes"
WORKERS = max(1, min((os.cpu_count() or 1) - 1, 12))  # processes that draw; 0: this one does


@dataclass(frozen=True)
class Plan:
    """How long and how large. Every step costs about the same: one crop stage, two stages of whole frames."""

    seed: int = 1
    steps: int = 4800
    crop_share: float = 0.15  # of the steps, at the start
    full_share: float = 0.6  # of the steps, at the end: full frames
    frame: int = 512  # pixels a side
    crop: int = 256
    scenes: int = 4  # a step, while cropping
    crops: int = 2  # a scene
    small: tuple[tuple[int, int], ...] = ((256, 6), (320, 4), (384, 3))  # pixels a side and frames, step after step
    full: int = 2  # frames a step
    rate: float = 2e-3  # the highest; AdamW diverges where it lasts for a thousand steps
    warm_up: int = 130  # steps
    decay: float = 0.02
    average: float = 0.998
    validate_every: int = 400
    quick: int = 40  # validation scenes on the way
    thorough: int = VALIDATION_COUNT  # at the end

    @property
    def cropped(self) -> int:
        """The first step of small whole frames."""
        return round(self.crop_share * self.steps)

    @property
    def whole(self) -> int:
        """The first step of full frames."""
        return round((1 - self.full_share) * self.steps)

    def learning_rate(self, step: int) -> float:
        """A linear warm-up, then (1 - progress)^1.5 to nothing."""
        return self.rate * min(1, (step + 1) / self.warm_up) * (1 - step / self.steps) ** 1.5


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Step number -> its images (BGR uint8, Nx3xSxS in channels_last) and labels (uint8, NxSxS)."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __len__(self) -> int:
        return self.plan.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        frames, truths = zip(*self.samples(step), strict=True)
        images = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
        return images, torch.from_numpy(np.stack(truths))

    def samples(self, step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        plan = self.plan
        if step >= plan.cropped:
            side, count = (plan.frame, plan.full) if step >= plan.whole else plan.small[step % len(plan.small)]
            for number in range(8 * step, 8 * step + count):  # beyond the crops' scenes
                yield scene(plan.seed, number, (side, side))
            return
        for number in range(step * plan.scenes, (step + 1) * plan.scenes):
            rng = np.random.default_rng([plan.seed, number])
            # rendering smaller shows more of the street in a crop, and things in more sizes
            side = int(rng.integers(round(0.6 * plan.frame), plan.frame + 1))
            frame, truth = scene(plan.seed, number, (side, side))
            for _ in range(plan.crops):
                y, x = rng.integers(0, side - plan.crop + 1, 2)
                yield frame[y : y + plan.crop, x : x + plan.crop], truth[y : y + plan.crop, x : x + plan.crop]


class ValidationScenes(Dataset[tuple[Tensor, Tensor]]):
    """Unseen scenes, whole: image 3xSxS (BGR uint8), labels SxS (uint8)."""

    def __init__(self, count: int, side: int) -> None:
        self.count, self.side = count, side

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= self.count:
            raise IndexError(index)
        frame, truth = scene(VALIDATION, index, (self.side, self.side))
        return torch.from_numpy(frame).permute(2, 0, 1), torch.from_numpy(truth)


def quiet_worker(_: int) -> None:
    """A worker draws with one thread, and leaves Ctrl-C to the training loop."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def network_input(images: Tensor, device: torch.device) -> Tensor:
    """BGR uint8 Nx3xHxW -> normalised RGB float32 in channels_last on the device."""
    rgb = images.to(device).flip(1).float().div_(255)
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return ((rgb - mean) / std).contiguous(memory_format=torch.channels_last)


def upsampled(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits at the labels' size, float32, as the runtime does it."""
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=True)


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Weighted cross-entropy plus soft dice over the batch, which follows the IoU of thin classes more closely."""
    full = upsampled(logits, (labels.shape[-2], labels.shape[-1]))
    entropy = F.cross_entropy(full, labels, weight=torch.tensor(WEIGHTS, device=full.device))
    chances = full.softmax(1)
    truth = F.one_hot(labels, CLASSES).permute(0, 3, 1, 2).to(chances.dtype)
    both = (chances * truth).sum((0, 2, 3))
    dice = (2 * both + 1) / (chances.sum((0, 2, 3)) + truth.sum((0, 2, 3)) + 1)
    return entropy + (1 - dice).mean()


@torch.inference_mode()
def iou_per_class(module: nn.Module, count: int, side: int, device: torch.device, fast: bool) -> list[float]:
    """IoU of each class over `count` validation scenes, one confusion matrix; nan where a class never occurs.

    `fast` computes in bfloat16, as the training does.
    """
    module.eval()
    matrix = torch.zeros(CLASSES * CLASSES, dtype=torch.int64)
    scenes = DataLoader(ValidationScenes(count, side), num_workers=min(WORKERS, 1), worker_init_fn=quiet_worker)
    for images, labels in scenes:
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            logits = module(network_input(images, device))
        found = upsampled(logits, (side, side)).argmax(1).cpu()
        matrix += torch.bincount((labels.long() * CLASSES + found).flatten(), minlength=CLASSES**2)
    table = matrix.view(CLASSES, CLASSES).double()
    hits = table.diag()
    return list((hits / (table.sum(0) + table.sum(1) - hits)).tolist())


def mean_iou(ious: list[float]) -> float:
    """The mean over the classes that occur."""
    return float(np.nanmean(ious))


@torch.no_grad()
def follow(average: nn.Module, module: nn.Module, keep: float) -> None:
    """Move the average towards the module, batch-norm statistics included."""
    for ours, theirs in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
        if ours.is_floating_point():
            ours.lerp_(theirs, 1 - keep)


class Trainer:
    """The state of one run: what last.pt holds."""

    def __init__(self, plan: Plan, out: Path, device: torch.device) -> None:
        torch.manual_seed(plan.seed)
        self.plan, self.out, self.device = plan, out, device
        self.module = create("rf_lw_mbv2", num_classes=CLASSES).to(device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.module).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.module.parameters(), plan.rate, weight_decay=plan.decay)
        self.step = self.images = 0
        self.seconds = 0.0
        self.rows: list[dict[str, Any]] = []
        self.stop = False
        out.mkdir(parents=True, exist_ok=True)
        if (out / "last.pt").exists():
            self.resume()

    def resume(self) -> None:
        state = torch.load(self.out / "last.pt", map_location=self.device, weights_only=True)
        if state["plan"] != asdict(self.plan):
            raise click.ClickException(f"{self.out} holds another run ({state['plan']}); choose another --out")
        self.module.load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["rng"].cpu())
        self.step, self.images, self.seconds, self.rows = (state[k] for k in ("step", "images", "seconds", "rows"))
        logger.info("resuming %s after step %d", self.out, self.step)

    def save(self) -> None:
        """last.pt and curve.csv, each the whole file or none of it."""
        state = {
            "plan": asdict(self.plan),
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": torch.get_rng_state(),
            "step": self.step,
            "images": self.images,
            "seconds": self.seconds,
            "rows": self.rows,
        }
        beside = self.out / ".last.pt"
        torch.save(state, beside)
        os.replace(beside, self.out / "last.pt")
        beside = self.out / ".curve.csv"
        with beside.open("w", newline="") as file:
            table = csv.DictWriter(file, ("step", "images", "minutes", "loss", "val_miou"))
            table.writeheader()
            table.writerows(self.rows)
        os.replace(beside, self.out / "curve.csv")

    def train_step(self, images: Tensor, labels: Tensor) -> float:
        """One update; the loss."""
        plan = self.plan
        self.module.train()
        for group in self.optimiser.param_groups:
            group["lr"] = plan.learning_rate(self.step)
        with torch.autocast(self.device.type, torch.bfloat16):  # 3 to 4 times as fast as float32, on CPU as well
            logits = self.module(network_input(images, self.device))
        loss = segmentation_loss(logits, labels.to(self.device).long())
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 5.0)
        self.optimiser.step()
        self.step += 1
        self.images += len(images)
        follow(self.average, self.module, min(plan.average, self.step / (self.step + 10)))
        return float(loss.detach())

    def run(self, until: int | None = None) -> bool:
        """Train to the end, or to step `until`, or until `stop` is set; whether the end was reached."""
        plan, end = self.plan, min(until or self.plan.steps, self.plan.steps)
        loader = DataLoader(
            Batches(plan),
            batch_size=None,
            sampler=range(self.step, end),
            num_workers=WORKERS,
            worker_init_fn=quiet_worker,
            prefetch_factor=4 if WORKERS else None,
        )
        clock = saved = time.monotonic()
        for images, labels in loader:
            loss = self.train_step(images, labels)
            if not math.isfinite(loss):
                raise click.ClickException(f"the loss is {loss} at step {self.step}; last.pt is from before")
            now = time.monotonic()
            self.seconds, clock = self.seconds + now - clock, now
            minutes = round(self.seconds / 60, 2)
            row = {
                "step": self.step,
                "images": self.images,
                "minutes": minutes,
                "loss": loss,
                "val_miou": "",
            }
            self.rows.append(row)
            if self.step % plan.validate_every == 0 or self.step == plan.steps:
                ious = iou_per_class(self.average, plan.quick, plan.frame, self.device, fast=True)
                row["val_miou"] = mean_iou(ious)
                now = time.monotonic()
                self.seconds, clock = self.seconds + now - clock, now
                logger.info("step %d: validation mIoU %.4f (%s)", self.step, row["val_miou"], readable(ious))
            if self.step % 20 == 0:
                recent = float(np.mean([r["loss"] for r in self.rows[-20:]]))
                logger.info("step %d of %d, %.1f minutes, loss %.4f", self.step, plan.steps, minutes, recent)
            if now - saved > 120 or self.stop:
                self.save()
                saved = now
            if self.stop:
                break
        self.save()
        return self.step == plan.steps

    def finish(self) -> dict[str, Any]:
        """Write the averaged weights as float16 and their card, measured on what was written."""
        path = self.out / f"{NAME}.safetensors"
        save_checkpoint(self.average, path, dtype=torch.float16)
        written = load_checkpoint(path).to(self.device, memory_format=torch.channels_last)
        ious = iou_per_class(written, self.plan.thorough, self.plan.frame, self.device, fast=False)
        card = {
            "model": "rf_lw_mbv2",
            "weights": path.name,
            "sha256": sha256(path, CheckpointError),
            "data": f"refinenet_edge.scenes, stream {self.plan.seed}: procedural, no photographs",
            "command": shlex.join(["python", *sys.argv]),
            "plan": asdict(self.plan),
            "minutes": round(self.seconds / 60, 1),
            "steps": self.step,
            "images": self.images,
            "machine": f"{machine()}, torch {torch.__version__} on {self.device.type}",
            "validation": f"{self.plan.thorough} scenes of stream {VALIDATION} at {self.plan.frame}x{self.plan.frame}",
            "miou": round(mean_iou(ious), 4),
            "iou": {name: round(iou, 4) for name, iou in zip(SCENES.names, ious, strict=True)},
        }
        (self.out / "card.json").write_text(json.dumps(card, indent=2) + "\n", "utf-8")
        logger.info("mIoU %.4f on %d unseen scenes: %s", mean_iou(ious), self.plan.thorough, readable(ious))
        return card


def readable(ious: list[float]) -> str:
    return ", ".join(f"{name} {iou:.3f}" for name, iou in zip(SCENES.names, ious, strict=True))


def machine() -> str:
    """The processor and how many of its cores this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores{gpu}"


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Where the run lives; resumes there."
)
@click.option("--seed", default=Plan.seed, show_default=True, help="Initial weights and the stream of scenes.")
@click.option("--steps", default=Plan.steps, show_default=True, help="Updates, of 2 to 8 images each.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, ...")
def main(out: Path, seed: int, steps: int, device: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(os.cpu_count() or 1)
    trainer = Trainer(Plan(seed=seed, steps=steps), out, torch.device(device))

    def stop(_: int, __: FrameType | None) -> None:
        logger.info("stopping after this step; the same command goes on from here")
        trainer.stop = True

    signal.signal(signal.SIGINT, stop)
    if trainer.run():
        trainer.finish()


if __name__ == "__main__":
    main()
