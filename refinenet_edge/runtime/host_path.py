"""Frame -> mask with arrays on the host: OpenCV prepares, any session runs, the head in C++ or numpy makes labels."""

import itertools
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from refinenet_edge.errors import BundleError, InputError, RefineNetEdgeError
from refinenet_edge.records import Frame, LabelMap, Mask, Size
from refinenet_edge.runtime.frame import DeviceImage, prepare
from refinenet_edge.runtime.frame_path import Answer, Network, in_runs, or_error
from refinenet_edge.runtime.gather import gathered
from refinenet_edge.runtime.head import THREADS, Logits, nearest_axis, one_frame, upsample_argmax, upsample_softmax
from refinenet_edge.runtime.in_flight import Workers


class HostPath:
    """`FramePath` on the host."""

    whole = True  # a run is of whole frames, of which several may go in

    def __init__(self, network: Network) -> None:
        self.network = network
        self._workers = Workers(self.in_flight)

    @property
    def in_flight(self) -> int:
        """`FramePath.in_flight`."""
        return self.network.session.requests

    @property
    def at_once(self) -> int:
        """`FramePath.at_once`."""
        return self.network.at_once if self.whole else 1

    def segment(self, frame: Frame | DeviceImage, into: LabelMap | None = None) -> Mask:
        """`FramePath.segment`. Raises `InputError` for a frame on the GPU."""
        mask = self._segment(frame)
        if into is None:
            return mask
        if into.shape != mask.labels.shape or into.dtype != np.uint8 or not into.flags.writeable:
            raise InputError("labels are written into memory of new_labels(height, width), of the frame's size")
        np.copyto(into, mask.labels)
        return replace(mask, labels=into)

    def _segment(self, frame: Frame | DeviceImage) -> Mask:
        return self._mask_of(self._run(self.image(frame)), frame)

    def staged(self, frame: Frame | DeviceImage) -> tuple[Mask, dict[str, float]]:
        """`FramePath.staged`: prepare, engine, head."""
        times = [time.perf_counter()]
        image = self.image(frame)
        times.append(time.perf_counter())
        output = self._run(image)
        times.append(time.perf_counter())
        mask = self._mask_of(output, frame)
        times.append(time.perf_counter())
        stages = zip(("prepare", "engine", "head"), times, times[1:], strict=False)
        return mask, {stage: 1000 * (end - start) for stage, start, end in stages}

    def batch(self, frames: Sequence[Frame | DeviceImage]) -> list[Answer]:
        """`FramePath.batch`: `in_flight` at once; in one run on a GPU, or where the network takes no frame alone."""
        if self.whole and self.network.together > 1:
            return self._together(frames)
        return list(self._workers.in_order(partial(or_error, self.segment), frames))

    def _together(self, frames: Sequence[Frame | DeviceImage]) -> list[Answer]:
        """As many in a run as the network takes, of those whose images are of one size."""
        images = [or_error(self.image, frame) for frame in frames]
        shapes = (image if isinstance(image, RefineNetEdgeError) else image.shape for image in images)
        errors, runs = in_runs(shapes, self.network.batch.most)
        answers: dict[int, Answer] = {**errors}
        for run in runs:
            outputs = or_error(self._run, np.concatenate([images[index] for index in run]))
            for place, index in enumerate(run):
                if isinstance(outputs, RefineNetEdgeError):
                    answers[index] = outputs
                else:
                    answers[index] = or_error(partial(self._mask_of, outputs[place : place + 1]), frames[index])
        return [answers[index] for index in range(len(frames))]

    def _mask_of(self, output: npt.NDArray[Any], frame: Frame | DeviceImage) -> Mask:
        return self._mask(output, (frame.shape[0], frame.shape[1]))

    def stream(self, frames: Iterable[Frame | DeviceImage], depth: int | None = None) -> Generator[Answer, None, None]:
        """`FramePath.stream`: `in_flight` at once, or one after the other in turn with whoever shares the session.

        As many in a run as the network takes where it takes none alone, and on a GPU for throughput.
        """
        if self.at_once > 1:
            for chosen in gathered(frames, min(depth or self.at_once, self.at_once)):
                with self.network.shared.turn:
                    answers = self._together(chosen)
                yield from answers
            return
        yield from self._workers.in_order(self._in_turn, frames, depth)

    def _in_turn(self, frame: Frame | DeviceImage) -> Answer:
        with self.network.shared.turn:
            return or_error(self.segment, frame)

    def new_frame(self, size: Size) -> Frame:
        return np.zeros((*size, 3), np.uint8)

    def new_labels(self, size: Size) -> LabelMap:
        return np.zeros(size, np.uint8)

    def close(self) -> None:
        """`FramePath.close`: what is on its way ends first."""
        self._workers.close()

    def image(self, frame: Frame | DeviceImage, size: Size | None = None) -> npt.NDArray[Any]:
        """What the network is fed for `frame`: 1xCxhxw; where its sides are free, the frame may be brought to `size`.

        Raises `InputError` outside a dynamic engine's range, and for a frame on the GPU.
        """
        network = self.network
        if isinstance(frame, DeviceImage):
            raise InputError(f"this frame is on the GPU, {network.session.name} takes numpy arrays: download it first")
        network.check_range(size or (frame.shape[0], frame.shape[1]))
        spec = network.frame_spec if size is None else replace(network.frame_spec, size=size)
        return prepare(frame, spec, network.session.inputs[0].dtype, network.channels)

    def logits(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What the network makes of `image`, or several: nxCxhxw, without padding; the next frame may overwrite it."""
        if self.network.gives_labels:
            raise InputError(f"{self.network.origin} gives labels, no logits: build it without --gives labels")
        return self._run(image)

    def logits_of(self, images: Iterable[npt.NDArray[Any]]) -> Iterator[npt.NDArray[Any]]:
        """`logits` of each of `images` (1xCxhxw), in their order; the next may overwrite them.

        Those of one size that follow each other go in together, as many as the network takes where that pays.
        """
        for _, alike in itertools.groupby(images, lambda image: image.shape):
            for chosen in gathered(alike, self.network.together):
                if len(chosen) == 1:
                    yield self.logits(chosen[0])
                else:
                    outputs = self.logits(np.concatenate(chosen))
                    yield from (outputs[place : place + 1] for place in range(len(chosen)))

    def views(self, images: Iterable[npt.NDArray[Any]]) -> Iterator[Logits]:
        """`logits_of` views of one frame, CxHxW: the caller's."""
        for logits in self.logits_of(images):
            if logits.ndim == 4:
                self.network.check_classes(logits.shape[1])
            yield np.array(one_frame(logits), np.float32, order="C")

    def _run(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What the network makes of `images`; too few go in as often as they have to."""
        session, frames = self.network.session, len(images)
        missing = self.network.batch.least - frames
        if missing > 0:
            images = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
        logits = session.run({session.inputs[0].name: images})[session.outputs[0].name]
        if missing > 0 and len(logits) == len(images):
            logits = logits[:frames]
        padded = self.network.channels > 3 and logits.ndim == 4
        return logits[:, : len(self.network.labels.names)] if padded else logits

    def _mask(self, output: npt.NDArray[Any], size: Size) -> Mask:
        """The mask of a frame of `size` from what the network gives, logits or labels."""
        network = self.network
        if not network.gives_labels:
            return self.mask(output, size)
        classes = len(network.labels.names)
        if (
            output.ndim != 3
            or output.shape[0] != 1
            or not 0 <= output.min(initial=0) <= output.max(initial=0) < classes
        ):
            shape = "x".join(map(str, output.shape))
            raise BundleError(
                f"{network.origin}: the network gives {shape} labels up to {output.max(initial=0)}, "
                f"expected one map of {classes} classes: build it again"
            )
        labels: LabelMap = output[0].astype(np.uint8)
        down, across = network.frame_spec.spans(size) or (None, None)
        if labels.shape != size or down is not None:
            rows, columns = nearest_axis(labels.shape[0], size[0], down), nearest_axis(labels.shape[1], size[1], across)
            labels = labels[rows[:, None], columns]
        return network.without_unseen(Mask(labels, network.labels))

    def mask(self, logits: npt.NDArray[Any], size: Size) -> Mask:
        """The labels of `logits` at the frame's `size` (height, width)."""
        network = self.network
        if logits.ndim == 4:
            network.check_classes(logits.shape[1])
        try:
            frame = one_frame(logits)
            how, spans = network.frame_spec.upsample, network.frame_spec.spans(size)
            threads = max(1, THREADS // self.in_flight)
            if network.confidence:
                labels, confidence = upsample_softmax(frame, size, how, spans, threads)
                return network.without_unseen(Mask(labels, network.labels, confidence))
            return network.without_unseen(Mask(upsample_argmax(frame, size, how, spans, threads), network.labels))
        except BundleError as exc:
            raise BundleError(f"{network.origin}: {exc}") from exc
