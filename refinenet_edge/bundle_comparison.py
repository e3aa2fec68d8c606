"""How far two outputs, or two bundles, are from each other: the error of the logits and the agreement of the labels."""

from collections.abc import Iterator
from dataclasses import dataclass

from refinenet_edge.errors import InputError
from refinenet_edge.frames import Frames
from refinenet_edge.records import Frame, Labels, label_agreement, relative_error
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.in_flight import Workers


@dataclass(frozen=True)
class Difference:
    """One frame. `relative_error` is None where the two networks give logits of different size."""

    image: str
    relative_error: float | None
    label_agreement: float


def compare_bundles(first: Segmenter, second: Segmenter, frames: Frames) -> Iterator[Difference]:
    """Segment every image with both and compare: the logits as they come, the labels at the image's size.

    As many images at once as both sessions have requests.
    Raises `InputError` when a label of the one is another class than the same label of the other.
    """
    _require_same_classes(first.labels, second.labels)

    def compared(named: tuple[str, Frame]) -> Difference:
        name, frame = named
        logits = first.logits(frame), second.logits(frame)
        error = relative_error(*logits) if logits[0].shape == logits[1].shape else None
        size = (frame.shape[0], frame.shape[1])
        labels = first.mask(logits[0], size).labels, second.mask(logits[1], size).labels
        return Difference(name, error, label_agreement(*labels))

    # not in_flight: logits of a session without requests are the next frame's, too
    with Workers(min(first.session.requests, second.session.requests)) as workers:
        read = ((name, frames.read(index)) for index, name in enumerate(frames.names))
        yield from workers.in_order(compared, read)


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
