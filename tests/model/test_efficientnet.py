"""EfficientNet-Lite0: TensorFlow's network, written here a second time from its published state, and what it knows.

The state is the one in the `train` extra's wheel; the reference below shares nothing with the product but torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from train_people import encoder_state, for_our_input, imagenet_file

from refinenet_edge.model import create
from refinenet_edge.model.encoders import EfficientNetLite0

PHOTOS = Path(__file__).parents[2] / "refinenet_edge" / "photos"
# kernel, stride and whether a 1x1 convolution expands, of blocks 0 to 15: EfficientNet-B0, table 1
BLOCKS = [
    (3, 1, False),
    *[(3, 2, True), (3, 1, True)],
    *[(5, 2, True), (5, 1, True)],
    *[(3, 2, True), (3, 1, True), (3, 1, True)],
    *[(5, 1, True), (5, 1, True), (5, 1, True)],
    *[(5, 2, True), (5, 1, True), (5, 1, True), (5, 1, True)],
    (3, 1, True),
]
TAPS = (2, 4, 10, 15)  # the last blocks at strides 4, 8, 16 and 32
MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return dict(torch.load(imagenet_file(), map_location="cpu", weights_only=True))


@pytest.fixture(scope="module")
def encoder(published: dict[str, Tensor]) -> EfficientNetLite0:
    ours = EfficientNetLite0().eval()
    ours.load_state_dict(encoder_state(published))
    return ours


def same_padding(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's SAME: so much that ceil(side / stride) windows fit, the odd pixel on the right and below."""
    pads: list[int] = []
    for side in (x.shape[-1], x.shape[-2]):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def tensorflow(p: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """The taps, and the 1000 logits."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (p[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        shape = (1, -1, 1, 1)
        return (x - mean.view(shape)) / (var + 1e-3).sqrt().view(shape) * weight.view(shape) + bias.view(shape)

    x = norm(F.conv2d(same_padding(x, 3, 2), p["_conv_stem.weight"], stride=2), "_bn0").clamp(0, 6)
    taps = []
    for number, (kernel, stride, expands) in enumerate(BLOCKS):
        name, before = f"_blocks.{number}", x
        if expands:
            x = norm(F.conv2d(x, p[f"{name}._expand_conv.weight"]), f"{name}._bn0").clamp(0, 6)
        weight = p[f"{name}._depthwise_conv.weight"]
        assert weight.shape[-1] == kernel
        x = F.conv2d(same_padding(x, kernel, stride), weight, stride=stride, groups=len(weight))
        x = norm(x, f"{name}._bn1").clamp(0, 6)
        x = norm(F.conv2d(x, p[f"{name}._project_conv.weight"]), f"{name}._bn2")
        if stride == 1 and x.shape == before.shape:
            x = x + before
        if number in TAPS:
            taps.append(x)
    x = norm(F.conv2d(x, p["_conv_head.weight"]), "_bn1").clamp(0, 6).mean((2, 3))
    return [*taps, x @ p["_fc.weight"].T + p["_fc.bias"]]


def photo(name: str, side: int) -> Tensor:
    """The middle square of a shipped photo, 1x3xSxS RGB, 0 to 255."""
    image = cv2.imread(str(PHOTOS / name))
    assert image is not None
    edge = min(image.shape[:2])
    top, left = (image.shape[0] - edge) // 2, (image.shape[1] - edge) // 2
    square = image[top : top + edge, left : left + edge]
    square = cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)[..., ::-1]
    return torch.from_numpy(np.ascontiguousarray(square)).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize(("name", "classes"), [("chelsea.jpg", {281, 282, 285}), ("coffee.jpg", {967, 504})])
def test_the_reference_knows_what_imagenet_knows(published: dict[str, Tensor], name: str, classes: set[int]) -> None:
    """Tabby, tiger or Egyptian cat; espresso or coffee mug: so the reference is the network that was trained."""
    logits = tensorflow(published, (photo(name, 224) - 127) / 128)[-1]
    assert int(logits.argmax()) in classes


# five values, evenly spread, of each tap and of the logits, as efficientnet_lite_pytorch 0.1.0 computes them, the code
# that these weights were published with
PUBLISHED = (
    (-0.9313145875930786, 1.684775948524475, -8.878944396972656, 11.556703567504883, 3.6822543144226074),
    (-21.29987907409668, 8.544766426086426, 8.477609634399414, 3.858999252319336, -7.4336652755737305),
    (-0.2578873634338379, -0.6798135638237, 0.8248410224914551, -9.023786544799805, 3.288297653198242),
    (2.1197736263275146, 0.9631778001785278, 1.3803097009658813, 0.26829251646995544, -3.9661285877227783),
    (0.5368500351905823, -0.4950370490550995, 1.1783266067504883, 0.13888798654079437, -1.8967092037200928),
)


@torch.no_grad()
def test_the_reference_computes_what_the_published_code_does(published: dict[str, Tensor]) -> None:
    """On waves of 224 pixels, where the padding is on one side only, at every stride."""
    y, x = torch.meshgrid(torch.arange(224.0), torch.arange(224.0), indexing="ij")
    waves = [127 + 100 * torch.sin(x / 17 + y / 29 + c) * torch.cos(y / (11 + c)) for c in range(3)]
    for values, expected in zip(tensorflow(published, (torch.stack(waves)[None] - 127) / 128), PUBLISHED, strict=True):
        five = values.flatten()[torch.linspace(0, values.numel() - 1, 5).long()]
        assert (five - torch.tensor(expected)).abs().max() <= 1e-4 * values.abs().max()


@torch.no_grad()
def test_it_is_tensorflows_network_where_both_pad_alike(
    published: dict[str, Tensor], encoder: EfficientNetLite0
) -> None:
    """Sides of 32 n + 1 are padded symmetrically by TensorFlow too, at every stride."""
    x = (photo("chelsea.jpg", 225) - 127) / 128
    for ours, theirs in zip(encoder(x), tensorflow(published, x), strict=False):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


@torch.no_grad()
def test_elsewhere_it_is_tensorflows_network_on_the_image_moved_by_31_pixels(
    published: dict[str, Tensor], encoder: EfficientNetLite0
) -> None:
    """Of the 31 pixels, 1 + 2 are the first two strides' paddings, 4 the third's ...; the rest moves the taps."""
    x = (photo("chelsea.jpg", 480) - 127) / 128
    ours, theirs = encoder(x), tensorflow(published, F.pad(x, (31, 1, 31, 1)))
    for tap, stride, moved in ((0, 4, 7), (1, 8, 3), (2, 16, 1)):
        centre, half = 240 // stride, 60 // stride  # further out the borders are seen
        a = ours[tap][..., centre - half : centre + half, centre - half : centre + half]
        low, high = centre - half + moved, centre + half + moved
        b = theirs[tap][..., low:high, low:high]
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def test_strides_and_channels(encoder: EfficientNetLite0) -> None:
    with torch.no_grad():
        taps = encoder(torch.zeros(1, 3, 64, 96))
    assert [tuple(tap.shape[1:]) for tap in taps] == [(24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3)]
    assert tuple(tap.shape[1] for tap in taps) == EfficientNetLite0.channels


@torch.no_grad()
def test_images_normalised_our_way_give_the_same(published: dict[str, Tensor], encoder: EfficientNetLite0) -> None:
    ours = EfficientNetLite0().eval()
    ours.load_state_dict(for_our_input(encoder_state(published)))
    image = photo("coffee.jpg", 225)
    mean, std = (torch.tensor(v, dtype=torch.float32).view(1, 3, 1, 1) for v in (MEAN, STD))
    for a, b in zip(ours((image / 255 - mean) / std), encoder((image - 127) / 128), strict=True):
        inside = (..., slice(a.shape[-2] // 4, -a.shape[-2] // 4), slice(a.shape[-1] // 4, -a.shape[-1] // 4))
        # the padding is another grey: deep features of the middle see it a little
        assert (a[inside] - b[inside]).abs().mean() <= 0.03 * b[inside].abs().mean()


def test_a_network_of_it_counts_the_published_encoders_parameters(published: dict[str, Tensor]) -> None:
    head = ("_conv_head", "_bn1", "_fc")
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    expected = sum(
        value.numel()
        for key, value in published.items()
        if key.rpartition(".")[0] not in head and not key.endswith(buffers)
    )
    module: Any = create("rf_lw_effnet_lite0", 8)
    assert sum(p.numel() for p in module.encoder.parameters()) == expected
