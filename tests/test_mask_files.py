from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import shapely
import shapely.geometry
from PIL import Image
from pycocotools.coco import COCO

from refinenet_edge.errors import InputError
from refinenet_edge.evaluation.masks import read_mask
from refinenet_edge.labels import ADE150, VOC, numbered
from refinenet_edge.mask_files import FORMATS, MaskWriter, encode_labels, regions_of, run_lengths
from refinenet_edge.records import LabelMap, Labels, Mask

RING = """
1111111111
1000000001
1011111101
1010000101
1010220101
1010220101
1010000101
1011111101
1000000001
1111111111
"""
DIAGONALS = """
101010
010101
101011
011110
"""
PINCHED = """
1110111
1010101
1111111
0001000
1110111
1011101
1110111
"""


def drawn(text: str) -> LabelMap:
    return np.array([[int(number) for number in row] for row in text.split()], np.uint8)


def noise(height: int, width: int, classes: int, seed: int = 1) -> LabelMap:
    return np.random.default_rng(seed).integers(0, classes, (height, width)).astype(np.uint8)


def smooth(height: int, width: int, classes: int = 5, seed: int = 2) -> LabelMap:
    coarse = noise(height // 6 + 1, width // 6 + 1, classes, seed)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)


MASKS = {
    "pixel": drawn("0"),
    "row": drawn("0110101"),
    "ring": drawn(RING),
    "diagonals": drawn(DIAGONALS),
    "pinched": drawn(PINCHED),
    "noise": noise(23, 31, 3),
    "binary noise": noise(40, 40, 2),
    "smooth": smooth(70, 90),
    "unknown": np.where(noise(20, 20, 4) == 3, 255, smooth(20, 20)).astype(np.uint8),
}


@pytest.fixture(params=MASKS)
def mask(request: pytest.FixtureRequest) -> Mask:
    return Mask(MASKS[request.param], numbered(5))


def written(folder: Path, form: str, *masks: Mask) -> Path:
    writer = MaskWriter(folder, (form,))
    for index, one in enumerate(masks):
        writer.add(f"m{index}", f"m{index}.jpg", one)
    writer.finish()
    (path,) = folder.iterdir()
    return path


def within(shape: Any, size: tuple[int, ...]) -> np.ndarray:
    """Which pixels' middles are in `shape`."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.asarray(shapely.contains_xy(shape, x + 0.5, y + 0.5))


class TestPng:
    @pytest.mark.parametrize("classes", [VOC, ADE150, numbered(2), numbered(255)], ids=lambda c: f"{len(c.names)}")
    def test_numbers_and_colours(self, tmp_path: Path, classes: Labels) -> None:
        labels = noise(37, 41, len(classes.names))
        labels[0, 0] = 255
        path = written(tmp_path, "png", Mask(labels, classes))
        assert path.name == "m0_labels.png"
        assert np.array_equal(read_mask(path), labels)
        with Image.open(path) as image:
            assert image.mode == "P"
            assert np.array_equal(np.array(image), labels)
            shown = np.array(image.convert("RGB"))
        known = np.zeros((256, 3), np.uint8)
        known[: len(classes.palette)] = classes.palette
        assert np.array_equal(shown, known[labels])
        assert np.array_equal(cv2.imread(str(path))[:, :, ::-1], shown)

    def test_what_is_no_label_map_is_refused(self) -> None:
        with pytest.raises(InputError, match="here: HxW or HxWx3 uint8 is written"):
            encode_labels(np.zeros((0, 4), np.uint8), VOC, "here")


class TestGeoJson:
    def test_shapely_finds_the_same_pixels(self, mask: Mask, tmp_path: Path) -> None:
        path = written(tmp_path, "geojson", mask)
        assert path.name == "m0.geojson"
        collection = json.loads(path.read_text("utf-8"))
        assert collection["type"] == "FeatureCollection"
        found = np.full(mask.labels.shape, 255, np.uint8)
        for feature in collection["features"]:
            shape, properties = shapely.geometry.shape(feature["geometry"]), feature["properties"]
            assert shape.geom_type == "Polygon"
            assert shapely.is_valid(shape), shapely.is_valid_reason(shape)
            assert shape.area == properties["pixels"]
            assert properties["class"] == mask.classes.names[properties["label"]]
            assert properties["fill"] == "#{:02x}{:02x}{:02x}".format(*mask.classes.palette[properties["label"]])
            inside = within(shape, mask.labels.shape)
            assert (found[inside] == 255).all()  # no pixel twice
            found[inside] = properties["label"]
        assert np.array_equal(found, mask.labels)

    def test_rings_are_closed_and_turn_as_the_rfc_says(self, mask: Mask) -> None:
        for region in regions_of(mask.labels, mask.classes):
            outline, *holes = map(shapely.LinearRing, region.rings)
            assert outline.is_ccw  # of x and y as they are
            assert not any(hole.is_ccw for hole in holes)
            assert all(ring[0] == ring[-1] for ring in region.rings)

    def test_corners_only(self) -> None:
        (region,) = regions_of(np.zeros((30, 50), np.uint8), numbered(2))
        assert len(region.rings[0]) == 5
        assert set(map(tuple, region.rings[0])) == {(0, 0), (50, 0), (50, 30), (0, 30)}

    def test_the_holes_of_a_ring(self) -> None:
        regions = list(regions_of(drawn(RING), numbered(3)))
        assert [(region.label, region.pixels, len(region.rings)) for region in regions] == [
            (0, 28, 2), (0, 12, 2), (1, 36, 2), (1, 20, 2), (2, 4, 1),
        ]  # fmt: skip
        assert regions[-1].box == (4, 4, 2, 2)


class TestCoco:
    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11's own
    @pytest.mark.parametrize("form", ["coco", "coco-polygons"])
    def test_pycocotools_finds_the_same_pixels(self, mask: Mask, tmp_path: Path, form: str) -> None:
        other = Mask(smooth(33, 27, seed=9), mask.classes)
        path = written(tmp_path, form, mask, other)
        assert path.name == form.replace("-", "_") + ".json"
        coco = COCO(str(path))
        assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(mask.classes.names)
        for image, one in zip(coco.loadImgs(coco.getImgIds()), (mask, other), strict=True):
            assert (image["height"], image["width"]) == one.labels.shape
            found = np.full(one.labels.shape, 255, np.uint8)
            for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
                inside = coco.annToMask(annotation).astype(bool)
                assert inside.sum() == annotation["area"]
                assert (found[inside] == 255).all()
                found[inside] = annotation["category_id"]
                y, x = np.nonzero(inside)
                box = [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
                assert annotation["bbox"] == box
            assert np.array_equal(found, one.labels)
        assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == ["m0.jpg", "m1.jpg"]

    def test_polygons_where_there_are_no_holes(self, tmp_path: Path) -> None:
        path = written(tmp_path, "coco-polygons", Mask(drawn(RING), numbered(3)))
        kinds = [type(annotation["segmentation"]) for annotation in json.loads(path.read_text())["annotations"]]
        assert kinds == [dict, dict, dict, dict, list]

    def test_run_lengths_begin_outside(self) -> None:
        assert run_lengths(np.array([[True, False], [True, True]])) == {"size": [2, 2], "counts": [0, 2, 1, 1]}
        assert run_lengths(np.array([[False, True], [False, True]])) == {"size": [2, 2], "counts": [2, 2]}


class TestCsv:
    def test_a_row_for_each_frame(self, tmp_path: Path) -> None:
        classes = Labels("odd", ('a,b"c', "d"), ((0, 0, 0), (1, 1, 1)))
        first, second = drawn("0011 0001"), np.array([[1, 255], [1, 0]], np.uint8)
        path = written(tmp_path, "csv", Mask(first, classes), Mask(second, classes))
        assert path.name == "shares.csv"
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows == [
            {
                "frame": "m0.jpg",
                "height": "2",
                "width": "4",
                'a,b"c': "0.625000",
                "d": "0.375000",
                "unknown": "0.000000",
            },
            {
                "frame": "m1.jpg",
                "height": "2",
                "width": "2",
                'a,b"c': "0.250000",
                "d": "0.500000",
                "unknown": "0.250000",
            },
        ]


def test_each_format_once(tmp_path: Path) -> None:
    writer = MaskWriter(tmp_path, ("png", "csv", "png"))
    writer.add("m", "m.jpg", Mask(np.zeros((2, 2), np.uint8), numbered(2)))
    writer.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m_labels.png", "shares.csv"]
    assert (tmp_path / "shares.csv").read_text().count("m.jpg") == 1
    assert list(FORMATS) == ["png", "geojson", "coco", "coco-polygons", "csv"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_place_that_cannot_be_written(form: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        written(tmp_path / "none", form, Mask(drawn("01"), numbered(2)))
