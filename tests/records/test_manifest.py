"""Manifests that an earlier toolkit wrote."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from refinenet_edge.errors import BundleError
from refinenet_edge.records import Batch, Manifest, Recipe, from_json, to_json

# written by refinenet-edge 0.1.0 of 2026-11-25, from the command in it
SCHEMA_1 = Path(__file__).with_name("manifest_schema_1.json").read_text("utf-8")
RECIPE = Recipe(
    "engines/old int8",
    "rf_lw_mbv2",
    size=(64, 96),
    precision="int8",
    calib="scenes:1:8",
    min_agreement=60.0,
    judge="scenes:2:2",
    backend="openvino",
    labels="scenes",
    align_corners=False,
    crp="conv_pool",
    without=("merge_siblings", "merge_pointwise"),
)


def test_the_command_of_schema_1_becomes_its_recipe() -> None:
    manifest = from_json(Manifest, SCHEMA_1)
    assert manifest.recipe == RECIPE
    assert manifest.command == json.loads(SCHEMA_1)["command"].replace("--output ", "--out ")
    assert (manifest.schema, manifest.model, manifest.budget is not None) == (2, "rf_lw_mbv2", True)


def test_what_is_written_again_is_schema_2() -> None:
    manifest = from_json(Manifest, SCHEMA_1)
    value = json.loads(to_json(manifest))
    assert "command" not in value and value["recipe"]["crp"] == "conv_pool"
    assert from_json(Manifest, to_json(manifest)) == manifest


@pytest.mark.parametrize("command", ["refinenet-edge build tiny", "", "make -f '"])
def test_a_command_that_no_recipe_has_is_kept_as_it_is(command: str) -> None:
    manifest = from_json(Manifest, json.dumps({**json.loads(SCHEMA_1), "command": command}))
    assert manifest.recipe == manifest.command == command
    assert from_json(Manifest, to_json(manifest)) == manifest


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"command": 3}, r"Manifest\.recipe"),
        ({"command": None}, r"Manifest\.recipe"),
        ({"colour": "red"}, r"Manifest\.colour: unknown field"),
        ({"model": 7}, r"Manifest\.model"),
    ],
)
def test_what_does_not_fit_is_named_in_schema_1_too(fields: dict[str, object], named: str) -> None:
    with pytest.raises(BundleError, match=named):
        from_json(Manifest, json.dumps({**json.loads(SCHEMA_1), **fields}))


def test_a_manifest_of_today_has_no_command() -> None:
    today = dataclasses.asdict(from_json(Manifest, SCHEMA_1))
    with pytest.raises(BundleError, match=r"Manifest\.command: unknown field"):
        from_json(Manifest, json.dumps({**today, "command": "refinenet-edge build --model rf50"}))


def test_a_manifest_without_a_batch_takes_one_frame() -> None:
    value = json.loads(to_json(from_json(Manifest, SCHEMA_1)))
    del value["batch"], value["recipe"]["batch"]
    manifest = from_json(Manifest, json.dumps(value))
    assert isinstance(manifest.recipe, Recipe)
    assert (manifest.batch, manifest.recipe.batch) == (Batch(1, 1, 1), None)
    assert from_json(Manifest, to_json(dataclasses.replace(manifest, batch=Batch(1, 4, 8)))).batch == Batch(1, 4, 8)
