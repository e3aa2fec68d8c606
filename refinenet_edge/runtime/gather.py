"""Frames as they come, one by one or from several threads, gathered into lists: those that go in at once."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

POLL = 0.1  # seconds between two looks at whether somebody still reads


def gathered(items: Iterable[T], most: int, wait: float | None = None) -> Generator[list[T], None, None]:
    """`items` in lists of up to `most`, in their order.

    None: lists are full, but for the last. Else the first of a list waits so many seconds for others; a thread takes
    the items then, up to `most` ahead, and ends with the next item where the lists are not read to their end. What an
    item raises comes after the items before it.
    """
    if wait is None:
        source = iter(items)
        yield from _lists(lambda _: _next(source), most, math.inf)
        return
    reader = _Reader(items, most)
    try:
        yield from _lists(reader.take, most, wait)
    finally:
        reader.close()


class _End:
    """After the last item: what the source raised, if it did."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error


def _next(source: Iterator[T]) -> T | _End:
    try:
        return next(source)
    except StopIteration:
        return _End()
    except Exception as exc:
        return _End(exc)


def _lists(take: Callable[[float], T | _End | None], most: int, wait: float) -> Iterator[list[T]]:
    """`take(seconds)` is the next item, None where none has come within them."""
    while True:
        chosen: list[T] = []
        until = math.inf
        while len(chosen) < most:
            item = take(until - time.monotonic())
            if item is None:
                break
            if isinstance(item, _End):
                if chosen:
                    yield chosen
                if item.error is not None:
                    raise item.error
                return
            if not chosen:
                until = time.monotonic() + wait
            chosen.append(item)
        yield chosen


class _Reader(Generic[T]):
    """A thread that takes items ahead. Its queues are C's: Ctrl-C leaves no lock of theirs behind."""

    def __init__(self, items: Iterable[T], ahead: int) -> None:
        self._come: SimpleQueue[T | _End] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        self._wanted = True
        for _ in range(ahead):
            self._room.put(None)
        self._thread = threading.Thread(target=self._read, args=(iter(items),), name="gather", daemon=True)
        self._thread.start()

    def _read(self, source: Iterator[T]) -> None:
        item: T | _End | None = None
        while self._wanted and not isinstance(item, _End):
            with contextlib.suppress(Empty):
                self._room.get(timeout=POLL)
                item = _next(source)
                self._come.put(item)

    def take(self, seconds: float) -> T | _End | None:
        """The next item; None where none comes within `seconds`."""
        try:
            item = self._come.get(timeout=None if seconds == math.inf else max(0.0, seconds))
        except Empty:
            return None
        self._room.put(None)
        return item

    def close(self) -> None:
        """Wait for the thread: for the item that it is at."""
        self._wanted = False
        self._thread.join()


@dataclass(eq=False)
class _Asked(Generic[T, R]):
    item: T
    answer: list[R] = field(default_factory=list)  # one, when it is there
    error: Exception | None = None


class Together(Generic[T, R]):
    """Items that threads ask for one by one, worked on together: one thread works for up to `most` that wait.

    Nobody waits for others to come: what comes meanwhile is worked on next.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[_Asked[T, R]] = deque()
        self._works = threading.Lock()

    def answer(self, item: T, work: Callable[[list[T]], Sequence[R]]) -> R:
        """What `work` answers to `item` in a list of some; what it raises is raised for each item of the list."""
        asked: _Asked[T, R] = _Asked(item)
        self._waiting.append(asked)
        with self._works:
            while not asked.answer and asked.error is None:
                if asked not in self._waiting:  # who had taken it was interrupted
                    self._waiting.append(asked)
                self._work(work)
        if asked.error is not None:
            raise asked.error
        return asked.answer[0]

    def _work(self, work: Callable[[list[T]], Sequence[R]]) -> None:
        chosen = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        try:
            for asked, answer in zip(chosen, work([asked.item for asked in chosen]), strict=True):
                asked.answer.append(answer)
        except Exception as exc:
            for asked in chosen:
                asked.error = exc
