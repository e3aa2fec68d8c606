"""Frames -> masks while they are fresh: `for result in live(source, segmenter)`.

    reader thread       source ──> one frame, the newest ──> inference thread ──> one result ──> the caller
                        (read, decode)                       (prepare, infer, labels)            (draw, encode ...)

The three work at once, on successive frames, as far as the backend lets go of Python's lock while it computes; ours all
do. Nothing queues up anywhere, so a mask is at most two inferences old however long it runs: a live source's frame that
is not taken in time is replaced by the next and counted, any other source waits.
"""

import atexit
import contextlib
import dataclasses
import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from refinenet_edge.errors import InputError
from refinenet_edge.evaluation.confusion import Truth
from refinenet_edge.frames import Captured, LiveSource
from refinenet_edge.records import Frame, Mask

REPEAT_PERIOD = 0.5  # seconds between repeated results while there is no signal
FRAME_TIMEOUT = 2.0  # seconds that a live source may take for a frame
FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0  # seconds before a lost source is opened again; each wait doubles
JOIN_TIMEOUT = 0.5  # seconds that a thread gets to end: one that waits in a driver is left behind
LAST_TIMEOUT = 5.0  # seconds that it gets before the interpreter ends: more than a stream is waited for

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class SegmentedFrame:
    """A frame and its mask. Times are `time.monotonic()` seconds, durations ms.

    `age_ms`: from capture to mask. `stages_ms`: "read" from capture to frame, "wait" for the network to be free,
    "segment" from frame to labels. `drops`: live frames that were replaced unseen, until now. `signal`: False: the
    source gives nothing at present, and this is the last result again, as old as it is by now.
    """

    frame: Frame
    mask: Mask
    truth: Truth | None
    index: int  # of the captured frame, counting those that were dropped
    captured: float
    age_ms: float
    stages_ms: dict[str, float]
    drops: int
    signal: bool = True


class Segments(Protocol):
    """Anything that segments as a `Segmenter` does."""

    def segment(self, frame: Frame) -> Mask: ...


def live(source: LiveSource, segmenter: Segments) -> Generator[SegmentedFrame, None, None]:
    """The results of `source` as they come, the newest frame first; closing the iterator ends its threads.

    A lost camera or stream is opened again and again, less often as time goes by (every two seconds at last); meanwhile
    the last result is repeated twice a second with `signal=False`. Raises what `segmenter.segment` raises, and
    `InputError` when the source does not open at the start.
    """
    frames: Slot[ReadFrame] = Slot()
    results: Slot[SegmentedFrame] = Slot()
    reader = _Reader(source, frames)
    inference = threading.Thread(target=_infer, args=(frames, segmenter, results), name="inference", daemon=True)
    reader.start()
    inference.start()
    last: SegmentedFrame | None = None
    try:
        while True:
            try:
                last = results.take(REPEAT_PERIOD)
            except TimeoutError:
                if last is not None and not reader.signal:
                    age = 1000 * (time.monotonic() - last.captured)
                    yield dataclasses.replace(last, age_ms=age, signal=False)
                continue
            except Ended:
                return
            yield last
    finally:
        frames.end()
        results.end()
        reader.stop.set()
        reader.join(JOIN_TIMEOUT)
        if reader.is_alive():
            _left_behind.append(reader)
        # the segmenter is the caller's to close afterwards, so its frame has to be finished
        inference.join()


_left_behind: list[threading.Thread] = []  # readers that wait inside OpenCV
_exit_code: int | None = None


def exit_with(code: int) -> None:
    """What the process ends with where a reader still waits then; otherwise the reader would be waited for."""
    global _exit_code
    _exit_code = code


@atexit.register
def _end_readers() -> None:
    """A thread that comes back from OpenCV to an interpreter that has ended aborts the process."""
    until = time.monotonic() + (0 if _exit_code is not None else LAST_TIMEOUT)
    for reader in _left_behind:
        reader.join(max(until - time.monotonic(), 0))
    if _exit_code is not None and any(reader.is_alive() for reader in _left_behind):
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(_exit_code)


class Ended(Exception):
    """A slot was closed, and is empty."""


class Slot(Generic[Item]):
    """Hands items from one thread to another; holds one at most."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: list[Item] = []  # one or none
        self._ended = False
        self._failure: BaseException | None = None

    def wait_until_free(self) -> None:
        """Wait until the item was taken. Raises `Ended` after `end`."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or not self._items)
            if self._ended:
                raise Ended

    def put(self, item: Item) -> None:
        """Put `item`, replacing one that was not taken. Raises `Ended` after `end`."""
        with self._changed:
            if self._ended:
                raise Ended
            self._items[:] = [item]
            self._changed.notify_all()

    def take(self, timeout: float | None = None) -> Item:
        """Wait for an item. Raises `TimeoutError`, and after the last item the failure given to `end`, or `Ended`."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._ended or self._items, timeout):
                raise TimeoutError
            if self._items:
                item = self._items.pop()
                self._changed.notify_all()
                return item
            if self._failure is not None:
                raise self._failure
            raise Ended

    def end(self, failure: BaseException | None = None) -> None:
        """Close it and wake who waits. The last item can still be taken; then `take` raises `failure`."""
        with self._changed:
            if not self._ended:
                self._ended, self._failure = True, failure
                self._changed.notify_all()


ReadFrame = tuple[Captured, int, float]  # its index, and when it was read


class _Reader(threading.Thread):
    """Reads `source` into `frames` until `stop`, and opens it again when it is lost."""

    def __init__(self, source: LiveSource, frames: Slot[ReadFrame]) -> None:
        super().__init__(name="reader", daemon=True)
        self.stop = threading.Event()
        self._source, self._frames = source, frames
        self._lost = False
        self._index = 0
        self._waiting_since: float | None = None  # for a frame

    @property
    def signal(self) -> bool:
        """Whether frames come: False while the source is lost, or hangs."""
        since = self._waiting_since
        return not self._lost and (since is None or time.monotonic() - since < FRAME_TIMEOUT)

    def run(self) -> None:
        wait = FIRST_WAIT
        while not self.stop.is_set():
            before, reason = self._index, "it ended"
            try:
                self._read()
            except Ended:
                return
            except InputError as exc:
                if not self._index or not self._source.lasting:
                    self._frames.end(exc)
                    return
                reason = str(exc)
            except BaseException as exc:
                self._frames.end(exc)
                return
            if not self._source.lasting or not self._index:
                self._frames.end(InputError(f"{self._source.name} gives no frames") if not self._index else None)
                return
            if self._index > before:
                wait = FIRST_WAIT
                logger.warning("no signal from %s: %s; trying again", self._source.name, reason)
            self._lost = True
            self.stop.wait(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    def _read(self) -> None:
        with contextlib.closing(self._source.frames()) as frames:
            while not self.stop.is_set():
                if not self._source.live:
                    self._frames.wait_until_free()  # what is read before that only grows old
                self._waiting_since = time.monotonic()
                captured = next(frames, None)
                self._waiting_since = None
                if captured is None:
                    return
                if self._lost:
                    logger.warning("%s is back", self._source.name)
                self._lost = False
                self._index += 1
                self._frames.put((captured, self._index - 1, time.monotonic()))


def _infer(frames: Slot[ReadFrame], segmenter: Segments, results: Slot[SegmentedFrame]) -> None:
    try:
        for taken in itertools.count():
            captured, index, ready = frames.take()
            started = time.monotonic()
            mask = segmenter.segment(captured.frame)
            done = time.monotonic()
            stages = {"read": ready - captured.at, "wait": started - ready, "segment": done - started}
            result = SegmentedFrame(
                frame=captured.frame,
                mask=mask,
                truth=captured.truth,
                index=index,
                captured=captured.at,
                age_ms=1000 * (done - captured.at),
                stages_ms={stage: 1000 * seconds for stage, seconds in stages.items()},
                drops=index - taken,
            )
            results.wait_until_free()
            results.put(result)
    except Ended:
        results.end()
    except BaseException as exc:
        results.end(exc)
