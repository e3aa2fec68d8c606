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

import numpy as np

from refinenet_edge.errors import CudaError, RefineNetEdgeError
from refinenet_edge.records import Bilinear, Size
from refinenet_edge.runtime.cuda import Buffer, Cuda, Scope
from refinenet_edge.runtime.frame_path import Network
from refinenet_edge.runtime.tensorrt.engine import Shapes
from refinenet_edge.runtime.tensorrt.session import TrtSession

DEPTH = 2  # jobs on their way: one is copied while the other is computed
GRAPHS = 8  # kept beside those of our own memory: another library's ring of buffers is a few addresses

logger = logging.getLogger(__name__)

K = TypeVar("K")
T = TypeVar("T")
S = TypeVar("S", bound="LaneSlot")
Key = tuple[int, ...]  # of a graph: the addresses and numbers that it was captured with


class StageClock:
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


class LaneSlot:
    """Where one job is on its way: its memory, and when it was uploaded, computed and downloaded."""

    def __init__(self, scope: Scope) -> None:
        self.uploaded, self.computed, self.downloaded = (scope.event() for _ in range(3))


class Pending(Generic[T]):
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


class Kept(Generic[K, T]):
    """Things on the device, those that were used last, each in a scope of its own that ends with it."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._things: OrderedDict[K, tuple[T, Scope]] = OrderedDict()  # the last used is the last

    def __contains__(self, key: object) -> bool:
        return key in self._things

    def take(self, key: K, make: Callable[[Scope], T], most: int) -> T:
        """That of `key`, which is made where it is not there; then at most so many are kept."""
        if key not in self._things:
            while len(self._things) >= most:
                self._things.popitem(last=False)[1][1].close()
            scope = self._cuda.scope()
            try:
                self._things[key] = make(scope), scope
            except BaseException:
                scope.close()
                raise
        self._things.move_to_end(key)
        return self._things[key][0]

    def close(self) -> None:
        """Give all back; others may be made again."""
        while self._things:
            self._things.popitem()[1][1].close()


class Lane(Generic[S]):
    """What the jobs of one kind have on the device: streams, slots, kernels, graphs, and a scope for the rest.

    Up to `most` images of `sides` (height, width) are in a job. Used inside `Cuda.use()`. Raises `CudaError` when the
    GPU refuses; it is to be closed then.
    """

    def __init__(self, session: TrtSession, network: Network, most: int, sides: Size) -> None:
        self._session, self._network, self.cuda = session, network, session.cuda
        self._scope = self.cuda.scope()
        self._upload = self._download = self.cuda.stream
        self._slots: list[S] = []  # that no job has
        self._jobs: list[tuple[S, Pending[Any]]] = []
        self._graphs: Kept[Key, Any] = Kept(self.cuda)
        self._captures, self._ran = session.capturable(), False  # the engine, with these shapes
        try:
            if not self.cuda.mapped:
                self._upload, self._download = self._scope.stream(), self._scope.stream()
            self._make_ends(most, sides)
        except BaseException:
            self.close()
            raise

    def _make_ends(self, most: int, sides: Size) -> None:
        """The kernels before and after the engine, and the memory between."""
        session, how = self._session, self._network.frame_spec.upsample
        image, logits = session.inputs[0], session.outputs[0]
        channels = image.shape[1] if image.name in session.channel_last else None
        assert channels is None or isinstance(channels, int)
        assert isinstance(how, Bilinear)  # fits_device
        self._dtypes, self._image = (image.dtype, logits.dtype), (channels or 3, *sides)
        shapes = session.context.set_shapes({image.name: (most, *self._image)})
        _, padded, height, width = shapes[logits.name]
        padding = padded if logits.name in session.channel_last else None
        images = self._make_kernels(how, channels, (len(self._network.labels.names), height, width), padding)
        self._logits = self._scope.memory(most * padded * height * width * np.dtype(logits.dtype).itemsize)
        self._addresses = {image.name: images, logits.name: self._logits}

    def _make_kernels(
        self, how: Bilinear, channels: int | None, logits: tuple[int, int, int], padding: int | None
    ) -> int:
        """Make the kernels that write images, of so many `channels`, and read `logits` (CxHxW); where images are.

        `channels`, `padding`: of pixels that lie channels last, of images and of logits; None: in planes.
        """
        raise NotImplementedError

    def _uploaded(self, slot: S) -> None:
        """What is computed from now on waits for what was uploaded into `slot`."""
        self.cuda.provider.record(slot.uploaded, self._upload)
        self.cuda.provider.wait(self.cuda.stream, slot.uploaded)

    def _job(self, slot: S, outputs: Sequence[tuple[Buffer, int]], take: Callable[[], T], reads: object) -> Pending[T]:
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

        job = Pending(wait, take, reads)
        self._slots.remove(slot)
        self._jobs.append((slot, job))
        return job

    def _set_shapes(self, shapes: Shapes) -> None:
        """The engine's inputs are of `shapes` from now on."""
        if self._session.context.shapes != shapes:  # another job has changed them, or run() on the session
            self._finish()
            self._graphs.close()
            self._session.context.set_shapes(shapes)
            self._ran = False

    def _compute(
        self,
        key: Key,
        images: int,
        prepare: Callable[[], None],
        label: Callable[[], None],
        clock: StageClock | None,
        graphs: int = GRAPHS,
    ) -> None:
        """Queue `prepare`, the engine for so many `images` and `label`; without a `clock` as a graph, if it ran before.

        `key`: what the two were made with. So many `graphs` are kept; 0: it is not worth one yet.
        """
        context = self._session.context
        self._set_shapes({self._session.inputs[0].name: (images, *self._image)})
        key = (*key, context.ready())

        def steps() -> None:
            done: Callable[[str], None] = clock.done if clock is not None else lambda stage: None
            prepare()
            done("prepare")
            context.queue(self._addresses)
            done("engine")
            label()
            done("head")

        # captured only then: TensorRT wants to have run once with these shapes
        may = clock is None and self._captures and (key in self._graphs or (self._ran and graphs > 0))
        graph = self._graph(key, steps, graphs) if may else None
        if graph is None:
            steps()
            self._ran = self._ran or clock is None
        else:
            assert self.cuda.provider.graphs is not None  # it was captured
            self.cuda.provider.graphs.launch(graph, self.cuda.stream)

    def _graph(self, key: Key, steps: Callable[[], None], most: int) -> Any:
        """That of `key`, captured if need be; None where that cannot be."""
        try:
            return self._graphs.take(key, lambda scope: scope.graph(steps), most)
        except RefineNetEdgeError as exc:
            logger.info("no CUDA graph, each step is launched by itself: %s", exc)
            self._captures = False
            return None

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
        self._graphs.close()
        self._scope.close()
