"""The whole device side in one object: bundle + frame -> Mask."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from refinenet_edge.bundle import Bundle, open_bundle
from refinenet_edge.errors import BundleError, InputError, MissingExtra
from refinenet_edge.records import Frame, FrameSpec, LabelMap, Labels, Mask, Profile, Size
from refinenet_edge.runtime.backends import open_session
from refinenet_edge.runtime.frame import DeviceImage, check_frame, on_device, prepare
from refinenet_edge.runtime.head import labels_of
from refinenet_edge.runtime.pipeline import DeviceSegmenter, fits_device
from refinenet_edge.runtime.session import Session
from refinenet_edge.runtime.tensorrt.session import TrtSession

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11, Jetson has 3.10

logger = logging.getLogger(__name__)


class Segmenter:
    """Segments frames with a bundle.

    with Segmenter("engines/rf_lw50_voc") as segmenter:
        mask = segmenter.segment(cv2.imread("street.jpg"))

    Threads may share one: it lets one frame in at a time. Or each has its own, then they run beside each other, with
    memory of their own. Either way each mask is that of the frame it was asked for.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        backend: str = "auto",
        *,
        allow_host_code: bool = False,
        threads: int = 0,
    ) -> None:
        """Open and verify `bundle` and its session, as `open_bundle` and `open_session` do, with their errors."""
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        manifest = opened.manifest
        profile = manifest.engine.profile if manifest.engine else None
        session = open_session(opened, backend, allow_host_code=allow_host_code, threads=threads)
        self._set(session, manifest.frame, manifest.labels, profile, f"bundle {opened.path}")

    @classmethod
    def from_session(cls, session: Session, frame: FrameSpec, labels: Labels) -> Self:
        """A segmenter over `session`, which it closes: for a `FakeSession`, or a session that no bundle describes."""
        segmenter = cls.__new__(cls)
        segmenter._set(session, frame, labels, None, f"the {session.name} session")
        return segmenter

    def _set(self, session: Session, frame: FrameSpec, labels: Labels, profile: Profile | None, origin: str) -> None:
        self.session = session
        self.frame = frame
        self.labels = labels
        self._profile = profile
        self._origin = origin  # what an error names
        self._device: DeviceSegmenter | None = None
        self._lock = threading.RLock()
        if len(session.inputs) != 1 or len(session.outputs) != 1:
            session.close()
            raise BundleError(
                f"{origin}: {len(session.inputs)} inputs and {len(session.outputs)} outputs, one of each is meant"
            )
        # a network padded for channel-last engines takes more than 3 channels and gives more logits than classes
        channels = session.inputs[0].shape[1]
        self._channels = channels if isinstance(channels, int) and channels > 3 else 3
        if isinstance(session, TrtSession) and fits_device(frame):
            try:
                session.cuda.provider.compiler.version()
                self._device = DeviceSegmenter(session, frame, len(labels.names))
            except MissingExtra as exc:
                logger.warning("frame and labels are prepared on the CPU, not on the GPU: %s", exc)

    def segment(self, frame: Frame | Any, labels: LabelMap | None = None) -> Mask:
        """The segmentation of `frame` (HxWx3 BGR uint8, any size), at its size; the mask is the caller's.

        With `labels`, memory of `new_labels`, the mask's labels are written there and no copy is made.

        With TensorRT the frame may lie on the GPU, as a `cv2.cuda.GpuMat` or anything with `__cuda_array_interface__`
        (cupy, torch, pycuda): it is read where it is. Raises `InputError` for something that is not a frame or is
        outside a dynamic engine's range, `BundleError` when the network's output is not this bundle's logits,
        `CudaError` when the GPU fails.
        """
        with self._lock:
            image = self._usable(frame)
            if self._device is not None:
                return Mask(self._device.labels(image, labels), self.labels)
            mask = self.mask(self.logits(frame), (frame.shape[0], frame.shape[1]))
            if labels is None:
                return mask
            if labels.shape != mask.labels.shape or labels.dtype != np.uint8:
                raise InputError("labels are written into memory of new_labels(height, width), of the frame's size")
            np.copyto(labels, mask.labels)
            return Mask(labels, self.labels)

    def staged(self, frame: Frame) -> tuple[Mask, dict[str, float]]:
        """`segment`, and the ms that each of its stages took, in order: prepare, engine, head; on a GPU also copies.

        On a GPU every stage is waited for: nothing overlaps and nothing is one CUDA graph, so a frame takes longer.
        """
        with self._lock:
            if self._device is not None:
                labels, taken = self._device.staged(self._usable(frame))
                return Mask(labels, self.labels), taken
            times = [time.perf_counter()]
            image = self.image(frame)
            times.append(time.perf_counter())
            logits = self._logits(image)
            times.append(time.perf_counter())
            mask = self.mask(logits, (frame.shape[0], frame.shape[1]))
            times.append(time.perf_counter())
            stages = zip(("prepare", "engine", "head"), times, times[1:], strict=False)
            return mask, {stage: 1000 * (end - start) for stage, start, end in stages}

    def segment_stream(self, frames: Iterable[Frame | Any], depth: int = 2) -> Iterator[Mask]:
        """`segment` for each of `frames`, in their order, with up to `depth` of them on their way at once.

        On a discrete GPU the copies of one frame overlap the computation of another. A frame must stay as it is until
        its mask comes; an iterator that is not read to its end is closed, or waits with its frames. Raises as `segment`
        does, and `InputError` for a `depth` below 1.
        """
        if depth < 1:
            raise InputError(f"a depth of {depth}: at least 1 frame is on its way")
        if self._device is None:
            yield from map(self.segment, frames)
        else:
            for labels in self._device.stream(map(self._usable, frames), depth):
                yield Mask(labels, self.labels)

    def new_frame(self, height: int, width: int) -> Frame:
        """Memory to read frames of this size into, again and again: `camera.read(frame)`.

        It is taken without a copy on the host, on an integrated GPU without any. It ends with the segmenter, and must
        stay as it is until the mask of its frame has come.
        """
        if self._device is None:
            return np.zeros((height, width, 3), np.uint8)
        return self._device.new_frame((height, width))

    def new_labels(self, height: int, width: int) -> LabelMap:
        """Memory to have labels of this size written into, again and again: `segment(frame, labels)`.

        On an integrated GPU the network's head writes there itself. It ends with the segmenter.
        """
        if self._device is None:
            return np.zeros((height, width), np.uint8)
        return self._device.new_labels((height, width))

    def _usable(self, frame: Frame | Any) -> Frame | DeviceImage:
        """`frame` as it can be run here."""
        image = on_device(frame)
        if image is None:
            check_frame(frame)
        elif self._device is None:
            raise InputError(f"this frame is on the GPU, {self.session.name} takes numpy arrays: download it first")
        if self._device is not None:
            self._check_classes(self.session.outputs[0].shape[1])
        self._check_range(image or frame)
        return image or frame

    def logits(self, frame: Frame) -> npt.NDArray[Any]:
        """The first half of `segment`: 1xCxhxw in the network's dtype, memory that the next frame may overwrite."""
        return self._logits(self.image(frame))

    def image(self, frame: Frame) -> npt.NDArray[Any]:
        """What the network is fed for `frame`: 1xCxhxw in its dtype, C 3 or padded with zeros. Raises `InputError`."""
        check_frame(frame)
        self._check_range(frame)
        return prepare(frame, self.frame, self.session.inputs[0].dtype, self._channels)

    def _logits(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        found = self.session.run({self.session.inputs[0].name: image})[self.session.outputs[0].name]
        return found[:, : len(self.labels.names)] if self._channels > 3 and found.ndim == 4 else found

    def mask(self, logits: npt.NDArray[Any], size: Size) -> Mask:
        """The second half of `segment`: the labels of `logits` (1xCxhxw) at the frame's `size` (height, width).

        Raises `BundleError` when they are not logits of this bundle's classes.
        """
        if logits.ndim == 4:
            self._check_classes(logits.shape[1])
        try:
            return Mask(labels_of(logits, size, self.frame.upsample), self.labels)
        except BundleError as exc:
            raise BundleError(f"{self._origin}: {exc}") from exc

    def _check_range(self, frame: Frame | DeviceImage) -> None:
        if self.frame.size is None and self._profile is not None:
            _check_range(frame, self._profile)

    def _check_classes(self, classes: int | str) -> None:
        wanted = len(self.labels.names)
        if classes != wanted and not (self._channels > 3 and isinstance(classes, int) and classes > wanted):
            raise BundleError(
                f"{self._origin}: the network has {classes} classes, labels {self.labels.name!r} has {wanted}; "
                f"build it again with --labels for {classes} classes"
            )

    def close(self) -> None:
        """Close the session; a second call does nothing."""
        with self._lock:
            if self._device is not None:
                self._device.close()
            self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_range(frame: Frame | DeviceImage, profile: Profile) -> None:
    sides = zip(profile.min, frame.shape[:2], profile.max, strict=True)
    if not all(low <= side <= high for low, side, high in sides):
        raise InputError(
            f"the frame is {frame.shape[1]}x{frame.shape[0]} pixels (width x height), this engine takes "
            f"{profile.min[1]}x{profile.min[0]} to {profile.max[1]}x{profile.max[0]}: "
            "resize the frame, or build again with a wider range"
        )
