"""Masks in the formats of others: palette PNG, GeoJSON, COCO and CSV.

    png             NAME_labels.png: the class numbers, shown in the classes' colours
    geojson         NAME.geojson: a polygon, with holes, for each region of a class (pixels that share sides)
    coco            coco.json: all frames; each class of a frame in run lengths
    coco-polygons   coco_polygons.json: all frames; each region as a polygon, in run lengths where it has holes
    csv             shares.csv: a row for each frame, the share of its pixels that each class has

Files of all frames are joined from one of the same kind for each frame, which `batch` keeps.

Polygons follow the sides of pixels: x to the right, y downwards, the upper left corner of the frame is 0, 0; the area
of a polygon is the number of its pixels. What is neither a class nor counted (`Labels.ignore`) is in no polygon.
"""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from refinenet_edge.errors import InputError
from refinenet_edge.files import write_atomically
from refinenet_edge.frames.headers import png_part
from refinenet_edge.frames.images import encode_image
from refinenet_edge.opencv import cv2
from refinenet_edge.records import LabelMap, Labels, Mask

PALETTE = b"\x03"  # PNG's colour type

Ring = list[list[int]]  # corners [x, y], the first once more at the end


def encode_labels(labels: LabelMap, classes: Labels, name: str) -> bytes:
    """`labels` (HxW) as a palette PNG: their numbers, shown in the colours of `classes`; errors say `name`."""
    grey = encode_image(labels, name)
    # pixels of a palette are stored as grey ones are: only the header says another colour type, and the palette follows
    header = png_part(b"IHDR", grey[16:25] + PALETTE + grey[26:29])
    return grey[:8] + header + png_part(b"PLTE", classes.bgr()[:, ::-1].tobytes()) + grey[33:]


@dataclass(frozen=True)
class Region:
    """Pixels of one class that share sides. `rings`: its outline, then its holes."""

    label: int
    pixels: int
    box: tuple[int, int, int, int]  # x, y, width, height
    rings: list[Ring]
    inside: npt.NDArray[np.bool_]  # height x width of the box


def regions_of(labels: LabelMap, classes: Labels) -> Iterator[Region]:
    """The regions of each class of `labels` (HxW), class by class."""
    for label in np.unique(labels):
        if label >= len(classes.names):
            continue
        of_class = (labels == label).view(np.uint8)
        count, components, stats, _ = cv2.connectedComponentsWithStats(of_class, connectivity=4)
        for component in range(1, count):
            x, y, width, height, pixels = map(int, stats[component])
            inside = components[y : y + height, x : x + width] == component
            yield Region(int(label), pixels, (x, y, width, height), _rings(inside, x, y), inside)


def geojson(mask: Mask) -> bytes:
    """The regions of `mask` as a FeatureCollection of polygons in pixels."""
    features = [
        {
            "type": "Feature",
            "properties": {
                "label": region.label,
                "class": mask.classes.names[region.label],
                "pixels": region.pixels,
                "fill": "#{:02x}{:02x}{:02x}".format(*mask.classes.palette[region.label]),
            },
            "geometry": {"type": "Polygon", "coordinates": region.rings},
        }
        for region in regions_of(mask.labels, mask.classes)
    ]
    return _json({"type": "FeatureCollection", "features": features})


def run_lengths(inside: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """HxW as COCO's run lengths, not compressed: outside and inside by turns, column after column."""
    flat = inside.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return {"size": list(inside.shape), "counts": [0, *counts] if flat[0] else counts}


Parts = Iterable[tuple[str, bytes]]  # what errors call a file of one frame, and the file


@dataclass(frozen=True)
class MaskFormat:
    """`encode`: a frame's name and its mask -> a file of that frame alone, which ends in `ending`. Where one file has
    all frames it is called `whole`, and `join` makes it from those of each; that raises `InputError` for other files.
    """

    ending: str
    encode: Callable[[str, Mask], bytes]
    whole: str | None = None
    join: Callable[[Parts], Iterator[bytes]] | None = None


class MaskWriter:
    """Writes masks into a folder in those of `FORMATS` that are named, each file whole or not at all.

    Raises `InputError` when the disk refuses.
    """

    def __init__(self, folder: Path, formats: tuple[str, ...]) -> None:
        self._folder = folder
        self._parts: dict[str, list[tuple[str, bytes]]] = {form: [] for form in formats}

    def add(self, name: str, file_name: str, mask: Mask) -> None:
        """The mask of the frame `file_name`; its own files are called after `name`."""
        for form, parts in self._parts.items():
            data = FORMATS[form].encode(file_name, mask)
            if FORMATS[form].join:
                parts.append((name, data))
            else:
                write_atomically(self._folder / f"{name}{FORMATS[form].ending}", data, InputError)

    def finish(self) -> None:
        """After the last mask."""
        for form, parts in self._parts.items():
            if (join := FORMATS[form].join) and (whole := FORMATS[form].whole):
                write_atomically(self._folder / whole, join(parts), InputError)


def _coco(annotations: Callable[[Mask], Iterator[dict[str, Any]]], file_name: str, mask: Mask) -> bytes:
    """A COCO file of one image."""
    height, width = mask.labels.shape
    image = {"id": 1, "file_name": file_name, "height": height, "width": width}
    own = [{"id": id_, "image_id": 1, "iscrowd": 0} | each for id_, each in enumerate(annotations(mask), 1)]
    categories = [{"id": label, "name": name} for label, name in enumerate(mask.classes.names)]
    return _json({"annotations": own, "images": [image], "categories": categories})


def _join_coco(parts: Parts) -> Iterator[bytes]:
    images: list[dict[str, Any]] = []
    categories: list[Any] = []
    count = 0
    yield b'{"annotations":['
    for name, data in parts:
        try:
            part = json.loads(data)
            (image,), categories = part["images"], part["categories"]
            own = [each | {"image_id": len(images) + 1} for each in part["annotations"]]
            images.append(image | {"id": len(images) + 1})
        except (ValueError, TypeError, KeyError) as exc:
            raise InputError(f"{name} is no COCO file of one frame: remove it, and it is made again") from exc
        for each in own:
            count += 1
            yield b"," * (count > 1) + _json(each | {"id": count}).rstrip()
    yield b'],"images":' + _json(images).rstrip() + b',"categories":' + _json(categories).rstrip() + b"}\n"


def _by_class(mask: Mask) -> Iterator[dict[str, Any]]:
    for label in map(int, np.unique(mask.labels)):
        if label < len(mask.classes.names):
            inside = mask.labels == label
            area = int(inside.sum())
            box = list(cv2.boundingRect(inside.view(np.uint8)))
            yield {"category_id": label, "segmentation": run_lengths(inside), "area": area, "bbox": box}


def _by_region(mask: Mask) -> Iterator[dict[str, Any]]:
    for region in regions_of(mask.labels, mask.classes):
        segmentation: Any = [[number for corner in region.rings[0][:-1] for number in corner]]
        if len(region.rings) > 1:  # COCO's polygons have no holes
            x, y, width, height = region.box
            inside = np.zeros(mask.labels.shape, np.bool_)
            inside[y : y + height, x : x + width] = region.inside
            segmentation = run_lengths(inside)
        own = {"category_id": region.label, "segmentation": segmentation}
        yield own | {"area": region.pixels, "bbox": list(region.box)}


def _shares(file_name: str, mask: Mask) -> bytes:
    """A table of one frame."""
    of_classes = mask.pixels()
    counts = [*of_classes, mask.labels.size - of_classes.sum()]
    row = [file_name, *mask.labels.shape, *(f"{n / mask.labels.size:.6f}" for n in counts)]
    return _table([["frame", "height", "width", *mask.classes.names, "unknown"], row])


def _join_shares(parts: Parts) -> Iterator[bytes]:
    for index, (name, data) in enumerate(parts):
        try:
            header, row = csv.reader(io.StringIO(data.decode(), newline=""), strict=True)
        except (ValueError, csv.Error) as exc:
            raise InputError(f"{name} is no table of one frame: remove it, and it is made again") from exc
        yield _table([header, row][index > 0 :])


def _table(rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


FORMATS: Mapping[str, MaskFormat] = {
    "png": MaskFormat("_labels.png", lambda name, mask: encode_labels(mask.labels, mask.classes, name)),
    "geojson": MaskFormat(".geojson", lambda name, mask: geojson(mask)),
    "coco": MaskFormat(".coco.json", functools.partial(_coco, _by_class), "coco.json", _join_coco),
    "coco-polygons": MaskFormat(".coco.json", functools.partial(_coco, _by_region), "coco_polygons.json", _join_coco),
    "csv": MaskFormat(".shares.csv", _shares, "shares.csv", _join_shares),
}


def _rings(inside: npt.NDArray[np.bool_], x: int, y: int) -> list[Ring]:
    """The outline of `inside` (one region), then of its holes, along the sides of its pixels; its corner is at x, y.

    OpenCV's contours go through the middles of pixels. On a grid twice as fine, on which each pixel is 3x3 and shares
    its border with its neighbours, those are the sides; where a contour cuts a corner, the corner is put in again.
    """
    height, width = inside.shape
    fine = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
    for down in range(3):
        for across in range(3):
            fine[down : down + 2 * height : 2, across : across + 2 * width : 2] |= inside
    contours, hierarchy = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    found = sorted(zip(hierarchy[0][:, 3], range(len(contours)), strict=True))  # the outline has no parent: -1
    return [_corners(contours[at][:, 0], x, y, outline=parent < 0) for parent, at in found]


def _corners(points: npt.NDArray[Any], x: int, y: int, *, outline: bool) -> Ring:
    following = np.roll(points, -1, axis=0)
    cut = (points != following).all(axis=1)
    # the corner has even coordinates, and the point before it one
    on_column = points[:, 0] % 2 == 0
    corner = np.where(
        on_column[:, None], np.stack([points[:, 0], following[:, 1]], 1), np.stack([following[:, 0], points[:, 1]], 1)
    )
    ring = np.insert(points, np.flatnonzero(cut) + 1, corner[cut], axis=0)
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    ring = ring[(before != after).any(axis=1)] // 2 + [x, y]
    twice_area = (ring[:, 0] * np.roll(ring[:, 1], -1) - np.roll(ring[:, 0], -1) * ring[:, 1]).sum()
    if (twice_area > 0) != outline:
        ring = ring[::-1]
    closed: Ring = [*ring.tolist(), ring[0].tolist()]
    return closed


def _json(value: object) -> bytes:
    return f"{json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n".encode()
