"""Frame -> mask without leaving the GPU: upload, frame kernel, engine, head kernel, download.

On an integrated GPU (Jetson) frames and labels lie in mapped memory: nothing is uploaded or downloaded, a frame in
memory of `new_frame` is read where it is, and labels are written into memory of `new_labels` and stay there. On a
discrete one, and where `make gpu` measured that copying is faster, they go through page-locked memory on two streams of
their own, so that the upload of a frame, the computation of the one before and the download of the one before that
overlap:

    upload     frame 1 | frame 2 | frame 3
    compute              frame 1 | frame 2 | frame 3
    download                       frame 1 | frame 2 | frame 3

From the second frame of a size on, the kernels and the engine are one CUDA graph for each place that frames lie at.
The full-size logits never exist: the frame kernel writes what the engine reads, in its layout and type, and the head
reads what the engine writes.

The tests run it on a fake of the GPU, with the kernels compiled for the CPU, and `make gpu` on a real one, there also
with an engine of our own in TensorRT's place. A NaN among the logits is not looked for here; it never wins.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refinenet_edge.errors import CudaError, InputError, RefineNetEdgeError
from refinenet_edge.records import Bilinear, Frame, FrameSpec, LabelMap, Mask, Size
from refinenet_edge.runtime.cuda import Buffer, Cuda, Scope
from refinenet_edge.runtime.device_batch import DeviceBatch
from refinenet_edge.runtime.frame import DeviceImage
from refinenet_edge.runtime.frame_path import Answer, Network, or_error
from refinenet_edge.runtime.gather import gathered
from refinenet_edge.runtime.kernels.device import DeviceFrame, DeviceHead
from refinenet_edge.runtime.tensorrt.session import TrtSession

DEPTH = 2  # frames on their way: one is copied while the other is computed
GRAPHS = 8  # kept beside those of our own memory: another library's ring of buffers is a few addresses

logger = logging.getLogger(__name__)

Key = tuple[int, ...]  # of a graph: the addresses and the pitch that it was captured with


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
        self._steps: _Steps | None = None
        self._together: DeviceBatch | None = None
        self._own: Scope | None = None  # of the memory for frames and labels
        self._places: dict[int, int] = {}  # a frame's address on the host -> on the device
        self._results: dict[int, Buffer] = {}  # by the labels' address on the host

    @property
    def in_flight(self) -> int:
        """`FramePath.in_flight`."""
        return 1

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
            if self._alone:
                mask = self._queue(frame, result=result).mask()
            else:
                (mask,) = self._queue_together([frame])
        if into is not None and mask.labels is not into:
            np.copyto(into, mask.labels)
        return mask if into is None else replace(mask, labels=into)

    def staged(self, frame: Frame | DeviceImage) -> tuple[Mask, dict[str, float]]:
        """`FramePath.staged`: each stage is launched by itself and waited for."""
        with self._session.cuda.use():
            clock = _Clock(self._session.cuda)
            if self._alone:
                mask = self._queue(frame, clock).mask()
            else:
                (mask,) = self._queue_together([frame], clock)
            clock.done("download")
        return mask, clock.ms

    def batch(self, frames: Sequence[Frame | DeviceImage]) -> list[Answer]:
        """`FramePath.batch`: as many at once as the engine takes, of those whose network's input is of one size."""
        most = self._network.batch.most
        if most == 1:
            return [or_error(self.segment, frame) for frame in frames]
        answers: list[Answer | None] = [or_error(self._check, frame) for frame in frames]
        by_sides: dict[Size, list[int]] = {}
        for index, frame in enumerate(frames):
            if answers[index] is None:
                by_sides.setdefault(self._sides(frame), []).append(index)
        with self._session.cuda.use():
            for members in by_sides.values():
                for first in range(0, len(members), most):
                    chosen = members[first : first + most]
                    masks = self._queue_together([frames[index] for index in chosen])
                    for index, mask in zip(chosen, masks, strict=True):
                        answers[index] = mask
        return [answer for answer in answers if answer is not None]

    def stream(self, frames: Iterable[Frame | DeviceImage], depth: int | None = None) -> Iterator[Mask]:
        """`FramePath.stream`: copies and computation of several frames overlap, of `DEPTH` unless it is said."""
        if not self._alone:
            yield from self._gathered(frames)
            return
        depth = depth or DEPTH
        cuda = self._session.cuda
        waiting: deque[_Job] = deque()
        try:
            for frame in frames:
                with cuda.use():
                    waiting.append(self._queue(frame))
                    done = waiting.popleft().mask() if len(waiting) == depth else None
                if done is not None:
                    yield done
            while waiting:
                with cuda.use():
                    done = waiting.popleft().mask()
                yield done
        finally:
            # nobody takes their labels, but the frames must not be read any more
            cuda.finish(lambda: _finish(waiting))

    def _gathered(self, frames: Iterable[Frame | DeviceImage]) -> Iterator[Mask]:
        """The masks of `frames`, so many at once as the engine takes at least."""
        for chosen in gathered(frames, self._network.batch.least):
            for answer in self.batch(chosen):
                if isinstance(answer, RefineNetEdgeError):
                    raise answer
                yield answer

    @property
    def _alone(self) -> bool:
        """Whether the engine takes a frame alone."""
        return self._network.batch.least == 1

    def _sides(self, frame: Frame | DeviceImage) -> Size:
        """Of the network's input for `frame`."""
        return self._network.frame_spec.size or (frame.shape[0], frame.shape[1])

    def _check(self, frame: Frame | DeviceImage) -> None:
        """Raise what is wrong with one frame."""
        self._session.check_open()
        self._network.check_classes(self._session.outputs[0].shape[1])
        size = (frame.shape[0], frame.shape[1])
        self._network.check_range(size)
        self._network.frame_spec.spans(size)

    def _queue_together(self, frames: Sequence[Frame | DeviceImage], clock: _Clock | None = None) -> list[Mask]:
        """The masks of frames whose network's input is of one size, as many as the engine takes at most."""
        for frame in frames:
            self._check(frame)
        sides, places = self._sides(frames[0]), [self._place(frame) for frame in frames]
        try:
            if self._together is None or self._together.sides != sides:
                self._drop()
                self._together = DeviceBatch(self._session, self._network, sides)
            return self._together.run(frames, places, clock)
        except BaseException:
            self._drop()
            raise

    def _queue(self, frame: Frame | DeviceImage, clock: _Clock | None = None, result: Buffer | None = None) -> _Job:
        self._session.check_open()
        self._network.check_classes(self._session.outputs[0].shape[1])
        size = (frame.shape[0], frame.shape[1])
        self._network.check_range(size)
        try:
            if self._steps is None or self._steps.size != size:
                self._drop()
                self._steps = _Steps(self._session, self._network, size)
            return self._steps.queue(frame, self._place(frame), clock, result)
        except BaseException:
            self._drop()
            raise

    def _place(self, frame: Frame | DeviceImage) -> int | None:
        """Where the device sees a frame in memory of `new_frame`."""
        if isinstance(frame, DeviceImage) or not frame.flags.c_contiguous:
            return None
        return self._places.get(frame.ctypes.data)

    def _drop(self) -> None:
        steps, self._steps = self._steps, None
        together, self._together = self._together, None
        for held in (steps, together):
            if held is not None:
                held.close()

    def close(self) -> None:
        """`FramePath.close`. Frames on their way are finished first."""
        self._session.cuda.finish(self._give_back)

    def _give_back(self) -> None:
        self._drop()
        own, self._own, self._places, self._results = self._own, None, {}, {}
        if own is not None:
            own.close()


class _Clock:
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


def _whole_words(size: Size) -> int:
    """Bytes for a frame: the kernel reads words of 8, the last one too."""
    return -(-3 * size[0] * size[1] // 8) * 8


class _Slot:
    """Where one frame is on its way."""

    def __init__(self, scope: Scope, size: Size, confidence: bool) -> None:
        self.pixels = Buffer(scope, _whole_words(size))
        self.result = Buffer(scope, size[0] * size[1])
        self.confidence = Buffer(scope, size[0] * size[1]) if confidence else None
        self.uploaded, self.computed, self.downloaded = (scope.event() for _ in range(3))


class _Job:
    """A frame on its way."""

    def __init__(self, steps: _Steps, slot: _Slot, frame: Frame | DeviceImage, result: Buffer | None) -> None:
        self._steps, self._slot, self._result = steps, slot, result
        self._frame: Frame | DeviceImage | None = frame  # the GPU may read it until then
        self._mask: Mask | None = None
        self._error: CudaError | None = None

    def finish(self) -> None:
        """Wait, and make room for another frame."""
        if self._frame is None:
            return
        self._frame = None
        try:
            self._steps.cuda.provider.wait_host(self._slot.downloaded)
            labels = (self._result or self._slot.result).host.reshape(self._steps.size)
            sure = self._slot.confidence
            self._mask = self._steps.network.without_unseen(
                Mask(
                    labels if self._result else labels.copy(),  # a slot's are the next frame's too
                    self._steps.network.labels,
                    None if sure is None else sure.host.reshape(self._steps.size).copy(),
                )
            )
        except CudaError as exc:
            self._error = exc
        self._steps.give_back(self, self._slot)

    def mask(self) -> Mask:
        """The frame's mask, when it is there."""
        self.finish()
        if self._mask is None:
            raise self._error or CudaError("the frame was given up", "")
        return self._mask


def _finish(jobs: Iterable[_Job]) -> None:
    for job in tuple(jobs):
        job.finish()


class _Steps:
    """Everything on the device for frames of one size."""

    def __init__(self, session: TrtSession, network: Network, size: Size) -> None:
        self.size, self.network, self._confidence = size, network, network.confidence
        self.cuda = session.cuda
        self._session = session
        self._scope = self.cuda.scope()
        self._graphs: OrderedDict[Key, tuple[Any, Scope]] = OrderedDict()  # the last used is the last
        self._seen: deque[Key] = deque(maxlen=4 * GRAPHS)
        self._own: set[int] = set()  # addresses that frames come to again: those of our own memory
        self._slots: list[_Slot] = []
        self._jobs: list[_Job] = []
        self._upload = self._download = self.cuda.stream
        self._captures = session.capturable()
        self._ran = False  # the engine, with these shapes
        try:
            self._prepare(network.frame_spec)
        except BaseException:
            self.close()
            raise

    def _prepare(self, spec: FrameSpec) -> None:
        assert isinstance(spec.upsample, Bilinear)  # fits_device
        scope = self._scope
        if not self.cuda.mapped:
            self._upload, self._download = scope.stream(), scope.stream()
        image, logits = self._session.inputs[0], self._session.outputs[0]
        channels = image.shape[1] if image.name in self._session.channel_last else None
        assert channels is None or isinstance(channels, int)
        rows, columns = spec.size or self.size
        shapes = self._session.context.set_shapes({image.name: (1, channels or 3, rows, columns)})
        self._frame = DeviceFrame(scope, spec, self.size, image.dtype, channels)
        _, padded, height, width = shapes[logits.name]
        padding = padded if logits.name in self._session.channel_last else None
        shape = (len(self.network.labels.names), height, width)
        spans = spec.spans(self.size)
        self._head = DeviceHead(scope, logits.dtype, shape, self.size, spec.upsample, padding, spans)
        self._logits = scope.memory(padded * height * width * np.dtype(logits.dtype).itemsize)
        self._addresses = {image.name: self._frame.address, logits.name: self._logits}
        self._input = {image.name: shapes[image.name]}

    def queue(
        self, frame: Frame | DeviceImage, mapped: int | None, clock: _Clock | None, result: Buffer | None
    ) -> _Job:
        """Queue `frame`'s way from here and back; `mapped`: where the device sees it, in page-locked memory.

        With a `clock` every stage is waited for. The labels go into `result`, if one is given.
        """
        provider, compute = self.cuda.provider, self.cuda.stream
        slot = self._slots.pop() if self._slots else _Slot(self._scope, self.size, self._confidence)
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
            provider.record(slot.uploaded, self._upload)
            provider.wait(compute, slot.uploaded)
        if clock is not None:
            provider.synchronize(self._upload)
            clock.done("upload")
        target = result or slot.result
        outputs = [target] if slot.confidence is None else [target, slot.confidence]
        self._compute(place, pitch, [output.address for output in outputs], clock)
        provider.record(slot.computed, compute)
        provider.wait(self._download, slot.computed)
        for output in outputs:
            output.download(self._download, output.host.nbytes)
        provider.record(slot.downloaded, self._download)
        job = _Job(self, slot, frame, result)
        self._jobs.append(job)
        return job

    def _compute(self, place: int, pitch: int, outputs: list[int], clock: _Clock | None) -> None:
        if self._session.context.shapes != self._input:  # run() on the session has changed them
            self._forget_graphs()
            self._session.context.set_shapes(self._input)
            self._ran = False
        key = (place, pitch, *outputs, self._session.context.ready())
        done: Callable[[str], None] = clock.done if clock is not None else lambda stage: None

        def steps() -> None:
            self._frame.prepare(place, pitch)
            done("prepare")
            self._session.context.queue(self._addresses)
            done("engine")
            self._head.label(self._logits, *outputs)
            done("head")

        if clock is not None:
            steps()
            return
        if key not in self._graphs and self._ran and self._captures and (place in self._own or key in self._seen):
            self._capture(key, steps)  # only now: TensorRT wants to have run once with these shapes
        if key in self._graphs:
            graphs = self.cuda.provider.graphs
            assert graphs is not None  # it was captured
            self._graphs.move_to_end(key)
            graphs.launch(self._graphs[key][0], self.cuda.stream)
        else:
            steps()
            self._ran = True
            self._seen.append(key)

    def _capture(self, key: Key, steps: Callable[[], None]) -> None:
        while len(self._graphs) >= GRAPHS + len(self._own):
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

    def give_back(self, job: _Job, slot: _Slot) -> None:
        """`job` is finished."""
        self._jobs.remove(job)
        self._slots.append(slot)

    def close(self) -> None:
        _finish(self._jobs)
        # what a failure left on the way must not run into memory that is gone; a lost device runs nothing
        with contextlib.suppress(CudaError):
            for stream in (self._upload, self._download):
                self.cuda.provider.synchronize(stream)
        self._forget_graphs()
        self._scope.close()
