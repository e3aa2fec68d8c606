"""How far two outputs, or two bundles, are from each other: the error of the logits and the agreement of the labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from refinenet_edge.errors import InputError
from refinenet_edge.frames import Frames
from refinenet_edge.records import Frame, Labels, label_agreement, relative_error
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.gather import gathered
from refinenet_edge.runtime.in_flight import Workers


@dataclass(frozen=True)
class Difference:
    """One frame. `relative_error` is None where the two networks give logits of different size."""

    image: str
    relative_error: float | None
    label_agreement: float


def compare_bundles(first: Segmenter, second: Segmenter, frames: Frames) -> Iterator[Difference]:
    """Segment every image with both and compare: the logits as they come, the labels at the image's size.

    As many images at once as both sessions have requests, or one of them takes in a run.
    Raises `InputError` when a label of the one is another class than the same label of the other.
    """
    _require_same_classes(first.labels, second.labels)

    def compared(chosen: list[tuple[str, Frame]]) -> list[Difference]:
        frames = [frame for _, frame in chosen]
        logits = zip(first.logits_of(frames), second.logits_of(frames), strict=True)
        return [of_one(name, frame, *both) for (name, frame), both in zip(chosen, logits, strict=True)]

    def of_one(name: str, frame: Frame, *logits: npt.NDArray[Any]) -> Difference:
        error = relative_error(*logits) if logits[0].shape == logits[1].shape else None
        size = (frame.shape[0], frame.shape[1])
        labels = first.mask(logits[0], size).labels, second.mask(logits[1], size).labels
        return Difference(name, error, label_agreement(*labels))

    # not in_flight: logits of a session without requests are the next frame's, too
    with Workers(min(first.session.requests, second.session.requests)) as workers:
        read = ((name, frames.read(index)) for index, name in enumerate(frames.names))
        for found in workers.in_order(compared, gathered(read, max(first.at_once, second.at_once))):
            yield from found


def _require_same_classes(first: Labels, second: Labels) -> None:
    if first.names == second.names or (
        len(first.names) == len(second.names) and "numbered" in (first.name, second.name)
    ):
        return
    at = next(
        (at for at, names in enumerate(zip(first.names, second.names, strict=False)) if names[0] != names[1]), None
    )
    where = "" if at is None else f", and label {at} is {first.names[at]!r} and {second.names[at]!r}"
    raise InputError(
        f"the bundles' labels are different classes: {len(first.names)} ({first.name}) and {len(second.names)} "
        f"({second.name}){where}; compare bundles of the same --labels"
    )
