"""Frame -> mask without leaving the GPU: upload, frame kernel, engine, head kernel, download.

On an integrated GPU (Jetson) frames and labels lie in mapped memory: nothing is uploaded or downloaded, a frame in
memory of `new_frame` is read where it is, and labels are written into memory of `new_labels` and stay there. On a
discrete one, and where `make gpu` measured that copying is faster, they go through page-locked memory on two streams of
their own (device_lane.py). Frames that may wait for each other, as those of `batch` and of a stream for throughput, go
in together where the engine takes several, and are of any sizes, one after the other too: where the engine's sides are
fixed, device_batch.py has nothing to make again for another. One that is to be soon done has kernels for its size.

From the second frame of a size on, the kernels and the engine are one CUDA graph for each place that frames lie at.
The full-size logits never exist: the frame kernel writes what the engine reads, in its layout and type, and the head
reads what the engine writes.

The tests run it on a fake of the GPU, with the kernels compiled for the CPU, and `make gpu` on a real one, there also
with an engine of our own in TensorRT's place. A NaN among the logits is not looked for here; it never wins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np

from refinenet_edge.errors import InputError, RefineNetEdgeError
from refinenet_edge.records import Bilinear, Frame, LabelMap, Mask, Size
from refinenet_edge.runtime.cuda import Buffer, Scope
from refinenet_edge.runtime.device_batch import DeviceBatch
from refinenet_edge.runtime.device_lane import DEPTH, GRAPHS, Key, Lane, LaneSlot, Pending, StageClock
from refinenet_edge.runtime.frame import DeviceImage
from refinenet_edge.runtime.frame_path import Answer, Network, in_runs, or_error
from refinenet_edge.runtime.gather import gathered
from refinenet_edge.runtime.kernels.device import DeviceFrame, DeviceHead
from refinenet_edge.runtime.tensorrt.session import TrtSession

L = TypeVar("L", "_Steps", DeviceBatch)


def fits_device(network: Network, session: TrtSession) -> bool:
    """Whether the kernels do what is asked: of logits, interpolating bilinearly, padding what lies channels last."""
    spec = network.frame_spec
    padded = network.channels > 3 and session.inputs[0].name not in session.channel_last
    if network.gives_labels:
        return False
    return isinstance(spec.resize, Bilinear) and isinstance(spec.upsample, Bilinear) and not padded


class DevicePath:
    """`FramePath` on the GPU: the `session` of `network` between the kernels.

    What a size of frame needs is kept until the next size. A frame raises `InputError` for a size outside the engine's
    range, `MissingExtra` without a compiler for the kernels, `CudaError` when the GPU refuses; the next frame starts
    afresh.
    """

    def __init__(self, network: Network, session: TrtSession) -> None:
        self._network, self._session = network, session
        self._lane: _Steps | DeviceBatch | None = None
        self._own: Scope | None = None  # of the memory for frames and labels
        self._places: dict[int, int] = {}  # a frame's address on the host -> on the device
        self._results: dict[int, Buffer] = {}  # by the labels' address on the host

    @property
    def in_flight(self) -> int:
        """`FramePath.in_flight`."""
        return 1

    @property
    def at_once(self) -> int:
        """`FramePath.at_once`: for throughput as many as the engine takes."""
        return self._network.at_once

    def new_frame(self, size: Size) -> Frame:
        """`FramePath.new_frame`: page-locked memory."""
        self._session.check_open()
        cuda = self._session.cuda
        with cuda.use():
            self._own = self._own or cuda.scope()
            pixels, address = self._own.host(_whole_words(size))
        self._places[pixels.ctypes.data] = address
        return pixels[: 3 * size[0] * size[1]].reshape(*size, 3)

    def new_labels(self, size: Size) -> LabelMap:
        """`FramePath.new_labels`: page-locked memory."""
        self._session.check_open()
        cuda = self._session.cuda
        with cuda.use():
            self._own = self._own or cuda.scope()
            result = Buffer(self._own, size[0] * size[1])
        self._results[result.host.ctypes.data] = result
        return result.host[: size[0] * size[1]].reshape(size)

    def segment(self, frame: Frame | DeviceImage, into: LabelMap | None = None) -> Mask:
        result = None if into is None else self._results.get(into.ctypes.data)
        if into is not None and (result is None or into.shape != frame.shape[:2] or not into.flags.c_contiguous):
            raise InputError("labels are written into memory of new_labels(height, width), of the frame's size")
        with self._session.cuda.use():
            (mask,) = self._queue_one(frame, result=result).result()
        if into is not None and mask.labels is not into:
            np.copyto(into, mask.labels)
        return mask if into is None else replace(mask, labels=into)

    def staged(self, frame: Frame | DeviceImage) -> tuple[Mask, dict[str, float]]:
        """`FramePath.staged`: each stage is launched by itself and waited for."""
        with self._session.cuda.use():
            clock = StageClock(self._session.cuda)
            (mask,) = self._queue_one(frame, clock).result()
            clock.done("download")
        return mask, clock.ms

    def batch(self, frames: Sequence[Frame | DeviceImage]) -> list[Answer]:
        """`FramePath.batch`: as many at once as the engine takes, of those whose network's input is of one size."""
        with self._session.cuda.use():
            return self._queue_list(frames).answers()

    def stream(self, frames: Iterable[Frame | DeviceImage], depth: int | None = None) -> Generator[Answer, None, None]:
        """`FramePath.stream`: copies and computation of several frames, or lists of them, overlap."""
        together = min(depth or self.at_once, self.at_once)
        lists = max(1, (depth or DEPTH * together) // together)
        single = self._alone and not self._network.throughput
        cuda = self._session.cuda
        waiting: deque[_List] = deque()
        try:
            for chosen in gathered(frames, together):
                with cuda.use():
                    waiting.append(self._queue_list(chosen, single))
                    done = waiting.popleft().answers() if len(waiting) == lists else []
                yield from done
            while waiting:
                with cuda.use():
                    done = waiting.popleft().answers()
                yield from done
        finally:
            # nobody takes their labels, but the frames must not be read any more
            cuda.finish(lambda: _finish(waiting))

    @property
    def _alone(self) -> bool:
        """Whether the engine takes a frame alone."""
        return self._network.batch.least == 1

    def _sides(self, frame: Frame | DeviceImage) -> Size:
        """Of the network's input for `frame`. Raises what is wrong with it."""
        self._session.check_open()
        self._network.check_classes(self._session.outputs[0].shape[1])
        size = (frame.shape[0], frame.shape[1])
        self._network.check_range(size)
        self._network.frame_spec.spans(size)
        return self._network.frame_spec.size or size

    def _queue_list(self, frames: Sequence[Frame | DeviceImage], single: bool = False) -> _List:
        """`frames` on their way, as many at once as the engine takes, of those whose network's input is of one size.

        `single`: it is one frame, which may go by itself.
        """
        errors, runs = in_runs((or_error(self._sides, frame) for frame in frames), self._network.batch.most)
        queued = _List({**errors})
        for run in runs:
            several = [frames[index] for index in run]
            job = or_error(self._queue_one, several[0]) if single else or_error(self._queue_together, several)
            if isinstance(job, RefineNetEdgeError):  # the engine does not take this size
                queued.known.update(dict.fromkeys(run, job))
            else:
                queued.jobs.append((run, job))
        return queued

    def _queue_one(
        self, frame: Frame | DeviceImage, clock: StageClock | None = None, result: Buffer | None = None
    ) -> Pending[list[Mask]]:
        """A frame on its way, alone where the engine takes it so."""
        if not self._alone:
            return self._queue_together([frame], clock)
        self._sides(frame)
        with self._lane_for(_Steps, (frame.shape[0], frame.shape[1])) as lane:
            return lane.queue(frame, self._place(frame), clock, result)

    def _queue_together(
        self, frames: Sequence[Frame | DeviceImage], clock: StageClock | None = None
    ) -> Pending[list[Mask]]:
        """Frames whose network's input is of one size, as many as the engine takes at most, on their way."""
        (sides,) = {self._sides(frame) for frame in frames}
        with self._lane_for(DeviceBatch, sides) as lane:
            return lane.queue(frames, [self._place(frame) for frame in frames], clock)

    @contextmanager
    def _lane_for(self, kind: type[L], size: Size) -> Iterator[L]:
        """The lane there is, if it is of this `kind` and `size`, or another in its place; it ends with what fails."""
        try:
            lane = self._lane
            if not isinstance(lane, kind) or lane.size != size:
                self._drop()
                lane = self._lane = kind(self._session, self._network, size)
            yield lane
        except BaseException:
            self._drop()
            raise

    def _place(self, frame: Frame | DeviceImage) -> int | None:
        """Where the device sees a frame in memory of `new_frame`."""
        if isinstance(frame, DeviceImage) or not frame.flags.c_contiguous:
            return None
        return self._places.get(frame.ctypes.data)

    def _drop(self) -> None:
        lane, self._lane = self._lane, None
        if lane is not None:
            lane.close()

    def close(self) -> None:
        """`FramePath.close`. Frames on their way are finished first."""
        self._session.cuda.finish(self._give_back)

    def _give_back(self) -> None:
        self._drop()
        own, self._own, self._places, self._results = self._own, None, {}, {}
        if own is not None:
            own.close()


def _finish(lists: Iterable[_List]) -> None:
    for each in lists:
        each.finish()


class _List:
    """Frames on their way in several jobs, by their indexes, and what is known of the others."""

    def __init__(self, known: dict[int, Answer]) -> None:
        self.known = known
        self.jobs: list[tuple[list[int], Pending[list[Mask]]]] = []

    def finish(self) -> None:
        """Wait."""
        for _, job in self.jobs:
            job.finish()

    def answers(self) -> list[Answer]:
        """One for each frame, when all are there. Raises `CudaError`."""
        for indexes, job in self.jobs:
            self.known.update(zip(indexes, job.result(), strict=True))
        return [self.known[index] for index in sorted(self.known)]


def _whole_words(size: Size) -> int:
    """Bytes for a frame: the kernel reads words of 8, the last one too."""
    return -(-3 * size[0] * size[1] // 8) * 8


class _Slot(LaneSlot):
    """Where one frame is on its way."""

    def __init__(self, scope: Scope, size: Size, confidence: bool) -> None:
        super().__init__(scope)
        self.pixels = Buffer(scope, _whole_words(size))
        self.result = Buffer(scope, size[0] * size[1])
        self.confidence = Buffer(scope, size[0] * size[1]) if confidence else None


class _Steps(Lane[_Slot]):
    """Everything on the device for frames of one size."""

    def __init__(self, session: TrtSession, network: Network, size: Size) -> None:
        self.size = size
        self._seen: deque[Key] = deque(maxlen=4 * GRAPHS)
        self._own: set[int] = set()  # addresses that frames come to again: those of our own memory
        super().__init__(session, network, 1, network.frame_spec.size or size)

    def _make_kernels(
        self, how: Bilinear, channels: int | None, logits: tuple[int, int, int], padding: int | None
    ) -> int:
        spec, dtypes = self._network.frame_spec, self._dtypes
        self._frame = DeviceFrame(self._scope, spec, self.size, dtypes[0], channels)
        self._head = DeviceHead(self._scope, dtypes[1], logits, self.size, how, padding, spec.spans(self.size))
        return self._frame.address

    def queue(
        self, frame: Frame | DeviceImage, mapped: int | None, clock: StageClock | None, result: Buffer | None
    ) -> Pending[list[Mask]]:
        """Queue `frame`'s way from here and back; `mapped`: where the device sees it, in page-locked memory.

        With a `clock` every stage is waited for. The labels go into `result`, if one is given.
        """
        provider, compute = self.cuda.provider, self.cuda.stream
        if not self._slots:
            self._slots.append(_Slot(self._scope, self.size, self._network.confidence))
        slot = self._slots[-1]
        if isinstance(frame, DeviceImage):
            if frame.stream is not None:
                provider.follow(compute, frame.stream)
            place, pitch = frame.address, frame.pitch
        elif mapped is not None and self.cuda.mapped:
            place, pitch = mapped, frame.shape[1] * 3
            self._own.add(place)
        else:
            place, pitch = slot.pixels.address, frame.shape[1] * 3
            self._own.add(place)
            if mapped is not None:
                provider.upload(place, frame, self._upload)
            else:
                np.copyto(slot.pixels.host[: frame.nbytes].reshape(frame.shape), frame)
                slot.pixels.upload(self._upload, frame.nbytes)
            self._uploaded(slot)
        if clock is not None:
            provider.synchronize(self._upload)
            clock.done("upload")
        target = result or slot.result
        outputs = [target] if slot.confidence is None else [target, slot.confidence]
        self._label(place, pitch, [output.address for output in outputs], clock)
        sizes = [(output, output.host.nbytes) for output in outputs]
        return self._job(slot, sizes, partial(self._masks, slot, result), frame)

    def _masks(self, slot: _Slot, result: Buffer | None) -> list[Mask]:
        """What has come out: one."""
        labels = (result or slot.result).host.reshape(self.size)
        sure = slot.confidence
        mask = Mask(
            labels if result else labels.copy(),  # a slot's are the next frame's too
            self._network.labels,
            None if sure is None else sure.host.reshape(self.size).copy(),
        )
        return [self._network.without_unseen(mask)]

    def _label(self, place: int, pitch: int, outputs: list[int], clock: StageClock | None) -> None:
        key = (place, pitch, *outputs)
        graphs = GRAPHS + len(self._own) if place in self._own or key in self._seen else 0
        if not graphs:
            self._seen.append(key)
        prepare, label = partial(self._frame.prepare, place, pitch), partial(self._head.label, self._logits, *outputs)
        self._compute(key, 1, prepare, label, clock, graphs)
