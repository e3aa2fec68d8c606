"""Frames that are on their way at once: work for several threads, its results in the order in which it came."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11, Jetson has 3.10

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 2  # items for each thread: the next one is there when one is done
MOST = 8  # requests: each has the activations of a frame in memory


def cores() -> int:
    """Of those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def most_requests(threads: int = 0) -> int:
    """How many frames at once keep so many threads busy, 0: all cores, where a library does not say."""
    return min(MOST, threads or cores())


class Workers:
    """Threads that work on items side by side; they begin with the first and end with `close`."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None

    def in_order(self, work: Callable[[T], R], items: Iterable[T], depth: int | None = None) -> Iterator[R]:
        """`work(item)` of each of `items`, in their order; where there is one thread, it is the caller's own.

        The caller's thread takes the items, as results are taken: up to `depth` are there at once, unsaid `AHEAD` for
        each thread. What `work` or an item raises comes after the results before it. Then, or when the caller is
        interrupted or stops, nothing is begun any more, and what was begun ends first.
        """
        if self.threads == 1:
            yield from map(work, items)
            return
        self._pool = self._pool or ThreadPoolExecutor(self.threads, "in flight")
        source = iter(items)
        failed: Exception | None = None
        waiting: deque[Future[R]] = deque()
        try:
            while True:
                try:
                    item = next(source)
                except StopIteration:
                    break
                except Exception as exc:
                    failed = exc
                    break
                waiting.append(self._pool.submit(work, item))
                if len(waiting) == (depth or AHEAD * self.threads):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
            if failed is not None:
                raise failed
        finally:
            wait([future for future in waiting if not future.cancel()])

    def close(self) -> None:
        """End the threads with what they do; a second call does nothing."""
        pool, self._pool = self._pool, None
        if pool:
            pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
