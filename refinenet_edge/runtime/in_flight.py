"""Frames that are on their way at once: work for several threads, its results in the order in which it came."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11, Jetson has 3.10

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 2  # items for each thread: the next one is there when one is done
POLL = 0.1  # seconds between two looks at what is ending
MOST = 8  # requests: each has the activations of a frame in memory


def cores() -> int:
    """Of those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def most_requests(threads: int = 0) -> int:
    """How many frames at once keep so many threads busy, 0: all cores, where a library does not say."""
    return min(MOST, threads or cores())


class _Task(Generic[R]):
    """An item on its way; whoever waits for it may be interrupted anywhere."""

    def __init__(self, work: Callable[[], R]) -> None:
        self._work = [work]  # until somebody takes it
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self.wanted, self.done = True, False

    def run(self) -> None:
        """By a worker; nothing where somebody has taken the work."""
        error = value = None
        try:
            work = self._work.pop()
        except IndexError:
            return
        try:
            value = work() if self.wanted else None
        except BaseException as exc:
            error = exc
        del work  # and its item
        self.done = True
        self._answers.put((value, error))

    def result(self) -> R:
        """Wait for what the work gives or raises; once."""
        value, error = self._answers.get()
        if error is not None:
            raise error
        result: R = value
        return result

    def end(self) -> None:
        """Wait until nothing of it goes on; what has not begun does not."""
        self.wanted = False
        self.run()
        while not self.done:
            with contextlib.suppress(Empty):
                self._answers.get(timeout=POLL)


class Workers:
    """Threads that work on items side by side; they begin with the first and end with `close`.

    The queues are C's: Ctrl-C within the wait for a future, a condition or an event may leave its lock behind.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._tasks: SimpleQueue[_Task[Any] | None] = SimpleQueue()
        self._ends: list[Callable[[], object]] = []

    def in_order(
        self, work: Callable[[T], R], items: Iterable[T], depth: int | None = None
    ) -> Generator[R, None, None]:
        """`work(item)` of each of `items`, in their order; where there is one thread, it is the caller's own.

        The caller's thread takes the items, as results are taken: up to `depth` are there at once, unsaid `AHEAD` for
        each thread. What `work` or an item raises comes after the results before it. Then, or when the caller is
        interrupted or stops, nothing is begun any more, and what was begun ends first.
        """
        if self.threads == 1:
            yield from map(work, items)
            return
        if not self._ends:
            self._begin()
        source = iter(items)
        failed: Exception | None = None
        waiting: deque[_Task[R]] = deque()
        try:
            while True:
                try:
                    item = next(source)
                except StopIteration:
                    break
                except Exception as exc:
                    failed = exc
                    break
                waiting.append(_Task(partial(work, item)))
                self._tasks.put(waiting[-1])
                del item
                if len(waiting) == (depth or AHEAD * self.threads):
                    yield _first(waiting)
            while waiting:
                yield _first(waiting)
            if failed is not None:
                raise failed
        finally:
            for task in reversed(waiting):  # the first has begun
                task.end()

    def _begin(self) -> None:
        begun: list[threading.Thread] = []
        # also when nobody has these any more, and before the interpreter ends: a thread in a library's code would abort
        # it then. It does not wait for them itself, which would be for ever
        self._ends.append(weakref.finalize(self, _end, self._tasks, begun))
        for _ in range(self.threads):
            begun.append(threading.Thread(target=_work, args=(self._tasks,), name="in flight", daemon=True))
            try:
                begun[-1].start()
            except RuntimeError:  # there is no memory for its stack
                begun.pop()
                raise

    def close(self) -> None:
        """End the threads, when they have done what was given to them; a second call does nothing."""
        while self._ends:
            self._ends.pop()()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _first(waiting: deque[_Task[R]]) -> R:
    result = waiting[0].result()
    waiting.popleft()  # now, so that it is waited for whenever an interrupt comes
    return result


def _work(tasks: SimpleQueue[_Task[Any] | None]) -> None:
    while (task := tasks.get()) is not None:
        task.run()
        del task


def _end(tasks: SimpleQueue[_Task[Any] | None], threads: list[threading.Thread]) -> None:
    for _ in threads:
        tasks.put(None)
    for thread in threads:
        if thread is not threading.current_thread():  # it may have been the last to know them
            thread.join()
