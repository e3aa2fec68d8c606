"""What a network costs: parameters and multiply-accumulates of its convolutions, counted without running it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from refinenet_edge.model.refinenet import ModelSpec, build
from refinenet_edge.records import Size


@dataclass(frozen=True)
class Cost:
    """Of one frame."""

    parameters: int
    macs: int


def cost(name: str, num_classes: int, size: Size) -> Cost:
    """The cost of model `name` on a frame of `size`. Biases, activations, pools and sums are not counted."""
    macs = 0

    def count(conv: nn.Module, _: Any, out: torch.Tensor) -> None:
        nonlocal macs
        assert isinstance(conv, nn.Conv2d)
        macs += out.shape[-2] * out.shape[-1] * conv.weight.numel()

    with torch.device("meta"), torch.no_grad():
        module = build(ModelSpec(name, num_classes)).eval()
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                part.register_forward_hook(count)
        module(torch.zeros(1, 3, *size))
    return Cost(sum(p.numel() for p in module.parameters()), macs)
