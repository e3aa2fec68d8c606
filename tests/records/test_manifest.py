"""Manifests that an earlier toolkit wrote."""

from __future__ import annotations

import dataclasses
import json

import pytest

from refinenet_edge.errors import BundleError
from refinenet_edge.labels import numbered
from refinenet_edge.records import Batch, FrameSpec, Manifest, Recipe, TensorSpec, from_json, to_json

MANIFEST = Manifest(
    model="rf_lw_mbv2",
    checkpoint="random",
    checkpoint_sha256=None,
    precision="fp32",
    backend="openvino",
    inputs=(TensorSpec("image", "float32", (1, 3, 32, 32)),),
    outputs=(TensorSpec("logits", "float32", (1, 2, 8, 8)),),
    frame=FrameSpec((32, 32)),
    labels=numbered(2),
    rewrites={},
    parity=(),
    recipe=Recipe("engines/pets", "rf_lw_mbv2"),
    toolkit="0.1.0",
)


@pytest.mark.parametrize("schema", [1, True, 3, "2", None])
def test_one_of_another_schema_is_refused(schema: object) -> None:
    with pytest.raises(BundleError, match=f"schema {schema}, this toolkit reads 2: make it again"):
        from_json(Manifest, json.dumps({**dataclasses.asdict(MANIFEST), "schema": schema}))


def test_a_manifest_of_today_has_no_command() -> None:
    with pytest.raises(BundleError, match=r"Manifest\.command: unknown field"):
        from_json(Manifest, json.dumps({**dataclasses.asdict(MANIFEST), "command": "refinenet-edge build"}))


def test_a_manifest_without_a_batch_takes_one_frame() -> None:
    value = json.loads(to_json(MANIFEST))
    del value["batch"], value["recipe"]["batch"]
    manifest = from_json(Manifest, json.dumps(value))
    assert (manifest.batch, manifest.recipe.batch) == (Batch(1, 1, 1), None)
    assert from_json(Manifest, to_json(dataclasses.replace(manifest, batch=Batch(1, 4, 8)))).batch == Batch(1, 4, 8)
