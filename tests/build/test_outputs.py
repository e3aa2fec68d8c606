"""What other tools are given: plain ends, labels or logits at the image's size, and bundles without a plan."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

from refinenet_edge import cli
from refinenet_edge.build import build
from refinenet_edge.bundle import MODEL, open_bundle, write_bundle
from refinenet_edge.errors import BundleError, GraphError, InputError
from refinenet_edge.records import Recipe
from refinenet_edge.runtime import Segmenter, open_session
from refinenet_edge.runtime.frame import prepare
from tests.conftest import onnx_model, weights

SIZE = (48, 64)
FRAME = np.random.default_rng(4).integers(0, 256, (*SIZE, 3), np.uint8)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A network of five classes at a quarter of the size."""
    path = tmp_path / "theirs.onnx"
    kernels = {"u": weights(16, 3, 3, 3), "v": weights(16, 16, 3, 3), "w": weights(5, 16, 1, 1)}
    half = "Conv <strides = [2,2], pads = [1,1,1,1]>"
    body = f"a = {half} (x, u) b = Relu(a) c = {half} (b, v) d = Relu(c) y = Conv(d, w)"
    path.write_bytes(onnx_model(body, "float[1,3,H,W] x", "float[1,5,h,w] y", **kernels).SerializeToString())
    return path


def recipe(theirs: Path, **options: Any) -> Recipe:
    named = {"output": str(theirs.parent / "b"), "onnx": str(theirs), "size": SIZE, "preprocess": "imagenet"}
    return Recipe(**(named | {"backend": "onnxruntime"} | options))


def run(folder: Path, frame: np.ndarray = FRAME) -> np.ndarray:
    """What ONNX Runtime, told nothing by us, makes of the graph in a bundle."""
    onnx.checker.check_model(folder / MODEL, full_check=True)
    session = onnxruntime.InferenceSession(folder / MODEL, providers=["CPUExecutionProvider"])
    image = prepare(frame, open_bundle(folder).manifest.frame)
    found: np.ndarray = session.run(None, {"image": image})[0]
    return found


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line of a table is broken."""
    monkeypatch.setattr("refinenet_edge.cli.screen.out.width", 400)


def inspected(folder: Path) -> str:
    return " ".join(CliRunner().invoke(cli.main, ["inspect", str(folder)]).output.split())


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("ways", [{"upsample": "cubic"}, {"align_corners": True}, {}])
class TestLabels:
    def test_they_are_the_heads(self, theirs: Path, backend: str, ways: dict[str, Any]) -> None:
        built = build(recipe(theirs, backend=backend, gives="labels", **ways))
        (output,) = built.manifest.outputs
        assert (output.name, output.dtype, output.shape) == ("labels", "uint8", (1, *SIZE))
        assert [p.label_agreement > 0.999 for p in built.manifest.parity if p.stage == "labels"] == [True, True]
        with Segmenter(build(recipe(theirs, backend=backend, output=str(theirs.parent / "c"), **ways)).path) as usual:
            expected = usual.segment(FRAME).labels
        assert len(np.unique(expected)) > 1
        assert (run(built.path)[0] == expected).mean() > 0.999

    def test_the_runtime_takes_them(self, theirs: Path, backend: str, ways: dict[str, Any]) -> None:
        built = build(recipe(theirs, backend=backend, gives="labels", **ways))
        large = np.repeat(np.repeat(FRAME, 2, 0), 3, 1)
        with Segmenter(built.path) as segmenter:
            assert (segmenter.segment(FRAME).labels == run(built.path)[0]).mean() > 0.999
            labels = segmenter.segment(large).labels
            assert labels.shape == (96, 192)
            assert np.array_equal(labels, np.repeat(np.repeat(labels[::2, 1::3], 2, 0), 3, 1))
            into = segmenter.new_labels(96, 192)
            assert segmenter.segment(large, into).labels is into and np.array_equal(into, labels)
            assert list(segmenter.staged(FRAME)[1]) == ["prepare", "engine", "head"]


class TestRefused:
    @pytest.fixture
    def bundle(self, theirs: Path) -> Path:
        return build(recipe(theirs, gives="labels")).path

    def test_there_are_no_logits_in_labels(self, bundle: Path) -> None:
        with (
            Segmenter(bundle) as segmenter,
            pytest.raises(InputError, match="gives labels, no logits: build it without"),
        ):
            segmenter.logits(FRAME)
        with pytest.raises(InputError, match="gives labels, no logits: how sure they are"):
            Segmenter(bundle, confidence=True)

    def test_labels_that_no_class_has_are_refused(self, bundle: Path) -> None:
        opened = open_bundle(bundle)
        fewer = dataclasses.replace(opened.manifest.labels, names=("one",), palette=((0, 0, 0),))
        write_bundle(bundle, dataclasses.replace(opened.manifest, labels=fewer), {MODEL: opened.read_graph()})
        with (
            Segmenter(bundle) as segmenter,
            pytest.raises(BundleError, match=r"labels up to \d, expected one map of 1 class"),
        ):
            segmenter.segment(FRAME)

    @pytest.mark.parametrize("gives", ["labels", "full-logits"])
    def test_free_sides_have_no_size_to_go_to(self, theirs: Path, gives: str) -> None:
        with pytest.raises(InputError, match=f"--gives {gives} is for networks of one size"):
            recipe(theirs, gives=gives, dynamic=True)

    def test_they_are_not_calibrated_on(self, bundle: Path, tmp_path: Path) -> None:
        command = ["calibrate", str(bundle), "--frames", "scenes:0:1", "--out", str(tmp_path / "r.json")]
        said = CliRunner().invoke(cli.main, command)
        assert said.exit_code != 0 and "gives labels: build it without --gives" in " ".join(said.output.split())


@pytest.mark.parametrize("letterbox", [False, True])
def test_logits_at_the_images_size_are_logits_as_any(theirs: Path, letterbox: bool) -> None:
    ways: dict[str, Any] = {"resize": "letterbox"} if letterbox else {}
    built = build(recipe(theirs, gives="full-logits", **ways))
    assert built.manifest.outputs[0].shape == (1, 5, *SIZE)
    frame = FRAME[:20].copy()
    with (
        Segmenter(built.path) as segmenter,
        Segmenter(build(recipe(theirs, output=str(theirs.parent / "c"), **ways)).path) as usual,
    ):
        assert (segmenter.segment(FRAME).labels == usual.segment(FRAME).labels).mean() > 0.999
        assert segmenter.segment(frame).labels.shape == (20, 64)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
class TestPlainEnds:
    """Of TensorRT-RTX, whose plans are built without a GPU."""

    @pytest.mark.parametrize("gives", ["logits", "labels"])
    def test_they_are_as_in_the_onnx(self, theirs: Path, precision: str, gives: str) -> None:
        more = {"calib": "scenes:0:2", "force": True} if precision == "int8" else {}
        built = build(recipe(theirs, backend="tensorrt-rtx", precision=precision, io="plain", gives=gives, **more))
        (image,), (output,) = built.manifest.inputs, built.manifest.outputs
        assert (image.dtype, image.shape) == ("float32", (1, 3, *SIZE))
        expected = ("float32", (1, 5, 12, 16)) if gives == "logits" else ("uint8", (1, *SIZE))
        assert (output.dtype, output.shape) == expected
        with Segmenter(build(recipe(theirs, output=str(theirs.parent / "c"))).path) as usual:
            labels = usual.segment(FRAME).labels
            logits = usual.logits(FRAME)
        found = run(built.path)
        share = (found[0] == labels).mean() if gives == "labels" else (found.argmax(1) == logits.argmax(1)).mean()
        assert share > (0.99 if precision == "fp16" else 0.9)

    def test_inspect_says_how_they_lie(self, theirs: Path, precision: str) -> None:
        options: dict[str, Any] = {"calib": "scenes:0:2", "force": True} if precision == "int8" else {}
        said = {}
        for io in ("padded", "plain"):
            built = build(recipe(theirs, backend="tensorrt-rtx", precision=precision, plan=False, io=io, **options))
            said[io] = inspected(built.path)
        assert "image float16 1x8x48x64, channels last and padded with zeros (--io plain" in said["padded"]
        assert "image float32 1x3x48x64 " in said["plain"] and "channels last" not in said["plain"]


class TestNoPlan:
    def test_the_graph_is_typed_for_a_board_that_is_not_here(self, theirs: Path) -> None:
        built = build(recipe(theirs, backend="tensorrt", precision="fp16", plan=False))
        assert sorted(path.name for path in built.path.iterdir()) == ["manifest.json", MODEL]
        manifest = open_bundle(built.path).manifest
        assert (manifest.backend, manifest.engine, manifest.precision) == ("tensorrt", None, "fp16")
        assert manifest.command.endswith("--no-plan")
        assert f"none yet: refinenet-edge plan {built.path} --backend tensorrt" in inspected(built.path)

    def test_the_board_makes_it(self, theirs: Path) -> None:
        built = build(recipe(theirs, backend="tensorrt-rtx", precision="fp16", plan=False))
        said = CliRunner().invoke(cli.main, ["plan", str(built.path), "--backend", "tensorrt-rtx"])
        assert said.exit_code == 0, said.output
        manifest = open_bundle(built.path).manifest
        assert manifest.engine is not None and "model.plan" in manifest.files
        assert "--no-plan" not in manifest.command

    def test_here_it_runs_on_the_cpu(self, theirs: Path) -> None:
        built = build(recipe(theirs, backend="tensorrt", precision="fp16", plan=False))
        with Segmenter(built.path) as segmenter:
            assert segmenter.session.name == "openvino"
            assert segmenter.segment(FRAME).labels.shape == SIZE

    def test_what_is_to_run_it_says_how_to_make_it(self, theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        built = build(recipe(theirs, backend="tensorrt", precision="fp16", plan=False))
        monkeypatch.setattr("refinenet_edge.runtime.backends.choose", lambda bundle, backend: "tensorrt")
        with pytest.raises(BundleError, match=rf"no plan yet: .*refinenet-edge plan {built.path} --backend tensorrt"):
            open_session(open_bundle(built.path))

    def test_recipes_for_orin_are_built_here(self, tmp_path: Path) -> None:
        source = Path(__file__).parents[2] / "engines" / "scenes_orin_fp16.toml"
        path = shutil.copy(source, tmp_path / "scenes.toml")
        said = CliRunner().invoke(cli.main, ["build", str(path), "--no-plan", "--size", "64x96"])
        assert said.exit_code == 0, said.output
        assert open_bundle(tmp_path / "scenes").manifest.backend == "tensorrt"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"backend": "openvino"}, "openvino has no plan: leave --no-plan out"),
            ({"backend": "tensorrt-rtx", "target": ("sm_89",)}, "--target are of a plan"),
            ({"backend": "tensorrt", "version_compatible": True}, "--version-compatible are of a plan"),
        ],
    )
    def test_what_is_of_a_plan_does_not_go_with_it(self, theirs: Path, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            build(recipe(theirs, plan=False, **options))


def test_what_the_graph_ends_with_is_held_to_the_head(theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "refinenet_edge.build.proof.upsample_argmax", lambda logits, size, how: np.zeros(size, np.uint8)
    )
    with pytest.raises(GraphError, match=r"the labels in the graph are not the head's: \d"):
        build(recipe(theirs, gives="labels"))
