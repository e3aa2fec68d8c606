"""A loaded network says how its frames are prepared."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from refinenet_edge.build import build
from refinenet_edge.errors import InputError
from refinenet_edge.model import SHIPPED
from refinenet_edge.model.refinenet import ModelSpec
from refinenet_edge.records import Bilinear, FrameSpec, Recipe

stage = importlib.import_module("refinenet_edge.build.load")  # its function has its name


class Small(nn.Module):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.conv = nn.Conv2d(3, spec.num_classes, 3, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.conv(image)
        return logits


def network(checkpoint: Path | None = None, size: tuple[int, int] = (32, 64), dynamic: bool = False) -> Any:
    return stage.NetworkSource(Recipe("b", "rf101", size=size, dynamic=dynamic), checkpoint, None)


def test_the_authors_pixels_are_rgb_minus_128(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = Small(ModelSpec("rf101", 5, align_corners=False, framework="matconvnet"))
    monkeypatch.setattr(stage, "open_network", lambda *_, **__: module)
    spec = stage.load(network(), lambda _: None).spec
    assert spec == FrameSpec((32, 64), upsample=Bilinear(False), mean=(128.0,) * 3, std=(1.0,) * 3, scale=1.0)


@pytest.mark.parametrize(
    ("shipped", "size", "dynamic", "said"),
    [
        (True, (64, 90), False, "at 64x90: --size 64x96"),
        (True, (33, 64), False, "at 33x64: --size 64x64"),
        (True, (64, 96), False, None),
        (True, (64, 90), True, None),
        (False, (64, 90), False, None),
    ],
)
def test_sides_that_the_shipped_weights_were_not_trained_at_are_said(
    shipped: bool,
    size: tuple[int, int],
    dynamic: bool,
    said: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    own = tmp_path / "own.pth"
    own.write_bytes(b"weights")
    monkeypatch.setattr(stage, "open_network", lambda *_, **__: Small(ModelSpec("rf_lw_effnet_lite0", 8)))
    stage.load(network(SHIPPED["people"] if shipped else own, size, dynamic), lambda _: None)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == (said is not None) and (not said or said in warned[0])


def test_which_weights_of_a_checkpoint_and_its_wiring_are_as_the_recipe_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Asked(Exception):
        """Carries what the loader was asked for."""

    def ask(*_: object, **how: object) -> None:
        raise Asked(how["state_key"], how["collapse_ind"])

    monkeypatch.setattr("refinenet_edge.model.checkpoint.load_checkpoint", ask)
    recipe = Recipe(str(tmp_path / "b"), checkpoint="w.pth", backend="onnxruntime", state_key="ema", collapse_ind="[0]")
    with pytest.raises(Asked) as asked:
        build(recipe)
    assert asked.value.args == ("ema", "[0]")
    with pytest.raises(InputError, match="--state-key and --collapse-ind are for --checkpoint"):
        Recipe("b", "rf50", state_key="ema")
