"""The fewest layers go back to float, and what was damaged is among them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from refinenet_edge.build import build
from refinenet_edge.build.budget import FRAMES, SHOWN, Candidates, LostLabels, MiouDrop, fewest, spend
from refinenet_edge.bundle import open_bundle
from refinenet_edge.calibration import calibrate
from refinenet_edge.errors import CalibrationError, InputError
from refinenet_edge.evaluation import evaluate, open_dataset
from refinenet_edge.frames import Frames
from refinenet_edge.fusion import fuse
from refinenet_edge.graph import copy_of, to_bytes
from refinenet_edge.labels import SCENES, numbered
from refinenet_edge.model import load_checkpoint, locate
from refinenet_edge.precision.placement import FP8, OPENVINO
from refinenet_edge.precision.sensitivity import Ranking
from refinenet_edge.records import Budget, FrameSpec, Recipe, TensorSpec
from refinenet_edge.runtime import FakeSession, Segmenter
from refinenet_edge.runtime.processor import processor
from refinenet_edge.scenes import scene
from refinenet_edge.trace import trace
from tests.conftest import graph, operators, weights

SIZE = (64, 96)
SPEC = FrameSpec(SIZE)
DAMAGED = "refine2.crp.activation/Clip:0"


def frames(count: int) -> Frames:
    """Scenes of the network's own size."""
    return Frames("drawn", tuple(map(str, range(count))), lambda index: scene(5, index, SIZE)[0])


BODY = "[a] p = Conv<strides = [4,4]>(image, u) q = Relu(p) [b] r = Conv(q, v) s = Relu(r) [c] logits = Conv(s, w)"


@pytest.fixture(scope="module")
def small() -> Candidates:
    """Three convolutions to 5 classes."""
    constants = {"u": weights(16, 3, 4, 4), "v": weights(16, 16, 1, 1), "w": weights(5, 16, 1, 1)}
    model = graph(BODY, "float[1,3,64,96] image", "float[1,5,16,24] logits", **constants)
    ranges = calibrate(copy_of(model), SPEC, frames(4))
    return Candidates(model, ranges, OPENVINO, SPEC, numbered(5), "openvino")


@pytest.fixture(scope="module")
def shipped() -> Candidates:
    """The shipped network at 64x96, and the range of one tensor a hundredth of what it should be."""
    model = trace(load_checkpoint(locate("scenes")), SIZE)
    fuse(model)
    ranges = calibrate(copy_of(model), SPEC, frames(4))
    broken = replace(ranges.tensors[DAMAGED], amax=ranges.tensors[DAMAGED].amax / 100)
    damaged = replace(ranges, tensors={**ranges.tensors, DAMAGED: broken})
    return Candidates(model, damaged, OPENVINO, SPEC, SCENES, "openvino")


class TestFewest:
    """`harms` fall from a to h; a budget that needs some layers kept."""

    def found(self, needed: Collection[str]) -> tuple[list[str], list[tuple[str, ...]]]:
        harms = {name: float(8 - place) for place, name in enumerate("abcdefgh")}
        tried: list[tuple[str, ...]] = []

        def holds(kept: Sequence[str]) -> bool:
            tried.append(tuple(kept))
            return set(needed) <= set(kept)

        return fewest(Ranking(list(harms), lambda group: sum(harms[n] for n in group)), holds), tried

    def test_none_where_it_holds_at_once(self) -> None:
        assert self.found("") == ([], [()])

    @pytest.mark.parametrize("count", range(1, 9))
    def test_the_shortest_start_of_the_ranking(self, count: int) -> None:
        assert self.found("abcdefgh"[:count])[0] == list("abcdefgh"[:count])

    def test_what_was_kept_for_nothing_goes_back(self) -> None:
        assert self.found("cf")[0] == ["c", "f"]

    def test_few_candidates_are_tried(self) -> None:
        assert len(self.found("a")[1]) == 2
        assert len(self.found("abcde")[1]) == 11


class TestSpend:
    def test_nothing_is_ranked_where_the_budget_holds(self, small: Candidates) -> None:
        spent = spend(small, LostLabels(frames(3)), allowed=50.0)
        assert spent.full == spent.reached <= 50.0
        assert (spent.judged, spent.runs, spent.harms) == (1, 0, ())

    @pytest.mark.processor
    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_a_damaged_layer_is_found_first_and_put_back(
        self, shipped: Candidates, backend: Literal["onnxruntime", "openvino"]
    ) -> None:
        spent = spend(replace(shipped, backend=backend), LostLabels(frames(3)), allowed=6.0)
        # what reads the damaged tensor: the sum itself, and a convolution through its pool
        readers = {"refine2.crp/Add", "refine2.crp.convs.0/Conv"}
        assert spent.harms[0].layers in {(name,) for name in readers}
        assert spent.harms[0].kept
        # OpenVINO's sums saturate at 16 bits where there is no VNNI: there layers that nobody damaged lose labels, too
        if backend == "onnxruntime" or processor() == "vnni":
            assert {name for harm in spent.harms if harm.kept for name in harm.layers} <= readers
        assert spent.full > 10 > spent.reached
        assert spent.reached <= spent.allowed
        assert len([harm for harm in spent.harms if len(harm.layers) == 1]) >= SHOWN
        assert spent.runs < 3 * 120  # less than every layer by itself

    @pytest.mark.processor
    def test_points_of_miou_are_a_budget_too(self, shipped: Candidates) -> None:
        dataset = open_dataset("scenes:5:2")
        judge = MiouDrop(dataset)
        with shipped.exact() as exact, shipped.keeping([]) as rounded:
            judge.expect(exact)
            found = judge.measure(rounded)
            miou = [evaluate(segmenter, dataset).miou or 0.0 for segmenter in (exact, rounded)]
        assert found == pytest.approx(100 * (miou[0] - miou[1]))
        assert abs(found) > 1

    def test_a_budget_that_nothing_holds_is_refused(self, small: Candidates) -> None:
        class Impossible(LostLabels):
            def measure(self, rounded: Segmenter) -> float:
                return 50.0

        with pytest.raises(CalibrationError, match=r"no layer can be quantised .*50.000 lost"):
            spend(small, Impossible(frames(1)), allowed=1.0)

    def test_the_model_stays_as_it_was(self, small: Candidates) -> None:
        spend(small, LostLabels(frames(1)), allowed=90.0)
        assert operators(small.model) == ["Conv", "Relu", "Conv", "Relu", "Conv"]

    def test_fp8_is_judged_too(self, small: Candidates) -> None:
        judged = replace(small, placement=replace(FP8, classifier=True), backend="onnxruntime")
        assert 0 <= spend(judged, LostLabels(frames(1)), allowed=90.0).full < 90.0


class TestJudges:
    def test_lost_labels_are_counted_over_all_frames(self) -> None:
        source, target = TensorSpec("image", "float32", (1, 3, *SIZE)), TensorSpec("logits", "float32", (1, 5, *SIZE))

        def segmenter(*classes: int) -> Segmenter:
            """Classes in columns of the same width, for every frame."""
            logits = np.repeat(np.eye(5, dtype=np.float32)[:, classes], SIZE[1] // len(classes), axis=1)
            found = np.broadcast_to(logits[None, :, None], (1, 5, *SIZE)).copy()
            return Segmenter.from_session(FakeSession(lambda _: {"logits": found}, (source,), (target,)), SPEC, labels)

        judge, labels = LostLabels(frames(2)), numbered(5)
        judge.expect(segmenter(0, 1, 2, 3))
        assert judge.measure(segmenter(0, 1, 2, 3)) == 0
        assert judge.measure(segmenter(0, 1, 4, 3)) == 25
        assert judge.measure(segmenter(3, 2, 1, 0)) == 100

    def test_a_label_set_is_read_as_far_as_it_is_needed(self) -> None:
        assert len(MiouDrop(open_dataset("scenes:5:9")).frames()) == FRAMES
        assert len(LostLabels(frames(2)).frames()) == 2

    def test_an_image_that_cannot_be_read_is_passed_over(self, tmp_path: Path) -> None:
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "a.png").write_bytes(b"no image")
        assert MiouDrop(open_dataset(f"plain:{tmp_path}")).frames() == []


class TestABuild:
    def test_the_budget_is_in_the_manifest(self, small: Candidates, tmp_path: Path) -> None:
        (tmp_path / "small.onnx").write_bytes(to_bytes(small.model))
        recipe = Recipe(
            str(tmp_path / "b"),
            onnx=str(tmp_path / "small.onnx"),
            size=SIZE,
            precision="int8",
            calib="scenes:2:2",
            min_agreement=60.0,
            backend="openvino",
        )
        spent = open_bundle(build(recipe).path).manifest.budget
        assert isinstance(spent, Budget)
        assert (spent.loss, spent.allowed, spent.judge, spent.backend) == ("labels", 40.0, "scenes:2:2", "openvino")
        assert "--min-agreement 60.0" in recipe.command

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"precision": "fp16", "min_agreement": 99.0}, "an accuracy budget is for --precision int8"),
            ({"calib": "x.ranges.json", "min_agreement": 99.0}, "give --judge"),
            ({"calib": "photos", "max_miou_drop": 0.3}, "labelled"),
        ],
    )
    def test_what_cannot_be_judged_is_refused(self, tmp_path: Path, options: dict[str, str], said: str) -> None:
        recipe = Recipe(str(tmp_path / "b"), checkpoint="scenes", precision="int8", backend="openvino")
        with pytest.raises(InputError, match=said):
            build(replace(recipe, **options))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"max_miou_drop": 0.3, "min_agreement": 99.0}, "one budget"),
            ({"max_miou_drop": 0.0}, "more than 0 points"),
            ({"min_agreement": 100.0}, "between 0 and 100"),
            ({"judge": "photos"}, "--judge is for a budget"),
        ],
    )
    def test_a_budget_that_says_nothing_is_refused(self, options: dict[str, float], said: str) -> None:
        with pytest.raises(InputError, match=said):
            Recipe("b", "rf50", **options)  # type: ignore[arg-type]
