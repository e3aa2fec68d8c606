"""Several frames through the engine at once, all on the GPU: one upload, three or four launches, one download.

    inbox   descriptors of the frames | of their labels | frame | frame ...    host -> device
            frame kernel, all frames -> engine, once -> head kernels, all frames
    outbox  labels | labels ... | how sure they are                            device -> host

What differs from frame to frame (where it lies, its size, the tables by which it is sampled) is in the descriptors, so
the kernels and the engine are one CUDA graph, whatever frames come: it is made when as many come a second time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from refinenet_edge.records import Bilinear, Frame, Mask, Size
from refinenet_edge.runtime.cuda import Buffer, Cuda, Scope
from refinenet_edge.runtime.device_lane import DEPTH, Kept, Lane, LaneSlot, Pending, StageClock
from refinenet_edge.runtime.frame import DeviceImage
from refinenet_edge.runtime.frame_path import Network
from refinenet_edge.runtime.kernels.device import DeviceFrames, DeviceHeads, FrameOfBatch, TargetOfBatch
from refinenet_edge.runtime.tensorrt.session import TrtSession

SIZES = 32  # of frames whose tables are kept beside those of a batch
WIDER = 512  # pixels: launches are as wide as a multiple, so that frames of another width take the same graph
APART = 64  # bytes: frames and label maps begin at multiples of it
DESCRIBED = ctypes.sizeof(FrameOfBatch) + ctypes.sizeof(TargetOfBatch)  # bytes of a frame's descriptors


class Boxes(LaneSlot):
    """In- and outbox of one batch, of so many bytes."""

    def __init__(self, cuda: Cuda, incoming: int, outgoing: int) -> None:
        self.scope = cuda.scope()
        try:
            super().__init__(self.scope)
            self.inbox, self.outbox = Buffer(self.scope, incoming), Buffer(self.scope, outgoing)
        except BaseException:
            self.scope.close()
            raise


class DeviceBatch(Lane[Boxes]):
    """Everything on the device for up to as many frames as the engine takes, whose network's input is of `size`."""

    def __init__(self, session: TrtSession, network: Network, size: Size) -> None:
        self.size = size
        self._tables: Kept[Size, tuple[FrameOfBatch, TargetOfBatch]] = Kept(session.cuda)
        super().__init__(session, network, network.batch.most, size)

    def _make_kernels(
        self, how: Bilinear, channels: int | None, logits: tuple[int, int, int], padding: int | None
    ) -> int:
        spec, most, dtypes = self._network.frame_spec, self._network.batch.most, self._dtypes
        self._frames = DeviceFrames(self._scope, spec, self.size, most, dtypes[0], channels)
        self._heads = DeviceHeads(self._scope, dtypes[1], logits, how, most, padding)
        return self._frames.address

    def queue(
        self, frames: Sequence[Frame | DeviceImage], mapped: Sequence[int | None], clock: StageClock | None
    ) -> Pending[list[Mask]]:
        """Queue `frames`, as many as the engine takes at most; where `DEPTH` are on their way, the first ends first.

        `mapped`: where the device sees each, in page-locked memory. With a `clock` every stage is waited for.
        """
        if len(self._jobs) == DEPTH:
            self._jobs[0][1].finish()
        sizes = [(frame.shape[0], frame.shape[1]) for frame in frames]
        count, confident = len(frames), self._network.confidence
        places, ends = self._laid_out(frames, mapped), self._ends(sizes)
        incoming = max(end for _, end in places) or count * DESCRIBED
        boxes = self._boxes(incoming, ends[-1])
        inbox, outbox = boxes.inbox, boxes.outbox
        sampled, targets = zip(*(self._described(size) for size in sizes), strict=True)
        for index, (frame, (place, _)) in enumerate(zip(frames, places, strict=True)):
            one, target = sampled[index], targets[index]
            one.pitch = frame.pitch if isinstance(frame, DeviceImage) else 3 * frame.shape[1]
            if isinstance(frame, DeviceImage):
                one.pixels = frame.address
                if frame.stream is not None:
                    self.cuda.provider.follow(self.cuda.stream, frame.stream)
            elif (seen := mapped[index]) is not None and self.cuda.mapped:
                one.pixels = seen
            else:
                one.pixels = inbox.address + place
                np.copyto(inbox.host[place : place + frame.nbytes].reshape(frame.shape), frame)
            target.labels = outbox.address + ends[index]
            target.confidence = outbox.address + ends[count + index] if confident else None
        described = b"".join(map(bytes, (*sampled, *targets)))
        inbox.host[: len(described)] = np.frombuffer(described, np.uint8)
        inbox.upload(self._upload, incoming)
        self._uploaded(boxes)
        if clock is not None:
            clock.done("upload")
        self._label(count, _wider(max(width for _, width in sizes)), inbox.address, clock)
        return self._job(boxes, [(outbox, ends[-1])], partial(self._masks, outbox, sizes, ends), frames)

    def _laid_out(self, frames: Sequence[Frame | DeviceImage], mapped: Sequence[int | None]) -> list[tuple[int, int]]:
        """Where each frame lies in the inbox, and where the next one may; 0 for those that are elsewhere."""
        end = _apart(len(frames) * DESCRIBED)
        places = []
        for frame, seen in zip(frames, mapped, strict=True):
            if isinstance(frame, DeviceImage) or (seen is not None and self.cuda.mapped):
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

    def _boxes(self, incoming: int, outgoing: int) -> Boxes:
        """Of at least these bytes."""
        if self._slots:
            there = self._slots[-1]
            if len(there.inbox.host) >= incoming and len(there.outbox.host) >= outgoing:
                return there
            self._graphs.close()
            self._slots.pop().scope.close()
        self._slots.append(Boxes(self.cuda, incoming, outgoing))
        return self._slots[-1]

    def _described(self, size: Size) -> tuple[FrameOfBatch, TargetOfBatch]:
        """A frame of `size` and its labels, but for where they lie."""

        def make(scope: Scope) -> tuple[FrameOfBatch, TargetOfBatch]:
            spans = self._network.frame_spec.spans(size)
            return self._frames.sampled(scope, size), self._heads.target(scope, size, spans)

        sampled, target = self._tables.take(size, make, SIZES + self._network.batch.most)
        return FrameOfBatch.from_buffer_copy(sampled), TargetOfBatch.from_buffer_copy(target)

    def _masks(self, outbox: Buffer, sizes: Sequence[Size], ends: Sequence[int]) -> list[Mask]:
        """What has come out, copied."""
        count = len(sizes)

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

    def _label(self, count: int, widest: int, inbox: int, clock: StageClock | None) -> None:
        targets, confident = inbox + count * ctypes.sizeof(FrameOfBatch), self._network.confidence
        prepare = partial(self._frames.prepare, inbox, count)
        label = partial(self._heads.label, self._logits, targets, count, widest, confident)
        self._compute((count, widest, inbox), max(count, self._network.batch.least), prepare, label, clock)

    def close(self) -> None:
        """`Lane.close`."""
        super().close()
        self._tables.close()
        while self._slots:
            self._slots.pop().scope.close()


def _apart(size: int) -> int:
    return -(-size // APART) * APART


def _wider(width: int) -> int:
    return -(-width // WIDER) * WIDER
