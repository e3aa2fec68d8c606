"""What is measured of which entry, and what is noted; times are made up by the entries."""

from __future__ import annotations

import base64
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refinenet_edge import bench
from refinenet_edge.baselines import baselines_for
from refinenet_edge.bench.alone import measure_start
from refinenet_edge.bench.entry import Runner
from refinenet_edge.bench.record import Start, Subject
from refinenet_edge.bundle import open_bundle
from refinenet_edge.errors import InputError, MissingExtra, RefineNetEdgeError
from refinenet_edge.evaluation import open_dataset
from refinenet_edge.frames.images import decode_image, write_image
from refinenet_edge.records import Frame, Identity
from refinenet_edge.runtime import Segmenter
from refinenet_edge.scenes import scene

SMALL = bench.Case((64, 96))
run_module = importlib.import_module("refinenet_edge.bench.run")  # bench.run is its function


@dataclass(frozen=True)
class Made:
    """Says how long it took; `fails` in cases with a batch. Adds up the first pixels of the frames it was given."""

    name: str
    stages: tuple[tuple[str, float], ...] = (("prepare", 1.0), ("engine", 8.0), ("head", 1.0))
    fails: bool = False
    breaks: bool = False
    on_gpu: bool = False

    @property
    def subject(self) -> Subject:
        return Subject(self.name, "peer", Identity("made", "none", "fp32", None, None), "made")

    @contextmanager
    def open(self, case: bench.Case) -> Iterator[Runner]:
        if self.fails and case.batch > 1:
            raise MissingExtra("no batches here")

        def run(frames: Sequence[Frame]) -> bench.Stages:
            assert all(frame.shape == (*case.size, 3) for frame in frames) and len(frames) == case.batch
            if self.breaks:
                raise SystemExit(3)
            return {stage: ms * len(frames) for stage, ms in self.stages}

        yield run


def test_every_case_of_every_entry() -> None:
    cases = (SMALL, bench.Case((64, 64)), bench.Case((64, 96), 4))
    options = bench.Options(cases, rounds=3, brief=True)
    run = bench.run([Made("ours"), Made("theirs", (("engine", 20.0),), fails=True)], options, "the command")
    assert run.cases() == cases and run.command == "the command" and run.layers == run.starts == run.power == ()
    first = run.of(SMALL)
    assert first["ours"].ms == (10.0,) * 3 and first["ours"].warm_ups == (10.0,) * 2
    assert dict(first["ours"].stages) == {"prepare": (1.0,) * 3, "engine": (8.0,) * 3, "head": (1.0,) * 3}
    assert first["ours"].frames_per_second == 100.0 and first["ours"].ended == "3 rounds"
    assert bench.ratios(run, SMALL)["theirs"].times == bench.Estimate(2.0, 2.0, 2.0)
    batch = run.of(cases[2])
    assert list(batch) == ["ours"] and batch["ours"].ms == (40.0,) * 3 and batch["ours"].frames_per_second == 100.0
    assert run.notes == ("theirs at 64x96, batch 4: no batches here",)


def test_streams_run_beside_each_other_and_their_frames_add_up() -> None:
    run = bench.run([Made("ours")], bench.Options((bench.Case((64, 96), 1, 3),), rounds=2, brief=True), "")
    (measurement,) = run.measurements
    assert measurement.stages == {} and len(measurement.ms) == 2
    assert measurement.frames_per_second == pytest.approx(3000 / np.median(measurement.ms))


def test_without_the_first_there_is_nothing_to_compare() -> None:
    with pytest.raises(MissingExtra, match="no batches here"):
        bench.run([Made("ours", fails=True)], bench.Options((bench.Case((64, 64), 2),), rounds=2, brief=True), "")


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="two subjects are named ours"):
        bench.run([Made("ours"), Made("ours")], bench.Options((SMALL,), rounds=2, brief=True), "")


def test_frames_are_images_of_a_folder(tmp_path: Path, photos: Path) -> None:
    seen: list[int] = []

    @dataclass(frozen=True)
    class Sees(Made):
        @contextmanager
        def open(self, case: bench.Case) -> Iterator[Runner]:
            def run(frames: Sequence[Frame]) -> bench.Stages:
                seen.append(int(frames[0].sum()))
                return {"engine": 1.0}

            yield run

    bench.run([Sees("ours")], bench.Options((SMALL,), frames=str(photos), rounds=6, brief=True), "")
    assert len(seen) == 2 + 6 and len(set(seen)) == len(list(photos.iterdir()))


@pytest.fixture
def own_labels(mobile_bundle: Path, tmp_path: Path) -> str:
    """A data set whose masks are what the bundle makes of its images: two readable ones, and one without a mask."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    with Segmenter(mobile_bundle) as segmenter:
        for index in range(3):
            frame = scene(5, index, (64, 96))[0]
            write_image(tmp_path / f"images/{index}.png", frame)
            write_image(tmp_path / f"masks/{index}.png", segmenter.segment(frame).labels)
    (tmp_path / "masks/0.png").write_bytes(b"damaged")
    return f"plain:{tmp_path}"


class TestJudged:
    def test_baselines_too(self, mobile_bundle: Path, own_labels: str) -> None:
        entry = bench.bundle_entry(mobile_bundle, "openvino")
        entries = [entry, *baselines_for(["torch", str(mobile_bundle / "model.onnx")], entry)]
        options = bench.Options((SMALL,), rounds=2, brief=True, judge=open_dataset(own_labels))
        found = bench.run(entries, options, "")

        def read_mask(index: int) -> Any:
            return decode_image((Path(own_labels.partition(":")[2]) / f"masks/{index}.png").read_bytes(), "")[..., 0]

        assert found.notes == () and found.classes == open_bundle(mobile_bundle).manifest.labels
        ours, *peers = found.subjects
        assert ours.miou == 1.0 and {1.0, None} >= set(ours.iou) and len(ours.iou) == 21
        for baseline, subject in zip(entries[1:], peers, strict=True):
            with baseline.segmenting() as segment:
                pairs = [(read_mask(sample), segment(scene(5, sample, (64, 96))[0])) for sample in (1, 2)]
            truth, labels = (np.concatenate(side) for side in zip(*pairs, strict=True))
            either = [((truth == k) | (labels == k)).sum() for k in range(21)]
            both = [((truth == k) & (labels == k)).sum() for k in range(21)]
            expected = [int(b) / int(e) if e else None for b, e in zip(both, either, strict=True)]
            assert subject.iou == tuple(map(pytest.approx, expected))
            assert subject.miou == pytest.approx(np.mean([iou for iou in expected if iou is not None]))
            assert (truth == labels).mean() > 0.8  # the same network, enlarged otherwise
        assert {subject.judge for subject in found.subjects} == {open_dataset(own_labels).name}
        assert len(found.examples) == 2
        for index, example in enumerate(found.examples, 1):
            pictures = {name: decode_image(base64.b64decode(png), name) for name, png in example.labels.items()}
            assert list(pictures) == [subject.name for subject in found.subjects]
            truth = decode_image(base64.b64decode(example.truth), "truth")
            np.testing.assert_array_equal(pictures["mobile"], truth)
            frame = decode_image(base64.b64decode(example.frame), "frame").astype(int)
            assert np.abs(frame - scene(5, index, (64, 96))[0]).mean() < 12  # JPEG

    def test_what_cannot_be_judged_is_noted(self, mobile_bundle: Path, own_labels: str) -> None:
        entry = bench.bundle_entry(mobile_bundle, "openvino")
        options = bench.Options((SMALL,), rounds=2, brief=True, judge=open_dataset(own_labels))
        found = bench.run([entry, Unjudged("theirs")], options, "")
        assert found.subjects[1].miou is None and found.subjects[1].iou == ()
        assert found.notes == ("mIoU of theirs: it has no labels",)
        assert list(found.examples[0].labels) == ["mobile"]

    def test_a_bundle_of_other_classes_is_refused(self, mobile_bundle: Path, own_labels: str) -> None:
        entry = bench.bundle_entry(mobile_bundle, "openvino")
        with pytest.raises(InputError, match="has 21 classes"):
            bench.run([entry], bench.Options((SMALL,), judge=open_dataset("scenes:1:1"), brief=True), "")


@dataclass(frozen=True)
class Unjudged(Made):
    @contextmanager
    def segmenting(self) -> Iterator[Any]:
        raise InputError("it has no labels")
        yield


class TestOfABundle:
    def test_everything_is_there(self, mobile_bundle: Path) -> None:
        entry = bench.bundle_entry(mobile_bundle, "openvino")
        assert entry.size == (64, 96) and entry.subject.identity == open_bundle(mobile_bundle).identity
        run = bench.run([entry], bench.Options((SMALL,), rounds=2), "")
        (measurement,), (start,) = run.measurements, run.starts
        assert list(measurement.stages) == ["prepare", "engine", "head"]
        sums = [sum(stages) for stages in zip(*measurement.stages.values(), strict=True)]
        assert measurement.ms == pytest.approx(sums)
        assert start.load_ms > 0 and start.first_frame_ms > 0 and (start.peak_process_bytes or 1 << 30) > 40 << 20
        blocks = {layer.block for layer in run.layers}
        assert {"encoder.layer1", "refine1.crp", "classifier"} <= blocks
        assert [layer.ms for layer in run.layers] == sorted((layer.ms for layer in run.layers), reverse=True)

    def test_onnxruntime_has_layers_too(self, mobile_bundle: Path) -> None:
        with bench.bundle_entry(mobile_bundle, "onnxruntime").segmenter() as segmenter:
            layers = segmenter.session.layer_times({"image": np.zeros((1, 3, 64, 96), np.float32)})
        assert {"Conv", "MaxPool"} <= {layer.kind.removeprefix("Fused") for layer in layers}

    def test_a_batch_is_segmented_at_once(self, mobile_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        batches: list[int] = []
        segment_batch = Segmenter.segment_batch

        def noted(self: Segmenter, frames: Sequence[np.ndarray]) -> list[Any]:
            batches.append(len(frames))
            return segment_batch(self, frames)

        monkeypatch.setattr(Segmenter, "segment_batch", noted)
        options = bench.Options((bench.Case((64, 96)), bench.Case((64, 96), 3)), rounds=2, brief=True)
        run = bench.run([bench.bundle_entry(mobile_bundle, "openvino")], options, "")
        assert batches == [3] * 4  # two warm-ups, two rounds
        assert run.notes == ()
        (one, three) = run.measurements
        assert list(one.stages) == ["prepare", "engine", "head"] and not three.stages
        (curve,) = bench.batch_curves(run)
        assert list(curve.ms) == [1, 3] and curve.per_frame[3] == curve.ms[3] / 3

    def test_a_frame_of_a_batch_that_cannot_be_segmented_is_an_error(
        self, mobile_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Segmenter, "segment_batch", lambda self, frames: [InputError("not this one")])
        options = bench.Options((bench.Case((64, 96), 2),), rounds=2, brief=True)
        with pytest.raises(InputError, match="not this one"):
            bench.run([bench.bundle_entry(mobile_bundle, "openvino")], options, "")


class OnAGpu(bench.BundleEntry):
    """A bundle that says it runs on a GPU; it runs on the CPU."""

    def segmenter(self, throughput: bool = False) -> Segmenter:
        return Segmenter(self.path, "openvino", throughput=throughput)


def test_a_gpus_frames_are_whole_and_its_stages_are_runs_of_their_own(mobile_bundle: Path) -> None:
    entry = bench.bundle_entry(mobile_bundle, "openvino")
    gpu = OnAGpu(replace(entry.subject, backend="tensorrt"), entry.path, entry.manifest)
    (measurement,) = bench.run([gpu], bench.Options((SMALL,), rounds=3, brief=True), "").measurements
    assert len(measurement.ms) == 3
    assert {stage: len(ms) for stage, ms in measurement.stages.items()} == {"prepare": 20, "engine": 20, "head": 20}


def test_an_entry_that_ends_its_process_is_an_error() -> None:
    with pytest.raises(RefineNetEdgeError, match="ours cannot be started by itself: its process ended with 3"):
        measure_start(Made("ours", breaks=True), SMALL, [np.zeros((64, 96, 3), np.uint8)])
    with pytest.raises(RefineNetEdgeError, match="MissingExtra: no batches here"):
        measure_start(Made("ours", fails=True), bench.Case((64, 96), 2), [np.zeros((64, 96, 3), np.uint8)])


@pytest.mark.parametrize("on_gpu", [True, False])
def test_the_gpus_sensors_are_read_for_what_runs_there(monkeypatch: pytest.MonkeyPatch, on_gpu: bool) -> None:
    asked: list[str | None] = []
    monkeypatch.setattr(run_module, "gpu_bus_id", lambda: "0000:65:00.0")
    monkeypatch.setattr(run_module, "gpu_name", lambda: "a GPU")
    monkeypatch.setattr(run_module, "measure_power", lambda *given: asked.append(given[3]))
    monkeypatch.setattr(run_module, "measure_start", lambda *_: Start("torch", 1.0, 1.0, None, None))
    run = bench.run([Made("torch", on_gpu=on_gpu)], bench.Options((SMALL,), rounds=2), "")
    assert asked == ["0000:65:00.0" if on_gpu else None] and (run.machine.device == "a GPU") == on_gpu
