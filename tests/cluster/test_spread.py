"""Matrices and histograms add up: any number of workers, in any order, gives the bits that one process gives."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from refinenet_edge import calibration, evaluation
from refinenet_edge.bundle import MODEL, open_bundle
from refinenet_edge.calibration import calibration_frames, observe
from refinenet_edge.cli import main
from refinenet_edge.cluster import calibrate, evaluate
from refinenet_edge.cluster.pool import LocalPool
from refinenet_edge.errors import RefineNetEdgeError
from refinenet_edge.onnx_import import read_onnx
from refinenet_edge.records import Cubic, Interpolation, MultiScale
from refinenet_edge.runtime import Segmenter
from tests.cluster.inputs import Many, in_pairs, tiny_bundle
from tests.evaluation import data
from tests.runtime.tinynet import CLASSES

COUNT = 7


@pytest.mark.parametrize("upsample", [None, Cubic()], ids=["as built", "cubic"])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, upsample: Interpolation | None
) -> None:
    monkeypatch.setattr(evaluate, "PIECE", 2)
    bundle = open_bundle(tiny_bundle(tmp_path / "b"))
    root = data.plain(tmp_path / "d", CLASSES, COUNT)
    (root / "masks" / "s3.png").unlink()
    dataset = evaluation.open_dataset(str(root))
    with Segmenter(bundle, "openvino") as segmenter:
        alone = evaluation.evaluate(segmenter.with_upsample(upsample) if upsample else segmenter, dataset)
    by = evaluate.distributed(bundle, "openvino", Many(workers), upsample=upsample)
    spread = evaluation.evaluate(by, dataset)
    assert replace(spread, seconds=0) == replace(alone, seconds=0)
    assert spread.counted == COUNT - 1


def test_the_last_sample_of_a_piece_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pieces of three samples, of which none gets on alone."""
    monkeypatch.setattr(evaluate, "PIECE", 3)
    bundle = open_bundle(tiny_bundle(tmp_path / "b"))
    dataset = evaluation.open_dataset(str(data.plain(tmp_path / "d", CLASSES, 6)))
    with Segmenter(bundle, "openvino") as segmenter:
        alone = evaluation.evaluate(segmenter, dataset)
    in_pairs(monkeypatch)
    spread = evaluation.evaluate(evaluate.distributed(bundle, "openvino", LocalPool()), dataset)
    assert replace(spread, seconds=0) == replace(alone, seconds=0)


def test_an_evaluation_at_several_scales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "PIECE", 2)
    bundle, other = open_bundle(tiny_bundle(tmp_path / "b")), open_bundle(tiny_bundle(tmp_path / "b2", (48, 64)))
    dataset = evaluation.open_dataset(str(data.plain(tmp_path / "d", CLASSES, COUNT)))
    flip = MultiScale(flip=True)
    with Segmenter(bundle, "openvino", inference=flip, beside=[other]) as segmenter:
        alone = evaluation.evaluate(segmenter, dataset)
    by = evaluate.distributed(bundle, "openvino", Many(2), inference=flip, beside=(other,))
    spread = evaluation.evaluate(by, dataset)
    assert replace(spread, seconds=0) == replace(alone, seconds=0)
    assert spread.inference == MultiScale((1.0, 1.4142), True, bundles=(other.digest,))


def test_a_worker_that_dies_stops_an_evaluation_where_it_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "PIECE", 2)
    bundle, out = open_bundle(tiny_bundle(tmp_path / "b")), tmp_path / "r.json"
    dataset = evaluation.open_dataset(str(data.plain(tmp_path / "d", CLASSES, COUNT)))
    dying = evaluate.distributed(bundle, "openvino", Many(2, lambda piece: piece[0].id == "s4"))
    with pytest.raises(RefineNetEdgeError, match="died each time it had s4 to s5"):
        evaluation.evaluate(dying, dataset, out=out)
    steps: list[int] = []
    by = evaluate.distributed(bundle, "openvino", Many(2))
    spread = evaluation.evaluate(by, dataset, out=out, progress=lambda done, _: steps.append(done))
    assert steps[0] == 4
    with Segmenter(bundle, "openvino") as segmenter:
        assert replace(spread, seconds=0) == replace(evaluation.evaluate(segmenter, dataset), seconds=0)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr(calibrate, "PIECE", 2)
    bundle, source = open_bundle(tiny_bundle(tmp_path / "b")), f"scenes:2:{COUNT}"
    model, spec, frames = read_onnx(bundle.path / MODEL, None), bundle.manifest.frame, calibration_frames(source)
    alone = calibration.calibrate(model, spec, frames)
    by = calibrate.distributed(model, spec, source, len(frames), Many(workers))
    assert calibration.calibrate(model, spec, frames, observer=by) == alone
    assert any(tensor.amax for tensor in alone.tensors.values())


def test_a_worker_of_a_calibration_takes_its_own_cpu_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, begun = open_bundle(tiny_bundle(tmp_path / "b")), []

    def noted(make: Callable[..., Any], threads_of: Callable[..., int]) -> Callable[..., Any]:
        return lambda *args, **more: begun.append(threads_of(*args, **more)) or make(*args, **more)

    monkeypatch.setattr(observe, "Workers", noted(observe.Workers, lambda threads: threads))
    monkeypatch.setattr(
        observe, "open_onnxruntime", noted(observe.open_onnxruntime, lambda _, threads=0, **more: threads)
    )
    model, spec = read_onnx(bundle.path / MODEL, None), bundle.manifest.frame
    by = calibrate.distributed(model, spec, "scenes:2:2", 2, Many(1))
    calibration.calibrate(model, spec, calibration_frames("scenes:2:2"), observer=by)
    assert len(begun) > 1 and set(begun) == {Many.threads}


def test_a_worker_that_dies_stops_a_calibration_where_it_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "PIECE", 2)
    bundle, source, out = open_bundle(tiny_bundle(tmp_path / "b")), f"scenes:2:{COUNT}", tmp_path / "s"
    model, spec, frames = read_onnx(bundle.path / MODEL, None), bundle.manifest.frame, calibration_frames(source)
    looking = calibrate.distributed(model, spec, source, len(frames), Many(1))
    checks = list(looking.checks())
    dying = calibrate.distributed(model, spec, source, len(frames), Many(2, lambda piece: 5 in piece))
    dying = replace(dying, checks=lambda: checks)
    with pytest.raises(RefineNetEdgeError, match="frames 4 to 5 of scenes:2:7"):
        calibration.calibrate(model, spec, frames, out=out, observer=dying)
    steps: list[int] = []
    found = calibration.calibrate(
        model, spec, frames, out=out, observer=looking, progress=lambda done, _: steps.append(done)
    )
    assert steps == [4, 6, 7]
    assert found == calibration.calibrate(model, spec, frames)


def test_the_commands_ask_for_ray_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    bundle, folder = str(tiny_bundle(tmp_path / "b")), str(data.plain(tmp_path / "d", CLASSES))
    ranges = str(tmp_path / "x.ranges.json")
    for words in (["calibrate", bundle, "--frames", "scenes:2:3", "--out", ranges], ["eval", bundle, folder]):
        assert CliRunner().invoke(main, words).exit_code == 0
        done = CliRunner().invoke(main, [*words, "--ray", "auto"])
        assert (done.exit_code, "--ray auto: ray is not installed: pip install" in done.stderr) == (3, True)
