"""The blocks of RefineNet, with the paper's names (Lin et al., CVPR 2017, section 3.2, figure 3).

RefineNetBlock(taps, previous):

    tap ──adapt──RCU──RCU──┐
    tap ──adapt──RCU──RCU──┤ MRF ── CRP ── RCU ── RCU ── RCU ──>
    previous block ────────┘

Light-Weight RefineNet (Nekrasov et al., BMVC 2018) is the same block with 1x1 convolutions and no RCUs; its
MobileNet-v2 form has no adapting convolution either, and ReLU6 for ReLU. All maps are NCHW.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

CrpOrder = Literal["pool_conv", "conv_pool"]
Upsample = Callable[[Tensor, Sequence[int]], Tensor]  # a map and the (height, width) it is brought to


def bilinear(x: Tensor, size: Sequence[int], align_corners: bool = True) -> Tensor:
    """`x` at `size`; `align_corners` as torch defines it, half-pixel centres otherwise."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


@dataclass(frozen=True)
class BlockStyle:
    """What the networks of the family do differently inside a block."""

    kernel: int = 3
    adapt: bool = True  # a convolution between tap and MRF
    rcus_in: int = 2  # per backbone path
    rcus_out: int = 3  # after CRP: the paper's output RCU and the two that the next block applies to this path
    activation: type[nn.Module] = nn.ReLU
    crp: CrpOrder = "pool_conv"
    crp_blocks: int = 4
    upsample: Upsample = bilinear


def conv(in_channels: int, out_channels: int, kernel: int, bias: bool = False) -> nn.Conv2d:
    """A convolution that keeps the map's size."""
    return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias)


class ResidualConvUnit(nn.Module):
    """x + conv3x3(relu(conv3x3(relu(x)))), no batch norm; the identity is x before the ReLU (figure 3b)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv(channels, channels, 3, bias=True)
        self.conv2 = conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class MultiResolutionFusion(nn.Module):
    """Per path one convolution to `width` channels, upsampling to the first path's size, sum (figure 3c).

    Paths come finest first. `upsampled[i]` says that path i is coarser than the first.
    """

    def __init__(self, channels: Sequence[int], width: int, upsampled: Sequence[bool], style: BlockStyle) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv(c, width, style.kernel) for c in channels)
        self.upsampled = tuple(upsampled)
        self.upsample = style.upsample

    def forward(self, *paths: Tensor) -> Tensor:
        size = paths[0].shape[-2:]
        fused = self.convs[0](paths[0])
        for path, conv_, coarser in zip(paths[1:], self.convs[1:], self.upsampled[1:], strict=True):
            path = conv_(path)
            if coarser:
                path = self.upsample(path, size)
            fused = fused + path
        return fused


class ChainedResidualPooling(nn.Module):
    """One activation, a chain of [5x5 max pool, conv] (or [conv, pool], the improved form), all summed (figure 3d)."""

    def __init__(self, channels: int, style: BlockStyle) -> None:
        super().__init__()
        self.activation = style.activation()
        self.convs = nn.ModuleList(conv(channels, channels, style.kernel) for _ in range(style.crp_blocks))
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.order = style.crp

    def forward(self, x: Tensor) -> Tensor:
        x = total = self.activation(x)
        for conv_ in self.convs:
            x = conv_(self.pool(x)) if self.order == "pool_conv" else self.pool(conv_(x))
            total = total + x
        return total


@dataclass(frozen=True)
class Tap:
    """A backbone map on its way into a block: channels, adapted width, whether it is coarser than the block's first."""

    channels: int
    width: int
    coarser: bool = False


class RefineNetBlock(nn.Module):
    """Adapt, RCUs, MRF, CRP, RCUs. `previous`: channels of the coarser block's output, the last path if given."""

    def __init__(self, taps: Sequence[Tap], previous: int | None, style: BlockStyle) -> None:
        super().__init__()
        self.adapt = nn.ModuleList(self._adapted(tap, style) for tap in taps)
        channels = [tap.width if style.adapt else tap.channels for tap in taps]
        upsampled = [tap.coarser for tap in taps]
        if previous is not None:
            channels, upsampled = [*channels, previous], [*upsampled, True]
        # the authors' filter_num_after_joint: the fused map is as wide as the narrowest adapted path
        self.width = min([tap.width for tap in taps] + ([] if previous is None else [previous]))
        # a single path has nothing to fuse and no convolution (RefineNet-4)
        fused = len(channels) > 1
        self.mrf = MultiResolutionFusion(channels, self.width, upsampled, style) if fused else nn.Identity()
        self.crp = ChainedResidualPooling(self.width, style)
        self.rcus = nn.Sequential(*(ResidualConvUnit(self.width) for _ in range(style.rcus_out)))

    @staticmethod
    def _adapted(tap: Tap, style: BlockStyle) -> nn.Module:
        if not style.adapt:
            return nn.Identity()
        rcus = (ResidualConvUnit(tap.width) for _ in range(style.rcus_in))
        return nn.Sequential(conv(tap.channels, tap.width, style.kernel), *rcus)

    def forward(self, *paths: Tensor) -> Tensor:
        taps, previous = paths[: len(self.adapt)], paths[len(self.adapt) :]
        adapted = [adapt(tap) for adapt, tap in zip(self.adapt, taps, strict=True)]
        return self.rcus(self.crp(self.mrf(*adapted, *previous)))
