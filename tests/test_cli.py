"""The commands, from the words typed to the files and the lines they give."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from refinenet_edge import __version__, cli, doctor
from refinenet_edge.bench import read_run, write_run
from refinenet_edge.bundle import MANIFEST, MODEL, PLAN, open_bundle, write_bundle
from refinenet_edge.cli import screen
from refinenet_edge.cli.bench import _timings
from refinenet_edge.doctor import Finding
from refinenet_edge.errors import GraphError
from refinenet_edge.evaluation.masks import read_mask
from refinenet_edge.frames.images import read_image, write_image
from refinenet_edge.model import MODELS
from refinenet_edge.records import Budget, Harm, MultiScale, Profile
from refinenet_edge.runtime import Segmenter
from tests.bench import runs
from tests.conftest import onnx_model, weights

ROOT = Path(cli.__file__).parents[2]
Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """run(words): what a command gives, its tables not broken into lines."""
    monkeypatch.setattr("refinenet_edge.cli.screen.out.width", 400)

    def invoke(*words: object, command: Any = cli.main) -> Result:
        return CliRunner().invoke(command, [str(word) for word in words])

    return invoke


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """Somebody's ONNX model of 5 classes, any size."""
    path = tmp_path / "theirs.onnx"
    body = "a = Conv <strides = [4,4], pads = [1,1,1,1]> (x, w) n = BatchNormalization(a, s, t, t, s) y = Relu(n)"
    norm = {"s": np.full(5, 2, np.float32), "t": weights(5)}
    model = onnx_model(body, "float[N,3,H,W] x", "float[N,5,h,w] y", w=weights(5, 3, 4, 4), **norm)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def bundle(run: Run, theirs: Path, tmp_path: Path) -> Path:
    """A bundle of `theirs` at 64x96, to be changed."""
    assert (
        run("build", "--onnx", theirs, "--size", "64x96", "--backend", "openvino", "-o", tmp_path / "b").exit_code == 0
    )
    return tmp_path / "b"


def ok(result: Result) -> str:
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def refused(result: Result, code: int = 2) -> str:
    """The one line of a command that could not do what it was asked; docs/commands.md has the codes."""
    assert result.exit_code == code, (result.output, result.exception)
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def cell(table: str, row: str) -> str:
    """What a table without headings says in `row`."""
    found = re.search(rf"^│ {re.escape(row)} +│ (.*?) +│$", table, re.MULTILINE)
    assert found, table
    return found[1]


class TestBuild:
    def test_a_bundle_is_built_and_described(self, run: Run, theirs: Path, tmp_path: Path) -> None:
        words = ("build", "--onnx", theirs, "--size", "64x96", "--backend", "openvino", "-o", tmp_path / "made/b")
        said = ok(run(*words))
        manifest = open_bundle(tmp_path / "made" / "b").manifest
        assert cell(said, "model") == "theirs, weights: theirs.onnx"
        assert cell(said, "input") == "image float32 1x3x64x96"
        assert cell(said, "output") == "logits float32 1x5x16x24"
        assert cell(said, "built for") == "openvino"
        assert "fold_batch_norm 1" in cell(said, "rewrites")
        assert cell(said, "built by") == manifest.command
        assert f"next: refinenet-edge run {tmp_path}/made/b IMAGE --out DIR" in said

    def test_build_engine_is_the_same_command(self, run: Run, theirs: Path, tmp_path: Path) -> None:
        words = ("--onnx", theirs, "--size", "64", "--backend", "onnxruntime", "--output", tmp_path / "b")
        ok(run(*words, command=cli.build_engine))
        assert open_bundle(tmp_path / "b").manifest.frame.size == (64, 64)

    def test_a_recipe_is_built_beside_itself(self, run: Run, theirs: Path, tmp_path: Path) -> None:
        (tmp_path / "pets.toml").write_text(
            f'onnx = "{theirs}"\nsize = "64x96"\nbackend = "openvino"\nupsample = "cubic"'
        )
        ok(run("build", tmp_path / "pets.toml"))
        assert open_bundle(tmp_path / "pets").manifest.frame.upsample.kind == "cubic"

    def test_a_budget_that_holds_at_once_ranks_no_layer(self, run: Run, theirs: Path, tmp_path: Path) -> None:
        words = ("build", "--onnx", theirs, "--size", "64x96", "--backend", "openvino", "-o", tmp_path / "b")
        said = ok(run(*words, "--precision", "int8", "--calib", "scenes:2:2", "--min-agreement", "50"))
        for shown in (said, ok(run("inspect", tmp_path / "b"))):
            assert "what quantising harms, in" not in shown
            assert "50 allowed; 0 layers back in float" in " ".join(cell(shown, "budget").split())
            assert re.search(r"^\d+\.\d\d \(.*\) times as fast as fp32$", cell(shown, "speed"))

    def test_a_budget_shows_what_each_layer_harms(self) -> None:
        harms = (Harm(("stem",), 0.25, True), Harm(("a", "b"), 0.0031, False))
        with screen.out.capture() as shown:
            screen.out.print(screen.harms_table(Budget("labels", 0.5, 2.0, 0.4, "photos", "openvino", 3, 21, harms)))
        said = shown.get()
        assert "what quantising harms, in 21 runs" in " ".join(said.split())
        assert re.search(r"│ stem +│ 2\.5e-01 +│ back in float +│", said)
        assert re.search(r"│ 2 from a on +│ 3\.1e-03 +│ quantised +│", said)

    def test_options_go_over_the_recipe(self, run: Run, theirs: Path, tmp_path: Path) -> None:
        recipe = f'onnx = "{theirs}"\nsize = "64x96"\nbackend = "openvino"\ndynamic = true\nalign_corners = true'
        (tmp_path / "pets.toml").write_text(recipe)
        words = ("--size", "32x64", "--no-dynamic", "--precision", "fp16", "-o", tmp_path / "b", "--no-align-corners")
        ok(run("build", tmp_path / "pets.toml", *words))
        manifest = open_bundle(tmp_path / "b").manifest
        assert (manifest.frame.size, manifest.precision) == ((32, 64), "fp16")
        assert manifest.frame.upsample.align_corners is False

    def test_explain_tells_what_fired_and_what_did_not(self, run: Run, theirs: Path, tmp_path: Path) -> None:
        words = ("build", "--onnx", theirs, "--size", "64", "--backend", "openvino", "-o", tmp_path / "b", "--explain")
        said = ok(run(*words))
        assert re.search(r"│ fold_batch_norm +│ 1 ", said)
        assert re.search(r"│ merge_pointwise +│ 0 ", said)

    def test_random_weights_are_warned_of(self, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def stop(*_: Any) -> None:
            raise GraphError("far enough")

        monkeypatch.setattr(importlib.import_module("refinenet_edge.build.load"), "trace", stop)
        result = run("build", "--model", "rf_lw_mbv2", "--backend", "openvino", "-o", tmp_path / "b")
        assert result.exit_code == 2
        assert result.stderr.splitlines() == [
            "WARNING: rf_lw_mbv2 has random weights (no --checkpoint was given): its masks mean nothing",
            "error: far enough",
        ]

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ([], "where to? Give --out engines/NAME, or a recipe"),
            (["-o", "OUT"], "nothing to build: give --model, --checkpoint or --onnx"),
            (["-o", "OUT", "--onnx", "THEIRS", "--model", "rf50"], "--onnx takes the model from the file"),
            (["-o", "OUT", "--model", "resnet"], "no model named 'resnet'; there are rf50, rf101"),
            (["-o", "OUT", "--model", "rf50", "--size", "16x16"], "size 16x16: each side must be in 32..16384"),
            (["-o", "OUT", "--model", "rf50", "--size", "0x64"], "size 0x64 is outside 1..16384"),
            (["-o", "OUT", "--checkpoint", "none.pth"], "none.pth"),
            (["-o", "OUT", "--onnx", "none.onnx"], "none.onnx is no ONNX model that can be read"),
            (["-o", "OUT", "--onnx", "IMAGE"], "a.png is no ONNX model that can be read"),
            (["-o", "OUT", "--onnx", "THEIRS", "--labels", "voc"], "the model has 5 classes, labels 'voc' has 21"),
            (["-o", "OUT", "--onnx", "THEIRS", "--labels", "cats"], "no label set or file named 'cats'"),
            (["-o", "OUT", "--onnx", "THEIRS", "--without", "all"], "no rewrite all; there are fold_constants"),
            (["-o", "OUT", "--onnx", "THEIRS", "--backend", "tensorrt"], "tensorrt is not installed"),
            (
                ["-o", "OUT", "--onnx", "THEIRS", "--backend", "tensorrt-rtx", "--target", "sm_1"],
                "no target 'sm_1'; tensorrt_rtx",
            ),
            (
                ["-o", "OUT", "--onnx", "THEIRS", "--backend", "tensorrt-rtx", "--timing-cache", "t"],
                "TensorRT-RTX has no a timing cache",
            ),
            (["-o", "PHOTOS", "--onnx", "THEIRS"], "is not a bundle"),
            (["none.toml"], "no recipe at none.toml"),
            (["IMAGE"], "cannot be read"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_what_cannot_be_built_is_one_line(
        self, run: Run, theirs: Path, photos: Path, tmp_path: Path, words: list[str], said: str
    ) -> None:
        places = {"OUT": tmp_path / "out", "THEIRS": theirs, "PHOTOS": photos, "IMAGE": photos / "a.png"}
        size = ["--size", "64"] if "--onnx" in words else []
        backend = [] if "--backend" in words else ["--backend", "openvino"]
        result = run("build", *(places.get(word, word) for word in words), *size, *(backend if "-o" in words else []))
        lines = [line for line in result.stderr.splitlines() if not line.startswith("WARNING: ")]
        assert result.exit_code == (3 if "not installed" in said else 2)
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("error: ")
        assert said in lines[0]
        assert not (tmp_path / "out").exists()


class TestPlan:
    def test_a_plan_is_added(self, run: Run, bundle: Path) -> None:
        words = ("plan", bundle, "--backend", "tensorrt-rtx", "--target", "sm_89", "--target", "sm_120")
        said = ok(run(*words, "--workspace-mib", "64"))
        assert cell(said, "built for") == "tensorrt-rtx"
        engine = open_bundle(bundle).manifest.engine
        assert engine is not None
        assert (engine.targets, engine.workspace_bytes, engine.profile) == (("sm_89", "sm_120"), 64 << 20, None)
        assert (bundle / PLAN).is_file()

    def test_a_bundle_that_takes_any_size_needs_the_usual_one(self, run: Run, theirs: Path, tmp_path: Path) -> None:
        words = ("--onnx", theirs, "--size", "64x96", "--dynamic", "--backend", "openvino", "-o", tmp_path / "b")
        ok(run("build", *words))
        plan = ("plan", tmp_path / "b", "--backend", "tensorrt-rtx")
        assert refused(run(*plan)) == "the bundle takes frames of any size: name the usual one with --size HEIGHTxWIDTH"
        ok(run(*plan, "--size", "64x128"))
        engine = open_bundle(tmp_path / "b").manifest.engine
        assert engine is not None
        assert engine.profile == Profile((32, 32), (64, 128), (128, 256))
        ok(run(*plan))  # the range is in the bundle now
        again = open_bundle(tmp_path / "b").manifest.engine
        assert again is not None
        assert again.profile == engine.profile

    def test_a_bundle_of_one_size_takes_no_other(self, run: Run, bundle: Path) -> None:
        said = refused(run("plan", bundle, "--backend", "tensorrt-rtx", "--size", "64x64"))
        assert said == "the bundle is fixed to 64x96: leave --size out"

    def test_what_cannot_be_built_is_one_line_and_the_bundle_stays(
        self, run: Run, bundle: Path, tmp_path: Path
    ) -> None:
        before = open_bundle(bundle).manifest
        assert "tensorrt is not installed" in refused(run("plan", bundle), 3)
        assert "no target 'x'" in refused(run("plan", bundle, "--backend", "tensorrt-rtx", "--target", "x"))
        assert "no bundle at" in refused(run("plan", tmp_path / "none"))
        assert open_bundle(bundle).manifest == before

    def test_a_builder_that_says_much_is_one_line(
        self, run: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from refinenet_edge.runtime.tensorrt import builder

        def fail(*_: Any) -> None:
            raise builder.BuildError("first [red]line[/]\n\tsecond line\n\nlast")

        monkeypatch.setattr(builder, "build_plan", fail)
        assert refused(run("plan", bundle)) == "first [red]line[/] second line last"


class TestRun:
    def test_every_image_gets_an_overlay_and_labels(
        self, run: Run, mobile_bundle: Path, photos: Path, tmp_path: Path
    ) -> None:
        said = ok(run("run", mobile_bundle, photos, "--out", tmp_path / "new/out"))
        assert f"2 of 2 images segmented into {tmp_path}/new/out" in said
        out = tmp_path / "new" / "out"
        assert sorted(p.name for p in out.iterdir()) == [
            f"{n}_{k}" for n in "ab" for k in ("labels.png", "overlay.jpg")
        ]
        for name in "ab":
            height, width = cv2.imread(str(photos / f"{name}.png")).shape[:2]
            assert re.search(rf"│ {name} +│ {height}x{width} ", said)
            labels = read_mask(out / f"{name}_labels.png")
            assert (labels.shape, labels.dtype) == ((height, width), np.uint8)
            assert labels.max() < 21
            assert cv2.imread(str(out / f"{name}_overlay.jpg")).shape == (height, width, 3)

    def test_a_legend_and_the_frame_beside(self, run: Run, mobile_bundle: Path, photos: Path, tmp_path: Path) -> None:
        photo = read_image(photos / "a.png")
        height, width = photo.shape[:2]
        ok(run("run", mobile_bundle, photos / "a.png", "--out", tmp_path, "--opacity", 0, "--side-by-side"))
        beside = read_image(tmp_path / "a_overlay.jpg")
        assert beside.shape == (height, 2 * width, 3)
        assert np.abs(beside[:, width:].astype(int) - photo).mean() < 5  # JPEG
        ok(run("run", mobile_bundle, photos / "a.png", "--out", tmp_path, "--opacity", 0, "--legend"))
        overlay = read_image(tmp_path / "a_overlay.jpg")
        assert overlay.shape == photo.shape
        assert np.abs(overlay[-12:, :12].astype(int) - photo[-12:, :12]).mean() > 10

    def test_how_sure_the_labels_are(self, run: Run, mobile_bundle: Path, photos: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        ok(run("run", mobile_bundle, photos, "--out", out, "--confidence"))
        assert len(list(out.iterdir())) == 6
        for name in "ab":
            found = cv2.imread(str(out / f"{name}_confidence.png"), cv2.IMREAD_UNCHANGED)
            with Segmenter(mobile_bundle, confidence=True) as segmenter:
                mask = segmenter.segment(read_image(photos / f"{name}.png"))
            assert mask.confidence is not None
            assert np.array_equal(found, mask.confidence)
            assert np.array_equal(read_mask(out / f"{name}_labels.png"), mask.labels)

    def test_labels_that_are_not_sure_are_unknown(
        self, run: Run, mobile_bundle: Path, photos: Path, tmp_path: Path
    ) -> None:
        with Segmenter(mobile_bundle, confidence=True) as segmenter:
            mask = segmenter.segment(read_image(photos / "a.png"))
        assert mask.confidence is not None
        least = float(np.median(mask.confidence)) / 255
        ok(run("run", mobile_bundle, photos / "a.png", "--out", tmp_path, "--unknown-below", least))
        found = read_mask(tmp_path / "a_labels.png")
        unknown = mask.confidence < round(255 * least)
        assert 0.2 < unknown.mean() < 0.6
        assert np.array_equal(found, np.where(unknown, 255, mask.labels))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a_labels.png", "a_overlay.jpg"]

    def test_masks_in_every_format(self, run: Run, mobile_bundle: Path, photos: Path, tmp_path: Path) -> None:
        forms = ("geojson", "coco", "coco-polygons", "csv")
        ok(
            run(
                "run",
                mobile_bundle,
                photos,
                "--out",
                tmp_path,
                *(word for form in forms for word in ("--format", form)),
            )
        )
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "a.geojson", "a_overlay.jpg", "b.geojson", "b_overlay.jpg", "coco.json", "coco_polygons.json", "shares.csv",
        ]  # fmt: skip
        with Segmenter(mobile_bundle) as segmenter:
            labels = segmenter.segment(read_image(photos / "b.png")).labels
        there = dict(zip(*np.unique(labels, return_counts=True), strict=True))
        features = json.loads((tmp_path / "b.geojson").read_text("utf-8"))["features"]
        coco = json.loads((tmp_path / "coco.json").read_text("utf-8"))
        assert [image["file_name"] for image in coco["images"]] == ["a.png", "b.png"]
        of_b = {a["category_id"]: a["area"] for a in coco["annotations"] if a["image_id"] == 2}
        by_label: dict[int, int] = {}
        for feature in features:
            properties = feature["properties"]
            by_label[properties["label"]] = by_label.get(properties["label"], 0) + properties["pixels"]
        assert by_label == of_b == there
        row = (tmp_path / "shares.csv").read_text("utf-8").splitlines()[2].split(",")
        assert row[:3] == ["b.png", *map(str, labels.shape)]
        assert float(row[3]) == pytest.approx(there.get(0, 0) / labels.size, abs=1e-6)

    def test_several_scales(self, run: Run, dynamic_bundle: Path, photos: Path, tmp_path: Path) -> None:
        how = ("--scales", "0.9,1.1", "--flip")
        ok(run("run", dynamic_bundle, photos / "a.png", "--out", tmp_path, "--backend", "openvino", *how))
        labels = read_mask(tmp_path / "a_labels.png")
        with Segmenter(dynamic_bundle, "openvino", inference=MultiScale((0.9, 1.1), flip=True)) as segmenter:
            assert np.array_equal(labels, segmenter.segment(read_image(photos / "a.png")).labels)

    def test_opacity_none_gives_the_image_back(
        self, run: Run, mobile_bundle: Path, photos: Path, tmp_path: Path
    ) -> None:
        ok(run("run", mobile_bundle, photos / "a.png", "--out", tmp_path, "--opacity", "0", "--backend", "onnxruntime"))
        overlay, frame = (cv2.imread(str(path)).astype(int) for path in (tmp_path / "a_overlay.jpg", photos / "a.png"))
        assert np.abs(overlay - frame).mean() < 5  # JPEG

    def test_a_broken_image_does_not_stop_the_others(
        self, run: Run, bundle: Path, photos: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "photos"
        shutil.copytree(photos, folder)
        (folder / "aa.png").write_bytes((photos / "a.png").read_bytes()[:60])
        (folder / "notes.txt").write_text("no image")
        result = run("run", bundle, folder, "--out", tmp_path / "out")
        assert re.fullmatch(
            r"1 images could not be used: image \S+aa\.png has a part of .* damaged", refused(result, 4)
        )
        assert "2 of 3 images segmented" in result.stdout
        assert sorted(p.stem for p in (tmp_path / "out").iterdir()) == [
            "a_labels",
            "a_overlay",
            "b_labels",
            "b_overlay",
        ]

    @pytest.mark.parametrize("out", ["photos", "photos/../photos", "link"])
    def test_results_do_not_go_among_the_images(
        self, run: Run, bundle: Path, photos: Path, tmp_path: Path, out: str
    ) -> None:
        shutil.copytree(photos, tmp_path / "photos")
        (tmp_path / "link").symlink_to(tmp_path / "photos")
        said = refused(run("run", bundle, tmp_path / "photos", "--out", tmp_path / out))
        assert "is where the images are: what goes there would be an image, too; name another --out" in said
        assert sorted(path.name for path in (tmp_path / "photos").iterdir()) == ["a.png", "b.png"]

    def test_frames_outside_a_range_are_named(self, run: Run, dynamic_bundle: Path, tmp_path: Path) -> None:
        for name, size in (("fits", (40, 50)), ("large", (40, 400))):
            write_image(tmp_path / f"{name}.png", np.zeros((*size, 3), np.uint8))
        result = run("run", dynamic_bundle, tmp_path, "--out", tmp_path / "out", "--backend", "openvino")
        assert "this engine takes 32x32 to 128x192" in refused(result, 4)
        assert (tmp_path / "out" / "fits_labels.png").is_file()

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["none", "PHOTOS"], "no bundle at none"),
            (["PHOTOS", "PHOTOS"], "is not a bundle: it has no manifest.json"),
            (["BUNDLE", "none.png"], "no image or folder at none.png"),
            (["BUNDLE", "BUNDLE"], "no image in"),
            (["BUNDLE", "BUNDLE/manifest.json"], "is not a whole PNG, JPEG, BMP or WebP file"),
            (["BUNDLE", "PHOTOS", "--backend", "tensorrt"], "tensorrt needs an NVIDIA GPU"),
            (["BUNDLE", "PHOTOS", "--out", "BUNDLE/manifest.json"], "cannot be made: "),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_what_cannot_be_run_is_one_line(
        self, run: Run, mobile_bundle: Path, photos: Path, tmp_path: Path, words: list[str], said: str
    ) -> None:
        words = [word.replace("BUNDLE", str(mobile_bundle)).replace("PHOTOS", str(photos)) for word in words]
        words += [] if "--out" in words else ["--out", str(tmp_path / "out")]
        assert said in refused(run("run", *words))
        assert not list(tmp_path.rglob("*.png"))

    def test_two_images_of_one_name_are_refused(self, run: Run, bundle: Path, photos: Path, tmp_path: Path) -> None:
        folder = tmp_path / "photos"
        shutil.copytree(photos, folder)
        cv2.imwrite(str(folder / "a.jpg"), cv2.imread(str(folder / "a.png")))
        said = refused(run("run", bundle, folder, "--out", tmp_path / "out"))
        assert said == "two images are named a: their results would overwrite each other, rename one"

    def test_a_graph_that_does_not_load_is_one_line(self, run: Run, bundle: Path, photos: Path, tmp_path: Path) -> None:
        # a sound bundle around a graph that is none
        manifest = open_bundle(bundle).manifest
        write_bundle(bundle, manifest, {MODEL: b"no graph at all"})
        for backend in ("openvino", "onnxruntime"):
            refused(run("run", bundle, photos, "--out", tmp_path / "out", "--backend", backend))

    def test_a_damaged_bundle_is_one_line_with_the_way_to_build_it(self, run: Run, bundle: Path, photos: Path) -> None:
        data = bytearray((bundle / MODEL).read_bytes())
        data[len(data) // 2] ^= 1
        (bundle / MODEL).write_bytes(data)
        said = refused(run("run", bundle, photos, "--out", bundle.parent / "out"))
        assert re.search(r"model\.onnx is damaged .*; build it again: refinenet-edge build --out ", said)


class TestInspect:
    def test_a_bundle(self, run: Run, mobile_bundle: Path) -> None:
        said = ok(run("inspect", mobile_bundle))
        assert cell(said, "model") == "rf_lw_mbv2, weights: random"
        assert cell(said, "classes") == "21 (numbered)"
        assert cell(said, "precision") == "fp32"
        assert cell(said, "upsampling") == "bilinear, align_corners=True"
        assert "model.onnx" in cell(said, "file")
        assert "written by" not in said

    def test_a_bundle_with_a_plan(self, run: Run, dynamic_bundle: Path) -> None:
        said = ok(run("inspect", dynamic_bundle))
        assert cell(said, "input") == "image float32 1x3xheightxwidth"
        assert re.match(r"tensorrt-rtx \S+ for default$", cell(said, "engine"))
        assert re.search(r"model\.plan: a plan of \d+\.\d MB, written by tensorrt-rtx \d+\.\d+", said)

    def test_a_plan(self, run: Run, dynamic_bundle: Path) -> None:
        assert "written by tensorrt-rtx" in ok(run("inspect", dynamic_bundle / PLAN))

    def test_anything_else_is_one_line(self, run: Run, mobile_bundle: Path, photos: Path, tmp_path: Path) -> None:
        assert "is no TensorRT plan" in refused(run("inspect", mobile_bundle / MODEL))
        assert "is no TensorRT plan" in refused(run("inspect", photos / "a.png"))
        assert "cannot be read: No such file" in refused(run("inspect", tmp_path / "none"))
        assert "has no manifest.json" in refused(run("inspect", photos))

    def test_a_manifest_cannot_paint_the_terminal(self, run: Run, bundle: Path) -> None:
        text = (bundle / MANIFEST).read_text("utf-8").replace('"theirs"', '"[red]theirs[/red]"')
        (bundle / MANIFEST).write_text(text, "utf-8")
        assert "[red]theirs[/red]" in ok(run("inspect", bundle))


class TestCompare:
    def test_a_bundle_agrees_with_itself_on_another_backend(self, run: Run, mobile_bundle: Path, photos: Path) -> None:
        words = (
            "compare",
            mobile_bundle,
            mobile_bundle,
            photos,
            "--backend",
            "openvino",
            "--second-backend",
            "onnxruntime",
        )
        said = ok(run(*words))
        assert re.search(r"on openvino\s+and\s", said)
        agreement = re.search(r"mean label agreement ([\d.]+) % over 2 images", said)
        assert agreement
        assert float(agreement[1]) > 99
        errors = re.findall(r"│ [ab]\.png +│ (\S+) ", said)
        assert len(errors) == 2
        assert max(map(float, errors)) < 1e-3

    def test_logits_of_another_size_are_said_to_be(self, run: Run, theirs: Path, photos: Path, tmp_path: Path) -> None:
        for name, size in (("small", "32x32"), ("large", "64x64")):
            ok(run("build", "--onnx", theirs, "--size", size, "--backend", "openvino", "-o", tmp_path / name))
        said = ok(run("compare", tmp_path / "small", tmp_path / "large", photos))
        assert said.count("other size") == 2

    def test_what_cannot_be_compared_is_one_line(
        self, run: Run, mobile_bundle: Path, photos: Path, tmp_path: Path
    ) -> None:
        assert "no bundle at" in refused(run("compare", mobile_bundle, tmp_path / "none", photos))
        assert "no image in" in refused(run("compare", mobile_bundle, mobile_bundle, mobile_bundle))
        wrong = run("compare", mobile_bundle, mobile_bundle, photos, "--backend", "x")
        assert (wrong.exit_code, "'x' is not one of 'auto', 'tensorrt'," in wrong.stderr) == (2, True)


class TestBench:
    def test_a_result_is_written_shown_and_compared(
        self, run: Run, bundle: Path, mobile_bundle: Path, tmp_path: Path
    ) -> None:
        result = tmp_path / "new" / "r.json"
        said = ok(run("bench", bundle, mobile_bundle, "-o", result, "--rounds", 3, "--brief", "--size", "64x96"))
        assert "frame to labels, 64x96" in said and f"next: refinenet-edge report {result}" in said
        assert [subject.name for subject in read_run(result).subjects] == [bundle.name, mobile_bundle.name]
        assert bundle.name in ok(run("bench", "compare", result, result))

    def test_how_many_times_as_fast_as_the_first(self) -> None:
        measured = runs.run(runs.measurement("ours", *[20.0] * 5), runs.measurement("another", *[10.0] * 5))
        said = io.StringIO()
        Console(file=said, width=120).print(_timings(measured, measured.cases()[0]))
        assert "times as fast" in said.getvalue()
        row = next(line for line in said.getvalue().splitlines() if "another" in line)
        assert "2.00 (2.00..2.00)" in row and "faster" in row

    def test_a_regression_is_exit_1(self, run: Run, tmp_path: Path) -> None:
        for name, ms in (("before", 10.0), ("after", 10.7)):
            write_run(tmp_path / name, runs.run(runs.measurement("ours", ms, ms)))
        words = "bench", "compare", tmp_path / "before", tmp_path / "after"
        slower = run(*words)
        assert slower.exit_code == 1 and "1 of 1 take more than 5 % longer" in slower.stderr
        assert "times as fast" in slower.stdout and "0.93 (0.93..0.93)" in slower.stdout
        assert "slower" in ok(run(*words, "--threshold", 8))
        assert "same" in ok(run("bench", "compare", tmp_path / "before", tmp_path / "before"))

    def test_what_stands_in_one_file_only_is_told(self, run: Run, tmp_path: Path) -> None:
        ours, other = (runs.measurement(name, 10.0, 10.0) for name in ("ours", "another"))
        write_run(tmp_path / "before", runs.run(ours, other))
        write_run(tmp_path / "after", runs.run(ours))
        words = "bench", "compare", tmp_path / "before", tmp_path / "after"
        told = run(*words)
        assert (told.exit_code, told.stderr.startswith("in one file only: another, ")) == (0, True)
        assert run(*words, "--strict").exit_code == 1

    def test_a_suite_is_built_and_measured(self, run: Run, theirs: Path, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.chdir(tmp_path)
        bundles = f'[bundles.one]\nonnx = "{theirs}"\nsize = "64x96"\nbackend = "openvino"\npreprocess = "imagenet"'
        Path("small.toml").write_text(f'against = ["{theirs}"]\nsizes = ["64x96"]\njudge = "scenes:3:2"\n{bundles}')
        refused(run("bench", "small.toml", "-o", "r.json", "--rounds", 2, "--brief"))  # scenes have 8 classes
        Path("small.toml").write_text(f'against = ["{theirs}"]\nsizes = ["64x96"]\n{bundles}')
        ok(run("bench", "small.toml", "-o", "r.json", "--rounds", 2, "--brief"))
        assert [subject.name for subject in read_run(Path("r.json")).subjects] == ["one", "theirs"]
        assert Path("build", "suites", "small", "one", "manifest.json").exists()

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["MISSING"], "no bundle at MISSING"),
            (["BUNDLE", "--against", "tvm"], "--against tvm"),
            (["BUNDLE", "--frames", "none"], "none"),
            (["none.toml"], "no suite at none.toml"),
        ],
    )
    def test_what_cannot_be_measured_is_one_line_and_the_result_stays(
        self, run: Run, bundle: Path, tmp_path: Path, words: list[str], says: str
    ) -> None:
        result = tmp_path / "r.json"
        result.write_text("as it was")
        words = [str(bundle) if word == "BUNDLE" else word for word in words]
        assert says in refused(run("bench", *words, "-o", result, "--rounds", 2))
        assert result.read_text() == "as it was"


class TestDoctor:
    @pytest.mark.parametrize(("state", "code"), [("ok", 0), ("absent", 0), ("limited", 0), ("wrong", 1)])
    def test_only_what_is_wrong_fails(self, run: Run, monkeypatch: pytest.MonkeyPatch, state: Any, code: int) -> None:
        findings = [Finding("machine", "ok", "Linux"), Finding("torch", state, "found [1.0]", "pip install 'x[y]'")]
        monkeypatch.setattr(doctor, "examine", lambda: iter(findings))
        result = run("doctor")
        assert result.exit_code == code
        assert re.search(rf"│ {state} +│ torch +│ found \[1\.0\] +│ pip install 'x\[y\]' +│", result.stdout)

    def test_this_machine_is_in_order(self, run: Run) -> None:
        assert "run on openvino" in ok(run("doctor"))


def test_models_lists_all_of_them(run: Run) -> None:
    said = ok(run("models", "--size", "64x64", "--classes", "2"))
    assert re.findall(r"^│ (rf\w+) +│ [\d.]+ M +│ [\d.]+", said, re.MULTILINE) == list(MODELS)
    assert "GMAC at 64x64" in said


class TestUsage:
    def test_the_version(self, run: Run) -> None:
        assert __version__ in ok(run("--version"))

    def test_every_command_has_help_and_debug(self, run: Run) -> None:
        commands = ("build", "plan", "run", "inspect", "compare", "doctor", "models")
        assert set(commands) <= set(cli.main.commands)
        for name, command in cli.main.commands.items():
            for words in [(name, inner) for inner in getattr(command, "commands", ())] or [(name,)]:
                assert "--debug" in ok(run(*words, "--help"))
        assert "--explain" in ok(run("--help", command=cli.build_engine))

    @pytest.mark.parametrize(
        "words",
        [
            ["walk"],
            ["run", "a", "b"],
            ["build", "--size", "large"],
            ["build", "--precision", "int4"],
            ["build", "--workspace-mib", "1"],
            ["run", "a", "b", "--out", "c", "--opacity", "2"],
            ["models", "--classes", "0"],
        ],
    )
    def test_words_that_are_no_command_are_refused_with_the_usage(self, run: Run, words: list[str]) -> None:
        result = run(*words)
        assert result.exit_code == 2
        assert result.stderr.startswith("Usage: ")
        assert "Error: " in result.stderr

    def test_an_error_that_nobody_expected_is_not_hidden(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail() -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(doctor, "examine", fail)
        assert isinstance(run("doctor").exception, ZeroDivisionError)

    def test_ctrl_c_is_told(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt() -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(doctor, "examine", interrupt)
        result = run("doctor")
        assert result.exit_code == 130
        assert result.stderr == "interrupted; nothing was left half-written\n"


def python(code: str, *words: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """Python of its own, the package importable, warnings as errors."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-W", "error", "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, **more)


MAIN = "from refinenet_edge.cli import main; main()"
BLOCKED = "import sys; sys.modules.update(dict.fromkeys({names!r})); " + MAIN


def without(*names: str) -> str:
    """The command where some packages are not installed."""
    return BLOCKED.format(names=names)


EXTRA = "tomllib is not installed: pip install 'refinenet-edge[export]'"
EXPORT = ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors")


class TestAnotherProcess:
    def test_the_command_itself_is_light(self) -> None:
        code = (
            "import sys, refinenet_edge.cli\n"
            "heavy = {'torch', 'onnx', 'onnx_ir', 'onnxscript', 'onnxruntime', 'openvino', 'tensorrt', 'tensorrt_rtx', "
            "'cv2', 'safetensors', 'cuda'}\n"
            "print(*heavy & set(sys.modules))"
        )
        done = python(code)
        assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr

    def test_run_needs_nothing_that_exports(self, mobile_bundle: Path, photos: Path, tmp_path: Path) -> None:
        code = without(*EXPORT, "onnxruntime")
        done = python(code, "run", mobile_bundle, photos, "--out", tmp_path / "out")
        assert (done.returncode, done.stderr) == (0, "")
        assert len(list((tmp_path / "out").iterdir())) == 4

    def test_plan_inspect_and_compare_need_nothing_that_exports(self, bundle: Path, photos: Path) -> None:
        for words in (("plan", bundle, "--backend", "tensorrt-rtx"), ("inspect", bundle)):
            done = python(without(*EXPORT, "onnxruntime", "openvino"), *words)
            assert (done.returncode, done.stderr) == (0, ""), done.stderr
        backends = ("--backend", "openvino", "--second-backend", "onnxruntime")
        done = python(without(*EXPORT), "compare", bundle, bundle, photos, *backends)
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.parametrize("missing", ["torch", "onnx_ir"])
    def test_build_says_what_is_missing(self, tmp_path: Path, missing: str) -> None:
        done = python(without(missing), "build", "--model", "rf_lw_mbv2", "-o", tmp_path / "b")
        said = f"error: {missing} is not installed: pip install 'refinenet-edge[export]'\n"
        assert (done.returncode, done.stderr) == (3, said)

    def test_only_a_recipe_needs_toml(self, tmp_path: Path) -> None:
        # tomllib came with Python 3.11; JetPack 6 has 3.10, and no tomli
        (tmp_path / "pets.toml").write_text("")
        for words, said in (
            (("inspect", tmp_path), "has no manifest.json"),
            (("build", tmp_path / "pets.toml"), EXTRA),
        ):
            done = python(without("tomllib"), *words)
            assert done.returncode == (3 if said == EXTRA else 2)
            assert said in done.stderr

    def test_doctor_works_where_almost_nothing_does(self) -> None:
        done = python(without(*EXPORT, "onnxruntime", "openvino", "tensorrt_rtx"), "doctor")
        assert done.returncode == 1
        assert "no backend works" in done.stdout
        assert done.stderr == ""

    def test_debug_shows_the_trace_of_an_error(self, tmp_path: Path) -> None:
        plain = python(MAIN, "inspect", tmp_path / "none.plan")
        assert (plain.returncode, plain.stderr.count("\n")) == (2, 1)
        done = python(MAIN, "inspect", tmp_path / "none.plan", "--debug")
        assert done.returncode != 0
        assert "Traceback (most recent call last)" in done.stderr
        assert "BundleError" in done.stderr

    def test_debug_shows_the_log(self, bundle: Path) -> None:
        done = python(MAIN, "plan", bundle, "--backend", "tensorrt-rtx", "--debug")
        assert done.returncode == 0
        assert re.search(r"^(DEBUG|INFO): tensorrt_rtx: ", done.stderr, re.MULTILINE)

    def test_the_module_is_the_command(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "refinenet_edge.cli", "--version"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        )
        assert __version__ in done.stdout
