"""Class names and palettes of the data sets RefineNet models are trained on.

They are label files, in label_sets/, in the order of the authors' models; of ADE20K's names the first of each class.
The VOC colour map is computed by its bit shuffle; NYUv2, SUN RGB-D, Person-Part, Context and ADE20K use it too, as the
authors' evaluation code does, who number the classes of NYUv2, SUN RGB-D and ADE20K from 1: palette entry 0 is void.
`find_labels` turns a `--labels` argument (a name, or a text file) into `Labels`.
"""

from __future__ import annotations

import re
from pathlib import Path

from refinenet_edge.errors import InputError
from refinenet_edge.files import read_utf8
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


def read_label_file(path: Path) -> Labels:
    """Labels of a UTF-8 text file: one class per line, optionally followed by its colour as `#rrggbb`."""
    lines = [line.strip() for line in read_utf8(path, MAX_LABEL_FILE, "label file").splitlines()]
    names: list[str] = []
    palette: list[RGB] = []
    for line in filter(None, lines):
        coloured = re.fullmatch(r"(.*)#([0-9a-fA-F]{6})", line)
        names.append(coloured[1].strip() if coloured else line)
        red, green, blue = bytes.fromhex(coloured[2]) if coloured else voc_colour(len(palette))
        palette.append((red, green, blue))
    if not 1 <= len(names) <= 255 or "" in names:
        raise InputError(f"label file {path}: expected 1 to 255 lines with a class name each, it has {len(names)}")
    return Labels(path.stem, tuple(names), tuple(palette))


# in the order in which messages name them
_NAMES = "voc nyu40 sun37 person context ade150 cityscapes camvid kitti6 scenes people"
VOC, NYU40, SUN37, PERSON, CONTEXT, ADE150, CITYSCAPES, CAMVID, KITTI6, SCENES, PEOPLE = _SETS = tuple(
    read_label_file(Path(__file__).parent / "label_sets" / f"{name}.txt") for name in _NAMES.split()
)
LABEL_SETS: dict[str, Labels] = {labels.name: labels for labels in _SETS}


def numbered(count: int) -> Labels:
    """`count` classes named "class 0" ... with VOC colours: for a model whose classes nobody named."""
    return Labels("numbered", tuple(f"class {i}" for i in range(count)), tuple(voc_colour(i) for i in range(count)))


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
