"""Train rf_lw_mbv2 on the procedural street scenes, from random weights: plain PyTorch, no data to download.

    python examples/train_scenes.py --out runs/scenes

On two CPU cores that is 70 minutes (mIoU 0.80 after 58): first crops, which show details; then whole but small frames,
which show what stands where at the same price; at the end the full 512x512. Training has the scenes of stream `seed`,
validation scenes 0, 1, ... of stream VALIDATION, never trained on. What a run leaves, and how it goes on after a stop:
examples/training.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from training import Schedule, chosen_device, train

from refinenet_edge.labels import SCENES
from refinenet_edge.model import SegmentationNet, create
from refinenet_edge.scenes import VALIDATION, VALIDATION_COUNT, scene


@dataclass(frozen=True)
class Plan(Schedule):
    """How long and how large. Every step costs about the same: one crop stage, two stages of whole frames."""

    crop_share: float = 0.15  # of the steps, at the start
    full_share: float = 0.6  # of the steps, at the end: full frames
    frame: int = 512  # pixels a side
    crop: int = 256
    scenes: int = 4  # a step, while cropping
    crops: int = 2  # a scene
    small: tuple[tuple[int, int], ...] = ((256, 6), (320, 4), (384, 3))  # pixels a side and frames, step after step
    full: int = 2  # frames a step
    thorough: int = VALIDATION_COUNT  # at the end

    @property
    def cropped(self) -> int:
        """The first step of small whole frames."""
        return round(self.crop_share * self.steps)

    @property
    def whole(self) -> int:
        """The first step of full frames."""
        return round((1 - self.full_share) * self.steps)


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


@dataclass
class SceneTask:
    """Training on drawn scenes."""

    schedule: Plan
    name: str = "rf_lw_mbv2_scenes"
    names: tuple[str, ...] = SCENES.names
    # about (share of the pixels) ** -0.35: thin classes count more, but not so much that they swell
    class_weights: tuple[float, ...] = (1.9, 1.9, 1.5, 2.9, 1.9, 2.1, 4.0, 3.5)

    def network(self) -> SegmentationNet:
        return create("rf_lw_mbv2", num_classes=len(self.names))

    def batches(self) -> Batches:
        return Batches(self.schedule)

    def validation(self, count: int) -> ValidationScenes:
        return ValidationScenes(count, self.schedule.frame)

    def card(self) -> dict[str, Any]:
        frame, count = self.schedule.frame, self.schedule.thorough
        return {
            "data": f"refinenet_edge.scenes, stream {self.schedule.seed}: procedural, no photographs",
            "validation": f"{count} scenes of stream {VALIDATION} at {frame}x{frame}",
        }


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Where the run lives; resumes there."
)
@click.option("--seed", default=Plan.seed, show_default=True, help="Initial weights and the stream of scenes.")
@click.option("--steps", default=Plan.steps, show_default=True, help="Updates, of 2 to 8 images each.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, ...")
def main(out: Path, seed: int, steps: int, device: str) -> None:
    train(SceneTask(Plan(seed=seed, steps=steps)), out, chosen_device(device))


if __name__ == "__main__":
    main()
