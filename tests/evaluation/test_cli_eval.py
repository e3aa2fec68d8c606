"""`refinenet-edge eval`, with real bundles of the tiny network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from refinenet_edge.bundle import MANIFEST, MODEL, write_bundle
from refinenet_edge.cli import main
from refinenet_edge.evaluation import Confusion, open_dataset, score
from refinenet_edge.labels import SCENES, numbered
from refinenet_edge.records import FrameSpec, Labels, Manifest, MultiScale, Recipe, TensorSpec, Tiles
from refinenet_edge.runtime import Segmenter
from tests.evaluation import data
from tests.evaluation.data import COUNT, SIZE, png, write
from tests.runtime.tinynet import CLASSES, tiny


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refinenet_edge.cli.screen.out.width", 200)


def bundle(path: Path, size: tuple[int, int] | None = (32, 48), labels: Labels | None = None) -> Path:
    sides: Any = size or ("height", "width")
    inputs = (TensorSpec("image", "float32", (1, 3, *sides)),)
    outputs = (TensorSpec("logits", "float32", (1, CLASSES, "h", "w")),)
    manifest = Manifest(
        "tiny", "random", None, "fp32", "openvino", inputs, outputs, FrameSpec(size), labels or numbered(CLASSES),
        {}, (), Recipe("tiny", onnx="tiny.onnx"), "0",
    )  # fmt: skip
    write_bundle(path, manifest, {MODEL: tiny("float32", size).SerializeToString()})
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["eval", *map(str, arguments)])


@pytest.mark.parametrize("size", [(32, 48), None], ids=["static", "dynamic"])
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_table_and_a_result(tmp_path: Path, size: tuple[int, int] | None, backend: str) -> None:
    path, root, out = bundle(tmp_path / "b", size), data.plain(tmp_path / "d", CLASSES), tmp_path / "r.json"
    done = run(path, root, "--backend", backend, "--out", out, "--upsample", "cubic")
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    assert result["backend"] == backend
    assert result["counted"] == COUNT
    assert result["frame"]["upsample"] == {"kind": "cubic"}
    assert result["frame"]["size"] == (list(size) if size else None)
    assert result["identity"]["digest"] == hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()
    assert np.sum(result["confusion"]) == sum((t != 255).sum() for t in data.truths(CLASSES))
    for said in (*numbered(CLASSES).names, f"mIoU {100 * result['miou']:.2f} %", f"4 of 4 samples on {backend}, cubic"):
        assert said in done.output


def test_scales_and_the_mirrored_frame(tmp_path: Path) -> None:
    path, root, out = bundle(tmp_path / "b", None), data.plain(tmp_path / "d", CLASSES), tmp_path / "r.json"
    done = run(path, root, "--scales", "0.8,1", "--flip", "--out", out)
    assert done.exit_code == 0, done.output
    assert "align_corners=True, scales 0.8, 1 and mirrored" in done.output
    result = json.loads(out.read_text())
    assert result["inference"] == {
        "scales": [0.8, 1.0], "flip": True, "short_side": None, "bundles": [], "kind": "multi-scale",
    }  # fmt: skip
    found = Confusion.zero(CLASSES)
    with Segmenter(path, inference=MultiScale((0.8, 1.0), flip=True)) as segmenter:
        for sample in open_dataset(str(root)).samples:
            frame, truth = sample.read()
            found += Confusion.of(truth, segmenter.segment(frame).labels, CLASSES)
    assert result["confusion"] == found.matrix.tolist()
    whole = run(path, root, "--out", tmp_path / "whole.json")
    assert whole.exit_code == 0
    assert json.loads((tmp_path / "whole.json").read_text())["inference"] == {"kind": "whole"}
    assert json.loads((tmp_path / "whole.json").read_text())["confusion"] != result["confusion"]


def test_a_bundle_for_each_scale(tmp_path: Path) -> None:
    one, other = bundle(tmp_path / "b"), bundle(tmp_path / "b2", (64, 96))
    root, out = data.plain(tmp_path / "d", CLASSES), tmp_path / "r.json"
    done = run(one, root, "--with", other, "--out", out)
    assert done.exit_code == 0, done.output
    assert "scales 1, 2" in done.output
    digest = hashlib.sha256((other / MANIFEST).read_bytes()).hexdigest()
    assert json.loads(out.read_text())["inference"]["bundles"] == [digest]


def test_tiles(tmp_path: Path) -> None:
    root, out = data.plain(tmp_path / "d", CLASSES), tmp_path / "r.json"
    done = run(bundle(tmp_path / "b", (32, 64)), root, "--tiles", "32x64", "--overlap", "0", "--out", out)
    assert done.exit_code == 0, done.output
    assert "align_corners=True, tiles of 32x64 that overlap by 0" in done.output
    result = json.loads(out.read_text())
    assert result["inference"] == {"size": [32, 64], "overlap": 0, "kind": "tiles"}
    found = Confusion.zero(CLASSES)
    with Segmenter(bundle(tmp_path / "b2", (32, 64)), inference=Tiles((32, 64), 0)) as segmenter:
        for sample in open_dataset(str(root)).samples:
            frame, truth = sample.read()
            found += Confusion.of(truth, segmenter.segment(frame).labels, CLASSES)
    assert result["confusion"] == found.matrix.tolist()


def test_scales_of_another_run_are_another_run(tmp_path: Path) -> None:
    path, root, out = bundle(tmp_path / "b", None), data.plain(tmp_path / "d", CLASSES), tmp_path / "r.json"
    mask = root / "masks" / "s3.png"
    kept = mask.read_bytes()
    mask.write_bytes(png(np.full(SIZE, 7)))
    assert run(path, root, "--strict", "--out", out).exit_code == 2
    mask.write_bytes(kept)
    again = run(path, root, "--flip", "--out", out)
    assert again.exit_code == 2
    assert "is of a run with another scales, flip or tiles: remove" in again.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scales", "a"), "'a' is not numbers with commas between, such as --scales 0.8,1,1.2"),
        (("--scales", "0.5,,1"), "numbers with commas between"),
        (("--short-side", "450"), "--short-side 450: expected the least and the most pixels"),
        (("--short-side", "450,800.5"), "expected the least and the most pixels"),
        (("--short-side", "450,800"), "takes 32x48 pixels only"),
        (("--scales", "0"), "1 to 16 numbers above 0"),
        (("--scales", "0.5,1"), "takes 32x48 pixels only"),
        (("--with", "none"), "no bundle at none"),
        (("--tiles", "64", "--overlap", "0"), "takes 32x48 only (height x width): --tiles that"),
        (("--tiles", "32x48", "--overlap", "64"), "overlap by 0 to 0 pixels, not 64"),
        (("--tiles", "32x48", "--flip"), "--tiles and --scales, --short-side or --flip exclude each other"),
        (("--overlap", "3"), "--overlap is of --tiles"),
    ],
)
def test_scales_that_are_refused(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    done = run(bundle(tmp_path / "b"), data.plain(tmp_path / "d", CLASSES), *options)
    assert done.exit_code == 2
    assert said in done.stderr


def test_without_a_file(tmp_path: Path) -> None:
    done = run(bundle(tmp_path / "b"), data.plain(tmp_path / "d", CLASSES))
    assert done.exit_code == 0, done.output
    assert "bilinear, align_corners=True" in done.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "d"]


def test_problems_are_named_and_the_rest_is_counted(tmp_path: Path) -> None:
    root = data.plain(tmp_path / "d", CLASSES)
    write(root / "masks" / "s1.png", png(np.full(SIZE, 7)))
    (root / "masks" / "s3.png").unlink()
    done = run(bundle(tmp_path / "b"), root)
    assert done.exit_code == 0, done.output
    assert "2 of 4 samples" in done.output
    assert "2 not used: 1 label, 1 missing" in done.stderr
    assert "  s1: the mask has label 7, the classes are 0..4" in done.stderr
    strict = run(bundle(tmp_path / "b"), root, "--strict")
    assert strict.exit_code == 2
    assert "error: s1: the mask has label 7" in strict.stderr


def test_three_scenes_and_the_wrong_classes(tmp_path: Path) -> None:
    done = run(bundle(tmp_path / "b"), "scenes:1:3")
    assert done.exit_code == 2
    assert f"the bundle has {CLASSES} classes (numbered), data set scenes:1:3 has {len(SCENES.names)}" in done.stderr


@pytest.mark.parametrize(
    ("dataset", "said"), [("nothing", "no data set at nothing"), ("scenes:1:", "scenes:SEED:COUNT")]
)
def test_no_such_data_set(tmp_path: Path, dataset: str, said: str) -> None:
    done = run(bundle(tmp_path / "b"), dataset)
    assert done.exit_code == 2
    assert said in done.stderr


def test_no_such_bundle(tmp_path: Path) -> None:
    done = run(tmp_path / "b", "scenes")
    assert done.exit_code == 2
    assert "no bundle at" in done.stderr


@pytest.mark.parametrize("option", [("--upsample", "nearest"), ("--out", ".")])
def test_options_that_are_not(tmp_path: Path, option: tuple[str, str]) -> None:
    assert run(tmp_path / "b", "scenes", *option).exit_code == 2


def test_interrupted_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = bundle(tmp_path / "b"), data.plain(tmp_path / "d", CLASSES), "--out", tmp_path / "r.json"
    count = score._Tally.and_

    def until_the_third(tally: Any, *given: Any) -> Any:
        if tally.count == 2:
            raise KeyboardInterrupt
        return count(tally, *given)

    with monkeypatch.context() as patch:
        patch.setattr(score._Tally, "and_", until_the_third)
        stopped = run(*arguments)
    assert stopped.exit_code == 130
    assert "interrupted" in stopped.stderr
    assert (tmp_path / "r.json.partial").is_file()
    assert run(*arguments, "--upsample", "cubic").exit_code == 2
    again = run(*arguments)
    assert again.exit_code == 0, again.output
    assert "4 of 4 samples" in again.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "d", "r.json"]
