"""The network that a recipe means: what is built from it, and what is timed beside the bundle in torch, are one."""

from __future__ import annotations

from pathlib import Path

import torch

from refinenet_edge.errors import InputError
from refinenet_edge.model.blocks import CrpOrder
from refinenet_edge.model.checkpoint import load_checkpoint
from refinenet_edge.model.refinenet import SegmentationNet, create


def open_network(
    model: str | None,
    checkpoint: Path | None,
    num_classes: int,
    *,
    crp: CrpOrder | None = None,
    align_corners: bool | None = None,
) -> SegmentationNet:
    """The network of `checkpoint`, or `model` with random weights, always the same ones; float32, in eval mode.

    `num_classes` is of random weights, `crp` and `align_corners` are as of `load_checkpoint`. Raises `CheckpointError`,
    and `InputError` for a checkpoint of another `model` or a model that there is not.
    """
    if checkpoint is None:
        # forked: the caller's generator stays as it was
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = create(str(model), num_classes, crp=crp or "pool_conv", align_corners=align_corners is not False)
        return module.eval()
    module = load_checkpoint(checkpoint, crp=crp, align_corners=align_corners)
    if model not in (None, module.spec.name):
        raise InputError(f"{checkpoint} is a {module.spec.name}, not {model}: use --model {module.spec.name}")
    return module
