"""The weights in the package are what their card says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from refinenet_edge import evaluation
from refinenet_edge.build import build
from refinenet_edge.bundle import PLAN, open_bundle
from refinenet_edge.errors import CheckpointError
from refinenet_edge.files import sha256
from refinenet_edge.labels import SCENES
from refinenet_edge.model import SHIPPED, load_checkpoint
from refinenet_edge.recipe import read_recipe
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.tensorrt.engine import read_header

ENGINES = Path(__file__).parents[1] / "engines"
WEIGHTS = SHIPPED["scenes"]


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    return dict(json.loads(WEIGHTS.with_suffix(".json").read_text("utf-8")))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = read_recipe(ENGINES / "scenes.toml")
    return build(dataclasses.replace(recipe, output=str(tmp_path_factory.mktemp("shipped") / "demo"))).path


def test_the_card_is_of_these_weights(card: dict[str, Any]) -> None:
    assert card["sha256"] == sha256(WEIGHTS, CheckpointError)
    assert WEIGHTS.stat().st_size <= 8e6
    assert list(card["iou"]) == list(SCENES.names)
    assert card["miou"] == pytest.approx(sum(card["iou"].values()) / len(card["iou"]), abs=1e-4)


def test_the_weights_are_a_mobilenet_of_the_scenes_classes() -> None:
    spec = load_checkpoint("scenes").spec
    assert (spec.name, spec.num_classes, spec.align_corners) == ("rf_lw_mbv2", 8, True)


def test_the_bundle_segments_as_well_as_the_card_says(demo: Path, card: dict[str, Any]) -> None:
    opened = open_bundle(demo)
    assert opened.manifest.labels == SCENES
    with Segmenter(opened, "openvino") as segmenter:
        data = evaluation.open_dataset("scenes")
        result = evaluation.evaluate(segmenter, data, identity=opened.identity)
    assert result.counted == len(data.samples) == card["plan"]["thorough"]
    assert result.miou == pytest.approx(card["miou"], abs=0.002)


def test_its_fp16_plan_builds(tmp_path: Path) -> None:
    recipe = read_recipe(ENGINES / "scenes_rtx_fp16.toml")
    built = build(dataclasses.replace(recipe, output=str(tmp_path / "rtx")))
    assert read_header(built.path / PLAN).flavour == "tensorrt-rtx"
    # real weights, real agreement: float16 moves few labels
    assert all(parity.label_agreement > 0.995 for parity in built.manifest.parity if parity.stage == "fp16")


def test_int8_keeps_its_accuracy(card: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ENGINES.parent)  # where the recipe's ranges are
    recipe = read_recipe(ENGINES / "scenes_int8.toml")
    opened = open_bundle(build(dataclasses.replace(recipe, output=str(tmp_path / "int8"))).path)
    with Segmenter(opened, "openvino") as segmenter:
        result = evaluation.evaluate(segmenter, evaluation.open_dataset("scenes"))
    assert result.miou == pytest.approx(card["miou"], abs=0.003)  # three tenths of a point
