"""The backbones: ResNet (He et al., CVPR 2016), MobileNet-v2 (Sandler et al., CVPR 2018), EfficientNet-Lite0; as taps.

ResNet has its stride on the 3x3 convolution, as torchvision and the PyTorch ports do, or on the first 1x1, as in Caffe
and so with RefineNet's authors. An image of h x w pixels (any size) gives taps at ceil(h / s) x ceil(w / s) for strides
s = 4, 8, 16, 32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

RESNET_STAGES = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
Stage = tuple[int | None, int, int, int, int]  # expansion, kernel, channels, blocks, stride of the first
# layer2 .. layer8
MOBILENET_STAGES: tuple[Stage, ...] = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 3, 32, 3, 2),
    (6, 3, 64, 4, 2),
    (6, 3, 96, 3, 1),
    (6, 3, 160, 3, 2),
    (6, 3, 320, 1, 1),
)
# stage1 .. stage7: EfficientNet-B0's, table 1
EFFICIENTNET_STAGES: tuple[Stage, ...] = (
    (None, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)
EPS, EFFICIENTNET_EPS = 1e-5, 1e-3  # of batch norms: torch's; TensorFlow's


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    relu6: bool = False,
    eps: float = EPS,
) -> nn.Sequential:
    """Convolution without bias, batch norm, and ReLU6 where asked."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels, eps),
    ]
    return nn.Sequential(*layers, *([nn.ReLU6(inplace=True)] if relu6 else []))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 to 4x the channels, and the shortcut; the 3x3 has the stride, or with `stride_first` the first."""

    def __init__(self, in_channels: int, channels: int, stride: int, stride_first: bool) -> None:
        super().__init__()
        out_channels = 4 * channels
        first, second = (stride, 1) if stride_first else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, channels, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, second, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        same = stride == 1 and in_channels == out_channels
        self.downsample = nn.Identity() if same else conv_bn(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class ResNet(nn.Module):
    """Four taps, finest first: 256, 512, 1024 and 2048 channels at 1/4, 1/8, 1/16 and 1/32."""

    channels = (256, 512, 1024, 2048)

    def __init__(self, depth: int, stride_first: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        blocks = RESNET_STAGES[depth]
        self.layer1 = self._stage(64, 64, blocks[0], 1, stride_first)
        self.layer2 = self._stage(256, 128, blocks[1], 2, stride_first)
        self.layer3 = self._stage(512, 256, blocks[2], 2, stride_first)
        self.layer4 = self._stage(1024, 512, blocks[3], 2, stride_first)

    @staticmethod
    def _stage(in_channels: int, channels: int, blocks: int, stride: int, stride_first: bool) -> nn.Sequential:
        rest = (Bottleneck(4 * channels, channels, 1, stride_first) for _ in range(blocks - 1))
        return nn.Sequential(Bottleneck(in_channels, channels, stride, stride_first), *rest)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        l1 = self.layer1(x)
        l2 = self.layer2(l1)
        l3 = self.layer3(l2)
        return l1, l2, l3, self.layer4(l3)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection; the shortcut where size and channels stay.

    `expansion` None has no expanding convolution; 1 has one that does not expand, as the ports' MobileNet-v2 does.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: int | None,
        stride: int,
        kernel: int,
        eps: float,
    ) -> None:
        super().__init__()
        hidden = in_channels * (expansion or 1)
        self.output = nn.Sequential(
            *([] if expansion is None else [conv_bn(in_channels, hidden, 1, relu6=True, eps=eps)]),
            conv_bn(hidden, hidden, kernel, stride, groups=hidden, relu6=True, eps=eps),
            conv_bn(hidden, out_channels, 1, eps=eps),
        )
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.output(x) if self.shortcut else self.output(x)


def _inverted_stages(stages: Sequence[Stage], in_channels: int, eps: float) -> Iterator[nn.Sequential]:
    for expansion, kernel, channels, blocks, stride in stages:
        widths = [in_channels, *[channels] * (blocks - 1)]
        strides = [stride, *[1] * (blocks - 1)]
        pairs = zip(widths, strides, strict=True)
        yield nn.Sequential(*(InvertedResidual(w, channels, expansion, s, kernel, eps) for w, s in pairs))
        in_channels = channels


class MobileNetV2(nn.Module):
    """Six taps, finest first: 24 at 1/4, 32 at 1/8, 64 and 96 at 1/16, 160 and 320 at 1/32 (layer3 .. layer8)."""

    channels = (24, 32, 64, 96, 160, 320)

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = conv_bn(3, 32, 3, 2, relu6=True)
        for number, stage in enumerate(_inverted_stages(MOBILENET_STAGES, 32, EPS), start=2):
            setattr(self, f"layer{number}", stage)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.layer2(self.layer1(image))
        l3 = self.layer3(x)
        l4 = self.layer4(l3)
        l5 = self.layer5(l4)
        l6 = self.layer6(l5)
        l7 = self.layer7(l6)
        return l3, l4, l5, l6, l7, self.layer8(l7)


class EfficientNetLite0(nn.Module):
    """Four taps, finest first: 24, 40, 112 and 320 channels at 1/4, 1/8, 1/16 and 1/32 (stages 2, 3, 5 and 7).

    EfficientNet-B0 (Tan and Le, ICML 2019) as TensorFlow Lite's EfficientNet-Lite0 (2020) changes it for integer
    hardware: ReLU6 for swish, no squeeze-and-excitation. Padding is symmetric, as in all our encoders. TensorFlow pads
    a strided convolution of even maps on the right and below only; that is this network on the image moved by 31
    pixels, so TensorFlow's weights serve, and for sides of 32 n + 1 pixels the two are the same everywhere.
    """

    channels = (24, 40, 112, 320)

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 32, 3, 2, relu6=True, eps=EFFICIENTNET_EPS)
        for number, stage in enumerate(_inverted_stages(EFFICIENTNET_STAGES, 32, EFFICIENTNET_EPS), start=1):
            setattr(self, f"stage{number}", stage)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        s2 = self.stage2(self.stage1(self.stem(image)))
        s3 = self.stage3(s2)
        s5 = self.stage5(self.stage4(s3))
        return s2, s3, s5, self.stage7(self.stage6(s5))
