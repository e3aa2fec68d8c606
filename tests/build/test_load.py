"""A loaded network says how its frames are prepared."""

import importlib

import pytest
import torch
from torch import Tensor, nn

from refinenet_edge.model.refinenet import ModelSpec
from refinenet_edge.onnx_ends import Said
from refinenet_edge.records import Bilinear, FrameSpec

stage = importlib.import_module("refinenet_edge.build.load")  # its function has its name


class Small(nn.Module):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.conv = nn.Conv2d(3, spec.num_classes, 3, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.conv(image)
        return logits


def test_the_authors_pixels_are_rgb_minus_128(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = Small(ModelSpec("rf101", 5, align_corners=False, framework="matconvnet"))
    monkeypatch.setattr(stage, "open_network", lambda *_, **__: module)
    network = stage.Network(
        onnx=None,
        checkpoint=None,
        model="rf101",
        crp=None,
        align_corners=None,
        size=(32, 64),
        dynamic=False,
        labels=None,
        ends=Said(),
        preprocessing=FrameSpec(None),
        preprocessing_said=False,
        cubic=False,
        precision="fp32",
        calibrated=False,
    )
    spec = stage.load(network, lambda _: None).spec
    assert spec == FrameSpec((32, 64), upsample=Bilinear(False), mean=(128.0,) * 3, std=(1.0,) * 3, scale=1.0)
