import itertools
from pathlib import Path

import numpy as np
import pytest

from refinenet_edge.errors import InputError
from refinenet_edge.evaluation.masks import read_mask
from refinenet_edge.frames.images import read_image
from refinenet_edge.labels import (
    LABEL_SETS,
    MAX_LABEL_FILE,
    PEOPLE,
    find_labels,
    fitting,
    numbered,
    read_label_file,
    voc_colour,
)
from refinenet_edge.records import RGB
from tests.colours import SEEN_BY, ciede2000, lab

PHOTOS = Path(__file__).parents[1] / "refinenet_edge" / "photos" / "people"
MASKS = Path(__file__).parent / "people_masks"
JUST_NOTICED = 2.3  # CIE76
COUNTS = {
    "voc": 21,
    "nyu40": 40,
    "sun37": 37,
    "person": 7,
    "context": 60,
    "ade150": 150,
    "cityscapes": 19,
    "camvid": 11,
    "kitti6": 6,
    "scenes": 8,
    "people": 8,
}


def test_each_set_has_its_published_number_of_classes() -> None:
    assert {name: len(labels.names) for name, labels in LABEL_SETS.items()} == COUNTS


@pytest.mark.parametrize("name", COUNTS)
def test_names_of_a_set_differ(name: str) -> None:
    labels = LABEL_SETS[name]
    assert len(set(labels.names)) == len(labels.names)
    assert len(set(labels.palette)) == len(labels.palette)


@pytest.mark.parametrize(
    ("set_name", "label", "colour"),
    [
        ("voc", "background", (0, 0, 0)),
        ("voc", "aeroplane", (128, 0, 0)),
        ("voc", "bicycle", (0, 128, 0)),
        ("voc", "cat", (64, 0, 0)),
        ("voc", "person", (192, 128, 128)),
        ("voc", "tvmonitor", (0, 64, 128)),
        ("person", "Head", (128, 0, 0)),
        ("nyu40", "wall", (128, 0, 0)),  # numbered from 1
        ("sun37", "wall", (128, 0, 0)),
        ("sun37", "fridge", (64, 64, 0)),
        ("ade150", "wall", (128, 0, 0)),  # numbered from 1
        ("ade150", "flag", (0, 224, 128)),
        ("cityscapes", "road", (128, 64, 128)),
        ("cityscapes", "bicycle", (119, 11, 32)),
        ("camvid", "pavement", (60, 40, 222)),
        ("kitti6", "car", (64, 0, 128)),
    ],
)
def test_palettes(set_name: str, label: str, colour: RGB) -> None:
    labels = LABEL_SETS[set_name]
    assert labels.palette[labels.names.index(label)] == colour


def test_words_of_a_name_are_apart() -> None:
    assert "floor mat" in LABEL_SETS["nyu40"].names
    assert "shower curtain" in LABEL_SETS["sun37"].names


def test_the_voc_map_has_256_colours() -> None:
    assert len({voc_colour(i) for i in range(256)}) == 256
    assert voc_colour(255) == (224, 224, 192)


def test_no_labels_are_numbered() -> None:
    assert fitting(None, 5) == numbered(5)
    assert numbered(2).names == ("class 0", "class 1")


def test_a_set_is_found_by_name() -> None:
    assert fitting(find_labels("voc"), 21) is LABEL_SETS["voc"]


def test_a_wrong_count_names_the_set_that_fits() -> None:
    with pytest.raises(InputError, match="40 classes, labels 'voc' has 21: use --labels nyu40"):
        fitting(LABEL_SETS["voc"], 40)


def test_a_wrong_count_that_no_set_fits_asks_for_a_file() -> None:
    with pytest.raises(InputError, match="--labels FILE with 5 lines"):
        fitting(LABEL_SETS["voc"], 5)


def test_an_unknown_name_lists_the_sets() -> None:
    with pytest.raises(InputError, match=r"'coco'.*voc, nyu40"):
        find_labels("coco")


def test_a_label_file(tmp_path: Path) -> None:
    path = tmp_path / "pets.txt"
    path.write_text("background\n  big cat #FF8000\n\nno. #1 dog\n", "utf-8")
    labels = find_labels(str(path))
    assert labels.name == "pets"
    assert labels.names == ("background", "big cat", "no. #1 dog")
    assert labels.palette == ((0, 0, 0), (255, 128, 0), (0, 128, 0))


def test_a_label_file_of_a_windows_editor(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffcat\r\ndog\r\n".encode())
    assert read_label_file(path).names == ("cat", "dog")


@pytest.mark.parametrize(
    "content",
    [b"", b"\n\n", b"\xff\xfe\x00", b"cat\n#ff0000\n", b"x\n" * 256, b"x" * (MAX_LABEL_FILE + 1)],
    ids=["empty", "blank", "not UTF-8", "colour alone", "256 classes", "large"],
)
def test_an_unusable_label_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"labels\.txt"):
        read_label_file(path)


class TestColours:
    """Of the label sets that are our own: the others are as their authors published them."""

    def test_the_distance_is_ciede2000(self) -> None:
        # pairs of Sharma, Wu and Dalal 2005, table 1
        for first, second, expected in (
            ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
            ((50.0, -0.001, 2.49), (50.0, 0.0011, -2.49), 4.7461),
            ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
            ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
            ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
        ):
            assert ciede2000(first, second) == pytest.approx(expected, abs=1e-4)

    def test_red_and_brown_are_alike_without_middle_cones(self) -> None:
        red, brown = np.array([160, 0, 0]), np.array([90, 80, 0])
        assert ciede2000(lab(red), lab(brown)) > 35
        assert ciede2000(lab(red, "no middle ones"), lab(brown, "no middle ones")) < 10

    @pytest.mark.parametrize("name", ["people", "scenes"])
    @pytest.mark.parametrize("who", SEEN_BY)
    def test_everybody_can_tell_the_classes_apart(self, name: str, who: str) -> None:
        seen = lab(np.array(LABEL_SETS[name].palette), who)
        pairs = list(itertools.combinations(seen, 2))
        assert min(float(np.linalg.norm(a - b)) for a, b in pairs) > 10 * JUST_NOTICED
        assert min(float(ciede2000(a, b)) for a, b in pairs) > (27 if who == "all cones" else 18)

    @pytest.mark.parametrize("who", SEEN_BY)
    def test_everybody_can_tell_them_apart_over_skin_and_clothes(self, who: str) -> None:
        """At the opacity that overlays have, over people's own pixels: of each class of the photos that ship."""
        rng, pixels = np.random.default_rng(0), []
        for mask in sorted(MASKS.glob("*.png")):
            image, labels = read_image(PHOTOS / f"{mask.stem}.jpg"), read_mask(mask)
            for number in set(np.unique(labels)) & set(range(1, len(PEOPLE.names))):
                pixels.append(rng.choice(image[labels == number], 60)[:, ::-1])
        assert len(pixels) >= 20
        seen = lab((np.concatenate(pixels)[:, None] + np.array(PEOPLE.palette)) / 2, who)
        pairs = itertools.combinations(range(len(PEOPLE.names)), 2)
        least = min(float(ciede2000(seen[:, one], seen[:, other]).min()) for one, other in pairs)
        assert least > (12 if who == "all cones" else 5)  # 1 is noticed at second sight

    @pytest.mark.parametrize("name", ["people", "scenes"])
    def test_no_class_is_as_grey_or_as_dark_as_a_street(self, name: str) -> None:
        labels = LABEL_SETS[name]
        for label, colour in zip(labels.names, labels.palette, strict=True):
            lightness, a, b = lab(np.array(colour))
            if label != "background":
                assert np.hypot(a, b) > 30, label
                assert lightness > (25 if label == "road" else 38), label
