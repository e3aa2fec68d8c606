"""Several frames through the engine at once, all on the GPU: one upload, three or four launches, one download.

    inbox   descriptors of the frames | of their labels | frame | frame ...    host -> device
            frame kernel, all frames -> engine, once -> head kernels, all frames
    outbox  labels | labels ... | how sure they are                            device -> host

What differs from frame to frame (where it lies, its size, the tables by which it is sampled) is in the descriptors, so
the kernels and the engine are one CUDA graph, whatever frames come: it is made when as many come a second time.
"""

from __future__ import annotations

import ctypes
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np

from refinenet_edge.errors import CudaError, RefineNetEdgeError
from refinenet_edge.records import Bilinear, Frame, Mask, Size
from refinenet_edge.runtime.cuda import Buffer, Scope
from refinenet_edge.runtime.frame import DeviceImage
from refinenet_edge.runtime.frame_path import Network
from refinenet_edge.runtime.kernels.device import DeviceFrames, DeviceHeads, FrameOfBatch, TargetOfBatch
from refinenet_edge.runtime.tensorrt.engine import Shapes
from refinenet_edge.runtime.tensorrt.session import TrtSession

SIZES = 32  # of frames whose tables are kept beside those of a batch
WIDER = 512  # pixels: launches are as wide as a multiple, so that frames of another width take the same graph
APART = 64  # bytes: frames and label maps begin at multiples of it

logger = logging.getLogger(__name__)

Key = tuple[int, ...]  # of a graph: how many frames and how wide, and the addresses that it was captured with


class Clock(Protocol):
    """What is told when each stage was queued."""

    def done(self, stage: str) -> None: ...


class DeviceBatch:
    """Everything on the device for up to as many frames as the engine takes, whose network's input is `sides` large.

    Used inside `Cuda.use()`. Raises `CudaError` when the GPU refuses; it is to be closed then.
    """

    def __init__(self, session: TrtSession, network: Network, sides: Size) -> None:
        self._session, self._network, self.sides, self._cuda = session, network, sides, session.cuda
        self._scope = self._cuda.scope()
        self._boxes = self._cuda.scope()
        self._inbox: Buffer | None = None
        self._outbox: Buffer | None = None
        self._tables: OrderedDict[Size, tuple[FrameOfBatch, TargetOfBatch, Scope]] = OrderedDict()
        self._graphs: dict[Key, tuple[Any, Scope]] = {}
        self._captures, self._ran = session.capturable(), -1
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        spec, most, scope = self._network.frame_spec, self._network.batch.most, self._scope
        assert isinstance(spec.upsample, Bilinear)  # fits_device
        image, logits = self._session.inputs[0], self._session.outputs[0]
        channels = image.shape[1] if image.name in self._session.channel_last else None
        assert channels is None or isinstance(channels, int)
        self._shape = (channels or 3, *self.sides)
        shapes = self._session.context.set_shapes({image.name: (most, *self._shape)})
        _, padded, height, width = shapes[logits.name]
        self._frames = DeviceFrames(scope, spec, self.sides, most, image.dtype, channels)
        shape = (len(self._network.labels.names), height, width)
        padding = padded if logits.name in self._session.channel_last else None
        self._heads = DeviceHeads(scope, logits.dtype, shape, spec.upsample, most, padding)
        self._logits = scope.memory(most * padded * height * width * np.dtype(logits.dtype).itemsize)
        self._addresses = {image.name: self._frames.address, logits.name: self._logits}

    def run(
        self, frames: Sequence[Frame | DeviceImage], mapped: Sequence[int | None], clock: Clock | None
    ) -> list[Mask]:
        """The masks of `frames`, as many as the engine takes at most, when they are there.

        `mapped`: where the device sees each, in page-locked memory. With a `clock` every stage is waited for.
        """
        sizes = [(frame.shape[0], frame.shape[1]) for frame in frames]
        count, confident = len(frames), self._network.confidence
        places, ends = self._laid_out(frames, mapped), self._ends(sizes)
        heads = count * (ctypes.sizeof(FrameOfBatch) + ctypes.sizeof(TargetOfBatch))
        inbox, outbox = self._of_size(max((end for _, end in places), default=0) or heads, ends[-1])
        sampled, targets = zip(*(self._described(size) for size in sizes), strict=True)
        for index, (frame, (place, _)) in enumerate(zip(frames, places, strict=True)):
            one, target = sampled[index], targets[index]
            one.pitch = frame.pitch if isinstance(frame, DeviceImage) else 3 * frame.shape[1]
            if isinstance(frame, DeviceImage):
                one.pixels = frame.address
                if frame.stream is not None:
                    self._cuda.provider.follow(self._cuda.stream, frame.stream)
            elif (seen := mapped[index]) is not None and self._cuda.mapped:
                one.pixels = seen
            else:
                one.pixels = inbox.address + place
                np.copyto(inbox.host[place : place + frame.nbytes].reshape(frame.shape), frame)
            target.labels = outbox.address + ends[index]
            target.confidence = outbox.address + ends[count + index] if confident else None
        described = b"".join(map(bytes, (*sampled, *targets)))
        inbox.host[: len(described)] = np.frombuffer(described, np.uint8)
        return self._through(inbox, outbox, sizes, ends, max(end for _, end in places) or heads, clock)

    def _laid_out(self, frames: Sequence[Frame | DeviceImage], mapped: Sequence[int | None]) -> list[tuple[int, int]]:
        """Where each frame lies in the inbox, and where the next one may; 0 for those that are elsewhere."""
        end = _apart(len(frames) * (ctypes.sizeof(FrameOfBatch) + ctypes.sizeof(TargetOfBatch)))
        places = []
        for frame, seen in zip(frames, mapped, strict=True):
            if isinstance(frame, DeviceImage) or (seen is not None and self._cuda.mapped):
                places.append((0, 0))
                continue
            place, end = end, _apart(end + frame.shape[0] * frame.shape[1] * 3)
            places.append((place, end))
        return places

    def _ends(self, sizes: Sequence[Size]) -> list[int]:
        """Where the label maps, then the confidences, begin in the outbox; last where they end."""
        ends = [0]
        for height, width in [*sizes, *(sizes if self._network.confidence else ())]:
            ends.append(_apart(ends[-1] + height * width))
        return ends

    def _of_size(self, incoming: int, outgoing: int) -> tuple[Buffer, Buffer]:
        """In- and outbox of at least these bytes."""
        inbox, outbox = self._inbox, self._outbox
        if inbox is None or outbox is None or len(inbox.host) < incoming or len(outbox.host) < outgoing:
            self._forget_graphs()
            self._inbox = self._outbox = None
            self._boxes.close()
            self._boxes = self._cuda.scope()
            inbox, outbox = Buffer(self._boxes, incoming), Buffer(self._boxes, outgoing)
            self._inbox, self._outbox = inbox, outbox
        return inbox, outbox

    def _described(self, size: Size) -> tuple[FrameOfBatch, TargetOfBatch]:
        """A frame of `size` and its labels, but for where they lie."""
        if size not in self._tables:
            while len(self._tables) >= SIZES + self._network.batch.most:
                self._tables.popitem(last=False)[1][2].close()
            scope = self._cuda.scope()
            try:
                spans = self._network.frame_spec.spans(size)
                made = self._frames.sampled(scope, size), self._heads.target(scope, size, spans)
            except BaseException:
                scope.close()
                raise
            self._tables[size] = (*made, scope)
        self._tables.move_to_end(size)
        sampled, target, _ = self._tables[size]
        return FrameOfBatch.from_buffer_copy(sampled), TargetOfBatch.from_buffer_copy(target)

    def _through(
        self, inbox: Buffer, outbox: Buffer, sizes: Sequence[Size], ends: list[int], incoming: int, clock: Clock | None
    ) -> list[Mask]:
        """Upload, compute, download: what comes out, copied."""
        stream, count = self._cuda.stream, len(sizes)
        inbox.upload(stream, incoming)
        if clock is not None:
            clock.done("upload")
        self._compute(count, _wider(max(width for _, width in sizes)), inbox.address, clock)
        outbox.download(stream, ends[-1])
        self._cuda.provider.synchronize(stream)

        def taken(index: int, size: Size) -> Any:
            return outbox.host[ends[index] : ends[index] + size[0] * size[1]].reshape(size).copy()

        return [
            self._network.without_unseen(
                Mask(
                    taken(index, size),
                    self._network.labels,
                    taken(count + index, size) if self._network.confidence else None,
                )
            )
            for index, size in enumerate(sizes)
        ]

    def _compute(self, count: int, widest: int, inbox: int, clock: Clock | None) -> None:
        frames = max(count, self._network.batch.least)
        shapes: Shapes = {self._session.inputs[0].name: (frames, *self._shape)}
        if self._session.context.shapes != shapes or self._ran != frames:
            self._forget_graphs()
            self._session.context.set_shapes(shapes)
            self._ran = -1
        targets = inbox + count * ctypes.sizeof(FrameOfBatch)
        key = (count, widest, inbox, self._session.context.ready())
        done: Callable[[str], None] = clock.done if clock is not None else lambda stage: None

        def steps() -> None:
            self._frames.prepare(inbox, count)
            done("prepare")
            self._session.context.queue(self._addresses)
            done("engine")
            self._heads.label(self._logits, targets, count, widest, self._network.confidence)
            done("head")

        if clock is None and self._ran == frames and self._captures and key not in self._graphs:
            self._capture(key, steps)  # only now: TensorRT wants to have run once with these shapes
        if clock is None and key in self._graphs:
            graphs = self._cuda.provider.graphs
            assert graphs is not None  # it was captured
            graphs.launch(self._graphs[key][0], self._cuda.stream)
        else:
            steps()
            self._ran = frames

    def _capture(self, key: Key, steps: Callable[[], None]) -> None:
        scope = self._cuda.scope()
        try:
            self._graphs[key] = (scope.graph(steps), scope)
        except RefineNetEdgeError as exc:
            logger.info("no CUDA graph, each step is launched by itself: %s", exc)
            self._captures = False

    def _forget_graphs(self) -> None:
        while self._graphs:
            self._graphs.popitem()[1][1].close()

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
        # what a failure left on the way must not run into memory that is gone; a lost device runs nothing
        with suppress(CudaError):
            self._cuda.provider.synchronize(self._cuda.stream)
        self._forget_graphs()
        while self._tables:
            self._tables.popitem()[1][2].close()
        self._boxes.close()
        self._scope.close()


def _apart(size: int) -> int:
    return -(-size // APART) * APART


def _wider(width: int) -> int:
    return -(-width // WIDER) * WIDER
