"""A recipe is looked up and checked as a whole before any work: no network is loaded here."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from refinenet_edge.build.quantise import Quantisation
from refinenet_edge.build.resolve import resolve
from refinenet_edge.errors import BuildError, CalibrationError, InputError, MissingExtra, RefineNetEdgeError
from refinenet_edge.evaluation import DataSet
from refinenet_edge.frames import Frames
from refinenet_edge.fusion import REWRITES
from refinenet_edge.labels import SCENES
from refinenet_edge.precision.placement import FP8, OPENVINO
from refinenet_edge.records import Profile, Recipe

MODULE = importlib.import_module("refinenet_edge.build.resolve")  # the package has its function
NAMES = ("tensorrt", "tensorrt-rtx", "openvino", "onnxruntime")


def recipe(**options: Any) -> Recipe:
    """Of a file that nobody looks for: what is in it is for the stage that loads it."""
    return Recipe(**({"output": "none/bundle", "onnx": "theirs.onnx", "backend": "openvino"} | options))


def works(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(MODULE, "available", lambda: {name: "" if name in names else "absent" for name in NAMES})


def judged_on(how: Quantisation) -> str:
    assert how.judge is not None
    return how.judge.name if isinstance(how.judge, DataSet) else how.judge.source


@pytest.mark.parametrize("backend", ["tensorrt-rtx", "openvino", "onnxruntime"])
def test_what_calibrate_prints_of_a_float_bundle_is_taken(backend: str) -> None:
    printed = recipe(backend=backend).in_precision("int8", "none/int8", "scenes:2:3")
    assert resolve(printed).typing.precision == "int8"


class TestWhatTheStagesAreGiven:
    def test_the_defaults(self, monkeypatch: pytest.MonkeyPatch) -> None:
        works(monkeypatch, "openvino")
        resolved = resolve(recipe())
        assert (resolved.rewrites, resolved.quantisation, resolved.output) == (REWRITES, None, Path("none/bundle"))
        typing = resolved.typing
        assert (typing.precision, typing.backend, typing.timed_against) == ("fp32", "openvino", None)
        network = resolved.network
        assert (network.recipe, network.checkpoint, network.labels) == (recipe(), None, None)

    def test_shipped_weights_bring_their_labels(self) -> None:
        network = resolve(recipe(onnx=None, checkpoint="scenes")).network
        assert network.checkpoint is not None and network.checkpoint.is_file()
        assert network.labels == SCENES

    def test_rewrites_that_are_left_out(self) -> None:
        left = resolve(recipe(without=("fold_batch_norm",))).rewrites
        assert [rewrite.name for rewrite in REWRITES if rewrite not in left] == ["fold_batch_norm"]

    def test_int8_is_timed_where_its_backend_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        works(monkeypatch, "openvino")
        int8 = recipe(precision="int8", calib="scenes:2:3")
        resolved = resolve(int8)
        assert resolved.quantisation is not None
        assert (resolved.quantisation.placement, resolved.quantisation.judge) == (OPENVINO, None)
        assert resolved.typing.timed_against == "fp32"
        assert resolve(recipe(precision="int8", calib="scenes:2:3", dynamic=True)).typing.timed_against is None
        works(monkeypatch, "onnxruntime")
        assert resolve(int8).typing.timed_against is None

    def test_fp8_has_its_own_placement(self) -> None:
        pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
        resolved = resolve(recipe(precision="fp8", calib="scenes:2:3", backend="tensorrt-rtx", force=True))
        assert resolved.quantisation is not None and resolved.quantisation.placement == FP8

    def test_a_plan_of_any_size(self) -> None:
        options = resolve(recipe(dynamic=True, size=(64, 96), workspace_mib=16)).engine
        assert (options.profile, options.workspace_bytes) == (Profile((32, 32), (64, 96), (128, 192)), 16 << 20)

    @pytest.mark.parametrize("budget", [{"max_miou_drop": 0.3}, {"min_agreement": 99.0}])
    @pytest.mark.parametrize(
        ("calib", "judge", "name"),
        [
            ("scenes", None, "scenes:2:64"),
            ("scenes:7", None, "scenes:7:64"),
            ("scenes", "scenes", "scenes:1000003:200"),
            ("scenes", "scenes:1000003:4", "scenes:1000003:4"),
            ("scenes:7:3", "scenes:7:2", "scenes:7:2"),
        ],
    )
    def test_both_budgets_are_judged_on_the_same_frames(
        self, budget: dict[str, Any], calib: str, judge: str | None, name: str
    ) -> None:
        how = resolve(recipe(precision="int8", calib=calib, judge=judge, **budget)).quantisation
        assert how is not None and judged_on(how) == name

    @pytest.mark.parametrize("judge", [None, "scenes:7:2"])
    def test_the_scenes_that_models_are_judged_on_are_not_calibrated_on(self, judge: str | None) -> None:
        budgeted = recipe(precision="int8", calib="scenes:1000003:4", min_agreement=99.0, judge=judge)
        with pytest.raises(InputError, match="calibrate on others"):
            resolve(budgeted)

    @pytest.mark.parametrize(
        ("options", "kind", "name", "allowed"),
        [
            ({"max_miou_drop": 0.3}, DataSet, "scenes:2:3", 0.3),
            ({"min_agreement": 99.0}, Frames, "scenes:2:3", 1.0),
            ({"min_agreement": 99.0, "judge": "scenes:7:2"}, Frames, "scenes:7:2", 1.0),
        ],
    )
    def test_a_budget(
        self, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], kind: type, name: str, allowed: float
    ) -> None:
        works(monkeypatch, "openvino")
        budgeted = recipe(precision="int8", calib="scenes:2:3", **options)
        how = resolve(budgeted).quantisation
        assert how is not None
        assert (type(how.judge), judged_on(how), how.allowed, how.judged_by) == (kind, name, allowed, "openvino")
        works(monkeypatch, "onnxruntime")
        how = resolve(budgeted).quantisation
        assert how is not None and how.judged_by == "onnxruntime"


class TestAuto:
    @pytest.mark.parametrize(
        ("names", "chosen"), [(("openvino", "onnxruntime"), "openvino"), (("onnxruntime",), "onnxruntime")]
    )
    def test_the_first_backend_that_works_is_taken(
        self, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], chosen: str
    ) -> None:
        works(monkeypatch, *names)
        assert resolve(recipe(backend="auto")).typing.backend == chosen

    def test_a_gpu_is_taken_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        works(monkeypatch, "tensorrt", "openvino")
        monkeypatch.setattr(MODULE, "check_options", lambda *_: None)
        assert resolve(recipe(backend="auto")).typing.backend == "tensorrt"

    def test_without_any_the_way_to_one_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        works(monkeypatch)
        with pytest.raises(MissingExtra, match=r"no backend works here: pip install 'refinenet-edge\[cpu\]'"):
            resolve(recipe(backend="auto"))


class TestRefused:
    """All of it before any work: the ONNX file that is named is not there."""

    @pytest.mark.parametrize(
        ("options", "error", "said"),
        [
            ({"precision": "int4"}, InputError, "no precision 'int4'; there are fp32, fp16, int8, fp8"),
            ({"without": ("none",)}, InputError, "no rewrite none; there are fold_constants"),
            ({"labels": "none.txt"}, InputError, "no label set or file named 'none.txt'"),
            ({"backend": "tensorrt"}, MissingExtra, "tensorrt is not installed"),
            ({"calib": "scenes"}, InputError, "--calib is for --precision int8 or fp8, this is fp32"),
            ({"min_agreement": 99.0}, InputError, "an accuracy budget is for --precision int8"),
            ({"precision": "int8", "onnx": None, "model": "rf50"}, InputError, "int8 needs calibration: give --calib"),
            ({"precision": "int8", "calib": "none.ranges.json"}, CalibrationError, "none.ranges.json cannot be used"),
            ({"precision": "int8", "calib": "none"}, InputError, "none"),
            (
                {"precision": "int8", "calib": "scenes", "min_agreement": 99.0, "judge": "none"},
                InputError,
                "none",
            ),
            (
                {"precision": "int8", "calib": "scenes", "max_miou_drop": 1.0, "judge": "none"},
                InputError,
                "no data set at none",
            ),
            (
                {"precision": "int8", "calib": "scenes_photos", "max_miou_drop": 1.0},
                InputError,
                "points of mIoU need labelled samples",
            ),
            ({"precision": "int8", "min_agreement": 99.0, "judge": "scenes:7:2"}, InputError, "quantised already"),
            ({"precision": "int8", "calib": "scenes", "backend": "tensorrt-rtx"}, InputError, "or with --force"),
            ({"precision": "fp8", "calib": "scenes"}, InputError, "openvino has no FP8"),
            ({"target": ("sm_89",), "timing_cache": "t"}, InputError, "openvino has no plan: leave --target, --timing"),
            ({"precision": "fp8", "calib": "scenes", "backend": "tensorrt-rtx"}, InputError, "or with --force"),
            (
                {
                    "precision": "fp8",
                    "calib": "scenes",
                    "backend": "tensorrt-rtx",
                    "force": True,
                    "target": ("sm_89", "sm_86"),
                },
                InputError,
                "sm_86 has no FP8",
            ),
        ],
    )
    def test_what_would_only_fail(self, options: dict[str, Any], error: type[RefineNetEdgeError], said: str) -> None:
        with pytest.raises(error, match=said):
            resolve(recipe(**options))

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"target": ("sm_1",)}, "no target 'sm_1'"),
            ({"version_compatible": True}, "TensorRT-RTX has no version"),
            ({"workspace_mib": 1}, "too small: at least 16 MiB"),
            ({"precision": "fp8", "calib": "scenes", "force": True, "target": ("sm_x",)}, "no target 'sm_x'"),
        ],
    )
    def test_what_the_builder_would_refuse(self, options: dict[str, Any], said: str) -> None:
        pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
        with pytest.raises(BuildError, match=said):
            resolve(recipe(backend="tensorrt-rtx", **options))

    def test_an_output_that_is_no_bundle(self, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("mine")
        with pytest.raises(BuildError, match="is not a bundle"):
            resolve(recipe(output=str(tmp_path)))
