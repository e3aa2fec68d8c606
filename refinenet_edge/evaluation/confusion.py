"""One confusion matrix for a whole data set, and what is read off it.

    IoU of a class   pixels that are of the class in truth and prediction / pixels that are in at least one of the two
    mIoU             mean of IoU over the classes that appear in the truth or in a prediction
    pixel accuracy   pixels whose prediction is the truth / pixels counted

Pixels whose truth is `IGNORE` are counted nowhere, whatever was predicted there. These are the definitions of
torchmetrics' MulticlassJaccardIndex(ignore_index=255). The ports' code differs in one case: to a class that appears in
neither it gives an IoU of 1 and averages that too, so on a few images it is higher; on whole validation sets, where
every class appears, the two are equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from refinenet_edge.records import LabelMap

Truth = npt.NDArray[np.integer[Any]]  # HxW: class indices and IGNORE

IGNORE = 255


@dataclass(frozen=True, eq=False)
class Confusion:
    """`matrix[t, p]` is the number of pixels of class t that were labelled p, CxC int64. Parts are merged by `+`.

    `void`: pixels that are `IGNORE`. `turned`: of images that EXIF turns, how many pixels more would be right if their
    masks were turned, too; less than 0: fewer.
    """

    matrix: npt.NDArray[np.int64]
    void: int = 0
    turned: int = 0

    @classmethod
    def zero(cls, classes: int) -> Confusion:
        return cls(np.zeros((classes, classes), np.int64))

    @classmethod
    def of(cls, truth: Truth, prediction: LabelMap, classes: int) -> Confusion:
        """The matrix of one frame. Raises `ValueError` unless the two are of one shape and hold `classes` classes."""
        largest = truth.max(where=truth != IGNORE, initial=0), prediction.max(initial=0)
        smallest = min(truth.min(initial=0), prediction.min(initial=0))
        if truth.shape != prediction.shape or smallest < 0 or max(largest) >= classes:
            said = f"{truth.shape} and {prediction.shape} with labels from {smallest} to {max(largest)}"
            raise ValueError(f"truth and prediction are {said}, {classes} classes")
        # in 16 bits: of intp each pass would move four times as much
        pairs = truth.astype(np.uint16) << 8 | prediction
        counts = np.bincount(pairs.ravel(), minlength=1 << 16).reshape(256, 256)
        void, counts[IGNORE] = int(counts[IGNORE].sum()), 0
        return cls(counts[:classes, :classes].astype(np.int64), void)

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.matrix + other.matrix, self.void + other.void, self.turned + other.turned)

    @property
    def iou(self) -> npt.NDArray[np.float64]:
        """IoU of each class; nan where it appears in neither truth nor prediction."""
        hits = self.matrix.diagonal()
        either = self.matrix.sum(0) + self.matrix.sum(1) - hits
        iou = np.full(len(hits), np.nan)
        np.divide(hits, either, out=iou, where=either > 0)
        return iou

    @property
    def miou(self) -> float:
        """The mean over the classes that appear; nan when no pixel was counted."""
        appearing = self.iou[~np.isnan(self.iou)]
        return float(appearing.mean()) if appearing.size else float("nan")

    @property
    def pixel_accuracy(self) -> float:
        """The share of the counted pixels that are right; nan when there are none."""
        pixels = int(self.matrix.sum())
        return int(self.matrix.trace()) / pixels if pixels else float("nan")
