"""Frames, and how they become the network's input and its logits labels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from refinenet_edge.errors import BundleError, InputError, require

MAX_SIDE = 16_384  # pixels: larger frames are refused before anything is allocated for them
SMALLEST_SIDE = 32  # pixels: below, a network's coarsest tap has no pixel left to interpolate

RGB = tuple[int, int, int]
Size = tuple[int, int]  # (height, width) in pixels, everywhere
Frame = npt.NDArray[np.uint8]  # HxWx3, BGR, as OpenCV reads it
LabelMap = npt.NDArray[np.uint8]  # HxW, class indices
Confidence = npt.NDArray[np.uint8]  # HxW, the softmax of the label in 255ths


@dataclass(frozen=True)
class Bilinear:
    """Bilinear interpolation; `align_corners` as torch defines it, half-pixel centres otherwise."""

    align_corners: bool = False
    kind: Literal["bilinear"] = "bilinear"


@dataclass(frozen=True)
class Cubic:
    """Bicubic interpolation, a = -0.75, half-pixel centres: OpenCV's INTER_CUBIC, the ports' published evaluation."""

    kind: Literal["cubic"] = "cubic"


@dataclass(frozen=True)
class Nearest:
    """The nearest sample, half-pixel centres: of labels, which have nothing between them."""

    kind: Literal["nearest"] = "nearest"


Interpolation = Bilinear | Cubic | Nearest


@dataclass(frozen=True)
class Span:
    """Where a frame lies along a side of the network's input: `length` pixels from `start` on, of its `total`.

    Where it is cropped it is longer, and `start` is not positive.
    """

    start: int
    length: int
    total: int


@dataclass(frozen=True)
class FrameSpec:
    """Frame (HxWx3 BGR uint8) -> input (1x3xhxw, (x / scale - mean) / std); logits -> labels by `upsample`, argmax.

    `size` is the (height, width) the network takes; None: every frame at its own size (a dynamic engine).
    `resize` brings the frame to `size`, `upsample` brings logits to the frame's size. `order` is that of the network's
    channels, which `mean` and `std` are in too. `fit`: a frame of another shape is stretched to `size`, or keeps its
    own: in the middle of zeros, or cropped to its middle. Raises `BundleError` for what no frame can have.
    """

    size: Size | None
    resize: Interpolation = Bilinear(align_corners=False)
    upsample: Interpolation = Bilinear(align_corners=True)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    scale: float = 255.0
    order: Literal["rgb", "bgr"] = "rgb"
    fit: Literal["stretch", "letterbox", "crop"] = "stretch"

    def __post_init__(self) -> None:
        require(self.resize, (Bilinear, Cubic), "frame.resize")
        require(self.upsample, (Bilinear, Cubic, Nearest), "frame.upsample")
        if self.resize == Bilinear(align_corners=True):
            raise BundleError("frame.resize: frames are resized with half-pixel centres only")
        if self.size is not None and not all(1 <= side <= MAX_SIDE for side in self.size):
            raise BundleError(f"frame.size: {self.size} is outside 1..{MAX_SIDE} pixels a side")
        if not all(s > 0 and math.isfinite(s) for s in self.std) or not all(map(math.isfinite, self.mean)):
            raise BundleError(f"frame: mean {self.mean} must be finite and std {self.std} positive and finite")
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise BundleError(f"frame: scale {self.scale} must be positive and finite")
        if self.order not in ("rgb", "bgr"):
            raise BundleError(f"frame: order {self.order!r} is neither rgb nor bgr")
        if self.fit not in ("stretch", "letterbox", "crop"):
            raise BundleError(f"frame: fit {self.fit!r} is neither stretch, letterbox nor crop")

    def spans(self, frame: Size) -> tuple[Span, Span] | None:
        """Where a frame of that size that keeps its shape lies in the network's input, down and across.

        None: it fills it. Raises `InputError` for one so long that it would be too large where it is cropped.
        """
        if self.size is None or self.fit == "stretch":
            return None
        (height, width), (rows, columns) = frame, self.size
        if self.fit == "crop":  # as torchvision's Resize of the shorter side and CenterCrop
            lengths = max(rows, columns * height // width), max(columns, rows * width // height)
            if max(lengths) > MAX_SIDE:
                raise InputError(f"a frame of {height}x{width} pixels is too long to be cropped to {rows}x{columns}")
            down, across = (
                Span(-round((length - total) / 2), length, total)
                for length, total in zip(lengths, self.size, strict=True)
            )
            return down, across
        if rows * width <= columns * height:
            columns = max(1, (2 * rows * width + height) // (2 * height))
        else:
            rows = max(1, (2 * columns * height + width) // (2 * width))
        sides = zip((rows, columns), self.size, strict=True)
        down, across = (Span((total - length) // 2, length, total) for length, total in sides)
        return down, across

    def seen(self, frame: Size) -> tuple[slice, slice] | None:
        """The rows and columns of a frame of that size that the network sees where it crops; None: it sees all."""
        spans = self.spans(frame) if self.fit == "crop" else None
        if spans is None:
            return None
        ends = []
        for span, side in zip(spans, frame, strict=True):
            place = 2 * side * span.start + (2 * np.arange(side) + 1) * span.length  # of centres
            first, last = np.searchsorted(place, (0, 2 * side * span.total))
            ends.append(slice(int(first), int(last)))
        return ends[0], ends[1]

    @property
    def preprocessing(self) -> str:
        """What happens to a byte x of a frame, to be shown: "imagenet: RGB (x / 255 - (0.485, ...)) / (0.229, ...)"."""
        value = "x" if self.scale == 1 else f"x / {self.scale:.9g}"
        value += f" - {_short(self.mean)}" if any(self.mean) else ""
        if self.std != (1, 1, 1):
            value = f"({value}) / {_short(self.std)}"
        ours = self.scale, self.mean, self.std, self.order
        names = [name for name, p in PREPROCESSINGS.items() if (p.scale, p.mean, p.std, p.order) == ours]
        return (
            "".join(f"{name}: " for name in names)
            + f"{self.order.upper()} {value}"
            + {"stretch": "", "letterbox": ", letterboxed", "crop": ", cropped"}[self.fit]
        )


def _short(channels: tuple[float, ...]) -> str:
    numbers = [f"{value:.9g}" for value in channels]
    return numbers[0] if len(set(numbers)) == 1 else f"({', '.join(numbers)})"


# what networks are trained on, by the names that Keras made usual; torchvision's is imagenet
PREPROCESSINGS: Mapping[str, FrameSpec] = {
    "imagenet": FrameSpec(None),
    "caffe": FrameSpec(None, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), scale=1.0, order="bgr"),
    "tf": FrameSpec(None, mean=(1.0, 1.0, 1.0), std=(1.0, 1.0, 1.0), scale=127.5),
    "0-1": FrameSpec(None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    "none": FrameSpec(None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), scale=1.0),
}


@dataclass(frozen=True)
class Labels:
    """Class names and RGB palette, index = class; label `ignore` is never counted. Raises `BundleError`."""

    name: str
    names: tuple[str, ...]
    palette: tuple[RGB, ...]
    ignore: int = 255

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= 255 or len(self.names) != len(self.palette):
            counts = f"{len(self.names)} names and {len(self.palette)} colours"
            raise BundleError(f"labels {self.name!r}: {counts}, expected 1 to 255 of each")
        if not all(0 <= channel <= 255 for colour in self.palette for channel in colour):
            raise BundleError(f"labels {self.name!r}: a palette colour is outside 0..255")

    def bgr(self) -> npt.NDArray[np.uint8]:
        """The palette as a 256x3 BGR lookup table; entries beyond the classes are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self.palette)] = np.array(self.palette, np.uint8)[:, ::-1]
        return table


@dataclass(frozen=True)
class Mask:
    """A frame's segmentation: `labels` is HxW uint8 at the frame's size.

    What a network that crops does not see has the label `classes.ignore`, which is no class's.
    `confidence` is HxW uint8: how sure each label is, its softmax in 255ths; None where it was not asked for.
    """

    labels: LabelMap
    classes: Labels
    confidence: Confidence | None = None

    def colours(self) -> Frame:
        """The label map in its palette, HxWx3 BGR uint8."""
        return self.classes.bgr()[self.labels]

    def overlay(self, frame: Frame, opacity: float = 0.5) -> Frame:
        """`frame` (HxWx3 BGR uint8, the segmented one) with the palette blended over it; opacity in [0, 1].

        White lines between classes tell those apart whose colours somebody does not, or a photo swallows.
        """
        from refinenet_edge.overlay import OverlayStyle, blend  # here: records need numpy only, pictures OpenCV

        return blend(frame, self, OverlayStyle(opacity))

    def unknown_below(self, confidence: float) -> "Mask":
        """The mask with labels that are less sure than `confidence`, 0 to 1, as `Labels.ignore`.

        Raises `InputError` for another number, or where the mask does not say how sure it is.
        """
        if not 0 <= confidence <= 1:
            raise InputError(f"a confidence of {confidence}: it is from 0 to 1")
        if self.confidence is None:
            raise InputError("this mask does not say how sure its labels are: Segmenter(..., confidence=True)")
        unknown = self.confidence < 255 * confidence
        return replace(self, labels=np.where(unknown, np.uint8(self.classes.ignore), self.labels))

    def pixels(self) -> npt.NDArray[np.intp]:
        """How many of the frame's pixels each class covers, in the order of the classes."""
        classes = len(self.classes.names)
        return np.bincount(self.labels.ravel(), minlength=classes)[:classes]

    def shares(self) -> dict[str, float]:
        """Share of the frame's pixels that each class covers, classes that appear only, largest first."""
        counts = self.pixels()
        order = np.argsort(-counts, kind="stable")
        return {self.classes.names[i]: float(counts[i] / self.labels.size) for i in order if counts[i]}
