"""What the training scripts share: a loop that can be stopped and goes on, validation, and the files a run leaves.

A run lives in one folder, OUT:

    last.pt             all that resuming needs, every other minute
    curve.csv           step, images, minutes, loss, validation mIoU (of the averaged weights)
    NAME.safetensors    the averaged weights in float16
    labels.txt          the names of the classes, for build-engine --labels
    card.json           how they were made, and their IoU per class on the validation images

Every sample is a pure function of its number, so a run that was stopped (Ctrl-C) goes on with the very next batch when
the same command is given again. On a Linux CPU, memory that goes back to the system at every step and threads that spin
while they wait cost half the time; where that matters, set OMP_WAIT_POLICY=passive MALLOC_MMAP_MAX_=0
MALLOC_TRIM_THRESHOLD_=17179869184 before.
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
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import click
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from refinenet_edge.errors import CheckpointError
from refinenet_edge.files import sha256
from refinenet_edge.model import SegmentationNet, load_checkpoint, save_checkpoint

logger = logging.getLogger("training")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # RGB
IGNORED = 255  # a label that counts neither in the loss nor in the IoU
WORKERS = max(1, min((os.cpu_count() or 1) - 1, 24))  # processes that make samples; 0: this one does


@dataclass(frozen=True)
class Schedule:
    """How long, how fast, and when to look."""

    seed: int = 1
    steps: int = 4800
    rate: float = 2e-3  # the highest; AdamW diverges where it lasts for a thousand steps
    warm_up: int = 130  # steps
    decay: float = 0.02
    average: float = 0.998
    validate_every: int = 400
    quick: int = 40  # validation images on the way
    thorough: int = 200  # at the end
    encoder_rate: float = 1.0  # the encoder's share of the rate: below 1 where it is trained already
    encoder_statistics: bool = True  # whether the encoder's batch norms follow the batches; if not, they stay

    def learning_rate(self, step: int) -> float:
        """A linear warm-up, then (1 - progress)^1.5 to nothing."""
        return self.rate * min(1, (step + 1) / self.warm_up) * (1 - step / self.steps) ** 1.5


class Task(Protocol):
    """What is trained on what."""

    name: str  # of the weights' file
    schedule: Schedule
    names: tuple[str, ...]  # of the classes
    class_weights: tuple[float, ...]  # in the cross-entropy

    def network(self) -> SegmentationNet:
        """The network to start from."""
        ...

    def batches(self) -> Dataset[tuple[Tensor, Tensor]]:
        """Step number -> its images (BGR uint8, Nx3xHxW in channels_last) and labels (uint8, NxHxW)."""
        ...

    def validation(self, count: int) -> Dataset[tuple[Tensor, Tensor]]:
        """At most `count` unseen images (BGR uint8 3xHxW) with labels (uint8, of any size)."""
        ...

    def card(self) -> dict[str, Any]:
        """What the card says of data and validation."""
        ...


def quiet_worker(_: int) -> None:
    """A worker makes samples with one thread, and leaves Ctrl-C to the training loop."""
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


def segmentation_loss(logits: Tensor, labels: Tensor, class_weights: tuple[float, ...]) -> Tensor:
    """Weighted cross-entropy plus soft dice over the batch, which follows the IoU of thin classes more closely."""
    full = upsampled(logits, (labels.shape[-2], labels.shape[-1]))
    weight = torch.tensor(class_weights, device=full.device)
    entropy = F.cross_entropy(full, labels, weight=weight, ignore_index=IGNORED)
    counted = (labels != IGNORED)[:, None]
    chances = full.softmax(1) * counted
    truth = F.one_hot(labels.masked_fill(~counted[:, 0], 0), full.shape[1]).permute(0, 3, 1, 2).to(chances.dtype)
    truth = truth * counted
    both = (chances * truth).sum((0, 2, 3))
    dice = (2 * both + 1) / (chances.sum((0, 2, 3)) + truth.sum((0, 2, 3)) + 1)
    return entropy + (1 - dice).mean()


@torch.inference_mode()
def confusion(
    module: nn.Module, images: Dataset[tuple[Tensor, Tensor]], classes: int, device: torch.device, fast: bool
) -> Tensor:
    """Pixels by (label, prediction), classes x classes, int64. `fast` computes in bfloat16, as the training does."""
    module.eval()
    matrix = torch.zeros(classes * classes, dtype=torch.int64)
    for image, labels in DataLoader(images, num_workers=min(WORKERS, 1), worker_init_fn=quiet_worker):
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            logits = module(network_input(image, device))
        found = upsampled(logits, (labels.shape[-2], labels.shape[-1])).argmax(1).cpu()
        counted = labels != IGNORED
        matrix += torch.bincount(labels[counted].long() * classes + found[counted], minlength=classes**2)
    return matrix.view(classes, classes)


def iou_per_class(matrix: Tensor) -> list[float]:
    """IoU of each class of a confusion matrix; nan where a class never occurs."""
    table = matrix.double()
    hits = table.diag()
    return list((hits / (table.sum(0) + table.sum(1) - hits)).tolist())


def mean_iou(ious: list[float]) -> float:
    """The mean over the classes that occur."""
    return float(np.nanmean(ious))


@torch.no_grad()
def follow(average: nn.Module, module: nn.Module, keep: float) -> None:
    """Move the average towards the module, batch-norm statistics included."""
    ours, theirs = ([v for v in each.state_dict().values() if v.is_floating_point()] for each in (average, module))
    get_ema_multi_avg_fn(keep)(ours, theirs, 0)


class Trainer:
    """The state of one run: what last.pt holds."""

    def __init__(self, task: Task, out: Path, device: torch.device) -> None:
        self.task, self.plan, self.out, self.device = task, task.schedule, out, device
        torch.manual_seed(self.plan.seed)
        self.module = task.network().to(device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.module).requires_grad_(False)
        encoder = [value for name, value in self.module.named_parameters() if name.startswith("encoder")]
        decoder = [value for name, value in self.module.named_parameters() if not name.startswith("encoder")]
        groups = [{"params": encoder, "share": self.plan.encoder_rate}, {"params": decoder, "share": 1.0}]
        self.optimiser = torch.optim.AdamW(groups, self.plan.rate, weight_decay=self.plan.decay)
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
        if not plan.encoder_statistics:
            for name, part in self.module.named_modules():
                if name.startswith("encoder") and isinstance(part, nn.BatchNorm2d):
                    part.eval()
        for group in self.optimiser.param_groups:
            group["lr"] = group["share"] * plan.learning_rate(self.step)
        with torch.autocast(self.device.type, torch.bfloat16):  # 3 to 4 times as fast as float32, on CPU as well
            logits = self.module(network_input(images, self.device))
        loss = segmentation_loss(logits, labels.to(self.device).long(), self.task.class_weights)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 5.0)
        self.optimiser.step()
        self.step += 1
        self.images += len(images)
        follow(self.average, self.module, min(plan.average, self.step / (self.step + 10)))
        return float(loss.detach())

    def iou(self, module: nn.Module, count: int, fast: bool) -> list[float]:
        """IoU per class over `count` validation images."""
        classes = len(self.task.names)
        return iou_per_class(confusion(module, self.task.validation(count), classes, self.device, fast))

    def run(self, until: int | None = None) -> bool:
        """Train to the end, or to step `until`, or until `stop` is set; whether the end was reached."""
        plan, end = self.plan, min(until or self.plan.steps, self.plan.steps)
        loader = DataLoader(
            self.task.batches(),
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
            row = {"step": self.step, "images": self.images, "minutes": minutes, "loss": loss, "val_miou": ""}
            self.rows.append(row)
            if self.step % plan.validate_every == 0 or self.step == plan.steps:
                ious = self.iou(self.average, plan.quick, fast=True)
                row["val_miou"] = mean_iou(ious)
                now = time.monotonic()
                self.seconds, clock = self.seconds + now - clock, now
                logger.info("step %d: validation mIoU %.4f (%s)", self.step, row["val_miou"], self.readable(ious))
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
        path = self.out / f"{self.task.name}.safetensors"
        save_checkpoint(self.average, path, dtype=torch.float16)
        written = load_checkpoint(path).to(self.device, memory_format=torch.channels_last)
        ious = self.iou(written, self.plan.thorough, fast=False)
        card = {
            "model": written.spec.name,
            "weights": path.name,
            "sha256": sha256(path, CheckpointError),
            "command": shlex.join(["python", *sys.argv]),
            "plan": asdict(self.plan),
            "minutes": round(self.seconds / 60, 1),
            "steps": self.step,
            "images": self.images,
            "machine": f"{machine()}, torch {torch.__version__} on {self.device.type}",
            **self.task.card(),
            "miou": round(mean_iou(ious), 4),
            "iou": {name: round(iou, 4) for name, iou in zip(self.task.names, ious, strict=True)},
        }
        (self.out / "card.json").write_text(json.dumps(card, indent=2) + "\n", "utf-8")
        labels = self.out / "labels.txt"
        labels.write_text("".join(f"{name}\n" for name in self.task.names), "utf-8")
        logger.info("mIoU %.4f on unseen images: %s", mean_iou(ious), self.readable(ious))
        build = shlex.join(["build-engine", "--checkpoint", str(path), "--labels", str(labels)])
        logger.info("next: %s --backend openvino --out engines/%s", build, self.out.name)
        return card

    def readable(self, ious: list[float]) -> str:
        return ", ".join(f"{name} {iou:.3f}" for name, iou in zip(self.task.names, ious, strict=True))


def machine() -> str:
    """The processor and how many of its cores this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores{gpu}"


def chosen_device(name: str) -> torch.device:
    """`name`, where "auto" is a GPU if there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def train(task: Task, out: Path, device: torch.device) -> None:
    """Train to the end, or until Ctrl-C, and write what the run leaves."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(os.cpu_count() or 1)
    trainer = Trainer(task, out, device)

    def stop(_: int, __: FrameType | None) -> None:
        logger.info("stopping after this step; the same command goes on from here")
        trainer.stop = True

    before = signal.signal(signal.SIGINT, stop)
    try:
        if trainer.run():
            trainer.finish()
    finally:
        signal.signal(signal.SIGINT, before)
