"""Frames -> masks while they are fresh: `for result in live(source, segmenter)`.

    reader threads      source ──> one frame, the newest ──┐
    (read, decode)      source ──> one frame, the newest ──┴─> inference thread ──> one result ──> the caller
                                                               (prepare, infer, labels)            (draw, encode ...)

All work at once, on successive frames, as far as the backend lets go of Python's lock while it computes; ours all do.
Nothing queues up anywhere, so a mask of one source is at most two inferences old however long it runs: a live source's
frame that is not taken in time is replaced by the next and counted, any other source waits. Of several sources that
have a frame, the one that was segmented the longest ago is next: none keeps another from its turn.
"""

import atexit
import contextlib
import dataclasses
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

from refinenet_edge.demo.handover import Ended, Handover
from refinenet_edge.errors import InputError, RefineNetEdgeError
from refinenet_edge.evaluation.confusion import Truth
from refinenet_edge.frames import Captured, LiveSource
from refinenet_edge.records import Frame, Mask
from refinenet_edge.runtime.frame_path import or_raise
from refinenet_edge.runtime.many import Segments

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
    source gives nothing at present, and this is the last result again, as old as it is by now. `camera`: which of
    several sources it is of, an index; `index` and `drops` are of that source.
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
    camera: int = 0


@runtime_checkable
class SegmentsSeveral(Segments, Protocol):
    """A `Segmenter` has these, too; `at_once` frames at most go into a run."""

    @property
    def at_once(self) -> int: ...

    def segment_batch(self, frames: Sequence[Frame]) -> list[Mask | RefineNetEdgeError]: ...


def live(source: LiveSource | Sequence[LiveSource], segmenter: Segments) -> Generator[SegmentedFrame, None, None]:
    """The results of `source` as they come, the newest frame first; closing the iterator ends its threads.

    Several sources share the segmenter: each has its turn, and `result.camera` is which one a result is of. Where the
    network takes no frame alone, those that wait have it together. Memory is that of each source's newest frame and
    last result.

    A lost camera or stream is opened again and again, less often as time goes by (every two seconds at last); meanwhile
    its last result is repeated twice a second with `signal=False`, and the others go on. Raises what
    `segmenter.segment` raises, and `InputError` when no source opens at the start, or, once all others have ended, for
    a file that could not be read to its end.
    """
    with contextlib.closing(Cameras([source] if isinstance(source, LiveSource) else source, segmenter)) as cameras:
        yield from cameras.results()


class Cameras:
    """Sources that are read at once and segmented in turn, in threads that run until `close`."""

    def __init__(self, sources: Sequence[LiveSource], segmenter: Segments) -> None:
        """Begin to read. Raises `InputError` where there is nothing to read."""
        if not sources:
            raise InputError("no source to look at: expected one at least")
        self._frames: Slot[ReadFrame] = Slot(len(sources))
        self._results: Handover[SegmentedFrame] = Handover()
        self._readers = [_Reader(number, source, self._frames) for number, source in enumerate(sources)]
        given = (self._frames, segmenter, self._results, len(sources))
        self._inference = threading.Thread(target=_infer, args=given, name="inference", daemon=True)
        try:
            for thread in (*self._readers, self._inference):
                thread.start()
        except BaseException:  # Ctrl-C, or no memory for a thread's stack
            self.close()
            raise

    def results(self) -> Iterator[SegmentedFrame]:
        """What `live` yields, and raises."""
        last: dict[int, SegmentedFrame] = {}
        due = dict.fromkeys(range(len(self._readers)), time.monotonic() + REPEAT_PERIOD)
        while True:
            try:
                result = self._results.take(max(min(due.values()) - time.monotonic(), 0))
            except TimeoutError:
                pass
            except Ended:
                return
            else:
                last[result.camera] = result
                due[result.camera] = time.monotonic() + REPEAT_PERIOD
                yield result
            now = time.monotonic()
            for camera in [camera for camera, at in due.items() if at <= now]:
                due[camera] = now + REPEAT_PERIOD
                if camera in last and self._is_silent(camera):
                    age = 1000 * (time.monotonic() - last[camera].captured)
                    yield dataclasses.replace(last[camera], age_ms=age, signal=False)

    def why_silent(self, camera: int) -> str | None:
        """Why source `camera` gives no frames at present; None: it does, or it is being opened for the first time."""
        return self._readers[camera].why_silent

    def has_ended(self, camera: int) -> bool:
        """Whether source `camera` gives no more."""
        return self._readers[camera].ended

    def _is_silent(self, camera: int) -> bool:
        # where all have ended, their last results are on their way
        return self.why_silent(camera) is not None and not all(reader.ended for reader in self._readers)

    def close(self) -> None:
        """End the threads; a second call does nothing."""
        self._frames.end()
        self._results.end()
        for reader in self._readers:
            reader.stop.set()
        until = time.monotonic() + JOIN_TIMEOUT
        for reader in self._readers:
            if reader.is_alive():
                reader.join(max(until - time.monotonic(), 0))
        # the segmenter is the caller's to close afterwards, so its frame has to be finished
        if self._inference.is_alive():
            self._inference.join()


_readers: weakref.WeakSet["_Reader"] = weakref.WeakSet()  # some wait inside OpenCV when all else has ended
_exit_code: int | None = None


def exit_with(code: int) -> None:
    """What the process ends with where a reader still waits then; otherwise the reader would be waited for."""
    global _exit_code
    _exit_code = code


@atexit.register
def _end_readers() -> None:
    """A thread that comes back from OpenCV to an interpreter that has ended aborts the process."""
    until = time.monotonic() + (0 if _exit_code is not None else LAST_TIMEOUT)
    waiting = [reader for reader in _readers if reader.is_alive()]
    for reader in waiting:
        reader.join(max(until - time.monotonic(), 0))
    if _exit_code is not None and any(reader.is_alive() for reader in waiting):
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(_exit_code)


class Slot(Generic[Item]):
    """Hands items from one thread to another, or from several: holds one of each at most."""

    def __init__(self, givers: int = 1) -> None:
        self._changed = threading.Condition()
        self._items: dict[int, Item] = {}  # of each giver one, or none
        self._turns = list(range(givers))  # givers, in the order in which they are next
        self._given = self._ended = False
        self._failures: dict[int, BaseException] = {}  # of givers
        self._left: set[int] = set()  # givers that give no more
        self._failure: BaseException | None = None

    def wait_until_free(self, giver: int = 0) -> None:
        """Wait until the item of `giver` was taken. Raises `Ended` after `end`."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or giver not in self._items)
            if self._ended:
                raise Ended

    def put(self, item: Item, giver: int = 0) -> None:
        """Put `item`, replacing the giver's own that was not taken. Raises `Ended` after `end`."""
        with self._changed:
            if self._ended:
                raise Ended
            self._items[giver] = item
            self._given = True
            self._changed.notify_all()

    def take(self, most: int = 1, timeout: float | None = None) -> list[Item]:
        """Wait for an item: that of the giver whose last one was taken the longest ago.

        Up to `most` that are there come in this order. Raises `TimeoutError`, and after the last item the failure given
        to `end`, or `Ended`.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._ended or self._items, timeout):
                raise TimeoutError
            if self._items:
                givers = [giver for giver in self._turns if giver in self._items][:most]
                self._turns = [giver for giver in self._turns if giver not in givers] + givers
                self._changed.notify_all()
                return [self._items.pop(giver) for giver in givers]
            if self._failure is not None:
                raise self._failure
            raise Ended

    def lose(self, giver: int, failure: BaseException | None, for_good: bool) -> bool:
        """Note that `giver` gives nothing for now, or `for_good`, and the `failure` if it is one.

        With the last that leaves it ends, or where all have failed before anything was given: with their failures.
        Returns whether it goes on.
        """
        with self._changed:
            if for_good:
                self._left.add(giver)
            if failure is not None:
                self._failures[giver] = failure
            if len(self._left) == len(self._turns) or (not self._given and len(self._failures) == len(self._turns)):
                failures = [self._failures[giver] for giver in sorted(self._failures)]
                self.end(InputError("; ".join(map(str, failures))) if len(failures) > 1 else next(iter(failures), None))
            return not self._ended

    def end(self, failure: BaseException | None = None) -> None:
        """Close it and wake who waits. The last items can still be taken; then `take` raises `failure`."""
        with self._changed:
            if not self._ended:
                self._ended, self._failure = True, failure
                self._changed.notify_all()


ReadFrame = tuple[int, Captured, int, float]  # which source's, its index, and when it was read


class _Reader(threading.Thread):
    """Reads `source`, the one of that `number`, into `frames` until `stop`, and opens it again when it is lost."""

    def __init__(self, number: int, source: LiveSource, frames: Slot[ReadFrame]) -> None:
        super().__init__(name="reader", daemon=True)
        self.stop = threading.Event()
        self.ended = False
        self._number, self._source, self._frames = number, source, frames
        self._lost: str | None = None  # why
        self._index = 0
        self._waiting_since: float | None = None  # for a frame
        _readers.add(self)

    @property
    def why_silent(self) -> str | None:
        """Why no frames come: the source is lost, has ended, or hangs. None: they do, or it has just begun."""
        since = self._waiting_since
        hangs = since is not None and time.monotonic() - since >= FRAME_TIMEOUT
        return self._lost or (f"{self._source.name} gives nothing" if hangs else None)

    def run(self) -> None:
        wait = FIRST_WAIT
        failure: InputError | None
        while not self.stop.is_set():
            before = self._index
            try:
                self._read()
                failure = None if self._index else InputError(f"{self._source.name} gives no frames")
            except Ended:
                return
            except InputError as exc:
                failure = exc
            except BaseException as exc:
                self._frames.end(exc)
                return
            reason, for_good = str(failure or "it ended"), not self._source.lasting
            told = self._lost is not None and self._index == before
            self._lost, self.ended = reason, for_good
            if not self._frames.lose(self._number, failure, for_good):
                return
            if for_good:
                if failure:
                    logger.warning("no more from %s: %s", self._source.name, reason)
                return
            if not told:
                wait = FIRST_WAIT
                logger.warning("no signal from %s: %s; trying again", self._source.name, reason)
            self.stop.wait(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    def _read(self) -> None:
        with contextlib.closing(self._source.frames()) as frames:
            while not self.stop.is_set():
                if not self._source.live:
                    self._frames.wait_until_free(self._number)  # what is read before that only grows old
                self._waiting_since = time.monotonic()
                captured = next(frames, None)
                self._waiting_since = None
                if captured is None:
                    return
                if self._lost:
                    logger.warning("%s is back", self._source.name)
                self._lost = None
                self._index += 1
                self._frames.put((self._number, captured, self._index - 1, time.monotonic()), self._number)


def _infer(frames: Slot[ReadFrame], segmenter: Segments, results: Handover[SegmentedFrame], sources: int) -> None:
    taken = [0] * sources
    try:
        while True:
            given = frames.take(segmenter.at_once if isinstance(segmenter, SegmentsSeveral) else 1)
            started = time.monotonic()
            masks = _segmented(segmenter, [captured.frame for _, captured, _, _ in given])
            done = time.monotonic()
            for (camera, captured, index, ready), mask in zip(given, masks, strict=True):
                stages = {"read": ready - captured.at, "wait": started - ready, "segment": done - started}
                result = SegmentedFrame(
                    frame=captured.frame,
                    mask=mask,
                    truth=captured.truth,
                    index=index,
                    captured=captured.at,
                    age_ms=1000 * (done - captured.at),
                    stages_ms={stage: 1000 * seconds for stage, seconds in stages.items()},
                    drops=index - taken[camera],
                    camera=camera,
                )
                taken[camera] += 1
                results.wait_until_free()
                results.put(result)
    except Ended:
        results.end()
    except BaseException as exc:
        results.end(exc)


def _segmented(segmenter: Segments, frames: Sequence[Frame]) -> list[Mask]:
    """The masks of `frames`; raises the first error."""
    if len(frames) == 1 or not isinstance(segmenter, SegmentsSeveral):
        return [segmenter.segment(frame) for frame in frames]
    return list(map(or_raise, segmenter.segment_batch(frames)))
