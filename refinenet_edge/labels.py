"""Class names and palettes of the data sets RefineNet models are trained on.

The VOC colour map is computed by its bit shuffle; NYUv2, SUN RGB-D, Person-Part and Context use it too, as the
authors' evaluation code does. `find_labels` turns a `--labels` argument (a name, or a text file) into `Labels`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from refinenet_edge.errors import InputError
from refinenet_edge.records import RGB, Labels

MAX_LABEL_FILE = 64 * 1024


def voc_colour(index: int) -> RGB:
    """The VOC palette's RGB colour of class `index` (0..255): bit 3k+c of the index is bit 7-k of channel c."""
    red = green = blue = 0
    for bit in range(8):
        red |= (index >> (3 * bit) & 1) << (7 - bit)
        green |= (index >> (3 * bit + 1) & 1) << (7 - bit)
        blue |= (index >> (3 * bit + 2) & 1) << (7 - bit)
    return red, green, blue


def _voc(name: str, words: str, first: int = 0) -> Labels:
    names = tuple(word.replace("_", " ") for word in words.split())
    return Labels(name, names, tuple(voc_colour(first + i) for i in range(len(names))))


def _table(name: str, rows: Iterable[tuple[str, RGB]]) -> Labels:
    names, palette = zip(*rows, strict=True)
    return Labels(name, names, palette)


_NYU40 = (
    "wall floor cabinet bed chair sofa table door window bookshelf picture counter blinds desk shelves curtain dresser "
    "pillow mirror floor_mat clothes ceiling books refridgerator television paper towel shower_curtain box whiteboard "
    "person night_stand toilet sink lamp bathtub bag otherstructure otherfurniture otherprop"
)
_SUN37 = " ".join(_NYU40.split()[:37]).replace("refridgerator", "fridge").replace("television", "tv")

VOC = _voc(
    "voc",
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor",
)
# the authors number NYU and SUN classes from 1 and colour them so: palette entry 0 is their void
NYU40 = _voc("nyu40", _NYU40, first=1)
SUN37 = _voc("sun37", _SUN37, first=1)
PERSON = _voc("person", "background Head Torso Upper_Arms Lower_Arms Upper_Legs Lower_Legs")
CONTEXT = _voc(
    "context",
    "background aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse motorbike person pottedplant "
    "sheep sofa train tvmonitor bag bed bench book building cabinet ceiling cloth computer cup door fence floor flower "
    "food grass ground keyboard light mountain mouse curtain platform sign plate road rock shelves sidewalk sky snow "
    "bedclothes track tree truck wall water window wood",
)
CITYSCAPES = _table(
    "cityscapes",
    [
        ("road", (128, 64, 128)),
        ("sidewalk", (244, 35, 232)),
        ("building", (70, 70, 70)),
        ("wall", (102, 102, 156)),
        ("fence", (190, 153, 153)),
        ("pole", (153, 153, 153)),
        ("traffic light", (250, 170, 30)),
        ("traffic sign", (220, 220, 0)),
        ("vegetation", (107, 142, 35)),
        ("terrain", (152, 251, 152)),
        ("sky", (70, 130, 180)),
        ("person", (220, 20, 60)),
        ("rider", (255, 0, 0)),
        ("car", (0, 0, 142)),
        ("truck", (0, 0, 70)),
        ("bus", (0, 60, 100)),
        ("train", (0, 80, 100)),
        ("motorcycle", (0, 0, 230)),
        ("bicycle", (119, 11, 32)),
    ],
)
CAMVID = _table(
    "camvid",
    [
        ("sky", (128, 128, 128)),
        ("building", (128, 0, 0)),
        ("pole", (192, 192, 128)),
        ("road", (128, 64, 128)),
        ("pavement", (60, 40, 222)),
        ("tree", (128, 128, 0)),
        ("sign", (192, 128, 128)),
        ("fence", (64, 64, 128)),
        ("car", (64, 0, 128)),
        ("pedestrian", (64, 64, 0)),
        ("bicyclist", (0, 128, 192)),
    ],
)
KITTI6 = _table(
    "kitti6",
    [
        ("sky", (128, 128, 128)),
        ("building", (128, 0, 0)),
        ("road", (128, 64, 128)),
        ("sidewalk", (0, 0, 192)),
        ("vegetation", (128, 128, 0)),
        ("car", (64, 0, 128)),
    ],
)
SCENES = _table(
    "scenes",
    [
        ("sky", (70, 130, 180)),
        ("building", (70, 70, 70)),
        ("road", (128, 64, 128)),
        ("pavement", (244, 35, 232)),
        ("vegetation", (107, 142, 35)),
        ("vehicle", (0, 0, 142)),
        ("person", (220, 20, 60)),
        ("pole", (220, 220, 0)),
    ],
)

LABEL_SETS: dict[str, Labels] = {
    labels.name: labels for labels in (VOC, NYU40, SUN37, PERSON, CONTEXT, CITYSCAPES, CAMVID, KITTI6, SCENES)
}


def numbered(count: int) -> Labels:
    """`count` classes named "class 0" ... with VOC colours: for a model whose classes nobody named."""
    return Labels("numbered", tuple(f"class {i}" for i in range(count)), tuple(voc_colour(i) for i in range(count)))


def read_label_file(path: Path) -> Labels:
    """Labels of a UTF-8 text file: one class per line, optionally followed by its colour as `#rrggbb`."""
    try:
        if path.stat().st_size > MAX_LABEL_FILE:
            raise InputError(
                f"label file {path} has more than {MAX_LABEL_FILE} bytes: expected one class name per line"
            )
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"label file {path} cannot be read: {exc}") from exc
    names: list[str] = []
    palette: list[RGB] = []
    for line in filter(None, lines):
        name, hash_, colour = line.rpartition("#")
        is_colour = bool(hash_) and len(colour) == 6 and all(c in "0123456789abcdefABCDEF" for c in colour)
        names.append(name.strip() if is_colour else line)
        palette.append(
            (int(colour[:2], 16), int(colour[2:4], 16), int(colour[4:], 16)) if is_colour else voc_colour(len(palette))
        )
    if not 1 <= len(names) <= 255 or "" in names:
        raise InputError(f"label file {path}: expected 1 to 255 lines with a class name each, it has {len(names)}")
    return Labels(path.stem, tuple(names), tuple(palette))


def find_labels(name: str) -> Labels:
    """The labels that `name` means: a set of `LABEL_SETS`, or a file. Raises `InputError` when it is neither."""
    if name in LABEL_SETS:
        return LABEL_SETS[name]
    if not Path(name).is_file():
        raise InputError(f"no label set or file named {name!r}; known sets: {', '.join(LABEL_SETS)}")
    return read_label_file(Path(name))


def fitting(labels: Labels | None, num_classes: int) -> Labels:
    """`labels`, or numbered classes for None. Raises `InputError` unless there are `num_classes`."""
    if labels is None:
        return numbered(num_classes)
    if len(labels.names) != num_classes:
        others = [name for name, known in LABEL_SETS.items() if len(known.names) == num_classes]
        hint = f"--labels {others[0]}" if others else f"--labels FILE with {num_classes} lines"
        said = f"labels {labels.name!r} has {len(labels.names)}"
        raise InputError(f"the model has {num_classes} classes, {said}: use {hint}")
    return labels
