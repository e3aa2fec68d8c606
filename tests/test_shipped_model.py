"""The weights in the package are what their cards say."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from refinenet_edge import evaluation
from refinenet_edge.build import build
from refinenet_edge.bundle import PLAN, open_bundle
from refinenet_edge.errors import CheckpointError
from refinenet_edge.files import sha256
from refinenet_edge.frames.images import read_image
from refinenet_edge.labels import PEOPLE, SCENES
from refinenet_edge.model import SHIPPED, load_checkpoint
from refinenet_edge.recipe import read_recipe
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.tensorrt.engine import read_header

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
ENGINES = ROOT / "engines"
PHOTOS, MASKS = ROOT / "refinenet_edge" / "photos" / "people", Path(__file__).parent / "people_masks"
NETWORKS = {"scenes": ("rf_lw_mbv2", SCENES), "people": ("rf_lw_effnet_lite0", PEOPLE)}


def card_of(name: str) -> dict[str, Any]:
    return dict(json.loads(SHIPPED[name].with_suffix(".json").read_text("utf-8")))


def built(recipe: str, folder: Path) -> Path:
    """The bundle of a recipe in engines/."""
    return build(dataclasses.replace(read_recipe(ENGINES / f"{recipe}.toml"), output=str(folder / recipe))).path


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("scenes", tmp_path_factory.mktemp("shipped"))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("people", tmp_path_factory.mktemp("shipped"))


@pytest.mark.parametrize("name", SHIPPED)
def test_the_card_is_of_these_weights(name: str) -> None:
    weights, card = SHIPPED[name], card_of(name)
    assert card["sha256"] == sha256(weights, CheckpointError)
    assert weights.stat().st_size <= {"scenes": 8e6, "people": 9e6}[name]
    assert list(card["iou"]) == list(NETWORKS[name][1].names)
    assert card["miou"] == pytest.approx(sum(card["iou"].values()) / len(card["iou"]), abs=1e-4)
    assert {"data", "licence", "history"} <= card.keys()


@pytest.mark.parametrize(
    "page", ["README.md", "docs/weights.md", "docs/training.md", "refinenet_edge/weights/LICENCES.md", "card"]
)
def test_what_the_people_weights_were_made_from_is_credited_wherever_they_go(page: str) -> None:
    text = json.dumps(card_of("people")) if page == "card" else (ROOT / page).read_text("utf-8")
    words = " ".join(text.split())
    for credit in ("Clothing Co-Parsing", "Yang, Luo, Lin", "CVPR 2014", "EfficientNet-Lite0", "Apache-2.0"):
        assert credit in words.replace("Wei Yang, Ping Luo, Liang Lin", "Yang, Luo, Lin"), credit


def test_every_page_of_licences_travels_with_the_package() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        named = tomllib.load(file)["project"]["license-files"]
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "refinenet_edge").rglob("LICENCES.md")}
    assert pages == set(named) - {"LICENSE"} and len(pages) == 2
    said = (SHIPPED["people"].parent / "LICENCES.md").read_text("utf-8")
    assert all(f"`{weights.name}`" in said for weights in SHIPPED.values())


@pytest.mark.parametrize("name", SHIPPED)
def test_the_weights_are_the_network_of_their_classes(name: str) -> None:
    spec = load_checkpoint(name).spec
    assert (spec.name, spec.num_classes, spec.align_corners) == (NETWORKS[name][0], 8, True)


def test_a_folder_called_like_them_is_not_taken_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "people").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_checkpoint("people").spec.name == "rf_lw_effnet_lite0"


def test_the_bundle_segments_as_well_as_the_card_says(scenes: Path) -> None:
    card = card_of("scenes")
    opened = open_bundle(scenes)
    assert opened.manifest.labels == SCENES
    with Segmenter(opened, "openvino") as segmenter:
        data = evaluation.open_dataset("scenes")
        result = evaluation.evaluate(segmenter, data, identity=opened.identity)
    assert result.counted == len(data.samples) == card["plan"]["thorough"]
    assert result.miou == pytest.approx(card["miou"], abs=0.002)


def labelled_photos(folder: Path) -> evaluation.DataSet:
    """The photos of people that ship, but for the astronaut, with the labels that the model never saw."""
    for kind, source in (("images", PHOTOS), ("masks", MASKS)):
        (folder / kind).mkdir()
        for mask in MASKS.glob("*.png"):
            (path,) = source.glob(f"{mask.stem}.*")
            shutil.copyfile(path, folder / kind / path.name)
    return evaluation.open_dataset(str(folder))


def test_photos_of_people_are_segmented_as_the_card_says(people: Path, tmp_path: Path) -> None:
    opened = open_bundle(people)
    assert opened.manifest.labels == PEOPLE
    with Segmenter(opened, "openvino") as segmenter:
        photos = labelled_photos(tmp_path)
        result = evaluation.evaluate(segmenter, photos)
        astronaut = segmenter.segment(read_image(PHOTOS / "astronaut.jpg"))
    assert result.counted == len(photos.samples) >= 4
    # a few photos are easier or harder than all of those for validation
    assert result.miou == pytest.approx(card_of("people")["miou"], abs=0.12)
    shares = astronaut.shares()
    assert shares["upper clothes"] > 0.2 and shares["skin"] > 0.02 and shares["hair"] > 0.02
    assert shares["background"] == pytest.approx(0.45, abs=0.15)


@pytest.mark.parametrize("name", SHIPPED)
def test_its_fp16_plan_builds(name: str, tmp_path: Path) -> None:
    opened = open_bundle(built(f"{name}_rtx_fp16", tmp_path))
    assert read_header(opened.path / PLAN).flavour == "tensorrt-rtx"
    # real weights, real agreement: float16 moves few labels
    assert all(parity.label_agreement > 0.995 for parity in opened.manifest.parity if parity.stage == "fp16")


def test_int8_keeps_its_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where the recipe's ranges are
    with Segmenter(built("scenes_int8", tmp_path), "openvino") as segmenter:
        result = evaluation.evaluate(segmenter, evaluation.open_dataset("scenes"))
    assert result.miou == pytest.approx(card_of("scenes")["miou"], abs=0.003)  # three tenths of a point


def test_int8_keeps_the_labels_of_photos(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with Segmenter(people, "openvino") as float32, Segmenter(built("people_int8", tmp_path), "openvino") as int8:
        for photo in PHOTOS.glob("*.jpg"):
            frame = read_image(photo)
            assert (float32.segment(frame).labels == int8.segment(frame).labels).mean() > 0.97, photo.name
