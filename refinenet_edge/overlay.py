"""Mask over frame, with figures and legend: the picture that is looked at."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from refinenet_edge.opencv import cv2

if TYPE_CHECKING:  # a mask draws itself with this
    from refinenet_edge.records import RGB, Frame, LabelMap, Mask

FONT = cv2.FONT_HERSHEY_SIMPLEX  # OpenCV 5 draws it with a real font
DIM = 90  # of 255: how much of the picture is seen through the dark under writing
WHITE, GREY = (255, 255, 255), (190, 190, 190)
LEGEND_CLASSES = 10
LEGEND_SHARE = 0.005  # of the frame, for a class to be in the legend


@dataclass(frozen=True)
class OverlayStyle:
    """How masks are shown. `hidden` are the classes that the frame is seen through instead."""

    opacity: float = 0.5
    hidden: frozenset[int] = frozenset()
    side_by_side: bool = False  # the frame as it came, left of it
    figures: bool = True  # and the legend


def blend(frame: Frame, mask: Mask, style: OverlayStyle) -> Frame:
    """`mask` over `frame` (HxWx3 BGR uint8, the segmented one): a new picture of its size, lines between classes."""
    if frame.shape != (*mask.labels.shape, 3) or frame.dtype != np.uint8:
        expected = f"{(*mask.labels.shape, 3)}, uint8"
        raise ValueError(f"frame {frame.shape}, {frame.dtype}, is not the segmented frame {expected}")
    picture: Any = cv2.applyColorMap(mask.labels, mask.classes.bgr()[:, None])
    cv2.addWeighted(frame, 1 - style.opacity, picture, style.opacity, 0, dst=picture)
    labels: Any = mask.labels
    if style.hidden:
        table = np.arange(256, dtype=np.uint8)
        table[list(style.hidden)] = one = min(style.hidden)  # no lines between those that are hidden
        labels = cv2.LUT(labels, table)
        cv2.copyTo(frame, (labels == one).view(np.uint8), picture)
    _draw_outlines(picture, labels, style.opacity)
    return np.asarray(picture, np.uint8)


def _draw_outlines(picture: Frame, labels: LabelMap, opacity: float) -> None:
    """Draw white lines into `picture` (HxWx3, contiguous) where `labels` (HxW) change, twice as opaque as classes are.

    They are a pixel wide, in large pictures more, so that they are still seen when those are shown smaller.
    """
    wide = max(1, round(min(labels.shape) / 600))
    edges = np.zeros(labels.shape, np.bool_)
    edges[:, :-wide] = labels[:, wide:] != labels[:, :-wide]
    edges[:-wide] |= labels[wide:] != labels[:-wide]
    weight = min(2 * opacity, 1.0)
    lines, pixels = np.flatnonzero(edges), picture.reshape(-1, 3)  # few pixels: faster than a mask
    pixels[lines] = 255 if weight == 1 else np.rint(pixels[lines] * (1 - weight) + 255 * weight)


def legend(classes: Sequence[tuple[str, RGB, float]], hidden: Collection[int] = frozenset()) -> list[tuple[str, RGB]]:
    """What a legend has of `classes` (name, colour, share of the frame): the largest that are seen, in their order."""
    seen = [item for i, item in enumerate(classes) if item[2] >= LEGEND_SHARE and i not in hidden]
    largest = sorted(seen, key=lambda item: -item[2])[:LEGEND_CLASSES]
    return [(name, colour) for name, colour, share in seen if (name, colour, share) in largest]


def legend_of(mask: Mask) -> list[tuple[str, RGB]]:
    """The legend of a single frame."""
    shares, classes = mask.shares(), mask.classes
    return legend(
        [(name, colour, shares.get(name, 0.0)) for name, colour in zip(classes.names, classes.palette, strict=True)]
    )


def draw(
    frame: Frame, mask: Mask, style: OverlayStyle, lines: Sequence[str] = (), legend: Sequence[tuple[str, RGB]] = ()
) -> Frame:
    """The whole picture, new: `lines` of figures top left, `legend` (class, colour) bottom left."""
    picture = blend(frame, mask, style)
    if style.figures:
        write(picture, lines, legend)
    return np.hstack([frame, picture]) if style.side_by_side else picture


def write(
    picture: Frame, lines: Sequence[str] = (), legend: Sequence[tuple[str, RGB]] = (), height: int | None = None
) -> None:
    """Write `lines` top left into `picture`, `legend` bottom left, in letters for a picture of `height` (its own)."""
    height = height or picture.shape[0]
    _stamp(picture, _panel(tuple(lines), (), height), top=True)
    _stamp(picture, _panel((), tuple(legend), height), top=False)


def no_signal(picture: Frame, text: str = "NO SIGNAL") -> Frame:
    """`picture` grey and dark with `text` across it: it is not live."""
    grey: Any = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    dark: Any = cv2.convertScaleAbs(grey, alpha=0.4)
    height, width = picture.shape[:2]
    scale = min(2.0 * height / 512, width / (24.0 * len(text)))
    (wide, tall), _ = cv2.getTextSize(text, FONT, scale, 2)
    cv2.putText(dark, text, ((width - wide) // 2, (height + tall) // 2), FONT, scale, WHITE, 2, cv2.LINE_AA)
    return np.asarray(dark, np.uint8)


Panel = tuple["Frame", "Frame"]  # what is added to the picture, and how much of the picture stays under it (of 255)


@functools.lru_cache(maxsize=32)
def _panel(lines: tuple[str, ...], legend: tuple[tuple[str, RGB], ...], height: int) -> Panel | None:
    """Writing for a picture of `height` pixels; kept, because it changes less often than the picture."""
    if not lines and not legend:
        return None
    scale = min(max(height / 1024, 0.35), 1.5)
    thick = 2 if scale > 0.9 else 1
    line, pad = round(32 * scale), round(14 * scale)
    swatch = round(20 * scale) if legend else 0
    indent = pad + (swatch + pad if legend else 0)
    texts = [*lines, *(name for name, _ in legend)]
    wide = max(cv2.getTextSize(text, FONT, scale, thick)[0][0] for text in texts)
    added = np.zeros((line * len(texts) + pad, indent + wide + pad, 3), np.uint8)
    kept = np.full_like(added, DIM)
    for row, text in enumerate(texts):
        base = pad // 2 + line * row + round(23 * scale)
        where, colour = (indent, base), GREY if lines and row else WHITE
        cv2.putText(added, text, where, FONT, scale, colour, thick, cv2.LINE_AA)
        ink = np.zeros(added.shape[:2], np.uint8)
        cv2.putText(ink, text, where, FONT, scale, 255, thick, cv2.LINE_AA)
        kept = np.minimum(kept, (DIM - ink.astype(np.int16) * DIM // 255).astype(np.uint8)[..., None])
    for row, (_, (red, green, blue)) in enumerate(legend):
        top = pad // 2 + line * row + (line - swatch) // 2
        box = np.s_[top : top + swatch, pad : pad + swatch]
        added[box], kept[box] = (blue, green, red), 0
    return added, kept


def _stamp(picture: Frame, panel: Panel | None, *, top: bool) -> None:
    """Put `panel` into the upper or lower left corner, as much of it as there is place for."""
    if panel is None:
        return
    height, width = picture.shape[:2]
    margin = min(height, width) // 64
    rows, columns = min(panel[0].shape[0], height - margin), min(panel[0].shape[1], width - margin)
    added, kept = (part[:rows, :columns] for part in panel)
    first = margin if top else height - margin - rows
    under = picture[max(first, 0) :][:rows, margin : margin + columns]
    under[:] = cv2.add(cv2.multiply(under, kept, scale=1 / 255), added)
