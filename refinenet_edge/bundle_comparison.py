"""How far two outputs, or two bundles, are from each other: the error of the logits and the agreement of the labels."""

from collections.abc import Iterator
from dataclasses import dataclass

from refinenet_edge.frames import Frames
from refinenet_edge.records import relative_error
from refinenet_edge.runtime import Segmenter


@dataclass(frozen=True)
class Difference:
    """One frame. `relative_error` is None where the two networks give logits of different size."""

    image: str
    relative_error: float | None
    label_agreement: float


def compare_bundles(first: Segmenter, second: Segmenter, frames: Frames) -> Iterator[Difference]:
    """Segment every image with both and compare: the logits as they come, the labels at the image's size."""
    for index, name in enumerate(frames.names):
        frame = frames.read(index)
        logits = first.logits(frame), second.logits(frame)
        error = relative_error(*logits) if logits[0].shape == logits[1].shape else None
        size = (frame.shape[0], frame.shape[1])
        labels = first.mask(logits[0], size).labels, second.mask(logits[1], size).labels
        yield Difference(name, error, float((labels[0] == labels[1]).mean()))
