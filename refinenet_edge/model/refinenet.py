"""The networks: RefineNet with its variants (paper figure 7), and Light-Weight RefineNet on ResNet, MobileNet-v2 and
EfficientNet-Lite0.

`create` takes a name and builds one. Every network maps 1x3xhxw float32 (normalised RGB) to logits at 1/4 of the input,
1xCx(h/4)x(w/4), rounded up at each halving.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refinenet_edge.errors import InputError
from refinenet_edge.model.blocks import (
    BlockStyle,
    ChainedResidualPooling,
    CrpOrder,
    MultiResolutionFusion,
    RefineNetBlock,
    ResidualConvUnit,
    Tap,
    Upsample,
    bilinear,
    conv,
)
from refinenet_edge.model.cubic import resize_cubic
from refinenet_edge.model.encoders import Bottleneck, EfficientNetLite0, InvertedResidual, MobileNetV2, ResNet
from refinenet_edge.records import FrameSpec

WIDTHS = (256, 256, 256, 512)  # the authors' input_adapt_dims, finest tap first
LEVELS = {4: ((4,), (3,), (2,), (1,)), 2: ((3, 4), (1, 2)), 1: ((1, 2, 3, 4),)}  # by cascade: the taps of each block
SCALES = {1: (1.0,), 2: (1.2, 0.6)}  # of the 2-scale network's images
DEPTHS = {"rf50": 50, "rf101": 101, "rf152": 152, "rf_lw50": 50, "rf_lw101": 101, "rf_lw152": 152}
MODELS = (*DEPTHS, "rf_lw_mbv2", "rf_lw_effnet_lite0")
Framework = Literal["torch", "matconvnet", "densetorch"]


@dataclass(frozen=True)
class ModelSpec:
    """What `create` needs to build a network again. Raises `InputError` for what is not one of ours.

    `framework` says in whose conventions the weights are. With "matconvnet", RefineNet's authors', ResNet has its
    stride on the first convolution of a block, maps are upsampled bicubically, and pixels are RGB minus 128. With
    "densetorch", Light-Weight RefineNet on ResNet has one adapting convolution for each tap, 256 channels and ReLU6.
    """

    name: str
    num_classes: int
    cascade: int = 4
    scales: int = 1
    crp: CrpOrder = "pool_conv"
    crp_blocks: int = 4
    align_corners: bool = True
    framework: Framework = "torch"

    def __post_init__(self) -> None:
        if self.name not in MODELS:
            raise InputError(f"no model named {self.name!r}; there are {', '.join(MODELS)}")
        variants = self.name in ("rf50", "rf101", "rf152")
        lightweight = self.name in ("rf_lw50", "rf_lw101", "rf_lw152")
        matlab = self.framework == "matconvnet"
        frameworks = ("torch", *(["matconvnet"] if variants else []), *(["densetorch"] if lightweight else []))
        for field, allowed in (
            ("framework", frameworks),
            ("cascade", (1, 2, 4) if variants and not matlab else (4,)),
            ("scales", (1, 2) if variants and not matlab else (1,)),
            ("crp", ("pool_conv", "conv_pool")),
            ("crp_blocks", range(1, 9)),
            ("num_classes", range(1, 256)),
        ):
            value = getattr(self, field)
            # type, too: True is 1, and 4.0 is 4
            if type(value) not in (int, str) or value not in allowed:
                choices = f"{allowed.start}..{allowed.stop - 1}" if isinstance(allowed, range) else allowed
                raise InputError(f"{self.name}: {field}={value!r}, but it takes {choices}")
        if not isinstance(self.align_corners, bool):
            raise InputError(f"{self.name}: align_corners={self.align_corners!r}, but it takes true or false")
        if matlab and self.align_corners:
            raise InputError(
                f"{self.name}: the authors upsample bicubically with half-pixel centres, align_corners=False"
            )

    @property
    def preprocessing(self) -> FrameSpec:
        """How pixels were prepared in training, at any size."""
        if self.framework == "matconvnet":
            return FrameSpec(None, mean=(128.0, 128.0, 128.0), std=(1.0, 1.0, 1.0), scale=1.0)
        return FrameSpec(None)

    @property
    def upsample(self) -> Upsample:
        """How maps become larger between the blocks."""
        return resize_cubic if self.framework == "matconvnet" else partial(bilinear, align_corners=self.align_corners)


class SegmentationNet(nn.Module):
    """A network that knows its spec."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec


class RefineNet(SegmentationNet):
    """RefineNet on ResNet; `lightweight` gives it 1x1 convolutions and no RCUs.

    4-cascaded, 2-cascaded and single, each on one or two image scales (paper figure 7). Two scales are two encoders on
    the image x1.2 and x0.6; the logits of that network are brought from 1.2/4 to 1/4 of the input.
    """

    def __init__(self, spec: ModelSpec, depth: int, lightweight: bool) -> None:
        super().__init__(spec)
        stride_first = spec.framework == "matconvnet"
        self.encoders = nn.ModuleList(ResNet(depth, stride_first) for _ in SCALES[spec.scales])
        style = BlockStyle(crp=spec.crp, crp_blocks=spec.crp_blocks, upsample=spec.upsample)
        if lightweight:
            style = replace(style, kernel=1, rcus_in=0, rcus_out=0)
        previous: int | None = None
        for levels in LEVELS[spec.cascade]:
            taps = [
                Tap(ResNet.channels[level - 1], WIDTHS[level - 1], coarser=level != levels[0] or scale > 0)
                for level in levels
                for scale in range(spec.scales)
            ]
            block = RefineNetBlock(taps, previous, style)
            setattr(self, f"refine{levels[0]}", block)
            previous = block.width
        self.drop = nn.Dropout(0.5)
        # only RefineNet itself drops before its classifier
        self.drop_refined = nn.Identity() if lightweight else nn.Dropout(0.5)
        self.classifier = conv(WIDTHS[0], spec.num_classes, 3, bias=True)

    def taps(self, image: Tensor) -> list[tuple[Tensor, ...]]:
        """l1 .. l4, each with one map per image scale."""
        images = [
            F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False) if scale != 1 else image
            for scale in SCALES[self.spec.scales]
        ]
        maps = [encoder(scaled) for encoder, scaled in zip(self.encoders, images, strict=True)]
        l1, l2, l3, l4 = zip(*maps, strict=True)
        return [l1, l2, tuple(map(self.drop, l3)), tuple(map(self.drop, l4))]

    def forward(self, image: Tensor) -> Tensor:
        taps = self.taps(image)
        coarser: tuple[Tensor, ...] = ()
        for levels in LEVELS[self.spec.cascade]:
            paths = (path for level in levels for path in taps[level - 1])
            coarser = (getattr(self, f"refine{levels[0]}")(*paths, *coarser),)
        logits: Tensor = self.classifier(self.drop_refined(*coarser))
        if self.spec.scales == 2:
            quarter = [((side + 1) // 2 + 1) // 2 for side in image.shape[-2:]]
            logits = self.spec.upsample(logits, quarter)
        return logits


class MobileRefineNet(SegmentationNet):
    """Light-Weight RefineNet on MobileNet-v2: two taps each at 1/32 and 1/16, no adapting convolutions, ReLU6."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.encoder = MobileNetV2()
        style = BlockStyle(1, False, 0, 0, nn.ReLU6, spec.crp, spec.crp_blocks, spec.upsample)
        c3, c4, c5, c6, c7, c8 = MobileNetV2.channels
        width = WIDTHS[0]
        self.refine4 = RefineNetBlock([Tap(c8, width), Tap(c7, width)], None, style)
        self.refine3 = RefineNetBlock([Tap(c5, width), Tap(c6, width)], width, style)
        self.refine2 = RefineNetBlock([Tap(c4, width)], width, style)
        self.refine1 = RefineNetBlock([Tap(c3, width)], width, style)
        self.classifier = conv(width, spec.num_classes, 3, bias=True)

    def forward(self, image: Tensor) -> Tensor:
        l3, l4, l5, l6, l7, l8 = self.encoder(image)
        x = self.refine4(l8, l7)
        x = self.refine3(l5, l6, x)
        x = self.refine2(l4, x)
        return self.classifier(self.refine1(l3, x))


class PlainRefineNet(SegmentationNet):
    """Light-Weight RefineNet on an encoder of one tap per stride, each brought to the decoder's width by one 1x1
    convolution, ReLU6: on EfficientNet-Lite0, and as DenseTorch has it on ResNet.
    """

    def __init__(self, spec: ModelSpec, encoder: EfficientNetLite0 | ResNet) -> None:
        super().__init__(spec)
        self.encoder = encoder
        style = BlockStyle(1, False, 0, 0, nn.ReLU6, spec.crp, spec.crp_blocks, spec.upsample)
        width = WIDTHS[0]
        *finer, coarsest = encoder.channels
        # a block of one path has no fusion and so no convolution of its own: it adapts
        self.refine4 = RefineNetBlock([Tap(coarsest, width)], None, replace(style, adapt=True))
        for level, channels in enumerate(finer, start=1):
            setattr(self, f"refine{level}", RefineNetBlock([Tap(channels, width)], width, style))
        self.classifier = conv(width, spec.num_classes, 3, bias=True)

    def forward(self, image: Tensor) -> Tensor:
        s4, s8, s16, s32 = self.encoder(image)
        x = self.refine3(s16, self.refine4(s32))
        return self.classifier(self.refine1(s4, self.refine2(s8, x)))


def build(spec: ModelSpec) -> SegmentationNet:
    """The network of `spec`, parameters as torch initialises them (or none, on the meta device)."""
    if spec.name == "rf_lw_mbv2":
        return MobileRefineNet(spec)
    if spec.name == "rf_lw_effnet_lite0":
        return PlainRefineNet(spec, EfficientNetLite0())
    if spec.framework == "densetorch":
        return PlainRefineNet(spec, ResNet(DEPTHS[spec.name]))
    return RefineNet(spec, DEPTHS[spec.name], lightweight=spec.name.startswith("rf_lw"))


def create(
    name: str,
    num_classes: int,
    *,
    cascade: int = 4,
    scales: int = 1,
    crp: CrpOrder = "pool_conv",
    crp_blocks: int = 4,
    align_corners: bool = True,
) -> SegmentationNet:
    """A network ready to train: `name` of `MODELS`, random weights from torch's generator, in training mode.

    `cascade`, `scales` are for rf50, rf101 and rf152. Raises `InputError` for what no paper describes.
    """
    module = build(ModelSpec(name, num_classes, cascade, scales, crp, crp_blocks, align_corners))
    _initialise(module)
    return module


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    # residual branches start small and the decoder's linear convolutions keep the variance: nothing there is
    # normalised, and the sums of many of them must stay in range (of fp16 too)
    for part in module.modules():
        if isinstance(part, Bottleneck):
            part.bn3.weight.fill_(0.25)
        elif isinstance(part, InvertedResidual) and part.shortcut:
            part.output[-1][1].weight.fill_(0.5)
        elif isinstance(part, ResidualConvUnit):
            part.conv2.weight.mul_(0.25)
        elif isinstance(part, MultiResolutionFusion):
            for conv_ in part.convs:
                conv_.weight.mul_(0.5)
        elif isinstance(part, ChainedResidualPooling):
            for conv_ in part.convs:
                conv_.weight.mul_(0.25)
    classifier = module.get_submodule("classifier")
    assert isinstance(classifier, nn.Conv2d)
    nn.init.normal_(classifier.weight, std=0.01)
