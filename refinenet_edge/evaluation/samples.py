"""A sample: a frame and its truth, read when they are needed, and why one cannot be used."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from refinenet_edge.errors import InputError
from refinenet_edge.evaluation.confusion import Truth
from refinenet_edge.evaluation.masks import read_mask
from refinenet_edge.files import stamp_of
from refinenet_edge.frames.images import Turn, read_image, turn_of
from refinenet_edge.labels import voc_colour
from refinenet_edge.records import Frame
from refinenet_edge.scenes import scene

Kind = Literal["missing", "unreadable", "size", "label", "refused"]

NO_COLOUR = 256  # what a colour outside the palette becomes: a number that no layout has


class Unusable(InputError):
    """One sample cannot be used; `kind` says in which way (see `score.SampleProblem`)."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind: Kind = kind


@dataclass(frozen=True)
class SceneSample:
    """A frame and its truth, not yet read: scene `index` of the stream `seed`, 512x512."""

    seed: int
    index: int

    @property
    def id(self) -> str:
        """The same at every opening of the data set, and no other sample's."""
        return f"{self.seed}/{self.index}"

    def stamp(self) -> str:
        """Changes when the files do."""
        return ""

    def read(self) -> tuple[Frame, Truth]:
        """The frame and its HxW class indices, new arrays; sizes and classes are not compared. Raises `Unusable`."""
        return scene(self.seed, self.index)

    def turn(self) -> Turn | None:
        """How EXIF turned the frame and not the truth; None: not at all."""
        return None


@dataclass(frozen=True)
class Coding:
    """How masks number the classes: `classes[number]` is the class or `IGNORE`, `numbers` says it in words.

    `coloured`: the masks may also be colour images, in VOC's palette.
    """

    numbers: str
    classes: Mapping[int, int]
    coloured: bool = False


@dataclass(frozen=True)
class FileSample:
    """The same of an image file and its mask; None: there is only the other one.

    Without `coding` the numbers are the classes; `as_stored`: the mask lies as the image is stored, and is turned so.
    """

    id: str
    image: Path | None
    mask: Path | None
    coding: Coding | None = None
    as_stored: bool = False

    def stamp(self) -> str:
        return f"{stamp_of(self.image)} {stamp_of(self.mask)}"

    def read(self) -> tuple[Frame, Truth]:
        if self.image is None or not os.path.isfile(self.image):
            raise Unusable("missing", f"there is no image {self.image or f'for {self.mask}'}")
        if self.mask is None or not os.path.isfile(self.mask):
            raise Unusable("missing", f"there is no mask {self.mask or f'for {self.image}'}")
        try:
            frame, numbers = read_image(self.image), read_mask(self.mask)
            if self.as_stored and (turn := turn_of(self.image)):
                numbers = turn(numbers)
        except InputError as exc:
            raise Unusable("unreadable", str(exc)) from exc
        return frame, self._classes(numbers)

    def turn(self) -> Turn | None:
        return None if self.as_stored or self.image is None else turn_of(self.image)

    def _classes(self, numbers: npt.NDArray[Any]) -> Truth:
        if numbers.ndim == 3:
            if self.coding is None or not self.coding.coloured:
                raise Unusable("label", f"mask {self.mask} is a colour image: expected a grey or palette PNG")
            numbers = _voc_numbers(numbers)
        if self.coding is None:
            return numbers
        table = np.full(1 << 16, -1, np.int16)
        table[list(self.coding.classes)] = list(self.coding.classes.values())
        classes = table[numbers]
        unknown = np.unique(numbers[classes < 0])
        if unknown.size:
            other = "a colour" if unknown[0] == NO_COLOUR else f"label {', '.join(map(str, unknown[:5]))}"
            raise Unusable("label", f"mask {self.mask} has {other}; expected {self.coding.numbers}")
        return np.asarray(classes, np.uint8)


Sample = SceneSample | FileSample


def _voc_numbers(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """The numbers of an image in VOC's colours (HxWx3 BGR); `NO_COLOUR` where the colour is none of them."""
    codes, numbers = _voc_codes()
    code = image @ np.array([1, 1 << 8, 1 << 16])
    at = np.minimum(np.searchsorted(codes, code), 255)
    return np.where(codes[at] == code, numbers[at], NO_COLOUR)


@lru_cache(maxsize=1)
def _voc_codes() -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """VOC's 256 colours as 0xRRGGBB, ascending, and the number of each."""
    codes = np.array([voc_colour(number) for number in range(256)]) @ np.array([1 << 16, 1 << 8, 1])
    order = np.argsort(codes)
    return codes[order], order
