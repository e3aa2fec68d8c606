"""What subjects make of a data set: mIoU, and a few of its frames as examples to look at."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from refinenet_edge.bench.entry import Entry
from refinenet_edge.bench.record import Example, Subject
from refinenet_edge.errors import InputError
from refinenet_edge.evaluation import DataSet, Unusable, evaluate
from refinenet_edge.evaluation.score import Evaluator, compare_each
from refinenet_edge.frames.images import encode_image
from refinenet_edge.opencv import cv2
from refinenet_edge.records import WHOLE, Frame, FrameSpec, LabelMap, Labels, Mask

EXAMPLES = 2
SIDE = 360  # pixels, the longer one of an example


class Judge:
    """`data` for subjects of `labels`, fed as `frame` says; the first of its frames are the examples."""

    def __init__(self, data: DataSet, labels: Labels, frame: FrameSpec) -> None:
        self.data, self.labels, self.frame = data, labels, frame
        self.examples = list(itertools.islice(_readable(data), EXAMPLES))  # frames and their truth

    def judge(self, entry: Entry) -> tuple[Subject, list[LabelMap]]:
        """The subject of `entry` with its IoU, and its labels of the examples. Raises what `evaluate` raises."""
        with entry.segmenting() as segment:
            seen = _Seen(self.labels, segment)
            comparing = partial(compare_each, seen, self.labels, self.frame)
            by = Evaluator(self.labels, self.frame, entry.subject.backend, WHOLE, comparing)
            result = evaluate(by, self.data)
            labels = [seen.segment(frame).labels for frame, _ in self.examples]
        return replace(entry.subject, miou=result.miou, iou=result.iou, judge=self.data.name), labels


@dataclass(frozen=True)
class _Seen:
    """As much of a segmenter as judging needs."""

    labels: Labels
    labels_of: Callable[[Frame], LabelMap]

    def segment(self, frame: Frame) -> Mask:
        labels = self.labels_of(frame)
        if labels.max() >= len(self.labels.names) and labels.max() != self.labels.ignore:
            raise InputError(f"it knows more than the {len(self.labels.names)} classes")
        return Mask(labels, self.labels)


def examples(judge: Judge, labels: Mapping[str, list[LabelMap]]) -> tuple[Example, ...]:
    """The examples, each with what the subjects in `labels` made of it."""
    made = []
    for index, (frame, truth) in enumerate(judge.examples):
        scale = min(SIDE / max(truth.shape), 1.0)
        size = max(round(truth.shape[1] * scale), 1), max(round(truth.shape[0] * scale), 1)
        small: Any = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        made.append(
            Example(
                _text(encode_image(small, "an example", ".jpg")),
                _png(truth, size),
                {name: _png(of_all[index], size) for name, of_all in labels.items()},
            )
        )
    return tuple(made)


def _png(labels: LabelMap, size: tuple[int, int]) -> str:
    small: Any = cv2.resize(labels.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return _text(encode_image(small, "labels of an example"))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _readable(data: DataSet) -> Iterator[tuple[Frame, LabelMap]]:
    for sample in data.samples:
        try:
            frame, truth = sample.read()
        except Unusable:
            continue
        if truth.shape == frame.shape[:2]:
            yield frame, truth.astype(np.uint8)
