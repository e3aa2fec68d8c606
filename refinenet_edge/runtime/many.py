"""Many frames through one segmenter, as many at once as pay: each is read before and used after it, in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Protocol, TypeVar

from refinenet_edge.errors import RefineNetEdgeError
from refinenet_edge.records import Frame, Mask
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

    They segment, too, each a frame of its own, unless the segmenter gathers frames for a run: then these go in together
    as they are read, while the threads go on. In memory are up to two batches and four frames for each thread.
    """

    def __init__(self, segmenter: Segments) -> None:
        self._segmenter = segmenter
        threads = 1
        if isinstance(segmenter, Segmenter):
            threads = segmenter.in_flight if segmenter.at_once == 1 else most_requests()
        self._workers = Workers(threads)

    def each(
        self,
        items: Iterable[T],
        read: Callable[[T], tuple[Frame | RefineNetEdgeError, S]],
        use: Callable[[S, Answer, float], R],
    ) -> Iterator[R]:
        """`use(what else was read, mask or error, ms)` for what `read` makes of each of `items`, in their order.

        The ms are those that a frame took beside the others, or from when it was taken for a batch until its mask came.
        An error in a frame's place is its own answer. What `read` or `use` raises comes after the results before it.
        """
        segmenter = self._segmenter
        if isinstance(segmenter, Segmenter) and segmenter.at_once > 1:
            yield from self._gathered(segmenter, self._workers.in_order(read, items), use)
            return

        def work(item: T) -> R:
            frame, rest = read(item)
            began = time.perf_counter()
            answer = frame if isinstance(frame, RefineNetEdgeError) else or_error(segmenter.segment, frame)
            return use(rest, answer, _ms(began))

        yield from self._workers.in_order(work, items)

    def _gathered(
        self,
        segmenter: Segmenter,
        read: Generator[tuple[Frame | RefineNetEdgeError, S], None, None],
        use: Callable[[S, Answer, float], R],
    ) -> Iterator[R]:
        waiting: deque[tuple[S, float]] = deque()

        def frames() -> Iterator[Frame | RefineNetEdgeError]:
            for frame, rest in read:
                waiting.append((rest, time.perf_counter()))
                yield frame

        with closing(read), closing(segmenter.segment_each(frames())) as answers:
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
