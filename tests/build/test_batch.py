"""Bundles that take several frames at once: each frame gets what it gets alone, in every precision and by every end."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from refinenet_edge import cli
from refinenet_edge.bench import bundle_entry
from refinenet_edge.bench.run import _layers
from refinenet_edge.build import build
from refinenet_edge.bundle import MODEL, PLAN, open_bundle, write_bundle
from refinenet_edge.errors import BundleError, GraphError, InputError
from refinenet_edge.estimate import estimate
from refinenet_edge.records import ONE, Batch, Manifest, Mask, Recipe
from refinenet_edge.runtime import Segmenter, open_session
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.in_flight import Workers
from tests.conftest import onnx_model, weights

SIZE = (48, 64)
FRAMES = np.random.default_rng(4).integers(0, 256, (4, *SIZE, 3), np.uint8)
HALF = "Conv <strides = [2,2], pads = [1,1,1,1]>"
BODY = f"a = {HALF} (x, u) b = Relu(a) c = {HALF} (b, v) d = Relu(c) y = Conv(d, w)"
KERNELS = {"u": weights(16, 3, 3, 3), "v": weights(16, 16, 3, 3), "w": weights(5, 16, 1, 1)}
BATCHES = ["4", "1:8", "2:3:4"]


def written(folder: Path, body: str = BODY, image: str = "[1,3,H,W]", logits: str = "[1,5,h,w]", **more: Any) -> Path:
    path = folder / "theirs.onnx"
    model = onnx_model(body, f"float{image} x", f"float{logits} y", **KERNELS, **more)
    path.write_bytes(model.SerializeToString())
    return path


def made(theirs: Path, batch: str | None, **options: Any) -> tuple[Path, Manifest]:
    named = {"output": str(theirs.parent / f"b{batch}".replace(":", "_")), "onnx": str(theirs), "size": SIZE}
    named |= {"backend": "onnxruntime", "preprocess": "imagenet", "batch": Batch.parse(batch) if batch else None}
    built = build(Recipe(**(named | options)))
    return built.path, built.manifest


def run(folder: Path, frames: list[int]) -> Any:
    """What the graph in a bundle gives for some of `FRAMES` at once."""
    manifest = open_bundle(folder).manifest
    (image,), (output,) = manifest.inputs, manifest.outputs
    channels = image.shape[1]
    assert isinstance(channels, int)
    spec = dataclasses.replace(manifest.frame, size=SIZE)
    images = [prepare(frame, spec, image.dtype, channels) for frame in FRAMES[frames]]
    with open_session(open_bundle(folder), "onnxruntime") as session:
        return session.run({image.name: np.concatenate(images)})[output.name].copy()


def assert_as_alone(folder: Path, batch: Batch, alone: Path) -> None:
    """Every number of frames that `folder` takes gives each what the bundle `alone` gives it."""
    expected = np.concatenate([run(alone, [index]) for index in range(4)])
    for frames in {batch.least, batch.best, min(batch.most, 4)}:
        found = run(folder, [index % 4 for index in range(frames)])
        wanted = expected[np.arange(frames) % 4]
        assert found.shape == wanted.shape
        labels = [array.argmax(1) if array.ndim == 4 else array for array in (found, wanted)]
        assert (labels[0] == labels[1]).mean() > 0.999
        assert np.allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("4", {}),
        ("2:3:4", {}),
        ("4", {"dynamic": True}),
        ("1:8", {"dynamic": True}),
        ("1:8", {"backend": "openvino", "precision": "int8", "calib": "scenes:0:2", "cpu": "any"}),
        ("4", {"backend": "openvino", "gives": "labels"}),
        ("1:8", {"gives": "full-logits"}),
        ("4", {"backend": "tensorrt", "precision": "fp16", "plan": False}),
        ("1:8", {"backend": "tensorrt", "precision": "fp16", "plan": False, "io": "plain", "gives": "labels"}),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(map(str, value.values())),
)
def test_each_frame_gets_what_it_gets_alone(tmp_path: Path, text: str, options: dict[str, Any]) -> None:
    theirs, batch = written(tmp_path), Batch.parse(text)
    folder, manifest = made(theirs, text, **options)
    alone, single = made(theirs, None, **options)
    assert (manifest.batch, single.batch) == (batch, ONE)
    first = batch.most if batch.fixed else "batch"
    for ours, usual in ((manifest.inputs, single.inputs), (manifest.outputs, single.outputs)):
        assert [spec.shape for spec in ours] == [(first, *spec.shape[1:]) for spec in usual]
    assert manifest.calibration == single.calibration  # one frame is calibrated on, whatever the batch
    assert_as_alone(folder, batch, alone)


def test_the_proof_holds_several_frames_at_once_to_what_was_handed_in(tmp_path: Path) -> None:
    _, manifest = made(written(tmp_path), "1:8", backend="openvino")
    stages = [("fused", "onnxruntime"), ("fused, batch 1:8", "onnxruntime"), ("fp32", "openvino")]
    stages += [("fp32, batch 1:8", "openvino")]
    frames = ["random", "astronaut.jpg"]
    assert [(p.stage, p.backend, p.frame) for p in manifest.parity] == [(*s, frame) for s in stages for frame in frames]
    assert all(p.relative_error < 1e-5 and p.label_agreement > 0.999 for p in manifest.parity)


def test_ours_takes_them_too(tmp_path: Path) -> None:
    recipe = Recipe(str(tmp_path / "b"), "rf_lw_mbv2", size=SIZE, backend="onnxruntime")
    built = build(dataclasses.replace(recipe, batch=Batch(2, 4, 4), output=str(tmp_path / "c")))
    assert built.manifest.command.endswith(" --batch 2:4")
    assert_as_alone(built.path, built.manifest.batch, build(recipe).path)


@pytest.mark.parametrize("text", ["4", "1:4:8"])
@pytest.mark.parametrize(
    "options",
    [{"precision": "fp16"}, {"precision": "fp16", "dynamic": True}, {"precision": "int8"}, {"precision": "fp8"}],
)
def test_plans_take_them(tmp_path: Path, text: str, options: dict[str, Any]) -> None:
    """TensorRT-RTX's, which are built without a GPU; 8 padded channels lie last."""
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    if options["precision"] != "fp16":
        options = {**options, "calib": "scenes:0:2", "force": True}
    if options["precision"] == "fp8":
        options = {**options, "target": ("sm_89",)}
    folder, manifest = made(written(tmp_path), text, backend="tensorrt-rtx", **options)
    assert manifest.engine is not None
    assert manifest.inputs[0].shape[:2] == (4 if text == "4" else "batch", 8)
    assert (folder / PLAN).stat().st_size > 0


@pytest.mark.parametrize("dtype", ["[4,3,48,64]", "[4,3,H,W]"])
def test_a_file_of_four_is_a_bundle_of_four(tmp_path: Path, dtype: str) -> None:
    four = written(tmp_path, image=dtype, logits="[4,5,h,w]")
    folder, manifest = made(four, None)
    assert (manifest.batch, manifest.inputs[0].shape) == (Batch(4, 4, 4), (4, 3, *SIZE))
    (tmp_path / "one").mkdir()
    alone, _ = made(written(tmp_path / "one"), None)
    assert_as_alone(folder, manifest.batch, alone)
    for text in ("1", "1:8"):  # said otherwise
        folder, manifest = made(four, text)
        assert manifest.batch == Batch.parse(text)
        assert_as_alone(folder, manifest.batch, alone)


def test_a_file_of_any_number_is_a_bundle_of_one(tmp_path: Path) -> None:
    free = written(tmp_path, image="[N,3,H,W]", logits="[N,5,h,w]")
    assert made(free, None)[1].batch == ONE
    assert made(free, "1:8")[1].batch == Batch(1, 8, 8)


def test_a_file_of_four_that_reshapes_them(tmp_path: Path) -> None:
    body = BODY.replace("y = Conv(d, w)", "e = Reshape(d, s) f = Reshape(e, t) y = Conv(f, w)")
    shapes = {"s": np.array([4, 16, 192]), "t": np.array([4, 16, 12, 16])}
    folder, manifest = made(written(tmp_path, body, "[4,3,48,64]", "[4,5,12,16]", **shapes), None)
    (tmp_path / "one").mkdir()
    assert_as_alone(folder, manifest.batch, made(written(tmp_path / "one"), None)[0])


@pytest.mark.parametrize("text", ["4", "1:8"])
def test_a_network_that_mixes_frames_is_refused(tmp_path: Path, text: str) -> None:
    """Its softmax goes over the first axis, where a single frame has its channels."""
    body = "f = Reshape(x, s) g = Softmax <axis = 0> (f) h = Reshape(g, t) " + BODY.replace("(x, u)", "(h, u)")
    shapes = {"s": np.array([3, -1]), "t": np.array([1, 3, *SIZE])}
    theirs = written(tmp_path, body, "[1,3,48,64]", **shapes)
    assert made(theirs, None)[1].batch == ONE
    with pytest.raises(GraphError, match=rf"with {text} frames at once one changes .*; build it without --batch"):
        made(theirs, text)


@pytest.mark.parametrize("text", BATCHES)
@pytest.mark.parametrize("gives", ["logits", "labels"])
def test_the_segmenter_takes_a_frame_alone(tmp_path: Path, text: str, gives: str) -> None:
    theirs = written(tmp_path)
    frame = np.repeat(FRAMES[1], 2, axis=0)
    with (
        Segmenter(made(theirs, text, gives=gives)[0]) as segmenter,
        Segmenter(made(theirs, None, gives=gives)[0]) as usual,
    ):
        assert np.array_equal(segmenter.segment(frame).labels, usual.segment(frame).labels)


@pytest.mark.parametrize("text", BATCHES)
@pytest.mark.parametrize("gives", ["logits", "labels"])
def test_and_several_each_by_its_own(tmp_path: Path, text: str, gives: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the network takes no frame alone, those of a size go in together; a bad one is an error of its own."""
    theirs = written(tmp_path)
    frames = [frame[: 48 - 5 * index] for index, frame in enumerate(np.concatenate([FRAMES, FRAMES[:2]]))]
    with (
        Segmenter(made(theirs, text, gives=gives)[0]) as segmenter,
        Segmenter(made(theirs, None, gives=gives)[0]) as usual,
    ):
        runs: list[int] = []
        run = segmenter.session._run
        monkeypatch.setattr(segmenter.session, "_run", lambda feeds: (runs.append(len(feeds["image"])), run(feeds))[1])
        answers = segmenter.segment_batch([*frames[:3], frames[3][0], *frames[3:]])
        assert runs == {"4": [4, 4], "1:8": 6 * [1], "2:3:4": [4, 2]}[text]
        assert isinstance(answers.pop(3), InputError)
        for answer, frame in zip(answers, frames, strict=True):
            assert isinstance(answer, Mask)
            assert np.array_equal(answer.labels, usual.segment(frame).labels)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_streams_and_threads_fill_a_network_of_four(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = written(tmp_path)
    frames = [frame[: 48 - 5 * index] for index, frame in enumerate(np.concatenate([FRAMES, FRAMES[:2]]))]
    with Segmenter(made(theirs, None)[0], backend) as usual:
        alone = [usual.segment(frame).labels for frame in frames]
    with Segmenter(made(theirs, "4")[0], backend, throughput=True) as segmenter:
        assert segmenter.in_flight == 8
        runs, wait, together = 0, True, segmenter._together
        run = segmenter.session._run
        assert together is not None

        def counted(feeds: Any) -> Any:
            nonlocal runs, wait
            runs += 1
            until = time.monotonic() + 60
            while wait and len(together._waiting) < len(frames) - 1:
                assert time.monotonic() < until
                time.sleep(0.001)
            wait = False
            return run(feeds)

        monkeypatch.setattr(segmenter.session, "_run", counted)
        with Workers(len(frames)) as workers:
            ways = [list(workers.in_order(segmenter.segment, frames))]
        assert runs == 1 + -(-(len(frames) - 1) // 4)  # the first does not wait for others
        for depth, expected in ((None, -(-len(frames) // 4)), (9, -(-len(frames) // 4)), (1, len(frames))):
            runs = 0
            ways.append(list(segmenter.segment_stream(frames, depth)))
            assert runs == expected
        stream = segmenter.segment_stream([*frames[:2], frames[2][0], *frames[3:]])
        found = [next(stream), next(stream)]
        with pytest.raises(InputError, match="a frame is a HxWx3"):
            next(stream)
        with pytest.raises(InputError, match="a frame is a HxWx3"):
            segmenter.segment(frames[2][0])
    for way in (*ways, found):
        for mask, labels in zip(way, alone, strict=way is not found):
            assert np.array_equal(mask.labels, labels)


def test_a_manifest_of_another_batch_is_refused(tmp_path: Path) -> None:
    folder, manifest = made(written(tmp_path), "4")
    graph = open_bundle(folder).read_graph()
    for batch in (ONE, Batch(2, 2, 2)):
        write_bundle(folder, dataclasses.replace(manifest, batch=batch), {MODEL: graph})
        with pytest.raises(BundleError, match=rf"image is 4x3x48x64, its manifest says {batch}xchannelsx48x64"):
            Segmenter(folder)


def test_calibrating_asks_for_one_frame(tmp_path: Path) -> None:
    folder, _ = made(written(tmp_path), "4")
    command = ["calibrate", str(folder), "--frames", "scenes:0:1", "--out", str(tmp_path / "r.json")]
    said = " ".join(CliRunner().invoke(cli.main, command).output.split())
    assert "takes 4 frames at once" in said and "without --batch: refinenet-edge build" in said and "--batch 1" in said


@pytest.fixture
def batched(tmp_path: Path) -> dict[str, str]:
    """A bundle of each batch, by what it says."""
    return {text: str(made(written(tmp_path), text)[0]) for text in ("1", *BATCHES)}


def test_what_looks_at_bundles_looks_at_these(batched: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refinenet_edge.cli.screen.out.width", 200)

    def said(*words: str) -> str:
        done = CliRunner().invoke(cli.main, list(words))
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    assert "frames at once" not in said("inspect", batched["1"])
    assert "frames at once │ 4 │" in said("inspect", batched["4"])
    assert "frames at once │ 2 to 4, at best 3 │" in said("inspect", batched["2:3:4"])
    on_dla = [said("dla-check", batched[text], "--json") for text in ("1", *BATCHES)]
    nodes = [[place["on_dla"] for place in json.loads(report)["placements"]] for report in on_dla]
    assert all(found == nodes[0] for found in nodes)
    macs = [json.loads(report)["placements"][0]["macs"] for report in on_dla]
    assert macs[0] > 0 and macs == 4 * [macs[0]]  # of a frame
    assert "a frame of 3 at once" in said("estimate", batched["2:3:4"], "--device", "orin-nano")


def test_an_estimate_of_several_frames_is_of_one_of_them(batched: dict[str, str]) -> None:
    alone, four = (estimate(batched[text], "orin-nano") for text in ("1", "4"))
    assert (alone.batch, four.batch) == (1, 4)
    for one, other in zip(alone.bounds, four.bounds, strict=True):
        assert one.kernels == other.kernels
        assert sum(block.macs for block in one.blocks) == sum(block.macs for block in other.blocks)
        assert one.expected_ms[1] > other.expected_ms[1]
    assert estimate(batched["1:8"], "orin-nano", batch=4).bounds == four.bounds
    with pytest.raises(InputError, match="takes 4 frames at once: --batch 2 is none of them"):
        estimate(batched["4"], "orin-nano", batch=2)


def test_a_benchmark_times_the_layers_of_a_batch(batched: dict[str, str]) -> None:
    found = [_layers(bundle_entry(Path(batched[text])), FRAMES[0]) for text in ("1", "4", "2:3:4")]
    assert len({len(layers) for layers in found}) == 1 and found[0]
    with Segmenter(batched["2:3:4"]) as segmenter:
        assert segmenter.batch == Batch(2, 3, 4)
