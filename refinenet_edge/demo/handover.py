"""Results go from the thread that makes them to the caller, whom Ctrl-C may interrupt anywhere.

An interrupt within `with condition:` can leave the lock behind, and the other thread then waits for it for ever. The
queues here are C's: an interrupted caller leaves none.
"""

from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
_END = object()


class Ended(Exception):
    """It was closed, and is empty."""


class Handover(Generic[Item]):
    """Hands items from one thread to another; holds one at most."""

    def __init__(self) -> None:
        self._items: SimpleQueue[Any] = SimpleQueue()  # one or none, and _END
        self._taken: SimpleQueue[None] = SimpleQueue()  # not empty: an item was taken since somebody looked
        self._ended = False
        self._failure: BaseException | None = None

    def wait_until_free(self) -> None:
        """Wait until the item was taken. Raises `Ended` after `end`."""
        while not self._ended and not self._items.empty():
            self._taken.get()
        if self._ended:
            raise Ended

    def put(self, item: Item) -> None:
        """Put `item`, after `wait_until_free`. Raises `Ended` after `end`."""
        if self._ended:
            raise Ended
        self._items.put(item)

    def take(self, timeout: float | None = None) -> Item:
        """Wait for an item. Raises `TimeoutError`, and after the last item the failure given to `end`, or `Ended`."""
        try:
            item: Item = self._items.get(timeout=timeout)
        except Empty:
            raise TimeoutError from None
        if item is _END:
            self._items.put(_END)  # for who asks again
            raise self._failure or Ended
        if self._taken.empty():
            self._taken.put(None)
        return item

    def end(self, failure: BaseException | None = None) -> None:
        """Close it and wake who waits. The last item can still be taken; then `take` raises `failure`."""
        if not self._ended:
            self._ended, self._failure = True, failure
            self._items.put(_END)
            self._taken.put(None)
