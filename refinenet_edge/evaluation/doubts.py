"""Signs that masks are not read as they were made: the result is right for numbers that mean something else.

Only a person knows. So each is said, with the name of the data set that settles it either way.
"""

from __future__ import annotations

import numpy as np

from refinenet_edge.evaluation.confusion import Confusion
from refinenet_edge.evaluation.datasets import DataSet

FROM_1 = {"plain": "plain-from1", "nyu40": "nyu40-from1"}  # the layouts whose masks may count from 1, too
FROM_0 = {name: layout for layout, name in FROM_1.items()}
FITS = 0.3  # mean recall of a numbering that may be the right one
UNSEEN = 0.05  # recall of a class that is never found


def numbering_doubt(found: Confusion, dataset: DataSet) -> str | None:
    """Why the numbers of the masks seem to mean other classes; None: they do not."""
    layout, place = dataset.layout, dataset.place
    as_read, lower, higher = (_recall(found, shift) for shift in (0, -1, 1))
    if lower > max(FITS, 2 * as_read):
        option = f": {FROM_1[layout]}:{place} takes 1 for the first class" if layout in FROM_1 else ""
        return f"the labels match the masks best when 1 is taken from each number, as if they count from 1{option}"
    if higher > max(FITS, 2 * as_read):
        option = f": {FROM_0[layout]}:{place} takes 0 for the first class" if layout in FROM_0 else ""
        return f"the labels match the masks best when 1 is added to each number, as if they count from 0{option}"
    return None


def doubts(found: Confusion, dataset: DataSet) -> tuple[str, ...]:
    """All that makes one doubt the result, in words."""
    layout, place = dataset.layout, dataset.place
    said = []
    if not dataset.named and (doubt := numbering_doubt(found, dataset)):
        said.append(f"{doubt}; {layout}:{place} is as it was read")
    pixels = found.matrix.sum(1)
    if layout == "plain" and not dataset.named and pixels[0] and found.void and not pixels[1:].any():
        said.append(
            f"the masks hold 0 and 255 only, and 255 was taken for void: if it is class 1, plain-binary:{place}, "
            f"otherwise plain:{place}"
        )
    elif not dataset.named and not said and _is_like_void(found):
        said.append(
            f"class 0 is in the masks and hardly ever among the labels, as where 0 is void: save void as 255, or name "
            f"a layout that has 0 for void; {layout}:{place} is as it was read"
        )
    if found.turned > 0:
        said.append(
            "images that EXIF turns agree better with their masks when these are turned, too: --masks-as-stored, or "
            "save the images upright"
        )
    return tuple(said)


def _recall(found: Confusion, shift: int) -> float:
    """Mean over the classes in the truth of the share that was labelled `shift` higher; 0 of a single class."""
    matrix = found.matrix
    there = [label for label in np.flatnonzero(matrix.sum(1)) if 0 <= label + shift < len(matrix)]
    shares = [float(matrix[label, label + shift] / matrix[label].sum()) for label in there]
    return sum(shares) / len(shares) if len(shares) > 1 else 0.0


def _is_like_void(found: Confusion) -> bool:
    """Whether class 0 is a part of the truth that is labelled as anything else, where all other classes are found."""
    pixels = found.matrix.sum(1)
    others = [label for label in np.flatnonzero(pixels) if label]
    if found.void or len(others) < 2 or pixels[0] < 0.005 * pixels.sum():
        return False
    recalls = [found.matrix[label, label] / pixels[label] for label in others]
    return bool(found.matrix[0, 0] < UNSEEN * pixels[0] and np.mean(recalls) > FITS)
