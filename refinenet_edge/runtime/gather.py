"""Frames as they come, gathered into lists: those that go in at once."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")

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
