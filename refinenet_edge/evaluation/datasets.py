"""Data sets: text -> DataSet.

scenes[:SEED[:COUNT]]   drawn scenes, those for validation unless it says others (a folder of that name: ./scenes)
PATH, PATH:SPLIT        a folder, its layout recognised; the split is val unless it is named
LAYOUT:PATH[:SPLIT]     a folder in one of `layouts.LAYOUTS`

Nothing is read but names and lists; an image is opened when its sample is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from refinenet_edge.errors import InputError
from refinenet_edge.evaluation.layouts import LAYOUTS, SPLIT
from refinenet_edge.evaluation.samples import Sample, SceneSample
from refinenet_edge.frames import parse_scenes
from refinenet_edge.labels import SCENES, read_label_file
from refinenet_edge.records import Labels
from refinenet_edge.urls import shown

LABEL_FILE = "labels.txt"


@dataclass(frozen=True)
class DataSet:
    """Samples and what their classes are; `labels` None: those of what is evaluated.

    `named`: a person said how its masks are numbered. `layout` and `place`, the folder with its split: of a folder.
    Raises `InputError` where there is no sample, or one twice.
    """

    name: str
    labels: Labels | None
    samples: Sequence[Sample]
    named: bool = field(default=False, compare=False)
    layout: str = ""
    place: str = ""

    def __post_init__(self) -> None:
        if not self.samples:
            raise InputError(f"data set {self.name} is empty")
        ((id_, times),) = Counter(sample.id for sample in self.samples).most_common(1)
        if times > 1:
            raise InputError(f"data set {self.name} has {id_} twice: remove or rename one")


def open_dataset(text: str, *, masks_as_stored: bool = False) -> DataSet:
    """The data set that `text` names (see the module). Raises `InputError`.

    `masks_as_stored`: masks lie as their images are stored, and are turned as EXIF turns these.
    """
    if scenes := parse_scenes(text):
        samples = tuple(SceneSample(scenes.seed, index) for index in range(scenes.count))
        return DataSet(str(scenes), SCENES, samples, named=True)
    first, colon, rest = text.partition(":")
    named = bool(colon) and first in LAYOUTS
    root, split = _root(rest if named else text)
    name = first if named else _recognise(root, split or SPLIT)
    layout, labels = LAYOUTS[name], LAYOUTS[name].labels
    if labels is None and (root / LABEL_FILE).is_file():
        labels = read_label_file(root / LABEL_FILE)
    files = tuple(replace(sample, as_stored=masks_as_stored) for sample in layout.samples(root, split))
    place = f"{root}:{split}" if split else str(root)
    said = f"{name}:{place}" + (", masks as stored" if masks_as_stored else "")
    return DataSet(said, labels, files, named, name, place)


def _root(text: str) -> tuple[Path, str | None]:
    """The folder and the split; the split comes after the last colon, a Windows path has one of its own."""
    if text and Path(text).is_dir():
        return Path(text), None
    head, colon, split = text.rpartition(":")
    if not colon or not head or not Path(head).is_dir():
        raise InputError(f"no data set at {shown(text)}: expected a folder, or scenes")
    if not re.fullmatch(r"[\w-]+", split):
        raise InputError(f"data set {text}: {split!r} is no split, such as val, train or test")
    return Path(head), split


def _recognise(root: Path, split: str) -> str:
    for name, layout in LAYOUTS.items():
        if layout.fits(root, split):
            return name
    known = "; ".join(f"{name} has {layout}" for name, layout in LAYOUTS.items() if layout.has)
    raise InputError(f"{root} is in no layout that is known: {known}")
