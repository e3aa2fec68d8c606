"""Frames -> labels: what is written, what is not written again, and what a bad frame costs."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from pycocotools.coco import COCO

from refinenet_edge.bundle import open_bundle
from refinenet_edge.cli import main
from refinenet_edge.cluster import batch, storage, work
from refinenet_edge.cluster.batch import (
    INPUTS,
    PROBLEMS,
    RUN,
    Format,
    FrameProblem,
    Labeller,
    LabellingJob,
    LabellingRecord,
    label,
)
from refinenet_edge.cluster.bundles import Opening, opening
from refinenet_edge.cluster.work import Item
from refinenet_edge.errors import InputError, MissingExtra, RefineNetEdgeError
from refinenet_edge.evaluation.masks import read_mask
from refinenet_edge.files import list_files
from refinenet_edge.frames.images import read_image, write_image
from refinenet_edge.frames.video import VideoFile
from refinenet_edge.labels import numbered
from refinenet_edge.mask_files import geojson
from refinenet_edge.records import Mask, MultiScale, from_json
from refinenet_edge.runtime import Segmenter
from refinenet_edge.scenes import scene
from tests.cluster.inputs import Many, contents, in_pairs, pictures, tiny_bundle
from tests.videos import miscounted, number_of, timed, uncounted, written

COUNT = 5


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "tiny")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return pictures(tmp_path / "in", COUNT)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["batch", *map(str, arguments)])


def masks(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in folder.rglob("*.png"):
        found[path.relative_to(folder).as_posix()] = read_mask(path)
    return found


def test_labels_are_the_segmenters(bundle: Path, source: Path, tmp_path: Path) -> None:
    written(source / "drive.avi", 3)
    done = run(bundle, source, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert f"{COUNT + 3} of {COUNT + 3} frames labelled on openvino" in done.output
    found = masks(tmp_path / "out")
    with Segmenter(bundle, "openvino") as segmenter:
        for name in ("0.png", "street/1.png"):
            assert len(np.unique(found[f"{name}.png"])) > 1
            assert np.array_equal(found[f"{name}.png"], segmenter.segment(read_image(source / name)).labels)
    assert [name for name in sorted(found) if "drive" in name] == [f"drive.avi/00000{n}.png" for n in range(3)]
    made = from_json(LabellingRecord, (tmp_path / "out" / RUN).read_text())
    assert (made.backend, made.format, made.source) == ("openvino", "png", str(source.resolve()))
    assert made.identity == open_bundle(bundle).identity
    assert len(contents(tmp_path / "out")) == COUNT + 3 + 2


@pytest.mark.parametrize("form", ["png", "parquet"])
def test_how_sure_the_labels_are(bundle: Path, source: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    if form == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
    done = run(bundle, source, "--out", out, "--confidence", "--format", form)
    assert done.exit_code == 0, done.output
    if form == "png":
        found = {name: image for name, image in masks(out).items() if "_confidence" in name}
        assert len(masks(out)) == 2 * COUNT
    else:
        rows = [row for path in out.glob("*.parquet") for row in parquet.read_table(path).to_pylist()]
        decoded = {row["id"]: np.frombuffer(row["confidence"], np.uint8) for row in rows}
        found = {f"{id_}_confidence.png": cv2.imdecode(data, cv2.IMREAD_UNCHANGED) for id_, data in decoded.items()}
    assert len(found) == COUNT
    with Segmenter(bundle, "openvino", confidence=True) as segmenter:
        known = segmenter.segment(read_image(source / "street" / "1.png")).confidence
    assert np.array_equal(found["street/1.png_confidence.png"], known)
    assert len(np.unique(known)) > 10
    again = run(bundle, source, "--out", out, "--confidence", "--format", form)
    assert f"0 of {COUNT} frames" in again.output
    without = run(bundle, source, "--out", out, "--format", form)
    assert without.exit_code == 2
    assert "holds labels of another confidence" in without.stderr


def test_polygons(bundle: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(bundle, source, "--out", out, "--format", "geojson", "--confidence")
    assert done.exit_code == 0, done.output
    with Segmenter(bundle, confidence=True) as segmenter:
        known = segmenter.segment(read_image(source / "street" / "1.png"))
    assert (out / "street" / "1.png.geojson").read_bytes() == geojson(known)
    assert np.array_equal(masks(out)["street/1.png_confidence.png"], known.confidence)
    first = contents(out)
    (out / "street" / "1.png.geojson").unlink()
    assert f"1 of {COUNT} frames" in run(bundle, source, "--out", out, "--format", "geojson", "--confidence").output
    assert contents(out) == first
    write_image(source / "street" / "1.png", np.zeros((24, 24, 3), np.uint8))  # another file: its labels go
    again = run(bundle, source, "--out", out, "--format", "geojson", "--confidence")
    assert f"1 of {COUNT} frames" in again.output
    assert (out / "street" / "1.png.geojson").read_bytes() != first["street/1.png.geojson"]
    assert masks(out)["street/1.png_confidence.png"].shape == (24, 24)


FORMS_OF_ALL = ("coco", "coco-polygons", "csv")


def files_of(form: str) -> tuple[str, str]:
    """What the file of all frames is called, and how those of each end."""
    return {
        "coco": ("coco.json", ".coco.json"),
        "coco-polygons": ("coco_polygons.json", ".coco.json"),
        "csv": ("shares.csv", ".shares.csv"),
    }[form]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11's own
@pytest.mark.parametrize("form", ["coco", "coco-polygons"])
def test_pycocotools_reads_all_frames_and_each(bundle: Path, source: Path, tmp_path: Path, form: str) -> None:
    written(source / "drive.avi", 3)
    out = tmp_path / "out"
    done = run(bundle, source, "--out", out, "--format", form)
    assert done.exit_code == 0, done.output
    whole, ending = files_of(form)
    coco = COCO(str(out / whole))
    images = coco.loadImgs(coco.getImgIds())
    drive = [f"drive.avi/00000{n}" for n in range(3)]
    assert [image["file_name"] for image in images] == [
        "0.png",
        "2.png",
        "4.png",
        *drive,
        "street/1.png",
        "street/3.png",
    ]
    ids = [annotation["id"] for annotation in coco.loadAnns(coco.getAnnIds())]
    assert ids == list(range(1, len(ids) + 1))
    with Segmenter(bundle, "openvino") as segmenter:
        for image in images:
            if "drive" in image["file_name"]:
                continue
            known = segmenter.segment(read_image(source / image["file_name"])).labels
            alone = COCO(str(out / f"{image['file_name']}{ending}"))
            for read, of in ((coco, image["id"]), (alone, 1)):
                found = np.full(known.shape, 255, np.uint8)
                for annotation in read.loadAnns(read.getAnnIds(of)):
                    found[read.annToMask(annotation).astype(bool)] = annotation["category_id"]
                assert np.array_equal(found, known)
    categories = [category["name"] for category in coco.loadCats(coco.getCatIds())]
    assert categories == list(open_bundle(bundle).manifest.labels.names)


@pytest.mark.parametrize("form", FORMS_OF_ALL)
def test_the_file_of_all_frames_is_the_one_that_run_writes(bundle: Path, tmp_path: Path, form: str) -> None:
    source = pictures(tmp_path / "in") / "street"
    write_image(source / "9.png", np.zeros((24, 24, 3), np.uint8))
    done = run(bundle, source, "--out", tmp_path / "out", "--format", form)
    assert done.exit_code == 0, done.output
    arguments = ["run", bundle, source, "--out", tmp_path / "run", "--format", form, "--backend", "openvino"]
    one = CliRunner().invoke(main, list(map(str, arguments)))
    assert one.exit_code == 0, one.output
    whole, _ = files_of(form)
    assert (tmp_path / "out" / whole).read_bytes() == (tmp_path / "run" / whole).read_bytes()


@pytest.mark.parametrize("form", FORMS_OF_ALL)
def test_the_file_of_all_frames_follows_the_frames(bundle: Path, source: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    whole, ending = files_of(form)

    def again() -> str:
        done = run(bundle, source, "--out", out, "--format", form)
        assert done.exit_code == 0, done.output
        return done.output

    again()
    first = contents(out)
    assert f"0 of {COUNT} frames" in again()
    assert contents(out) == first
    (out / whole).unlink()  # all else is there
    assert f"0 of {COUNT} frames" in again()
    assert contents(out) == first
    (out / f"2.png{ending}").unlink()
    assert f"1 of {COUNT} frames" in again()
    assert contents(out) == first
    write_image(source / "2.png", np.zeros((24, 24, 3), np.uint8))
    again()
    assert run(bundle, source, "--out", tmp_path / "fresh", "--format", form).exit_code == 0
    assert contents(out) == contents(tmp_path / "fresh") != first


@pytest.mark.parametrize("form", FORMS_OF_ALL)
def test_no_file_of_all_frames_is_there_that_has_not_all(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    out = tmp_path / "out"
    whole, _ = files_of(form)
    assert run(bundle, source, "--out", out, "--format", form).exit_code == 0
    write_image(source / "street" / "5.png", np.zeros((24, 24, 3), np.uint8))

    def interrupted(*_: object) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "segment", interrupted)
        assert run(bundle, source, "--out", out, "--format", form).exit_code == 130
        assert not (out / whole).exists()
    assert run(bundle, source, "--out", out, "--format", form).exit_code == 0
    fresh = run(bundle, source, "--out", tmp_path / "fresh", "--format", form)
    assert fresh.exit_code == 0
    assert contents(out) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("form", FORMS_OF_ALL)
@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"images": []}', "a,b\n", "\xff\n1\n"])
def test_a_damaged_file_of_one_frame_is_named(
    bundle: Path, source: Path, tmp_path: Path, form: str, damage: str
) -> None:
    out = tmp_path / "out"
    assert run(bundle, source, "--out", out, "--format", form).exit_code == 0
    whole, ending = files_of(form)
    (out / whole).unlink()
    (out / f"street/1.png{ending}").write_bytes(damage.encode("latin-1"))
    done = run(bundle, source, "--out", out, "--format", form)
    assert done.exit_code == 2
    assert f"street/1.png{ending} is no" in done.stderr
    assert not (out / whole).exists()
    (out / f"street/1.png{ending}").unlink()
    assert run(bundle, source, "--out", out, "--format", form).exit_code == 0


def test_labels_that_are_not_sure(bundle: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Segmenter(bundle, confidence=True) as segmenter:
        known = segmenter.segment(read_image(source / "0.png"))
    assert known.confidence is not None
    least = float(np.median(known.confidence)) / 255
    done = run(bundle, source, "--out", out, "--unknown-below", least)
    assert done.exit_code == 0, done.output
    unknown = known.confidence < round(255 * least)
    assert unknown.any()
    assert np.array_equal(masks(out)["0.png.png"], np.where(unknown, 255, known.labels))
    assert len(masks(out)) == COUNT
    assert "holds labels of another unknown_below" in run(bundle, source, "--out", out).stderr


def test_several_scales_are_written_down(source: Path, tmp_path: Path) -> None:
    bundle, other = tiny_bundle(tmp_path / "tiny"), tiny_bundle(tmp_path / "other", (48, 64))
    out = tmp_path / "out"
    done = run(bundle, source, "--out", out, "--flip", "--with", other)
    assert done.exit_code == 0, done.output
    made = from_json(LabellingRecord, (out / RUN).read_text())
    assert made.inference == MultiScale((1.0, 1.4142), True, bundles=(open_bundle(other).digest,))
    with Segmenter(bundle, inference=MultiScale(flip=True), beside=[other]) as segmenter:
        known = segmenter.segment(read_image(source / "street" / "1.png")).labels
    assert np.array_equal(masks(out)["street/1.png.png"], known)
    assert f"0 of {COUNT} frames" in run(bundle, source, "--out", out, "--flip", "--with", other).output
    without = run(bundle, source, "--out", out)
    assert without.exit_code == 2
    assert "holds labels of another inference" in without.stderr


def test_a_second_run_writes_what_is_missing_and_nothing_else(bundle: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole = label(open_bundle(bundle), str(source), str(out))
    assert (whole.frames, whole.before, whole.labelled, whole.problems) == (COUNT, 0, COUNT, ())
    assert whole.cpu_seconds > 0
    first = contents(out)
    (out / "street" / "1.png.png").unlink()
    untouched = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = label(open_bundle(bundle), str(source), str(out))
    assert (again.before, again.labelled) == (COUNT - 1, 1)
    assert contents(out) == first
    assert all(path.stat().st_mtime_ns == then for path, then in untouched.items())
    assert label(open_bundle(bundle), str(source), str(out)).labelled == 0


def test_an_interrupt_leaves_whole_labels_and_the_rest_is_done_next(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label(open_bundle(bundle), str(source), str(tmp_path / "whole"))
    segment, calls = Segmenter.segment, []

    def interrupted(self: Segmenter, frame: np.ndarray) -> object:
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return segment(self, frame)

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "segment", interrupted)
        stopped = run(bundle, source, "--out", tmp_path / "out")
    assert stopped.exit_code == 130
    there = len(masks(tmp_path / "out"))
    assert 2 <= there < COUNT  # others are on their way beside the one that is interrupted
    again = run(bundle, source, "--out", tmp_path / "out")
    assert f"{COUNT - there} of {COUNT} frames" in again.output
    assert f", {there} were there" in again.output
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("form", ["png", "parquet"])
def test_frames_at_once_are_written_as_frames_one_by_one(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Format
) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    (source / "2.png").write_bytes(b"none")
    segment = Segmenter.segment
    for name, in_flight in (("one", 1), ("two", 2)):
        together = threading.Barrier(in_flight)

        def both(self: Segmenter, frame: np.ndarray, together: threading.Barrier = together) -> Mask:
            together.wait(60)  # none gets on alone
            return segment(self, frame)

        with monkeypatch.context() as patch:
            patch.setattr(Segmenter, "in_flight", in_flight)
            patch.setattr(Segmenter, "segment", both)
            done = label(open_bundle(bundle), str(source), str(tmp_path / name), form=form)
        assert (done.labelled, [problem.id for problem in done.problems]) == (COUNT - 1, ["2.png"])
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize("form", ["png", "parquet"])
def test_the_last_frame_of_a_piece_is_not_waited_for(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Format
) -> None:
    """Two pieces of three frames, of which none gets on alone."""
    if form == "parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(work, "PIECE", 3)
    label(open_bundle(bundle), "scenes:7:6", str(tmp_path / "one"), form=form)
    in_pairs(monkeypatch)
    told: list[int] = []
    done = label(
        open_bundle(bundle), "scenes:7:6", str(tmp_path / "two"), form=form, progress=lambda done, _: told.append(done)
    )
    assert (done.labelled, told) == (6, [0, 3, 6])
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_a_bad_frame_is_written_down_and_labelled_when_it_is_mended(bundle: Path, source: Path, tmp_path: Path) -> None:
    out, good = tmp_path / "out", (source / "2.png").read_bytes()
    (source / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = run(bundle, source, "--out", out)
    assert done.exit_code == 4, done.output
    assert f"{COUNT - 1} of {COUNT} frames" in done.output
    assert "1 not labelled: see problems.json" in done.stderr
    (problem,) = json.loads((out / PROBLEMS).read_text())
    assert problem["id"] == "2.png"
    assert "not a whole PNG" in problem["reason"]
    assert "2.png.png" not in contents(out)
    (source / "2.png").write_bytes(good)
    assert label(open_bundle(bundle), str(source), str(out)).labelled == 1
    assert PROBLEMS not in contents(out)


def test_nothing_but_bad_frames_is_an_error(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    done = run(bundle, tmp_path / "in", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "no frame of" in done.stderr


@pytest.mark.parametrize("workers", [1, 3])
def test_a_frame_that_kills_its_worker_costs_only_itself(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def deadly(piece: Sequence[Item]) -> bool:
        return any(item.id == "scenes-7/000002" for item in piece)

    monkeypatch.setattr(work, "PIECE", 2)
    whole = label(open_bundle(bundle), "scenes:7:6", str(tmp_path / "whole"))
    assert whole.labelled == 6
    monkeypatch.setattr(batch, "open_pool", lambda *_, **__: nullcontext(Many(workers, deadly)))
    done = label(open_bundle(bundle), "scenes:7:6", str(tmp_path / "out"), ray="auto")
    assert done.labelled == 5
    assert done.problems == (FrameProblem("scenes-7/000002", "its worker died each time it had this frame"),)
    expected = contents(tmp_path / "whole")
    del expected["scenes-7/000002.png"]
    found = contents(tmp_path / "out")
    del found[PROBLEMS]
    assert found == expected


MISLEADING = {
    "gap.mp4": lambda path: timed(path, [1 / 30] * 20 + [1.0] + [1 / 30] * 49),
    "vfr.mp4": lambda path: timed(path, [1 / 30, 1 / 10] * 35),
    "more.avi": lambda path: miscounted(path, 70, 90),
    "fewer.avi": lambda path: miscounted(path, 70, 10),
    "piped.mkv": lambda path: uncounted(path, 70),
}


@pytest.mark.parametrize("workers", [1, 3])
def test_labels_of_videos_are_of_the_frame_that_they_are_named_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    numbers = []

    class Says:
        """Labels a frame with the number that is drawn in it."""

        def segment(self, frame: np.ndarray) -> Mask:
            numbers.append(number_of(frame))
            return Mask(np.full(frame.shape[:2], numbers[-1], np.uint8), numbered(100))

        def close(self) -> None: ...

    (tmp_path / "in").mkdir()
    for name, make in MISLEADING.items():
        make(tmp_path / "in" / name)
    monkeypatch.setattr(Opening, "segmenter", lambda self: Says())
    monkeypatch.setattr(batch, "open_pool", lambda *_, **__: nullcontext(Many(workers)))
    made = tiny_bundle(tmp_path / "tiny")
    done = label(open_bundle(made), str(tmp_path / "in"), str(tmp_path / "out"), ray="auto")
    assert (done.frames, done.labelled, done.problems) == (5 * 70, 5 * 70, ())
    found = {name: int(image.max()) for name, image in masks(tmp_path / "out").items()}
    assert found == {f"{name}/{place:06d}.png": place for name in MISLEADING for place in range(70)}
    gone = [f"{name}/{place:06d}.png" for name in MISLEADING for place in (0, 1, 63, 64, 69)]
    for name in gone:
        (tmp_path / "out" / name).unlink()
    again = label(open_bundle(made), str(tmp_path / "in"), str(tmp_path / "out"), ray="auto")
    assert (again.before, again.labelled) == (5 * 65, 25)
    assert {name: int(image.max()) for name, image in masks(tmp_path / "out").items()} == found


@pytest.mark.parametrize("form", ["png", "parquet"])
@pytest.mark.parametrize("same_time", [False, True])
def test_labels_of_what_was_replaced_are_made_again(
    bundle: Path, source: Path, tmp_path: Path, form: Format, same_time: bool
) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    written(source / "drive.avi", 9)
    opened, out = open_bundle(bundle), str(tmp_path / "out")
    label(opened, str(source), out, form=form)
    for name in ("2.png", "drive.avi"):
        before = (source / name).stat()
        if name == "2.png":
            write_image(tmp_path / name, scene(6, 3, (30, 20))[0])
        else:
            written(tmp_path / name, 5, "MPNG")
        (tmp_path / name).replace(source / name)
        if same_time:
            os.utime(source / name, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = label(opened, str(source), out, form=form)
    whole = label(opened, str(source), str(tmp_path / "whole"), form=form)
    assert whole.labelled == COUNT + 5 == again.frames
    assert (again.before, again.labelled) == ((COUNT - 1, 6) if form == "png" else (0, COUNT + 5))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert label(opened, str(source), out, form=form).labelled == 0


def test_labels_of_an_image_that_is_gone_stay_until_another_has_its_name(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    opened, out = open_bundle(bundle), tmp_path / "out"
    label(opened, str(source), str(out))
    kept = (source / "2.png").rename(tmp_path / "2.png")
    assert label(opened, str(source), str(out)).labelled == 0
    assert "2.png.png" in contents(out)
    write_image(source / "2.png", scene(6, 3, (30, 20))[0])
    assert label(opened, str(source), str(out)).labelled == 1
    assert masks(out)["2.png.png"].shape == (30, 20)
    kept.unlink()


def test_a_video_is_counted_once(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "in" / "drive.avi", 3)
    count, counted = VideoFile.count, []
    monkeypatch.setattr(VideoFile, "count", lambda self: (counted.append(self.name), count(self))[1])
    for _ in range(2):
        label(open_bundle(bundle), str(tmp_path / "in"), str(tmp_path / "out"))
    assert counted == ["drive.avi"]


@pytest.mark.parametrize("text", ["", "{}", '{"files": {"0.png": {"stamp": 3}}}'])
def test_a_damaged_list_of_inputs_is_named(bundle: Path, source: Path, tmp_path: Path, text: str) -> None:
    out = tmp_path / "out"
    label(open_bundle(bundle), str(source), str(out))
    (out / INPUTS).write_text(text)
    with pytest.raises(InputError, match=r"inputs\.json cannot be read: .*name another --out"):
        label(open_bundle(bundle), str(source), str(out))


def test_without_the_list_of_inputs_nothing_is_believed(bundle: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    label(open_bundle(bundle), str(source), str(out))
    (out / INPUTS).unlink()
    assert label(open_bundle(bundle), str(source), str(out)).labelled == COUNT


def test_what_concerns_every_frame_stops_the_run(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "street").write_bytes(b"")  # where a folder is to be
    with pytest.raises(InputError, match=r"has files and no batch\.json"):
        label(open_bundle(bundle), str(source), str(out))
    (out / "street").unlink()
    label(open_bundle(bundle), str(source), str(out))

    def full(*_: object) -> bytes:
        raise RefineNetEdgeError("the disk is full")

    monkeypatch.setitem(batch.FORMATS, "png", replace(batch.FORMATS["png"], encode=full))  # type: ignore[index]
    (out / "0.png.png").unlink()
    with pytest.raises(RefineNetEdgeError, match="the disk is full"):
        label(open_bundle(bundle), str(source), str(out))


def test_a_machine_that_has_another_folder_there_says_so(bundle: Path, source: Path, tmp_path: Path) -> None:
    opened, out = open_bundle(bundle), tmp_path / "out"
    identity, labels = replace(opened.identity, digest="0" * 64), opened.manifest.labels
    made = LabellingRecord(identity, "openvino", "png", labels, str(source))
    how = opening(opened, "openvino", Many(1), False, None)
    with pytest.raises(InputError, match=r"that all machines share"):
        Labeller(LabellingJob(how, made, str(source), str(out)))
    label(opened, str(source), str(out))
    with pytest.raises(InputError, match="is another folder"):
        Labeller(LabellingJob(how, made, str(source), str(out)))


@pytest.mark.parametrize("other", ["bundle", "input", "format"])
def test_a_folder_of_other_labels_is_refused(bundle: Path, source: Path, tmp_path: Path, other: str) -> None:
    out = tmp_path / "out"
    assert run(bundle, source, "--out", out).exit_code == 0
    before = contents(out)
    if other == "bundle":
        bundle = tiny_bundle(tmp_path / "second", (16, 16))
    if other == "input":
        source = pictures(tmp_path / "second", 2)
    form = "parquet" if other == "format" else "png"
    if other == "format":
        pytest.importorskip("pyarrow")
    done = run(bundle, source, "--out", out, "--format", form)
    assert done.exit_code == 2
    assert f"another {'source' if other == 'input' else other}" in done.stderr
    assert contents(out) == before


def test_labels_of_an_earlier_toolkit_are_left_alone(bundle: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(bundle, source, "--out", out).exit_code == 0
    value = json.loads((out / RUN).read_text())
    identity = value.pop("identity")
    older = {"bundle_sha256": identity["digest"], "model": "tiny", "checkpoint": "random", **value, "schema": 1}
    (out / RUN).write_text(json.dumps(older))
    before = contents(out)
    done = run(bundle, source, "--out", out)
    assert done.exit_code == 2
    assert "batch.json cannot be read: LabellingRecord: schema 1, this toolkit reads 3" in done.stderr
    assert "name another --out" in done.stderr
    assert contents(out) == before


def test_labels_do_not_go_among_the_images(bundle: Path, source: Path) -> None:
    done = run(bundle, source, "--out", source / "labels")
    assert done.exit_code == 2
    assert "would be taken for images" in done.stderr
    assert not (source / "labels").exists()


class Counted(str):
    """A name whose comparisons are calls of Python's."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) is True


def calls_until_told(bundle: Path, source: Path, out: Path) -> int:
    """How many calls `label` makes until it tells how many frames there are, which is before the first one."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    def told(_done: int, frames: int) -> None:
        sys.setprofile(None)
        raise InterruptedError(frames)

    opened = open_bundle(bundle)
    sys.setprofile(count)
    try:
        with pytest.raises(InterruptedError, match=f"^{len(list(source.iterdir()))}$"):
            label(opened, str(source), str(out), progress=told)
    finally:
        sys.setprofile(None)
    return calls


def test_what_is_done_before_the_first_frame_grows_as_the_folder_does(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "list_files", lambda *given, **more: list(map(Counted, list_files(*given, **more))))
    calls: list[list[int]] = []
    for count in (1, 100, 200, 400):  # the first also imports
        source, out = tmp_path / f"in{count}", tmp_path / f"out{count}"
        source.mkdir()
        for index in range(count):
            (source / f"{index}.png").write_bytes(b"")
        first = calls_until_told(bundle, source, out)
        for index in range(0, count, 2):
            (out / f"{index}.png.png").write_bytes(b"")
        resumed = calls_until_told(bundle, source, out)
        assert len(list(out.glob("*.png"))) == (count + 1) // 2
        for path in source.iterdir():
            path.write_bytes(b"another")
        replaced = calls_until_told(bundle, source, out)
        assert not list(out.glob("*.png"))
        calls.append([first, resumed, replaced])
    for _, few, more, most in zip(*calls, strict=True):
        assert 100 < more - few < most - more < 2.2 * (more - few)


def test_without_ray_it_is_named(bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"--ray auto: ray is not installed: pip install"):
        label(open_bundle(bundle), str(source), str(tmp_path / "auto"), ray="auto")
    assert not [*(tmp_path / "auto").glob("**/*.png")]
    with pytest.raises(MissingExtra, match=r"--ray 1\.2\.3\.4:6379: ray is not installed: pip install"):
        label(open_bundle(bundle), str(source), str(tmp_path / "x"), ray="1.2.3.4:6379")


@pytest.mark.parametrize(
    ("module", "options"), [("pyarrow", ("--format", "parquet")), ("pyarrow", ("--out", "s3://b/c"))]
)
def test_what_is_missing_is_named(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, options: tuple[str, str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    done = run(bundle, source, "--out", tmp_path / "out", *options)
    assert done.exit_code == 3
    assert "pip install 'refinenet-edge[cluster]'" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_the_number_of_threads_changes_no_bit(mobile_bundle: Path, backend: str) -> None:
    frame = scene(3, 0, (120, 160))[0]
    found = []
    for threads in (0, 1, 3):
        with Segmenter(mobile_bundle, backend, threads=threads) as segmenter:
            found.append(segmenter.logits(frame).copy())
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
