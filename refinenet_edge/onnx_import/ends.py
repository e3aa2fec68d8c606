"""What is said of an ONNX file's ends, what is found there, and the words and looks that its parts share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx_ir as ir

from refinenet_edge.graph import Array
from refinenet_edge.records import Size

FLOAT, HALF, BYTE = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.UINT8
PLANES_FIRST, PLANES_LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # of Transpose
EXPECTED = (
    "expected scores of classes, 1xCxhxw or 1xhxwxC, or labels: name another output with --output-name, or export it so"
)

Layout = Literal["nchw", "nhwc"]
Kind = Literal["scores", "score", "probability", "labels", "ones"]  # ones: for its class each, of labels
AXES: dict[Layout, int] = {"nchw": 1, "nhwc": 3}  # of the channels


@dataclass(frozen=True)
class Said:
    """What the user says of a file's ends: which output, how its input lies, how many classes there are."""

    output: str | None = None
    layout: Layout | None = None
    classes: int | None = None


NOTHING = Said()


class Taken(NamedTuple):
    """What a file takes, and the name of the output that is wanted of it.

    `sides` are of its image, None: they are free. `frames` is how many go in at once.
    """

    image: str
    layout: Layout
    dtype: str
    sides: Size | None
    output: str
    frames: int = 1


class Made(NamedTuple):
    """What logits are made of: something of a `kind`, which lies in a `layout`.

    `given_axis` is where the output itself has `classes` channels; None: it has one, or labels, and what is above
    `threshold` is the second class (None: they are labels).
    """

    kind: Kind
    layout: Layout
    classes: int
    given_axis: int | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class Ends:
    """What a file takes and gives, as it was given.

    `source` is what the logits are made of: the output, or what lies before the ArgMax, Softmax or Sigmoid that ends
    the graph.
    """

    taken: Taken
    source: str
    made: Made
    half: bool = False  # it computes in float16
    scaled_by: tuple[str, ...] = ()  # the operators that scale and shift the image before anything else, in order

    def fed(self, image: Array) -> Array:
        """`image`, nx3xhxw float32, as the file takes it."""
        moved = image.transpose(PLANES_LAST) if self.taken.layout == "nhwc" else image
        return np.ascontiguousarray(moved.astype(self.taken.dtype))

    def logits(self, source: Array) -> Array:
        """The logits, 1xCxhxw float32, of what the file computes as `source`."""
        kind, layout = self.made.kind, self.made.layout
        if kind in ("scores", "ones"):
            planes = source.transpose(PLANES_FIRST) if layout == "nhwc" else source
            return np.ascontiguousarray(planes, np.float32)
        one = source.reshape(1, 1, *sides_of(source.shape, layout))
        if kind == "labels":
            return np.asarray(one.astype(np.int64) == np.arange(self.made.classes).reshape(1, -1, 1, 1), np.float32)
        scores = one.astype(np.float32) - np.float32(0.5 if kind == "probability" else 0)
        return np.concatenate([np.zeros_like(scores), scores], axis=1)

    def labels(self, given: Array) -> Array:
        """The labels that the output `given` says, in its order."""
        if self.made.given_axis is not None:
            return np.asarray(given.argmax(self.made.given_axis)).ravel()
        return given.ravel() if self.made.threshold is None else (given > self.made.threshold).ravel()


def sides_of(shape: Sequence[Any], layout: Layout) -> tuple[Any, ...]:
    """Height and width in a shape of one channel, or of none."""
    return tuple(shape[1:3] if len(shape) == 4 and layout == "nhwc" else shape[-2:])


def known(side: Any) -> bool:
    return isinstance(side, int) and side > 0  # some exporters write -1 for what is free


def shown(shape: ir.Shape | None) -> str:
    return "x".join(str(side) for side in shape) if shape else "of a shape that it does not say"
