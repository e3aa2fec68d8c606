"""From a frame to its mask: what a `Segmenter` asks of its path, on the host or on the device, and what both know."""

import threading
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar

from refinenet_edge.errors import BundleError, CudaError, InputError, MissingExtra, RefineNetEdgeError
from refinenet_edge.records import (
    ONE,
    WHOLE,
    Batch,
    Frame,
    FrameSpec,
    Inference,
    LabelMap,
    Labels,
    Mask,
    Profile,
    Size,
)
from refinenet_edge.runtime.frame import DeviceImage
from refinenet_edge.runtime.session import Session


class SharedSession:
    """A session of several segmenters, which closes with the last of them.

    They take turns with it, unless several requests may be on their way. `lock` is for their number.
    """

    def __init__(self, session: Session) -> None:
        self.session, self.users, self.lock = session, 1, threading.RLock()
        self.turn: AbstractContextManager[object] = self.lock if session.requests == 1 else nullcontext()

    def leave(self) -> None:
        """The end of one use."""
        self.users -= 1
        if not self.users:
            self.session.close()


@dataclass(frozen=True)
class Network:
    """A session, how frames go in and logits come out, and the range of frames; `origin` is its name in errors.

    `confidence`: masks say how sure each label is. `beside`: the same network at other sizes, whose class scores are
    averaged with this one's. `progress`: told after each tile of a frame how many of how many are done. `batch`: how
    many frames the session takes at once. `throughput`: as many frames as can be, rather than each soon.
    """

    shared: SharedSession
    frame_spec: FrameSpec
    labels: Labels
    origin: str
    profile: Profile | None = None
    confidence: bool = False
    inference: Inference = WHOLE
    beside: tuple["Network", ...] = ()
    progress: Callable[[int, int], None] | None = None
    batch: Batch = ONE
    throughput: bool = False

    @property
    def session(self) -> Session:
        """What runs the network."""
        return self.shared.session

    @property
    def channels(self) -> int:
        """What the network takes: 3, or more where it is padded for channel-last engines; then its logits are, too."""
        channels = self.session.inputs[0].shape[1]
        return channels if isinstance(channels, int) and channels > 3 else 3

    @property
    def together(self) -> int:
        """How many images that are there go into a run: on a GPU as many as the network takes.

        On a CPU one, where it takes one alone: requests side by side keep that busy.
        """
        return self.batch.most if self.batch.least > 1 or self.session.on_gpu else 1

    @property
    def at_once(self) -> int:
        """How many frames wait for each other, to go into a run: 1 where one may go alone and is to be soon done."""
        return self.together if self.batch.least > 1 or self.throughput else 1

    @property
    def gives_labels(self) -> bool:
        """Whether the network's output is labels, at the size of its input, instead of logits."""
        return self.session.outputs[0].gives_labels

    def without_unseen(self, mask: Mask) -> Mask:
        """`mask`, whose labels are written into: what a network that crops does not see gets the label of no class."""
        height, width = mask.labels.shape
        if (seen := self.frame_spec.seen((height, width))) is not None:
            rows, columns = seen
            for array, value in ((mask.labels, self.labels.ignore), (mask.confidence, 0)):
                if array is not None:
                    array[: rows.start], array[rows.stop :] = value, value
                    array[:, : columns.start], array[:, columns.stop :] = value, value
        return mask

    def check_range(self, size: Size) -> None:
        """Raise `InputError` for a frame of `size` that a dynamic engine does not take."""
        profile = self.profile
        if self.frame_spec.size is not None or profile is None:
            return
        sides = zip(profile.min, size, profile.max, strict=True)
        if not all(low <= side <= high for low, side, high in sides):
            raise InputError(
                f"the frame is {size[0]}x{size[1]} pixels (height x width), this engine takes "
                f"{profile.min[0]}x{profile.min[1]} to {profile.max[0]}x{profile.max[1]}: "
                "resize the frame, or build again with a wider range"
            )

    def check_classes(self, classes: int | str) -> None:
        """Raise `BundleError` unless logits of so many `classes` fit the labels."""
        expected = len(self.labels.names)
        if classes != expected and not (self.channels > 3 and isinstance(classes, int) and classes > expected):
            raise BundleError(
                f"{self.origin}: the network has {classes} classes, labels {self.labels.name!r} has {expected}; "
                f"build it again with --labels for {classes} classes"
            )


T = TypeVar("T")
Answer = Mask | RefineNetEdgeError  # of one frame among many


def or_error(work: Callable[..., T], frame: object) -> T | RefineNetEdgeError:
    """`work(frame)`, or the error of this frame; what concerns all is raised: a failing GPU, a missing library."""
    try:
        return work(frame)
    except (CudaError, MissingExtra):
        raise
    except RefineNetEdgeError as exc:
        return exc


def or_raise(answer: Answer) -> Mask:
    """The mask of an answer; an error is raised."""
    if isinstance(answer, RefineNetEdgeError):
        raise answer
    return answer


def in_runs(
    keys: Iterable[Hashable | RefineNetEdgeError], most: int
) -> tuple[dict[int, RefineNetEdgeError], list[list[int]]]:
    """The errors among `keys` by their places, and the places of those that are equal, up to `most` in each list."""
    errors: dict[int, RefineNetEdgeError] = {}
    alike: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        if isinstance(key, RefineNetEdgeError):
            errors[place] = key
        else:
            alike.setdefault(key, []).append(place)
    runs = (places[first : first + most] for places in alike.values() for first in range(0, len(places), most))
    return errors, list(runs)


class FramePath(Protocol):
    """One way from frames to masks. Frames are HxWx3 BGR uint8 arrays, checked, or `DeviceImage`s.

    `in_flight`: how many threads with a frame each are worth it; 1: they take turns.
    `at_once`: how many frames `stream` gathers for a run.
    """

    @property
    def in_flight(self) -> int: ...

    @property
    def at_once(self) -> int: ...

    def segment(self, frame: Frame | DeviceImage, into: LabelMap | None = None) -> Mask:
        """The mask of `frame`, at its size; its labels are `into`, memory of `new_labels`, or a new array."""

    def staged(self, frame: Frame | DeviceImage) -> tuple[Mask, dict[str, float]]:
        """`segment`, and the ms of each stage, in order."""

    def batch(self, frames: Sequence[Frame | DeviceImage]) -> list[Answer]:
        """The mask of each of `frames`, in order, or the error that it would raise alone; they may differ in size."""

    def stream(self, frames: Iterable[Frame | DeviceImage], depth: int | None) -> Generator[Answer, None, None]:
        """`batch` for `frames` as they come; up to `depth` are on their way at once, None: as many as pay."""

    def new_frame(self, size: Size) -> Frame:
        """Memory for frames of `size` (height, width); it ends with `close`."""

    def new_labels(self, size: Size) -> LabelMap:
        """Memory for label maps of `size` (height, width); it ends with `close`."""

    def close(self) -> None:
        """Give back what the path holds, not the session; a second call does nothing."""
