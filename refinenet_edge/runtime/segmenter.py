"""The whole device side in one object: bundle + frame -> Mask."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from refinenet_edge.bundle import Bundle, open_bundle
from refinenet_edge.errors import BundleError, InputError, MissingExtra, RefineNetEdgeError, require
from refinenet_edge.records import (
    ONE,
    WHOLE,
    Batch,
    Bilinear,
    Cubic,
    Frame,
    FrameSpec,
    Inference,
    Interpolation,
    LabelMap,
    Labels,
    Manifest,
    Mask,
    MultiScale,
    Nearest,
    Size,
    TensorSpec,
    Tiles,
    Whole,
)
from refinenet_edge.runtime.backends import open_session
from refinenet_edge.runtime.device_path import DevicePath, fits_device
from refinenet_edge.runtime.frame import DeviceImage, check_frame, check_size, on_device
from refinenet_edge.runtime.frame_path import Answer, FramePath, Network, SharedSession, or_error, or_raise
from refinenet_edge.runtime.gather import Together, gathered
from refinenet_edge.runtime.host_path import HostPath
from refinenet_edge.runtime.multi_scale import MultiScalePath, at_sizes
from refinenet_edge.runtime.session import Session
from refinenet_edge.runtime.tensorrt.session import TrtSession
from refinenet_edge.runtime.tiles import TiledPath

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11, Jetson has 3.10

MAX_WAIT = 60_000  # ms: a frame that waits longer is forgotten

logger = logging.getLogger(__name__)


class Segmenter:
    """Segments frames with a bundle.

        with Segmenter("engines/rf_lw50_voc") as segmenter:
            mask = segmenter.segment(cv2.imread("street.jpg"))

    Threads may share one: it lets one frame in at a time, or `in_flight` of them run beside each other. Or each has its
    own, with memory of its own. Either way each mask is that of the frame it was asked for.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        backend: str = "auto",
        *,
        allow_host_code: bool = False,
        threads: int = 0,
        confidence: bool = False,
        inference: Inference = WHOLE,
        beside: Sequence[str | Path | Bundle] = (),
        progress: Callable[[int, int], None] | None = None,
        throughput: bool = False,
    ) -> None:
        """Open and verify `bundle` and its session, as `open_bundle` and `open_session` do, with their errors.

        Raises `BundleError` too where the network's shapes are not the manifest's.

        `confidence`: every mask says how sure its labels are (`Mask.confidence`), which takes a frame longer.
        `inference`: how a frame goes through the network. `beside`: bundles of the network at other sizes, whose class
        scores are averaged with this one's: `MultiScale` where sizes are fixed.
        `progress(done, tiles)` is called after each tile of a frame, where there are `Tiles`.
        `throughput`: on a CPU, several frames at once on a core or some each, for the most frames per second, where
        else all cores work on one frame so that it is soonest done. Memory grows by the activations of each. On a GPU,
        `segment_stream` fills the batches of an engine that takes several frames, and frames may change their size.
        """
        require(confidence, bool, "confidence")
        require(throughput, bool, "throughput")
        require(inference, (Whole, MultiScale, Tiles), "inference")
        opened = [_opened(one) for one in (bundle, *beside)]
        inference = at_sizes(inference, opened[0], opened[1:])
        networks: list[Network] = []
        try:
            for one in opened:
                session = open_session(
                    one,
                    backend,
                    allow_host_code=allow_host_code,
                    threads=threads,
                    throughput=throughput and one.manifest.batch.least == 1,  # else a run has several frames anyway
                )
                networks.append(replace(_described(session, one, confidence, inference), throughput=throughput))
        except BaseException:
            for network in networks:
                network.shared.leave()
            raise
        self._start(replace(networks[0], beside=tuple(networks[1:]), progress=progress))

    @classmethod
    def from_session(
        cls,
        session: Session,
        frame_spec: FrameSpec,
        labels: Labels,
        *,
        confidence: bool = False,
        inference: Inference = WHOLE,
    ) -> Self:
        """A segmenter over `session`, which it closes: for a `FakeSession`, or a session that no bundle describes."""
        require(session, Session, "session")
        require(frame_spec, FrameSpec, "frame_spec")
        require(labels, Labels, "labels")
        require(confidence, bool, "confidence")
        require(inference, (Whole, MultiScale, Tiles), "inference")
        segmenter = cls.__new__(cls)
        origin = f"the {session.name} session"
        shared = SharedSession(session)
        frames = session.inputs[0].shape[0] if session.inputs and session.inputs[0].shape else 1
        batch = Batch(frames, frames, frames) if isinstance(frames, int) else ONE
        segmenter._start(
            Network(shared, frame_spec, labels, origin, confidence=confidence, inference=inference, batch=batch)
        )
        return segmenter

    def with_upsample(self, upsample: Interpolation) -> Self:
        """A new segmenter whose logits reach the frame's size by `upsample`, over the same session, in turn with this.

        Each is closed by itself, and the session with the last of them. Cubic interpolation is done on the CPU. Raises
        `InputError` after close().
        """
        require(upsample, (Bilinear, Cubic, Nearest), "upsample")
        if self._network.gives_labels:
            raise InputError(f"{self._network.origin} gives labels, which were upsampled already")
        segmenter = type(self).__new__(type(self))
        with self._network.shared.lock:
            self._check_open()
            for one in (self._network, *self._network.beside):
                one.shared.users += 1
            network, *beside = (
                replace(one, frame_spec=replace(one.frame_spec, upsample=upsample))
                for one in (self._network, *self._network.beside)
            )
            segmenter._start(replace(network, beside=tuple(beside)))
        return segmenter

    def _start(self, network: Network) -> None:
        self._network, self._closed = network, False
        try:
            inputs, outputs = network.session.inputs, network.session.outputs
            if len(inputs) != 1 or len(outputs) != 1:
                counts = f"{len(inputs)} inputs and {len(outputs)} outputs"
                raise BundleError(f"{network.origin}: {counts}, expected exactly one of each")
            if network.gives_labels and (network.confidence or network.beside or network.inference != WHOLE):
                raise InputError(
                    f"{network.origin} gives labels, no logits: how sure they are, scales and tiles need a bundle that "
                    "is built without --gives labels"
                )
            if network.frame_spec.fit == "crop" and (network.beside or network.inference != WHOLE):
                raise InputError(f"{network.origin} crops frames: scales and tiles need one that is built without")
            self._host = HostPath(network)
            self._path: FramePath = _path(network, self._host)
            together = self._path is self._host and self._path.at_once > 1
            self._together = Together[Frame | DeviceImage, Answer](network.batch.most) if together else None
        except BaseException:
            _leave(network)
            raise

    @property
    def session(self) -> Session:
        """What runs the network."""
        return self._network.session

    @property
    def frame_spec(self) -> FrameSpec:
        """How frames go in and logits come out."""
        return self._network.frame_spec

    @property
    def labels(self) -> Labels:
        """The classes."""
        return self._network.labels

    @property
    def inference(self) -> Inference:
        """How a frame goes through the network."""
        return self._network.inference

    @property
    def in_flight(self) -> int:
        """How many frames at once pay: so many threads may each call `segment` with one.

        They run beside each other, or, where the network takes no frame alone, together: then half of them wait for the
        next run.
        """
        return self._path.in_flight if self._together is None else 2 * self._network.batch.most

    @property
    def at_once(self) -> int:
        """How many frames `segment_each` and `segment_stream` gather for a run."""
        return self._path.at_once

    @property
    def batch(self) -> Batch:
        """How many frames the network takes at once."""
        return self._network.batch

    def segment(self, frame: Frame | Any, labels: LabelMap | None = None) -> Mask:
        """The segmentation of `frame` (HxWx3 BGR uint8, any size), at its size; the mask is the caller's.

        With `labels`, memory of `new_labels`, the mask's labels are written there and no copy is made.

        With TensorRT the frame may lie on the GPU, as a `cv2.cuda.GpuMat` or anything with `__cuda_array_interface__`
        (cupy, torch, pycuda): it is read where it is. Raises `InputError` for something that is not a frame or is
        outside a dynamic engine's range, `BundleError` when the network's output is not this bundle's logits,
        `CudaError` when the GPU fails.
        """
        require(labels, (np.ndarray, type(None)), "labels")
        if self._together is not None and labels is None:
            return or_raise(self._together.answer(self._usable(frame), self._batch))
        with self._turn():
            return self._path.segment(self._usable(frame), labels)

    def staged(self, frame: Frame) -> tuple[Mask, dict[str, float]]:
        """`segment`, and the ms that each of its stages took, in order: prepare, engine, head; on a GPU also copies.

        On a GPU every stage is waited for: nothing overlaps and nothing is one CUDA graph, so a frame takes longer.
        """
        with self._turn():
            return self._path.staged(self._usable(frame))

    def segment_batch(self, frames: Sequence[Frame | Any]) -> list[Mask | RefineNetEdgeError]:
        """One answer for each of `frames`, in their order: its mask, or the error that `segment` would raise for it.

        The frames may differ in size; none is affected by another, and the labels are those of `segment`. With
        `throughput`, `in_flight` of them run at once. Raises `InputError` after close(), `CudaError` where the GPU
        fails.
        """
        require(frames, Sequence, "frames")
        self._check_open()
        taken = [or_error(self._usable, frame) for frame in frames]
        answers = iter(self._batch([frame for frame in taken if not isinstance(frame, RefineNetEdgeError)]))
        return [frame if isinstance(frame, RefineNetEdgeError) else next(answers) for frame in taken]

    def _batch(self, frames: Sequence[Frame | DeviceImage]) -> list[Answer]:
        with self._turn():
            return self._path.batch(frames)

    def segment_stream(
        self,
        frames: Iterable[Frame | Any],
        depth: int | None = None,
        *,
        batch: int | None = None,
        wait_ms: float | None = None,
    ) -> Iterator[Mask]:
        """`segment` for each of `frames`, in their order, with up to `depth` of them on their way at once.

        None: as many as pay. On a discrete GPU the copies of one frame overlap the computation of another; with
        `throughput`, `in_flight` of them run at once, on a GPU as many as its engine takes. A frame must stay as it is
        until its mask comes; an iterator that is not read to its end is closed, or waits with its frames. Raises as
        `segment` does, and `InputError` for a `depth` below 1.

        With `batch`, so many are gathered and segmented as by `segment_batch`, and masks come when the last of them has
        come; with `wait_ms` the first of them waits no longer than that, and a thread reads up to `batch` frames ahead.
        """
        _check_gathering(depth, batch, wait_ms)
        if batch is not None:
            yield from _masks(self._gathered(frames, batch, None if wait_ms is None else wait_ms / 1000))
            return
        yield from _masks(self.segment_each(frames, depth))

    def segment_each(
        self, frames: Iterable[Frame | Any | RefineNetEdgeError], depth: int | None = None
    ) -> Generator[Mask | RefineNetEdgeError, None, None]:
        """`segment_stream`, but a bad frame is an error for itself only, as in `segment_batch`.

        An error in a frame's place, why it could not be read, is its own answer. Raises `InputError` after close() and
        for a `depth` below 1, `CudaError` where the GPU fails.
        """
        require(depth, (int, type(None)), "depth")
        if depth is not None and depth < 1:
            raise InputError(f"a depth of {depth}: at least 1 frame is on its way")
        self._check_open()
        errors: deque[RefineNetEdgeError | None] = deque()  # of the frames whose answers are still to come

        def usable() -> Iterator[Frame | DeviceImage]:
            for frame in frames:
                one = frame if isinstance(frame, RefineNetEdgeError) else or_error(self._usable, frame)
                errors.append(one if isinstance(one, RefineNetEdgeError) else None)
                if not isinstance(one, RefineNetEdgeError):
                    yield one

        with closing(self._path.stream(usable(), depth)) as answers:
            for answer in answers:
                while (error := errors.popleft()) is not None:
                    yield error
                yield answer
        yield from filter(None, errors)

    def _gathered(self, frames: Iterable[Frame | Any], batch: int, wait: float | None) -> Generator[Answer, None, None]:
        with closing(gathered(frames, batch, wait)) as lists:
            for chosen in lists:
                yield from self.segment_batch(chosen)

    def new_frame(self, height: int, width: int) -> Frame:
        """Memory to read frames of this size into, again and again: `camera.read(frame)`.

        It is taken without a copy on the host, on an integrated GPU without any. It ends with the segmenter, and must
        stay as it is until the mask of its frame has come.
        """
        check_size(height, width)
        return self._path.new_frame((height, width))

    def new_labels(self, height: int, width: int) -> LabelMap:
        """Memory to have labels of this size written into, again and again: `segment(frame, labels)`.

        On an integrated GPU the network's head writes there itself. It ends with the segmenter.
        """
        check_size(height, width)
        return self._path.new_labels((height, width))

    def image(self, frame: Frame) -> npt.NDArray[Any]:
        """What the network is fed for `frame`: 1xCxhxw in its dtype, C 3 or padded with zeros. Raises `InputError`."""
        return self._host.image(self._usable(frame))

    def logits(self, frame: Frame) -> npt.NDArray[Any]:
        """The first half of `segment`, of a whole frame: 1xCxhxw in the network's dtype.

        The next frame may overwrite it.
        """
        with self._turn():
            return self._host.logits(self.image(frame))

    def logits_of(self, frames: Iterable[Frame]) -> list[npt.NDArray[Any]]:
        """`logits` of each of `frames`, 1xCxhxw, in their order: the caller's. As many in a run as pay."""
        with self._turn():
            return [logits.copy() for logits in self._host.logits_of(map(self.image, frames))]

    def mask(self, logits: npt.NDArray[Any], size: Size) -> Mask:
        """The second half of `segment`, of a whole frame: the labels of `logits` (1xCxhxw) at its `size` (h, w).

        Raises `BundleError` when they are not logits of this bundle's classes.
        """
        require(logits, np.ndarray, "logits")
        check_size(*size)
        return self._host.mask(logits, size)

    def _usable(self, frame: Frame | Any) -> Frame | DeviceImage:
        """`frame`, or where it lies on the GPU. Raises `InputError` when it is none."""
        self._check_open()
        image = on_device(frame)
        if image is None:
            check_frame(frame)
        return image or frame

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The session is ours until the end: segmenters and threads that share it wait, if they have to."""
        with self._network.shared.turn:
            self._check_open()
            yield

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("this segmenter is closed: open another")

    def close(self) -> None:
        """Give back what it holds, and the session unless another segmenter has it; a second call does nothing."""
        with self._network.shared.lock:
            closed, self._closed = self._closed, True
            if closed:
                return
            try:
                self._path.close()
            finally:
                _leave(self._network)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _masks(answers: Generator[Answer, None, None]) -> Iterator[Mask]:
    """Each of `answers`, which end with the first that is an error: that is raised."""
    with closing(answers):
        yield from map(or_raise, answers)


def _opened(bundle: str | Path | Bundle) -> Bundle:
    require(bundle, (str, Path, Bundle), "bundle")
    return bundle if isinstance(bundle, Bundle) else open_bundle(bundle)


def _leave(network: Network) -> None:
    for one in (network, *network.beside):
        one.shared.leave()


def _path(network: Network, host: HostPath) -> FramePath:
    if isinstance(network.inference, MultiScale):
        return MultiScalePath(network, network.inference)
    if isinstance(network.inference, Tiles):
        return TiledPath(network, network.inference)
    return _device_path(network) or host


def _device_path(network: Network) -> DevicePath | None:
    """All of it on the GPU, where the session is there and the kernels do what is asked and can be compiled."""
    session = network.session
    if not isinstance(session, TrtSession) or not fits_device(network, session):
        return None
    try:
        session.cuda.provider.compiler.version()
    except MissingExtra as exc:
        logger.warning("frame and labels are prepared on the CPU, not on the GPU: %s", exc)
        return None
    return DevicePath(network, session)


def _described(session: Session, bundle: Bundle, confidence: bool, inference: Inference) -> Network:
    """The network that `session` runs, as the manifest of `bundle` has it. Raises `BundleError`, the session closed."""
    manifest, origin = bundle.manifest, f"bundle {bundle.path}"
    try:
        _require_described(session, manifest, origin)
    except BundleError:
        session.close()
        raise
    profile = manifest.engine.profile if manifest.engine else None
    return Network(
        SharedSession(session),
        manifest.frame,
        manifest.labels,
        origin,
        profile,
        confidence,
        inference,
        batch=manifest.batch,
    )


def _require_described(session: Session, manifest: Manifest, origin: str) -> None:
    """Raise `BundleError` unless the network has batch and sides of the manifest: memory is taken by what that says.

    Not its channels, which a plan pads.
    """
    size, frames = manifest.frame.size or ("h", "w"), manifest.batch.most if manifest.batch.fixed else "batch"
    expected = [*manifest.inputs, *manifest.outputs, replace(manifest.inputs[0], shape=(frames, "channels", *size))]
    found = [*session.inputs, *session.outputs, *session.inputs]
    for want, spec in zip(expected, found, strict=False):
        fixed = [
            pair
            for pair in zip(_without_channels(want), _without_channels(spec), strict=False)
            if all(type(side) is int for side in pair)
        ]
        if len(want.shape) != len(spec.shape) or any(said != is_ for said, is_ in fixed):
            shapes = ["x".join(map(str, shape)) for shape in (spec.shape, want.shape)]
            raise BundleError(f"{origin}: {spec.name} is {shapes[0]}, its manifest says {shapes[1]}: build it again")


def _without_channels(spec: TensorSpec) -> tuple[int | str, ...]:
    return (*spec.shape[:1], *spec.shape[2:])


def _check_gathering(depth: int | None, batch: int | None, wait_ms: float | None) -> None:
    """Raise `InputError` for what a stream cannot gather."""
    require(batch, (int, type(None)), "batch")
    require(wait_ms, (int, float, type(None)), "wait_ms")
    if batch is None and wait_ms is not None:
        raise InputError("wait_ms is how long a frame waits for others of its batch: say batch too")
    if batch is not None and depth is not None:
        raise InputError("depth is of frames one by one, batch of several at once: leave one out")
    if batch is not None and batch < 1:
        raise InputError(f"a batch of {batch}: at least 1 frame goes in")
    if wait_ms is not None and not 0 <= wait_ms < MAX_WAIT:
        raise InputError(f"wait_ms={wait_ms}: expected milliseconds, 0 to {MAX_WAIT}")
