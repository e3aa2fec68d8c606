"""Examples of a run as pictures for its page: the frame, masks over it, and where they differ."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from refinenet_edge.bench.record import BenchmarkRun, Example
from refinenet_edge.errors import InputError
from refinenet_edge.frames.images import decode_image, image_size
from refinenet_edge.opencv import cv2
from refinenet_edge.records import Frame, LabelMap, Labels, Mask

LARGEST = 1024  # pixels a side: what ours are is less, what a record says is untrusted
QUALITY = 80  # of the JPEGs
MARK = (0, 200, 255)  # BGR, of pixels that differ, on dark grey


@dataclass(frozen=True)
class Seen:
    """What subject `key` made of a frame: addresses of pictures, and the share of pixels that are not as `against`."""

    key: int
    name: str
    mask: str
    difference: str
    share: float
    against: str


@dataclass(frozen=True)
class ExampleView:
    frame: str
    truth: str
    seen: tuple[Seen, ...]
    classes: tuple[int, ...]  # that somebody sees, or the truth has


def views(run: BenchmarkRun) -> tuple[ExampleView, ...]:
    """The examples of `run`. Raises `InputError` for what is no picture, or of another size than its frame."""
    return tuple(_view(run, run.classes, example) for example in run.examples if run.classes is not None)


def _view(run: BenchmarkRun, classes: Labels, example: Example) -> ExampleView:
    frame = _decoded(example.frame)
    truth = _labels(example.truth, frame)
    found = {name: _labels(png, frame) for name, png in example.labels.items()}
    present = np.unique(np.stack([truth, *found.values()]))

    def over(labels: LabelMap) -> str:
        return _address(Mask(labels, classes).overlay(frame))

    def seen() -> Iterator[Seen]:
        first = run.subjects[0].name
        for key, name in enumerate((subject.name for subject in run.subjects), 1):
            if name in found:
                other, against = (found[first], first) if name != first and first in found else (truth, "the truth")
                differs = (found[name] != other) & (other != classes.ignore)
                yield Seen(key, name, over(found[name]), _marked(frame, differs), float(differs.mean()), against)

    used = tuple(int(label) for label in present if label < len(classes.names))
    return ExampleView(_address(frame), over(truth), tuple(seen()), used)


def _marked(frame: Frame, differs: npt.NDArray[np.bool_]) -> str:
    grey: Any = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) // 3
    picture = np.repeat(grey[..., None], 3, axis=2)
    picture[differs] = MARK
    return _address(picture)


def _labels(text: str, frame: Frame) -> LabelMap:
    labels = _decoded(text)[..., 0]
    if labels.shape != frame.shape[:2]:
        raise InputError(f"an example is {frame.shape[:2]}, its labels {labels.shape}: measure again")
    return np.ascontiguousarray(labels)


def _decoded(text: str) -> Frame:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise InputError(f"an example is no picture: {exc}: measure again") from exc
    if max(image_size(data) or (LARGEST + 1,)) > LARGEST:
        raise InputError(f"an example is no picture of at most {LARGEST} pixels a side: measure again")
    return decode_image(data, "of an example")


def _address(picture: Frame) -> str:
    """The data: address of a picture that is encoded here: nothing of a record gets into the page as it is."""
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
