"""Baselines compute what the bundle computes, and are refused where they would not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refinenet_edge import baselines, bench
from refinenet_edge.baselines import baselines_for
from refinenet_edge.bench import Case, Entry, bundle_entry
from refinenet_edge.build import build
from refinenet_edge.errors import InputError
from refinenet_edge.records import Frame, Recipe
from refinenet_edge.scenes import scene

SMALL = Case((64, 96))


def results_of(baseline: Entry, monkeypatch: pytest.MonkeyPatch, frame: Frame, case: Case = SMALL) -> dict[str, Any]:
    """What each stage of a baseline gave."""
    results = {}

    def kept(stages: bench.Stages, name: str, function: Callable[..., Any], *args: Any) -> Any:
        results[name] = bench.timed(stages, name, function, *args)
        return results[name]

    monkeypatch.setattr(baselines, "timed", kept)
    with baseline.open(case) as run:
        assert list(run([frame])) == ["prepare", "engine", "head"]
    return results


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino"])
def test_a_baseline_computes_the_bundles_logits(
    name: str, mobile_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = bundle_entry(mobile_bundle, "openvino")
    (baseline,) = baselines_for([name], ours)
    assert baseline.subject.kind == "peer" and baseline.subject.identity.model == "rf_lw_mbv2"
    frame = scene(5, 0, (64, 96))[0]
    found = results_of(baseline, monkeypatch, frame)
    with ours.segmenter() as segmenter:
        expected = segmenter.logits(frame)
        np.testing.assert_allclose(found["engine"], expected, atol=1e-4 * float(np.abs(expected).max()))
    assert found["head"][0].shape == (64, 96) and found["head"][0].dtype == np.uint8


def test_torch_compile_is_torch_compile(mobile_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr("torch.compile", lambda module: compiled.append(module) or module)
    (baseline,) = baselines_for(["compile"], bundle_entry(mobile_bundle, "openvino"))
    with baseline.open(SMALL) as run:
        run([scene(5, 0, (64, 96))[0]] * 2)
    assert len(compiled) == 1


class TestAnOnnxFile:
    def test_a_batch_runs_in_a_row(self, mobile_bundle: Path) -> None:
        (baseline,) = baselines_for([str(mobile_bundle / "model.onnx")], bundle_entry(mobile_bundle, "openvino"))
        assert baseline.subject.name == "model" and baseline.subject.identity.precision == "as in the file"
        with baseline.open(Case((64, 96), 2)) as run:
            assert list(run([scene(5, index, (64, 96))[0] for index in range(2)])) == ["prepare", "engine", "head"]

    def test_a_missing_one(self, mobile_bundle: Path) -> None:
        with pytest.raises(InputError, match=r"there is no none\.onnx"):
            baselines_for(["none.onnx"], bundle_entry(mobile_bundle, "openvino"))


def test_an_unknown_name(mobile_bundle: Path) -> None:
    with pytest.raises(
        InputError, match=r"--against tvm: expected torch, compile, onnxruntime, openvino or FILE\.onnx"
    ):
        baselines_for(["tvm"], bundle_entry(mobile_bundle, "openvino"))


@pytest.mark.parametrize(
    "options", [{"crp": "conv_pool"}, {"align_corners": False}, {"crp": "conv_pool", "align_corners": False}], ids=str
)
def test_what_the_weights_cannot_say_is_as_in_the_recipe(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(str(tmp_path / "b"), "rf_lw_mbv2", size=(64, 96), backend="openvino", **options)
    ours = bundle_entry(build(recipe).path, "openvino")
    (baseline,) = baselines_for(["torch"], ours)
    frame = scene(5, 0, (64, 96))[0]
    with ours.segmenter() as segmenter:
        expected = segmenter.logits(frame)
    logits = results_of(baseline, monkeypatch, frame)["engine"]
    np.testing.assert_allclose(logits, expected, atol=1e-4 * float(np.abs(expected).max()))
    plain = replace(ours.manifest, recipe=Recipe("b", "rf_lw_mbv2"))
    other = results_of(replace(baseline, manifest=plain), monkeypatch, frame)["engine"]
    assert float(np.abs(other - expected).max()) > 1e-2 * float(np.abs(expected).max())


@pytest.fixture
def changed(mobile_bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """changed(field=value): a copy of the bundle whose manifest says so."""

    def change(**fields: object) -> Path:
        shutil.copytree(mobile_bundle, tmp_path / "copied")
        path = tmp_path / "copied" / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
        return path.parent

    return change


def test_other_weights_are_refused(changed: Callable[..., Path]) -> None:
    recipe = {"output": "b", "checkpoint": "scenes"}
    entry = bundle_entry(changed(checkpoint="scenes", checkpoint_sha256="0" * 64, recipe=recipe), "openvino")
    with pytest.raises(InputError, match=r"is not what .* was built from"):
        baselines_for(["torch"], entry)
    with pytest.raises(InputError, match=r"gone\.pth, are not here: give --checkpoint FILE"):
        baselines_for(["torch"], entry, Path("gone.pth"))


def test_random_weights_are_in_no_file(mobile_bundle: Path) -> None:
    with pytest.raises(InputError, match=r"has random weights, not those of voc\.pth: leave --checkpoint out"):
        baselines_for(["torch"], bundle_entry(mobile_bundle, "openvino"), Path("voc.pth"))


def test_a_bundle_from_onnx_has_no_torch(changed: Callable[..., Path]) -> None:
    entry = bundle_entry(changed(recipe={"output": "b", "onnx": "theirs.onnx"}), "openvino")
    with pytest.raises(InputError, match="was made from an ONNX file: give that file to --against"):
        baselines_for(["torch"], entry)
