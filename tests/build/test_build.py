"""All the stages in a row: a recipe becomes a bundle, or nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from refinenet_edge import __version__, bench
from refinenet_edge.build import build, parity
from refinenet_edge.bundle import MODEL, PLAN, open_bundle
from refinenet_edge.errors import (
    BuildError,
    CheckpointError,
    GraphError,
    InputError,
    MissingExtra,
    RefineNetEdgeError,
)
from refinenet_edge.frames.images import read_image
from refinenet_edge.fusion import REWRITES
from refinenet_edge.fusion.rewrite import GraphRewrite
from refinenet_edge.labels import PERSON, numbered
from refinenet_edge.model import load_checkpoint, save_checkpoint
from refinenet_edge.records import Bilinear, Cubic, FrameSpec, Manifest, Profile, Recipe, Speed, TensorSpec
from refinenet_edge.runtime import Segmenter, available
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.tensorrt.engine import read_header
from tests.conftest import SIZE, network, onnx_model, weights

RESOLVE = importlib.import_module("refinenet_edge.build.resolve")  # the package has its function
FRAMES = ["random", "astronaut.jpg"]
BODY = "a = Conv <strides = [4,4], pads = [1,1,1,1]> (x, w) n = BatchNormalization(a, s, t, t, s) y = Relu(n)"
Theirs = Callable[..., Recipe]


@pytest.fixture
def theirs(tmp_path: Path) -> Theirs:
    """theirs(options): the recipe of somebody's ONNX model of 5 classes at a quarter of the size, built in no time."""

    def recipe(
        body: str = BODY,
        inputs: str = "float[1,3,H,W] x",
        constants: dict[str, Any] | None = None,
        **options: Any,
    ) -> Recipe:
        norm = {"w": weights(5, 3, 4, 4), "s": np.full(5, 2, np.float32), "t": weights(5)}
        model = onnx_model(body, inputs, "float[1,5,h,w] y", **(norm if constants is None else constants))
        (tmp_path / "theirs.onnx").write_bytes(model.SerializeToString())
        output = str(tmp_path / "made" / "bundle")
        return Recipe(
            **({"output": output, "onnx": str(tmp_path / "theirs.onnx"), "size": SIZE, "backend": "openvino"} | options)
        )

    return recipe


def manifest_of(folder: Path) -> Manifest:
    return open_bundle(folder).manifest


def logits_of(folder: Path, frame: Any, backend: str = "openvino") -> Any:
    with Segmenter(folder, backend) as segmenter:
        return segmenter.logits(frame).copy()


def torch_logits(module: Any, frame: Any, size: tuple[int, int] | None) -> Any:
    with torch.no_grad():
        return module(torch.from_numpy(prepare(frame, FrameSpec(size)))).numpy()


def assert_near(found: Any, expected: Any, bound: float) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= bound * np.abs(expected).max()


class TestANetworkWithRandomWeights:
    def test_its_manifest_says_everything(self, mobile_bundle: Path) -> None:
        manifest = manifest_of(mobile_bundle)
        assert (manifest.model, manifest.checkpoint, manifest.checkpoint_sha256) == ("rf_lw_mbv2", "random", None)
        assert (manifest.precision, manifest.backend, manifest.toolkit) == ("fp32", "openvino", __version__)
        assert manifest.inputs == (TensorSpec("image", "float32", (1, 3, 64, 96)),)
        assert manifest.outputs == (TensorSpec("logits", "float32", (1, 21, 16, 24)),)
        assert manifest.frame == FrameSpec(SIZE, upsample=Bilinear(align_corners=True))
        assert manifest.labels == numbered(21)
        assert manifest.engine is None
        assert set(manifest.rewrites) == {rewrite.name for rewrite in REWRITES}
        assert manifest.rewrites["fold_batch_norm"] == 52
        assert manifest.command == Recipe(str(mobile_bundle), "rf_lw_mbv2", size=SIZE, backend="openvino").command

    def test_its_parity_is_proven_on_two_frames_with_its_own_backend_too(self, mobile_bundle: Path) -> None:
        proof = manifest_of(mobile_bundle).parity
        stages = [("fused", "onnxruntime"), ("fp32", "openvino")]
        assert [(p.stage, p.backend, p.frame) for p in proof] == [(*s, frame) for s in stages for frame in FRAMES]
        assert all(p.relative_error <= parity.BOUND and p.label_agreement > 0.999 for p in proof)

    def test_the_bundle_is_whole_and_alone(self, mobile_bundle: Path) -> None:
        assert list(manifest_of(mobile_bundle).files) == [MODEL]
        assert sorted(path.name for path in mobile_bundle.iterdir()) == ["manifest.json", MODEL]
        assert [path.name for path in mobile_bundle.parent.iterdir()] == [mobile_bundle.name]

    def test_it_computes_what_torch_does(self, mobile_bundle: Path, photos: Path) -> None:
        frame = read_image(photos / "a.png")
        assert_near(logits_of(mobile_bundle, frame), torch_logits(network("rf_lw_mbv2"), frame, SIZE), 1e-4)

    def test_a_second_build_gives_the_same_bytes_and_draws_nothing(self, mobile_bundle: Path, tmp_path: Path) -> None:
        torch.manual_seed(1234)
        before = torch.random.get_rng_state(), repr(np.random.get_state())  # noqa: NPY002 - the caller's may be this one
        again = build(Recipe(str(tmp_path / "again"), "rf_lw_mbv2", size=SIZE, backend="openvino"))
        assert torch.equal(torch.random.get_rng_state(), before[0])
        assert repr(np.random.get_state()) == before[1]  # noqa: NPY002
        assert (again.path / MODEL).read_bytes() == (mobile_bundle / MODEL).read_bytes()
        assert again.manifest.files == manifest_of(mobile_bundle).files


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of 7 classes."""
    path = tmp_path_factory.mktemp("weights") / "person.safetensors"
    save_checkpoint(network("rf_lw_mbv2", 7, seed=3, crp="conv_pool", align_corners=False), path)
    return path


class TestACheckpoint:
    def test_it_is_built_in_float16(self, checkpoint: Path, tmp_path: Path, photos: Path) -> None:
        folder = tmp_path / "person"
        recipe = Recipe(
            str(folder), checkpoint=str(checkpoint), size=SIZE, precision="fp16", backend="onnxruntime", labels="person"
        )
        manifest = build(recipe).manifest
        assert manifest == manifest_of(folder)
        assert (manifest.model, manifest.checkpoint) == ("rf_lw_mbv2", "person.safetensors")
        assert manifest.checkpoint_sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        assert (manifest.labels, manifest.precision) == (PERSON, "fp16")
        assert manifest.frame.upsample == Bilinear(align_corners=False)
        assert (manifest.inputs[0].dtype, manifest.outputs[0].dtype) == ("float16", "float16")
        assert [(p.stage, p.frame) for p in manifest.parity] == [(s, f) for s in ("fused", "fp16") for f in FRAMES]
        assert all(p.relative_error < 2e-2 for p in manifest.parity)
        frame = read_image(photos / "a.png")
        expected = torch_logits(load_checkpoint(checkpoint), frame, SIZE)
        assert_near(logits_of(folder, frame, "onnxruntime"), expected, 2e-2)

    def test_another_model_than_the_one_asked_for_is_refused(self, checkpoint: Path, tmp_path: Path) -> None:
        recipe = Recipe(str(tmp_path / "b"), "rf_lw50", str(checkpoint), backend="openvino")
        with pytest.raises(
            InputError, match=r"person\.safetensors is a rf_lw_mbv2, not rf_lw50: use --model rf_lw_mbv2"
        ):
            build(recipe)
        assert not (tmp_path / "b").exists()

    def test_a_missing_one_is_refused(self, tmp_path: Path) -> None:
        recipe = Recipe(str(tmp_path / "b"), checkpoint=str(tmp_path / "none.pth"), backend="openvino")
        with pytest.raises(CheckpointError, match=r"none\.pth"):
            build(recipe)


class TestFreeSides:
    def test_the_manifest_has_the_range(self, dynamic_bundle: Path) -> None:
        manifest = manifest_of(dynamic_bundle)
        assert manifest.frame.size is None
        assert manifest.inputs == (TensorSpec("image", "float32", (1, 3, "height", "width")),)
        assert manifest.outputs == (TensorSpec("logits", "float32", (1, 21, "h", "w")),)
        assert manifest.engine is not None
        assert manifest.engine.profile == Profile((32, 32), SIZE, (128, 192))
        assert read_header(dynamic_bundle / PLAN).flavour == "tensorrt-rtx"

    def test_frames_of_several_sizes_are_segmented(self, dynamic_bundle: Path, photos: Path) -> None:
        with Segmenter(dynamic_bundle, "openvino") as segmenter:
            for name in ("a.png", "b.png"):
                frame = read_image(photos / name)
                assert segmenter.segment(frame).labels.shape == frame.shape[:2]
                found = segmenter.logits(frame).copy()
                assert_near(found, torch_logits(network("rf_lw_mbv2"), frame, None), 1e-4)

    @pytest.mark.parametrize("size", [(32, 32), (33, 57), (127, 191), (128, 192)])
    def test_every_size_of_the_range_computes_what_torch_does(
        self, dynamic_bundle: Path, size: tuple[int, int]
    ) -> None:
        frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        found = logits_of(dynamic_bundle, frame, "onnxruntime")
        assert_near(found, torch_logits(network("rf_lw_mbv2"), frame, None), 1e-4)

    @pytest.mark.parametrize("size", [(31, 64), (64, 193)])
    def test_a_frame_outside_the_range_is_refused(self, dynamic_bundle: Path, size: tuple[int, int]) -> None:
        frame = np.zeros((*size, 3), np.uint8)
        with pytest.raises(InputError, match="this engine takes 32x32 to 128x192"):
            logits_of(dynamic_bundle, frame)

    def test_somebodys_fixed_model_is_refused(self, theirs: Theirs) -> None:
        with pytest.raises(GraphError, match=r"theirs\.onnx is fixed to 64x96: leave --dynamic out"):
            build(theirs(inputs="float[1,3,64,96] x", dynamic=True))

    def test_somebodys_free_model_stays_free(self, theirs: Theirs) -> None:
        manifest = build(theirs(dynamic=True)).manifest
        assert (manifest.frame.size, manifest.inputs[0].shape) == (None, (1, 3, "H", "W"))


class TestSomebodysModel:
    def test_its_manifest_names_it(self, theirs: Theirs, tmp_path: Path) -> None:
        recipe = theirs()
        built = build(recipe)
        manifest = built.manifest
        digest = hashlib.sha256((tmp_path / "theirs.onnx").read_bytes()).hexdigest()
        assert (manifest.model, manifest.checkpoint, manifest.checkpoint_sha256) == ("theirs", "theirs.onnx", digest)
        assert manifest.inputs == (TensorSpec("image", "float32", (1, 3, 64, 96)),)
        assert manifest.outputs == (TensorSpec("logits", "float32", (1, 5, 16, 24)),)
        assert manifest.frame == FrameSpec(SIZE, upsample=Bilinear(align_corners=False))
        assert manifest.rewrites["fold_batch_norm"] == 1
        assert {firing.name: firing.fired for firing in built.firings} == manifest.rewrites
        assert built.path == Path(recipe.output)

    def test_it_is_segmented(self, theirs: Theirs, photos: Path) -> None:
        recipe = theirs()
        build(recipe)
        frame = read_image(photos / "a.png")
        feed = {"image": prepare(frame, FrameSpec(SIZE))}
        (expected,) = parity.logits(Path(recipe.onnx or "").read_bytes(), feed).values()
        assert_near(logits_of(Path(recipe.output), frame), expected, 1e-5)

    @pytest.mark.parametrize(
        ("option", "upsample"),
        [
            ({"align_corners": True}, Bilinear(align_corners=True)),
            ({"align_corners": False}, Bilinear(align_corners=False)),
            ({"upsample": "cubic"}, Cubic()),
        ],
    )
    def test_how_it_is_upsampled_is_asked_for(self, theirs: Theirs, option: Any, upsample: Any) -> None:
        assert build(theirs(**option)).manifest.frame.upsample == upsample

    def test_labels_come_from_a_file(self, theirs: Theirs, tmp_path: Path) -> None:
        (tmp_path / "pets.txt").write_text("cat\ndog\nbird\nfish\nground #ff0000\n")
        labels = build(theirs(labels=str(tmp_path / "pets.txt"))).manifest.labels
        assert labels.names == ("cat", "dog", "bird", "fish", "ground")

    def test_an_engine_is_built_of_it(self, theirs: Theirs) -> None:
        heard: list[str] = []
        phases: list[tuple[str, int, int]] = []
        recipe = theirs(backend="tensorrt-rtx", target=("sm_89", "sm_120"), precision="fp16", workspace_mib=64)
        built = build(recipe, heard.append, lambda *step: phases.append(step))
        engine = built.manifest.engine
        assert engine is not None
        assert (engine.flavour, engine.targets) == ("tensorrt-rtx", ("sm_89", "sm_120"))
        assert (engine.workspace_bytes, engine.profile) == (64 << 20, None)
        assert list(built.manifest.files) == [MODEL, PLAN]
        assert heard == [
            "load and trace the model",
            "fuse the graph",
            "hold the fused graph to what was handed in",
            "put fp16 into the graph",
            "hold fp16 to what was handed in, by onnxruntime",
            "build the tensorrt-rtx engine",
            "write the bundle",
        ]
        assert phases

    def test_two_builds_give_the_same_files(self, theirs: Theirs) -> None:
        recipe = theirs(backend="tensorrt-rtx", precision="fp16")
        assert build(recipe).manifest.files == build(recipe).manifest.files

    def test_a_bundle_is_replaced(self, theirs: Theirs) -> None:
        recipe = theirs()
        build(recipe)
        build(dataclasses.replace(recipe, precision="fp16"))
        assert manifest_of(Path(recipe.output)).precision == "fp16"
        assert [path.name for path in Path(recipe.output).parent.iterdir()] == ["bundle"]

    def test_the_command_in_the_manifest_is_the_recipe(self, theirs: Theirs) -> None:
        recipe = theirs(without=("fold_batch_norm",))
        assert build(recipe).manifest.command == recipe.command


class TestWithout:
    def test_a_rewrite_is_left_out(self, theirs: Theirs) -> None:
        recipe = theirs(without=("fold_batch_norm", "merge_siblings"))
        built = build(recipe)
        assert {"fold_batch_norm", "merge_siblings"}.isdisjoint(built.manifest.rewrites)
        graph = onnx.load(built.path / MODEL).graph
        assert [node.op_type for node in graph.node] == ["Conv", "BatchNormalization", "Relu"]

    def test_all_can_be_left_out_in_float16_too(self, theirs: Theirs) -> None:
        body = (
            "c = Constant <value = float[1] {2.0}> () i = Identity(x) m = Mul(i, c) y = Conv <strides = [4,4]> (m, w)"
        )
        names = tuple(rewrite.name for rewrite in REWRITES)
        recipe = theirs(body, constants={"w": weights(5, 3, 4, 4)}, without=names, precision="fp16")
        assert build(recipe).manifest.rewrites == {}

    def test_an_unknown_rewrite_is_refused_with_those_there_are(self, theirs: Theirs) -> None:
        with pytest.raises(
            InputError, match=r"no rewrite fuse_all, fuse_more; there are fold_constants, .*merge_siblings"
        ):
            build(theirs(without=("fuse_more", "merge_siblings", "fuse_all")))


CONV = "a = Conv <strides = [4,4]> (x, w) "
LARGE = {"w": weights(5, 3, 4, 4), "k": np.float32(6e4)}


class TestNothingIsWritten:
    @pytest.mark.parametrize(
        ("options", "error", "said"),
        [
            ({"labels": "voc"}, InputError, "the model has 5 classes, labels 'voc' has 21"),
            ({"labels": "none.txt"}, InputError, "no label set or file named 'none.txt'"),
            ({"without": ("none",)}, InputError, "no rewrite none"),
            ({"precision": "int4"}, InputError, "no precision 'int4'"),
            ({"size": (64, 64), "inputs": "float[1,3,64,96] x"}, GraphError, "is fixed to 64x96"),
            ({"backend": "tensorrt"}, MissingExtra, "tensorrt is not installed"),
            ({"backend": "tensorrt-rtx", "target": ("sm_1",)}, BuildError, "no target 'sm_1'"),
            ({"backend": "tensorrt-rtx", "version_compatible": True}, BuildError, "TensorRT-RTX has no version"),
            ({"backend": "tensorrt-rtx", "workspace_mib": 1}, BuildError, "too small: at least 16 MiB"),
            (
                {"body": CONV + "y = Mul(a, k)", "constants": LARGE | {"k": np.float32(1e6)}, "precision": "fp16"},
                GraphError,
                r"logits reaches .*e.07, float16 goes from 6e-05 to 65504: .* build with --precision fp32",
            ),
            (
                {"body": CONV + "y = Mul(a, k)", "constants": LARGE, "precision": "fp16"},
                GraphError,
                r"logits reaches .*e.06, float16 goes from 6e-05 to 65504: .* build with --precision fp32",
            ),
            (
                {"body": CONV + "y = Div(a, k)", "constants": LARGE | {"k": np.float32(0)}},
                GraphError,
                "the model's own logits are not finite on the random frame",
            ),
        ],
        ids=[
            "labels", "label file", "rewrite", "precision", "size", "library", "target", "flag", "workspace", "weight",
            "activation", "logits",
        ],
    )  # fmt: skip
    def test_when_a_stage_refuses(
        self, theirs: Theirs, tmp_path: Path, options: dict[str, Any], error: type[RefineNetEdgeError], said: str
    ) -> None:
        with pytest.raises(error, match=said):
            build(theirs(**options))
        assert [path.name for path in tmp_path.iterdir()] == ["theirs.onnx"]

    def test_when_a_rewrite_is_wrong(self, theirs: Theirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def negate(model: Any) -> int:
            model.graph[-1].op_type = "Neg"
            return 1

        monkeypatch.setattr(RESOLVE, "REWRITES", (*REWRITES, GraphRewrite("negate", negate)))
        with pytest.raises(GraphError, match=r"the rewrite negate changed the logits.*build with --without negate"):
            build(theirs())
        assert [path.name for path in tmp_path.iterdir()] == ["theirs.onnx"]
        assert build(theirs(without=("negate",))).manifest.rewrites.keys() == {r.name for r in REWRITES}

    def test_when_ctrl_c_comes(self, theirs: Theirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(step: str) -> None:
            if step == "write the bundle":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build(theirs(), interrupt)
        assert [path.name for path in tmp_path.iterdir()] == ["theirs.onnx"]

    def test_over_what_is_no_bundle(self, theirs: Theirs) -> None:
        recipe = theirs()
        Path(recipe.output).mkdir(parents=True)
        (Path(recipe.output) / "mine.txt").write_text("mine")
        with pytest.raises(BuildError, match="is not a bundle"):
            build(recipe)
        assert [path.name for path in Path(recipe.output).iterdir()] == ["mine.txt"]

    def test_and_a_bundle_that_was_there_stays(self, theirs: Theirs) -> None:
        recipe = theirs()
        before = build(recipe).manifest
        with pytest.raises(InputError):
            build(dataclasses.replace(recipe, labels="voc"))
        assert manifest_of(Path(recipe.output)) == before


class TestQuantisedElsewhere:
    """An ONNX model that has Q/DQ already."""

    BODY = (
        "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Conv <strides = [4,4], pads = [1,1,1,1]> (d, w)"
    )

    def recipe(self, theirs: Theirs, zero: np.generic, **options: Any) -> Recipe:
        constants = {"s": np.float32(0.03), "z": zero, "w": weights(5, 3, 4, 4)}
        return theirs(self.BODY, constants=constants, **({"precision": "int8"} | options))

    def test_its_numbers_are_taken_as_they_are(self, theirs: Theirs) -> None:
        built = build(self.recipe(theirs, np.int8(0)))
        graph = onnx.load(built.path / MODEL).graph
        assert [node.op_type for node in graph.node] == ["QuantizeLinear", "DequantizeLinear", "Conv"]
        zero = next(tensor for tensor in graph.initializer if tensor.name == graph.node[0].input[2])
        assert int(numpy_helper.to_array(zero)) == 128  # the same numbers, as OpenVINO computes them
        assert all(p.relative_error < 1e-6 for p in built.manifest.parity if p.stage == "int8")
        assert built.manifest.speed is None  # there is no float network to time it against

    def test_what_onnx_runtime_quantised_runs(self, theirs: Theirs, tmp_path: Path) -> None:
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

        left = [{"x": weights(1, 3, *SIZE, seed=seed)} for seed in range(4)]

        class Frames(CalibrationDataReader):  # type: ignore[misc]
            def get_next(self) -> dict[str, np.ndarray] | None:
                return left.pop() if left else None

        source = theirs(inputs=f"float[1,3,{SIZE[0]},{SIZE[1]}] x")
        target = tmp_path / "quantised.onnx"
        symmetric = {"ActivationSymmetric": True, "QuantizeBias": False}
        quantize_static(
            source.onnx, target, Frames(), activation_type=QuantType.QInt8, per_channel=True, extra_options=symmetric
        )
        built = build(dataclasses.replace(source, onnx=str(target), precision="int8"))
        with Segmenter(built.path) as segmenter:
            assert segmenter.segment(np.zeros((*SIZE, 3), np.uint8)).labels.shape == SIZE

    def test_tensorrt_rtx_builds_symmetric_ones(self, theirs: Theirs) -> None:
        pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
        built = build(self.recipe(theirs, np.int8(0), backend="tensorrt-rtx", force=True))
        assert built.manifest.inputs[0].dtype == "float16"
        assert PLAN in built.manifest.files

    @pytest.mark.parametrize(
        ("zero", "options", "said"),
        [
            (np.int8(0), {"precision": "fp16"}, r"is quantised \(it has Q/DQ\): build it with --precision int8"),
            (np.int8(0), {"calib": "scenes"}, "quantised already"),
            (np.int8(0), {"min_agreement": 99.0, "judge": "scenes"}, "quantised already"),
            (np.uint8(128), {"backend": "tensorrt-rtx", "force": True}, r"zero points .*symmetric INT8 only"),
        ],
    )
    def test_what_does_not_fit_is_refused(
        self, theirs: Theirs, zero: np.generic, options: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(InputError, match=said):
            build(self.recipe(theirs, zero, **options))

    def test_a_float_model_still_needs_calibration(self, theirs: Theirs) -> None:
        with pytest.raises(InputError, match=r"theirs.onnx has no Q/DQ, and int8 needs calibration"):
            build(theirs(precision="int8"))


class TestSpeed:
    def test_the_manifest_says_how_much_faster_int8_is(self, theirs: Theirs) -> None:
        speed = build(theirs(precision="int8", calib="scenes:2:2")).manifest.speed
        assert speed is not None
        assert speed.than == "fp32"
        assert 0 < speed.low <= speed.times <= speed.high

    def test_a_network_that_int8_slows_down_is_named(
        self, theirs: Theirs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        runs = {"int8": [{"network": 2.0}] * 10, "fp32": [{"network": 1.0}] * 10}
        monkeypatch.setattr(bench, "take_turns", lambda *_, **__: bench.Timing(runs, "given"))
        assert build(theirs(precision="int8", calib="scenes:2:2")).manifest.speed == Speed("fp32", 0.5, 0.5, 0.5)
        said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert any("int8 is not faster than fp32 with openvino on this machine: 0.50" in line for line in said)

    def test_a_plan_that_cannot_run_here_has_none(self, theirs: Theirs) -> None:
        pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
        if not available()["tensorrt-rtx"]:
            pytest.skip("TensorRT-RTX runs here")
        wide = {"w": weights(16, 3, 4, 4), "v": weights(16, 16, 1, 1) / 4, "u": weights(5, 16, 1, 1)}
        body = "a = Conv <strides = [4,4]> (x, w) b = Relu(a) c = Conv(b, v) d = Relu(c) y = Conv(d, u)"
        recipe = theirs(body, constants=wide, precision="int8", calib="scenes:2:2", backend="tensorrt-rtx", force=True)
        assert build(recipe).manifest.speed is None
