import itertools
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from refinenet_edge.errors import InputError
from refinenet_edge.labels import (
    LABEL_SETS,
    MAX_LABEL_FILE,
    find_labels,
    fitting,
    numbered,
    read_label_file,
    voc_colour,
)
from refinenet_edge.records import RGB

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


# what a colour, linear RGB, looks like to those without one kind of cone: Machado, Oliveira and Fernandes, "A
# Physiologically-based Model for Simulation of Color Vision Deficiency", 2009, severity 1.0
SEEN_BY = {
    "all cones": np.eye(3),
    "no long ones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no middle ones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "no short ones": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
JUST_NOTICED = 2.3  # CIE76


@pytest.mark.parametrize("who", SEEN_BY)
def test_everybody_can_tell_the_people_classes_apart(who: str) -> None:
    linear = [to_linear(colour) @ np.transpose(SEEN_BY[who]) for colour in LABEL_SETS["people"].palette]
    lab = [to_lab(np.clip(colour, 0, 1)) for colour in linear]
    distances = [float(np.linalg.norm(a - b)) for a, b in itertools.combinations(lab, 2)]
    assert min(distances) > 10 * JUST_NOTICED


def to_linear(colour: RGB) -> npt.NDArray[np.float64]:
    """SRGB to linear, IEC 61966-2-1."""
    values = np.array(colour) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def to_lab(linear: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """L*a*b* of a linear RGB colour, by OpenCV."""
    srgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return cv2.cvtColor(srgb.astype(np.float32)[None, None], cv2.COLOR_RGB2Lab)[0, 0].astype(np.float64)
