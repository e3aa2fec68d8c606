"""Work on its way through the device: while one job computes, the next is uploaded and the one before downloaded.

    upload     job 1 | job 2 | job 3
    compute            job 1 | job 2 | job 3
    download                   job 1 | job 2 | job 3

What is computed is one CUDA graph from the second time on. Where the GPU uses the host's memory nothing is copied, and
all is on one stream.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

from refinenet_edge.errors import CudaError, RefineNetEdgeError
from refinenet_edge.runtime.cuda import Buffer, Cuda, Scope
from refinenet_edge.runtime.tensorrt.engine import Shapes
from refinenet_edge.runtime.tensorrt.session import TrtSession

DEPTH = 2  # jobs on their way: one is copied while the other is computed
GRAPHS = 8  # kept beside those of our own memory: another library's ring of buffers is a few addresses

logger = logging.getLogger(__name__)

T = TypeVar("T")
S = TypeVar("S", bound="Slot")
Key = tuple[int, ...]  # of a graph: the addresses and numbers that it was captured with


class Clock:
    """How long each stage takes when it is waited for, ms by the host's clock."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._last = time.perf_counter()
        self.ms: dict[str, float] = {}

    def done(self, stage: str) -> None:
        """`stage`, the last on the session's stream, was queued."""
        self._cuda.provider.synchronize(self._cuda.stream)
        now = time.perf_counter()
        self.ms[stage] = 1000 * (now - self._last)
        self._last = now


class Slot:
    """Where one job is on its way: its memory, and when it was uploaded, computed and downloaded."""

    def __init__(self, scope: Scope) -> None:
        self.uploaded, self.computed, self.downloaded = (scope.event() for _ in range(3))


class Job(Generic[T]):
    """Work on its way. What it `reads` is kept until it is finished; `take` makes the result of what came down."""

    def __init__(self, wait: Callable[[], None], take: Callable[[], T], reads: object) -> None:
        self._wait, self._take, self._reads = wait, take, reads
        self._results: list[T] = []
        self._error: CudaError | None = None
        self._finished = False

    def finish(self) -> None:
        """Wait, and make room for another job."""
        if self._finished:
            return
        self._finished, self._reads = True, None
        try:
            self._wait()
            self._results.append(self._take())
        except CudaError as exc:
            self._error = exc

    def result(self) -> T:
        """What was computed, when it is there. Raises `CudaError`."""
        self.finish()
        if not self._results:
            raise self._error or CudaError("the frame was given up", "")
        return self._results[0]


class Lane(Generic[S]):
    """What the jobs of one kind have on the device: streams, slots, graphs, and a scope for the rest.

    Used inside `Cuda.use()`. Raises `CudaError` when the GPU refuses; it is to be closed then.
    """

    def __init__(self, session: TrtSession) -> None:
        self._session, self.cuda = session, session.cuda
        self._scope = self.cuda.scope()
        self._upload = self._download = self.cuda.stream
        self._slots: list[S] = []  # that no job has
        self._jobs: list[tuple[S, Job[Any]]] = []
        self._graphs: OrderedDict[Key, tuple[Any, Scope]] = OrderedDict()  # the last used is the last
        self._captures, self._ran = session.capturable(), False  # the engine, with these shapes
        try:
            if not self.cuda.mapped:
                self._upload, self._download = self._scope.stream(), self._scope.stream()
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        """Make what all jobs use."""

    def _uploaded(self, slot: S) -> None:
        """What is computed from now on waits for what was uploaded into `slot`."""
        self.cuda.provider.record(slot.uploaded, self._upload)
        self.cuda.provider.wait(self.cuda.stream, slot.uploaded)

    def _job(self, slot: S, outputs: Sequence[tuple[Buffer, int]], take: Callable[[], T], reads: object) -> Job[T]:
        """What was queued with `slot`, on its way back: so many bytes of each of `outputs`."""
        provider = self.cuda.provider
        provider.record(slot.computed, self.cuda.stream)
        provider.wait(self._download, slot.computed)
        for output, size in outputs:
            output.download(self._download, size)
        provider.record(slot.downloaded, self._download)

        def wait() -> None:
            try:
                provider.wait_host(slot.downloaded)
            finally:
                self._jobs.remove((slot, job))
                self._slots.append(slot)

        job = Job(wait, take, reads)
        self._slots.remove(slot)
        self._jobs.append((slot, job))
        return job

    def _set_shapes(self, shapes: Shapes) -> None:
        """The engine's inputs are of `shapes` from now on."""
        if self._session.context.shapes != shapes:  # another job has changed them, or run() on the session
            self._finish()
            self._forget_graphs()
            self._session.context.set_shapes(shapes)
            self._ran = False

    def _run(
        self, key: Key, steps: Callable[[], None], clock: Clock | None, capture: bool = True, own: int = 0
    ) -> None:
        """Queue `steps`: without a `clock` as a graph, to `capture` if need be; so many graphs are of `own` memory."""
        if clock is not None:
            steps()
            return
        if capture and self._ran and self._captures and key not in self._graphs:
            self._capture(key, steps, GRAPHS + own)  # only now: TensorRT wants to have run once with these shapes
        if key in self._graphs:
            graphs = self.cuda.provider.graphs
            assert graphs is not None  # it was captured
            self._graphs.move_to_end(key)
            graphs.launch(self._graphs[key][0], self.cuda.stream)
        else:
            steps()
            self._ran = True

    def _capture(self, key: Key, steps: Callable[[], None], most: int) -> None:
        while len(self._graphs) >= most:
            self._graphs.popitem(last=False)[1][1].close()
        scope = self.cuda.scope()
        try:
            self._graphs[key] = (scope.graph(steps), scope)
        except RefineNetEdgeError as exc:
            logger.info("no CUDA graph, each step is launched by itself: %s", exc)
            self._captures = False

    def _forget_graphs(self) -> None:
        while self._graphs:
            self._graphs.popitem()[1][1].close()

    def _finish(self) -> None:
        for _, job in tuple(self._jobs):
            job.finish()

    def close(self) -> None:
        """Finish the jobs and give everything back; a second call does nothing."""
        self._finish()
        # what a failure left on the way must not run into memory that is gone; a lost device runs nothing
        for stream in {self._upload, self._download}:
            with suppress(CudaError):
                self.cuda.provider.synchronize(stream)
        self._forget_graphs()
        self._scope.close()
