"""Frame -> labels without leaving the GPU: upload, frame kernel, engine, head kernel, download, all on one stream.

From the second frame of a size on, the kernels and the engine are one CUDA graph. What crosses the bus is the frame and
one byte a pixel; the full-size logits never exist. The frame kernel writes what the engine reads, in its layout and
type, and the head reads what the engine writes: nothing only moves data.

It has not run on hardware: the tests run it over host memory, with the kernels compiled for the CPU. A NaN among the
logits is not looked for here; it never wins.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from refinenet_edge.errors import RefineNetEdgeError
from refinenet_edge.records import Bilinear, Frame, FrameSpec, LabelMap, Size
from refinenet_edge.runtime.kernels.device import DeviceFrame, DeviceHead
from refinenet_edge.runtime.trt import TrtSession

logger = logging.getLogger(__name__)


def fits_device(spec: FrameSpec) -> bool:
    """Whether the kernels do what `spec` asks: they interpolate bilinearly."""
    return isinstance(spec.resize, Bilinear) and isinstance(spec.upsample, Bilinear)


class DeviceSegmenter:
    """`session` between the kernels, for `classes` classes; what a size of frame needs is kept until the next size."""

    def __init__(self, session: TrtSession, spec: FrameSpec, classes: int) -> None:
        self._session, self._spec, self._classes = session, spec, classes
        self._steps: _Steps | None = None

    def labels(self, frame: Frame) -> LabelMap:
        """The label map of `frame` (HxWx3 BGR uint8), a new HxW array.

        Raises `InputError` for a size outside the engine's range, `MissingExtra` without NVRTC, `RefineNetEdgeError`
        when the GPU refuses.
        """
        size = (frame.shape[0], frame.shape[1])
        if self._steps is None or self._steps.size != size:
            self.close()
            self._steps = _Steps(self._session, self._spec, self._classes, size)
        return self._steps.run(np.ascontiguousarray(frame))

    def close(self) -> None:
        """Give back the device memory; a second call does nothing."""
        steps, self._steps = self._steps, None
        if steps is not None:
            steps.close()


class _Steps:
    """Everything on the device for frames of one size."""

    def __init__(self, session: TrtSession, spec: FrameSpec, classes: int, size: Size) -> None:
        assert isinstance(spec.upsample, Bilinear)  # fits_device
        self.size = size
        self._session = session
        self._cuda = session.cuda
        self._closers: list[Callable[[], None]] = []
        self._graph: Any = None
        image, logits = session.inputs[0], session.outputs[0]
        channels = image.shape[1] if image.name in session.channel_last else None
        assert channels is None or isinstance(channels, int)
        try:
            self._frame = DeviceFrame(self._cuda, spec, size, image.dtype, channels)
            self._closers.append(self._frame.close)
            rows, columns = spec.size or size
            shapes = session.set_shapes({image.name: (1, channels or 3, rows, columns)})
            _, padded, height, width = shapes[logits.name]
            self._head = DeviceHead(
                self._cuda,
                logits.dtype,
                (classes, height, width),
                size,
                spec.upsample,
                channels=padded if logits.name in session.channel_last else None,
            )
            self._closers.append(self._head.close)
            self._logits = self._room(padded * height * width * np.dtype(logits.dtype).itemsize)
            self._pixels = self._room(3 * size[0] * size[1])
        except BaseException:
            self.close()
            raise
        self._addresses = {image.name: self._frame.address, logits.name: self._logits}
        self._input = {image.name: shapes[image.name]}
        self._captures = session.capturable()

    def _room(self, size: int) -> int:
        address = self._cuda.allocate(size)
        self._closers.append(lambda: self._cuda.free(address))
        return address

    def run(self, frame: Frame) -> LabelMap:
        labels = np.empty(self.size, np.uint8)
        if self._session.shapes != self._input:  # run() on the session has changed them
            self._drop()
            self._session.set_shapes(self._input)
        self._cuda.to_device(self._pixels, frame)
        if self._graph is not None:
            self._cuda.launch(self._graph)
        else:
            self._queue()
        self._cuda.to_host(labels, self._head.labels)
        self._cuda.synchronize()
        if self._graph is None and self._captures:
            self._capture()  # only now: TensorRT wants to have run once with these shapes
        return labels

    def _queue(self) -> None:
        self._frame.prepare(self._pixels)
        self._session.queue(self._addresses)
        self._head.label(self._logits)

    def _capture(self) -> None:
        try:
            self._graph = self._cuda.capture(self._queue)
        except RefineNetEdgeError as exc:
            logger.info("no CUDA graph, each step is launched by itself: %s", exc)
            self._captures = False

    def _drop(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            self._cuda.drop(graph)

    def close(self) -> None:
        self._drop()
        while self._closers:
            self._closers.pop()()
