"""Many frames through one segmenter, as many at once as pay: each is read before and used after it, in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Protocol, TypeVar

from refinenet_edge.errors import RefineNetEdgeError
from refinenet_edge.records import Frame, Mask, Tiles
from refinenet_edge.runtime.frame_path import Answer, or_error
from refinenet_edge.runtime.in_flight import Workers, most_requests
from refinenet_edge.runtime.segmenter import Segmenter

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11, Jetson has 3.10

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")


class Segments(Protocol):
    """As much of a `Segmenter` as one frame after the other needs."""

    def segment(self, frame: Frame) -> Mask: ...


class Many:
    """Threads that read frames, and use their masks.

    On a CPU they segment, too, each a frame of its own: one more of them than the network takes, so that it has work
    while one reads. What a GPU computes goes on by itself, and several frames of a run go in together: there frames are
    handed over as they are read, while the threads go on. In memory are the frames of two runs and four for each thread
    at most. Tiles are of frames that may be as large as the memory: one at a time.
    """

    def __init__(self, segmenter: Segments) -> None:
        self._segmenter = segmenter
        self._each: Callable[[Iterator[Frame | RefineNetEdgeError]], Generator[Answer, None, None]] | None = None
        threads = 1
        if isinstance(segmenter, Segmenter):
            threads = segmenter.in_flight + (segmenter.in_flight > 1)
            on_gpu = segmenter.session.on_gpu and not isinstance(segmenter.inference, Tiles)
            if on_gpu or segmenter.at_once > 1:
                self._each, threads = segmenter.segment_each, most_requests()
        self._workers = Workers(threads)

    def each(
        self,
        items: Iterable[T],
        read: Callable[[T], tuple[Frame | RefineNetEdgeError, S]],
        use: Callable[[S, Answer, float], R],
    ) -> Iterator[R]:
        """`use(what else was read, mask or error, ms)` for what `read` makes of each of `items`, in their order.

        The ms are those that a frame took beside the others, or from when it was handed over until its mask came.
        An error in a frame's place is its own answer. What `read` or `use` raises comes after the results before it.
        """
        if self._each is not None:
            yield from self._handed_over(self._each, self._workers.in_order(read, items), use)
            return

        def work(item: T) -> R:
            frame, rest = read(item)
            began = time.perf_counter()
            answer = frame if isinstance(frame, RefineNetEdgeError) else or_error(self._segmenter.segment, frame)
            return use(rest, answer, _ms(began))

        yield from self._workers.in_order(work, items)

    def _handed_over(
        self,
        segment_each: Callable[[Iterator[Frame | RefineNetEdgeError]], Generator[Answer, None, None]],
        read: Generator[tuple[Frame | RefineNetEdgeError, S], None, None],
        use: Callable[[S, Answer, float], R],
    ) -> Iterator[R]:
        waiting: deque[tuple[S, float]] = deque()

        def frames() -> Iterator[Frame | RefineNetEdgeError]:
            for frame, rest in read:
                waiting.append((rest, time.perf_counter()))
                yield frame

        with closing(read), closing(segment_each(frames())) as answers:
            taken = ((waiting.popleft(), answer) for answer in answers)
            used = ((rest, answer, _ms(since)) for (rest, since), answer in taken)
            yield from self._workers.in_order(lambda found: use(*found), used)

    def close(self) -> None:
        """End the threads; a second call does nothing."""
        self._workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _ms(since: float) -> float:
    return 1000 * (time.perf_counter() - since)
