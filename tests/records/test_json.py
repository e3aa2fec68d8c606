import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refinenet_edge.errors import BundleError
from refinenet_edge.records import (
    Bilinear,
    Cubic,
    EngineInfo,
    FileDigest,
    FrameSpec,
    Harm,
    Labels,
    Manifest,
    Parity,
    Profile,
    Recipe,
    TensorSpec,
    from_json,
    from_plain,
    to_json,
)

LABELS = Labels("pets", ("nothing", "cat", "dog"), ((0, 0, 0), (255, 0, 0), (0, 0, 255)))
FULL = Manifest(
    model="rf_lw50",
    checkpoint="pets.pth.tar",
    checkpoint_sha256="ab" * 32,
    precision="fp16",
    backend="tensorrt",
    inputs=(TensorSpec("image", "float16", (1, 3, "height", "width")),),
    outputs=(TensorSpec("logits", "float16", (1, 3, "h", "w")),),
    frame=FrameSpec(size=None, resize=Cubic(), upsample=Bilinear(align_corners=True), mean=(0, 0.5, 1)),
    labels=LABELS,
    rewrites={"merge_pointwise": 3, "fold_batchnorm": 53},
    parity=(Parity("fusion", "street.png", 1e-6, 1.0), Parity("fp16", "street.png", 2e-3, 0.9991)),
    recipe=Recipe("engines/pets", checkpoint="pets.pth.tar", precision="fp16", without=("carry_sums",)),
    toolkit="0.1.0",
    engine=EngineInfo(
        flavour="tensorrt",
        version="10.3.0.30",
        targets=("sm_87",),
        workspace_bytes=1 << 30,
        profile=Profile((256, 256), (512, 1024), (1080, 1920)),
        layers=77,
        activation_bytes=0,
        build_seconds=61.5,
    ),
    files={"model.onnx": FileDigest("cd" * 32, 1234), "model.plan": FileDigest("ef" * 32, 0)},
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def changed(**fields: Any) -> str:
    return json.dumps(json.loads(to_json(FULL)) | fields)


def test_a_full_manifest_comes_back_equal() -> None:
    assert from_json(Manifest, to_json(FULL)) == FULL


def test_a_manifest_without_its_defaults_comes_back_equal() -> None:
    value = json.loads(to_json(FULL))
    for name in ("engine", "files", "schema"):
        del value[name]
    assert from_json(Manifest, json.dumps(value)) == dataclasses.replace(FULL, engine=None, files={})


def test_what_toml_read_is_read_too() -> None:
    assert from_plain(Labels, dataclasses.asdict(LABELS)) == LABELS
    with pytest.raises(BundleError, match=r"min_agreement: a number beyond"):
        from_plain(Recipe, {"output": "b", "model": "rf50", "min_agreement": 10**400})


def test_json_is_readable_text() -> None:
    text = to_json(dataclasses.replace(LABELS, names=("rien", "chat", "poêle")))
    assert "poêle" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"schema": 3}, "Manifest: schema 3, this toolkit reads 2: make it again"),
        ({"schema": 3, "colour": "red"}, "schema 3"),
        ({"schema": True}, "schema"),
        ({"recipe": 3}, "recipe"),
        ({"recipe": {"output": "b"}}, r"Manifest\.recipe: nothing to build"),
        ({"recipe": {"output": "b", "model": "rf50", "sise": [64, 96]}}, r"Manifest\.recipe\.sise: unknown field"),
        ({"model": 7}, "model"),
        ({"colour": "red"}, "colour"),
        ({"backend": "caffe"}, "backend"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [{"name": "image", "dtype": "float32", "shape": [1, None]}]}, r"inputs\[0\].shape\[1\]"),
        ({"frame": {"size": [0, 5]}}, "size"),
        ({"frame": {"size": [5]}}, "size"),
        ({"frame": {"size": None, "std": [1, 0, 1]}}, "std"),
        ({"frame": {"size": None, "mean": [float("nan"), 0, 1]}}, "mean"),
        ({"frame": {"size": None, "mean": [10**400, 0, 1]}}, r"frame\.mean\[0\]: a number beyond"),
        ({"frame": {"size": None, "mean": [-1e101, 0, 1]}}, r"frame\.mean\[0\]: a number beyond"),
        ({"traced_cost": {"macs": 10**400, "bytes": 1, "nodes": 1}}, r"traced_cost\.macs: a number beyond"),
        ({"traced_cost": {"macs": -(2**63), "bytes": 1, "nodes": 1}}, r"traced_cost\.macs: a number beyond"),
        ({"x" * 99: 1}, rf"Manifest\.{'x' * 60}: unknown"),
        ({"frame": {"size": None, "resize": {"kind": "bilinear", "align_corners": True}}}, "resize"),
        ({"labels": {"name": "x", "names": ["a"], "palette": [[0, 0, 256]]}}, "palette"),
        ({"labels": {"name": "x", "names": ["a", "b"], "palette": [[0, 0, 0]]}}, "2 names and 1 colours"),
        ({"files": {"../model.onnx": {"sha256": "", "size": 1}}}, "model.onnx"),
        ({"files": {"/etc/passwd": {"sha256": "", "size": 1}}}, "passwd"),
        ({"files": {"a\\b": {"sha256": "", "size": 1}}}, "directly"),
        ({"files": {"..": {"sha256": "", "size": 1}}}, "directly"),
        ({"files": {"": {"sha256": "", "size": 1}}}, "directly"),
        ({"files": {"a\0b": {"sha256": "", "size": 1}}}, "directly"),
        ({"files": {"\ud800": {"sha256": "", "size": 1}}}, "directly"),
    ],
)
def test_an_unfit_field_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(BundleError, match=named):
        from_json(Manifest, changed(**fields))


def test_a_missing_field_is_named() -> None:
    value = json.loads(to_json(FULL))
    del value["recipe"]
    with pytest.raises(BundleError, match=r"Manifest\.recipe: missing"):
        from_json(Manifest, json.dumps(value))


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "3", "\ufeff{}", "[" * 100_000, '{"model":' * 900 + "1" + "}" * 900]
)
def test_other_text_is_a_bundle_error(text: str) -> None:
    with pytest.raises(BundleError):
        from_json(Manifest, text)


@settings(deadline=None, database=None)
@given(json_values)
def test_any_json_is_a_bundle_error(value: Any) -> None:
    with pytest.raises(BundleError):
        from_json(Manifest, json.dumps(value))


@settings(deadline=None, database=None)
@given(st.data())
def test_a_manifest_with_anything_in_one_place_is_read_or_refused(data: st.DataObject) -> None:
    root = value = json.loads(to_json(FULL))
    while True:
        key = data.draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        deeper = isinstance(value[key], (dict, list)) and len(value[key]) > 0 and data.draw(st.booleans())
        if not deeper:
            break
        value = value[key]
    value[key] = data.draw(json_values)
    text = json.dumps(root)
    try:
        manifest = from_json(Manifest, text)
    except BundleError:
        return
    assert from_json(Manifest, to_json(manifest)) == manifest


def test_a_harm_of_no_layer_is_refused() -> None:
    with pytest.raises(BundleError, match="a harm of no layer"):
        from_json(Harm, '{"layers": [], "harm": 0.5, "kept": true}')
