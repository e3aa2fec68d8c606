from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from refinenet_edge import files
from refinenet_edge.errors import BundleError, InputError
from refinenet_edge.evaluation import (
    Confusion,
    DataSet,
    EvaluationResult,
    SampleProblem,
    evaluate,
    open_dataset,
)
from refinenet_edge.evaluation.samples import FileSample
from refinenet_edge.labels import PERSON, SCENES, VOC, numbered
from refinenet_edge.records import Bilinear, Cubic, FrameSpec, Identity, Labels, TensorSpec, from_json
from refinenet_edge.runtime import FakeSession, Segmenter
from refinenet_edge.runtime.session import Feeds, Outputs
from tests.evaluation import data
from tests.evaluation.data import COUNT, SIZE, frame, png, predictions, seer, truths, write
from tests.evaluation.test_confusion import torchmetrics

IDENTITY = Identity("tiny", "random", "fp32", "openvino", "0" * 64)


@pytest.fixture
def plain7(tmp_path: Path) -> DataSet:
    return open_dataset(str(data.plain(tmp_path / "data", 7)))


def whole(classes: int) -> tuple[np.ndarray, np.ndarray]:
    return np.stack(truths(classes)), np.stack(predictions(classes))


def timeless(result: EvaluationResult) -> EvaluationResult:
    return replace(result, seconds=0)


def interrupted(segmenter: Segmenter, after: int, with_: BaseException) -> Segmenter:
    """`segmenter` for the first `after` samples, whichever thread has them."""
    run, good = segmenter.session.run, predictions(len(segmenter.labels.names))[:after]

    def limited(feeds: Feeds) -> Outputs:
        red = np.rint(feeds["image"][0, 0] * 255)
        if not any(np.array_equal(red, prediction) for prediction in good):
            raise with_
        return run(feeds)

    segmenter.session.run = limited  # type: ignore[method-assign]
    return segmenter


def runs_of(segmenter: Segmenter) -> list[None]:
    """Grows with every frame that `segmenter` runs."""
    run, runs = segmenter.session.run, []

    def counted(feeds: Feeds) -> Outputs:
        runs.append(None)
        return run(feeds)

    segmenter.session.run = counted  # type: ignore[method-assign]
    return runs


@pytest.mark.parametrize(
    ("make", "labels"),
    [
        pytest.param(data.voc, "voc", id="voc"),
        pytest.param(lambda root: data.cityscapes(root, ids=True), "cityscapes", id="cityscapes"),
        pytest.param(data.camvid, "camvid", id="camvid"),
        pytest.param(lambda root: data.nyu40(root, ("a", "b"), listed=True), "nyu40", id="nyu40"),
        pytest.param(lambda root: data.plain(root, 7), "person", id="plain"),
    ],
)
def test_every_layout_as_torchmetrics(tmp_path: Path, make: Callable[[Path], Path], labels: str) -> None:
    result = evaluate(seer(labels), open_dataset(str(make(tmp_path))))
    classes = len(result.classes)
    truth, prediction = whole(classes)
    np.testing.assert_allclose(result.miou, torchmetrics(truth, prediction, classes, "macro"), rtol=1e-6)
    np.testing.assert_allclose(result.iou, torchmetrics(truth, prediction, classes, "none"), rtol=1e-6)
    assert np.array_equal(result.confusion, Confusion.of(truth, prediction, classes).matrix)
    assert result.pixel_accuracy == (truth == prediction).sum() / (truth != 255).sum()
    assert (result.samples, result.counted, result.problems) == (COUNT, COUNT, ())
    assert 0.3 < result.miou < 0.9


def test_scenes_of_a_segmenter_that_says_road() -> None:
    image = TensorSpec("image", "float32", (1, 3, "h", "w"))
    road = np.eye(8, dtype=np.float32)[2].reshape(1, 8, 1, 1)
    session = FakeSession(lambda _: {"logits": road}, (image,), (TensorSpec("logits", "float32", (1, 8, 1, 1)),))
    dataset = open_dataset("scenes:3:3")
    result = evaluate(Segmenter.from_session(session, FrameSpec((32, 32)), SCENES), dataset)
    share = np.mean([sample.read()[1] == 2 for sample in dataset.samples])
    assert result.dataset == "scenes:3:3"
    assert result.pixel_accuracy == pytest.approx(share)
    assert result.iou[2] == pytest.approx(share)
    assert result.miou == pytest.approx(share / 8)


def test_the_result_says_what_it_is_of(plain7: DataSet, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    result = evaluate(seer(PERSON), plain7, identity=IDENTITY, out=out)
    assert from_json(EvaluationResult, out.read_text("utf-8")) == result
    assert [p.name for p in out.parent.iterdir() if p.is_file()] == ["result.json"]
    read = json.loads(out.read_text("utf-8"), parse_constant=pytest.fail)  # no NaN, which is not JSON
    assert read["schema"] == 2
    assert read["identity"]["digest"] == "0" * 64
    assert read["backend"] == "fake"
    assert read["dataset"] == f"plain:{tmp_path / 'data'}"
    assert read["classes"] == list(PERSON.names)
    assert read["frame"]["upsample"] == {"align_corners": False, "kind": "bilinear"}
    assert read["seconds"] > 0


def test_classes_that_do_not_appear_are_null(tmp_path: Path) -> None:
    result = evaluate(seer(numbered(9)), open_dataset(str(data.plain(tmp_path, 7))))
    assert result.iou[7:] == (None, None)
    assert result.miou == pytest.approx(np.mean(result.iou[:7]))


def test_only_void_is_null(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.png", frame(np.zeros(SIZE, np.uint8)))
    write(tmp_path / "masks" / "a.png", png(np.full(SIZE, 255)))
    result = evaluate(seer(PERSON), open_dataset(str(tmp_path)))
    assert (result.counted, result.miou, result.pixel_accuracy) == (1, None, None)


def test_labels_are_at_the_frames_size(tmp_path: Path) -> None:
    # a static network of a quarter of the size: what is counted is as many pixels as the truth has
    truth = np.repeat(np.repeat(np.arange(6, dtype=np.uint8).reshape(2, 3), 20, 0), 20, 1)
    write(tmp_path / "images" / "a.png", frame(truth))
    write(tmp_path / "masks" / "a.png", png(truth))
    result = evaluate(seer(PERSON, (10, 15)), open_dataset(str(tmp_path)))
    assert np.sum(result.confusion) == truth.size
    assert result.pixel_accuracy > 0.9


def test_upsampling_as_asked(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write(tmp_path / "images" / "a.png", frame(np.zeros(SIZE, np.uint8)))
    write(tmp_path / "masks" / "a.png", png(rng.integers(0, 7, SIZE)))
    logits = rng.standard_normal((1, 7, 10, 15)).astype(np.float32)
    session = FakeSession(
        lambda _: {"logits": logits},
        (TensorSpec("image", "float32", (1, 3, "h", "w")),),
        (TensorSpec("logits", "float32", (1, 7, "h", "w")),),
    )
    segmenter = Segmenter.from_session(session, FrameSpec(None, upsample=Bilinear(True)), PERSON)
    dataset = open_dataset(str(tmp_path))
    ways = [Bilinear(True), Bilinear(False), Cubic()]
    results = [evaluate(segmenter, dataset), *(evaluate(segmenter.with_upsample(way), dataset) for way in ways)]
    assert [r.frame.upsample for r in results] == [Bilinear(True), *ways]
    assert timeless(results[0]) == timeless(results[1])
    assert len({r.confusion for r in results}) == 3
    assert segmenter.frame_spec.upsample == Bilinear(True)


def test_another_number_of_classes(plain7: DataSet) -> None:
    with pytest.raises(InputError, match=r"bundle has 7 classes \(person\), data set .* has 21 \(voc\)"):
        evaluate(seer(PERSON), replace(plain7, labels=VOC))


@pytest.mark.parametrize(("labels", "warned"), [(PERSON, True), (numbered(7), False)])
def test_other_names_are_a_warning(
    plain7: DataSet, caplog: pytest.LogCaptureFixture, labels: Labels, warned: bool
) -> None:
    theirs = replace(PERSON, name="body", names=("background", "face", *PERSON.names[2:]))
    evaluate(seer(labels), replace(plain7, labels=theirs))
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert said == (["class names differ, person has 'Head' where body has 'face'"] if warned else [])


def spoil(root: Path) -> dict[str, tuple[str, str]]:
    """Six more samples, unusable each in its own way: kind and what the detail says."""
    good = truths(7)[0]
    spoilt = {
        "no_mask": (frame(good), None),
        "no_image": (None, png(good)),
        "cut_image": (frame(good)[:900], png(good)),
        "cut_mask": (frame(good), png(good)[:200]),
        "other_size": (frame(good), png(good[:, :50])),
        "other_class": (frame(good), png(np.where(good == 3, 9, good))),
    }
    for name, parts in spoilt.items():
        for folder, part in zip(("images", "masks"), parts, strict=True):
            if part is not None:
                write(root / folder / f"{name}.png", part)
    return {
        "cut_image": ("unreadable", "cut_image.png"),
        "cut_mask": ("unreadable", "cut_mask.png"),
        "no_image": ("missing", "no image for"),
        "no_mask": ("missing", "no mask for"),
        "other_class": ("label", "has label 9, the classes are 0..6"),
        "other_size": ("size", "the image is 40x60 pixels, its mask 40x50"),
    }


def test_unusable_samples_are_counted_and_named(plain7: DataSet, tmp_path: Path) -> None:
    expected = spoil(tmp_path / "data")
    result = evaluate(seer(PERSON), open_dataset(plain7.name))
    assert {p.sample: p.kind for p in result.problems} == {name: kind for name, (kind, _) in expected.items()}
    for problem in result.problems:
        assert expected[problem.sample][1] in problem.detail
    assert (result.samples, result.counted) == (COUNT + 6, COUNT)
    assert result.confusion == evaluate(seer(PERSON), plain7).confusion


def test_a_frame_outside_the_engines_range_is_refused(plain7: DataSet) -> None:
    segmenter = interrupted(seer(PERSON), 3, InputError("this engine takes 32x32 to 64x64"))
    result = evaluate(segmenter, plain7)
    assert result.problems == (SampleProblem("s3", "refused", "this engine takes 32x32 to 64x64"),)
    assert result.counted == 3


def test_strict_stops_at_the_first(plain7: DataSet, tmp_path: Path) -> None:
    write(tmp_path / "data" / "masks" / "s2.png", png(np.zeros((3, 3))))
    segmenter, out = seer(PERSON), tmp_path / "r.json"
    runs = runs_of(segmenter)
    with pytest.raises(InputError, match="s2: the image is 40x60 pixels, its mask 3x3"):
        evaluate(segmenter, plain7, strict=True, out=out)
    assert len(runs) == 2
    assert not out.exists()
    # the mask is repaired, and it goes on
    write(tmp_path / "data" / "masks" / "s2.png", png(truths(7)[2]))
    result = evaluate(segmenter, plain7, strict=True, out=out)
    assert len(runs) == COUNT
    assert np.array_equal(result.confusion, Confusion.of(*whole(7), 7).matrix)


def test_no_usable_sample_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.png", b"")
    write(tmp_path / "masks" / "a.png", b"")
    out = tmp_path / "r.json"
    with pytest.raises(InputError, match=r"no sample of plain:.* can be used; a: image .*a\.png"):
        evaluate(seer(PERSON), open_dataset(str(tmp_path)), out=out)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == []


@pytest.mark.parametrize("with_", [KeyboardInterrupt(), BundleError("the logits are not finite")])
@pytest.mark.parametrize("requests", [1, 2])
def test_a_stopped_run_goes_on(plain7: DataSet, tmp_path: Path, with_: BaseException, requests: int) -> None:
    spoil(tmp_path / "data")
    dataset, out, partial = open_dataset(plain7.name), tmp_path / "r.json", tmp_path / "r.json.partial"
    expected = evaluate(seer(PERSON), dataset, identity=IDENTITY)
    with pytest.raises(type(with_)):
        evaluate(interrupted(seer(PERSON, requests=requests), 2, with_), dataset, identity=IDENTITY, out=out)
    assert partial.is_file()
    assert not out.exists()
    segmenter, steps = seer(PERSON, requests=requests), []
    runs = runs_of(segmenter)
    result = evaluate(
        segmenter, dataset, identity=IDENTITY, out=out, progress=lambda done, samples: steps.append((done, samples))
    )
    assert len(runs) == COUNT - 2
    assert steps == [(done, COUNT + 6) for done in range(2, COUNT + 7)]
    assert timeless(result) == timeless(expected)
    assert from_json(EvaluationResult, out.read_text("utf-8")) == result
    assert not partial.exists()


def test_as_many_samples_as_are_in_flight_are_compared_at_once(plain7: DataSet) -> None:
    dataset = replace(plain7, samples=plain7.samples[: COUNT // 2 * 2])
    segmenter, together = seer(PERSON, requests=2), threading.Barrier(2)
    run = segmenter.session.run

    def both(feeds: Feeds) -> Outputs:
        together.wait(60)  # none gets on alone
        return run(feeds)

    segmenter.session.run = both  # type: ignore[method-assign]
    assert timeless(evaluate(segmenter, dataset)) == timeless(evaluate(seer(PERSON), dataset))


def test_a_run_that_was_stopped_before_its_first_sample_leaves_nothing(plain7: DataSet, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate(interrupted(seer(PERSON), 0, KeyboardInterrupt()), plain7, out=tmp_path / "r.json")
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_killed_run_has_saved(plain7: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SAVE_SECONDS", -1)
    partial, copies = tmp_path / "r.json.partial", []
    result = evaluate(
        seer(PERSON), plain7, out=tmp_path / "r.json", progress=lambda *_: copies.append(partial.read_bytes())
    )
    # what lay there when the last sample was under way, as a kill would have left it
    partial.write_bytes(copies[-1])
    segmenter = seer(PERSON)
    runs = runs_of(segmenter)
    assert timeless(evaluate(segmenter, plain7, out=tmp_path / "r.json")) == timeless(result)
    assert len(runs) == 1


def stopped(dataset: DataSet, out: Path) -> Path:
    with pytest.raises(KeyboardInterrupt):
        evaluate(interrupted(seer(PERSON), 2, KeyboardInterrupt()), dataset, identity=IDENTITY, out=out)
    return out.with_name(f"{out.name}.partial")


def test_the_partial_of_another_run_is_refused(plain7: DataSet, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    partial = stopped(plain7, out)
    kept = partial.read_bytes()
    others = [
        ("bundle", {"identity": replace(IDENTITY, digest="1" * 64)}),
        ("frame or upsampling", {"segmenter": seer(PERSON).with_upsample(Cubic())}),
        ("samples", {"dataset": replace(plain7, samples=plain7.samples[:3])}),
        ("data set", {"dataset": replace(plain7, name="other")}),
    ]
    for said, fields in others:
        given = {"segmenter": seer(PERSON), "dataset": plain7, "identity": IDENTITY, "out": out} | fields
        with pytest.raises(InputError, match=rf"of a run with another {said}: remove .*r\.json\.partial"):
            evaluate(**given)
        assert partial.read_bytes() == kept
        assert not out.exists()


def test_a_counted_sample_that_changed_is_refused(plain7: DataSet, tmp_path: Path) -> None:
    partial = stopped(plain7, tmp_path / "r.json")
    sample = plain7.samples[0]
    assert isinstance(sample, FileSample)
    write(sample.mask, png(np.zeros(SIZE)))
    with pytest.raises(InputError, match=rf"s0 has changed since {partial} was written"):
        evaluate(seer(PERSON), plain7, identity=IDENTITY, out=tmp_path / "r.json")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-9],
        lambda text: "[]",
        lambda text: text.encode()[:9].decode() + "\xff",
        lambda text: json.dumps(json.loads(text) | {"confusion": [[1, 2], [3]]}),
        lambda text: json.dumps(json.loads(text) | {"confusion": [[1, 2], [3, 4]]}),
        lambda text: json.dumps(json.loads(text) | {"confusion": [[-1] * 7] * 7}),
        lambda text: json.dumps(json.loads(text) | {"confusion": [[10**30] * 7] * 7}),
        lambda text: json.dumps(json.loads(text) | {"seconds": float("nan")}),
    ],
)
def test_a_damaged_partial_is_refused(plain7: DataSet, tmp_path: Path, damage: Callable[[str], str]) -> None:
    partial = stopped(plain7, tmp_path / "r.json")
    partial.write_text(damage(partial.read_text("utf-8")), "latin-1")
    with pytest.raises(InputError, match=r"r\.json\.partial .*remove .* to start again"):
        evaluate(seer(PERSON), plain7, identity=IDENTITY, out=tmp_path / "r.json")


def test_a_place_that_cannot_be_written_is_found_out_first(plain7: DataSet, tmp_path: Path) -> None:
    segmenter = seer(PERSON)
    runs = runs_of(segmenter)
    with pytest.raises(InputError, match="cannot be written"):
        evaluate(segmenter, plain7, out=tmp_path / "nowhere" / "r.json")
    assert not runs
