"""Stage 4: a fused float32 graph and calibration frames become ranges.

What is known after each frame is kept beside the result (`.NAME.partial.npz`), so a run that was stopped goes on with
the frame it was at, and ends in the same bits. The key says what the ranges hold for: graph, weights, preprocessing,
frames and methods. `require` refuses them for anything else.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import io
import logging
import shlex
import time
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import onnx_ir as ir

from refinenet_edge import __version__
from refinenet_edge.calibration.histogram import BINS, Histogram
from refinenet_edge.calibration.methods import Method, Percentile, name_of
from refinenet_edge.calibration.observe import ActivationCounter, activation_counter, observable
from refinenet_edge.errors import CalibrationError, InputError
from refinenet_edge.files import write_atomically
from refinenet_edge.frames import Frames, Scenes, open_frames, parse
from refinenet_edge.frames.images import digest_of
from refinenet_edge.records import Bilinear, Frame, FrameSpec, Range, Ranges, RangesKey, to_json
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.scenes import VALIDATION

logger = logging.getLogger(__name__)

# measured: earlier weights of the shipped model in INT8 on OpenVINO, mIoU on 40 unseen scenes (float32 .8020):
# percentile 99.99 (zeros counted) .8018, min-max and MSE .8015, entropy .8002 (24 frames each)
DEFAULT: Method = Percentile(99.99)
SEED = 2  # of scenes: neither the training's stream nor the validation's
COUNT = 64  # of scenes, and of frames taken from a video
SAVE_SECONDS = 30.0
FEW = 16  # frames
BLANK = 2.0  # standard deviation of a frame's bytes, below which it shows nothing
NOISE = 0.2  # correlation of neighbouring pixels, below which a frame is noise

Progress = Callable[[int, int], None]  # frames done, frames
Counted = tuple[int, Mapping[str, Histogram]]  # frames in a row, and their histograms by tensor


def calibration_frames(source: str) -> Frames:
    """The frames that `source` names, to calibrate on: `COUNT` scenes unless it says how many, `COUNT` of a video.

    Raises `InputError` where there is none, and for the scenes that models are judged on.
    """
    address = parse(source, seed=SEED, count=COUNT)
    if isinstance(address, Scenes) and address.seed == VALIDATION:
        other = Scenes(SEED, address.count)
        raise InputError(f"{source!r}: models are judged on these scenes; calibrate on others: {other}")
    return open_frames(address, most=COUNT)


class FrameCheck(NamedTuple):
    """What is known of a frame without the network: its digest, and what is wrong with the picture, "" for nothing."""

    digest: str
    problem: str


class FrameObserver(Protocol):
    """What checks frames and counts their activations: this process, or many machines (cluster/calibrate.py)."""

    def checks(self) -> Iterator[FrameCheck]:
        """Of every frame, in order."""

    def counts(self, first: int) -> Iterator[Counted]:
        """Of the frames from `first` on, in order."""


class LocalFrameObserver:
    """Checks and counts in this process."""

    def __init__(self, model: ir.Model, spec: FrameSpec, frames: Frames) -> None:
        self._model, self._spec, self._frames = model, spec, frames
        self._counter: ActivationCounter | None = None

    def checks(self) -> Iterator[FrameCheck]:
        return (check_frame(self._frames.read(index)) for index in range(len(self._frames)))

    def counts(self, first: int) -> Iterator[Counted]:
        return ((1, self.count(index)) for index in range(first, len(self._frames)))

    def count(self, index: int) -> Mapping[str, Histogram]:
        """Of one frame."""
        self._counter = self._counter or activation_counter(self._model)
        return self._counter.count(prepare(self._frames.read(index), self._spec), self._frames.names[index])


def calibrate(
    model: ir.Model,
    spec: FrameSpec,
    frames: Frames,
    method: Method = DEFAULT,
    overrides: Mapping[str, Method] | None = None,
    state: Path | None = None,
    progress: Progress | None = None,
    observer: FrameObserver | None = None,
) -> Ranges:
    """The ranges of every observable tensor of the fused float32 `model`; `observer` None: all in this process.

    `overrides`: glob of tensor names -> method, the first that matches. `state`: where an interrupted run is kept; the
    finished one stays there too, so that nothing is lost before the ranges are written: remove it then.
    Raises `CalibrationError` for activations that are not finite, `InputError` for frames that cannot be read.
    """
    overrides = overrides or {}
    tensors = observable(model)
    for glob in overrides:
        if not fnmatch.filter(tensors, glob):
            raise InputError(f"no tensor fits {glob!r}; there are {', '.join(tensors[:5])} ...")
    observer = observer or LocalFrameObserver(model, spec, frames)
    digests, warnings = _checked(frames.names, observer.checks())
    for warning in warnings:
        logger.warning("calibration: %s", warning)
    key = key_of(model, spec, digests, method, overrides)
    seen = dataclasses.replace(key, method="")  # histograms serve every method
    done, histograms = _resume(state, seen, tensors, len(frames))
    if state:
        # a place that cannot be written is found out now, not after the last frame
        _save(state, seen, done, histograms)
    saved = time.monotonic()
    try:
        if progress:
            progress(done, len(frames))
        for more, counted in observer.counts(done):
            # replaced as a whole: an interrupt leaves count and histograms in agreement
            done, histograms = done + more, {name: histograms[name] + counted[name] for name in tensors}
            if state and time.monotonic() - saved > SAVE_SECONDS:
                _save(state, seen, done, histograms)
                saved = time.monotonic()
            if progress:
                progress(done, len(frames))
    except BaseException:
        if state and done:
            _save(state, seen, done, histograms)
        elif state:
            state.unlink(missing_ok=True)  # it holds nothing
        raise
    if state:
        _save(state, seen, done, histograms)
    zeros = [f"{name} was always zero" for name in tensors if histograms[name].amax == 0]
    for warning in zeros:
        logger.warning("calibration: %s", warning)
    chosen = {name: _method(name, method, overrides) for name in tensors}
    ranges = {
        name: Range(_short(chosen[name].amax(h)), _short(h.low), _short(h.high), str(chosen[name]))
        for name, h in histograms.items()
    }
    return Ranges(key, frames.source, len(frames), ranges, __version__, (*warnings, *zeros))


def key_of(
    model: ir.Model, spec: FrameSpec, digests: Sequence[str], method: Method, overrides: Mapping[str, Method]
) -> RangesKey:
    """What ranges of these hold for; `digests` of the frames, in order."""
    return RangesKey(*graph_digests(model, spec), _digest(*digests), name_of(method, overrides))


def graph_digests(model: ir.Model, spec: FrameSpec) -> tuple[str, str, str]:
    """sha256 of the graph without its weights, of the weights, and of the preprocessing.

    The same for a graph in memory and one read back from a bundle: notes and the names of nodes say nothing. Nor does
    the way from logits to labels: no activation depends on it.
    """
    proto = ir.to_proto(model)
    weights = [_digest(tensor.name, tensor.SerializeToString(deterministic=True)) for tensor in proto.graph.initializer]
    # what is computed, not how it happens to be written: no types, no metadata, attributes by name
    nodes = [
        _digest(
            f"{node.domain} {node.op_type} {list(node.input)} {list(node.output)}",
            *(a.SerializeToString(deterministic=True) for a in sorted(node.attribute, key=lambda a: a.name)),
        )
        for node in proto.graph.node
    ]
    return _digest(*nodes), _digest(*sorted(weights)), _digest(to_json(dataclasses.replace(spec, upsample=Bilinear())))


def require(ranges: Ranges, model: ir.Model, spec: FrameSpec) -> None:
    """Raise `CalibrationError` unless `ranges` were measured on this graph, these weights and this preprocessing."""
    ours = graph_digests(model, spec)
    names = ("graph", "weights", "preprocessing")
    held = (ranges.key.graph, ranges.key.weights, ranges.key.frame)
    if other := [name for name, a, b in zip(names, held, ours, strict=True) if a != b]:
        raise CalibrationError(
            f"these ranges are not of this network (not the same: {', '.join(other)}); calibrate again: "
            f"refinenet-edge calibrate BUNDLE --frames {shlex.quote(ranges.source)} {_options(ranges.key.method)} "
            "--out FILE"
        )


def _options(methods: str) -> str:
    """What `refinenet-edge calibrate` is told to get these methods."""
    first, *special = methods.split(", ")
    return shlex.join(["--method", first, *(word for item in special for word in ("--method-for", item))])


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def _method(name: str, method: Method, overrides: Mapping[str, Method]) -> Method:
    return next((special for glob, special in overrides.items() if fnmatch.fnmatchcase(name, glob)), method)


def _short(value: float) -> float:
    """Six digits: more than INT8 can tell apart, and a file that people can review."""
    return float(f"{value:.6g}")


def _checked(names: Sequence[str], checks: Iterator[FrameCheck]) -> tuple[list[str], list[str]]:
    """The digest of every frame, and what is wrong with them in words. Reads each once, before the network runs."""
    said = [f"{len(names)} frames are few: give {FEW} or more"] if len(names) < FEW else []
    seen: dict[str, str] = {}
    digests = []
    for name, (digest, problem) in zip(names, checks, strict=True):
        digests.append(digest)
        if digest in seen:
            said.append(f"{name} is the same picture as {seen[digest]}")
        seen.setdefault(digest, name)
        if problem:
            said.append(f"{name} {problem}")
    return digests, said


def check_frame(frame: Frame) -> FrameCheck:
    """The check of one frame, before the network runs."""
    problem = ""
    if frame.std() < BLANK:
        problem = "is blank"
    elif _correlation(frame) < NOISE:
        problem = "looks like noise, not like a picture"
    return FrameCheck(digest_of(frame), problem)


def _correlation(frame: Frame) -> float:
    """Of neighbours in a row."""
    grey = frame.mean(axis=2)
    left, right = grey[:, :-1].ravel(), grey[:, 1:].ravel()
    return float(np.corrcoef(left, right)[0, 1]) if left.size > 1 and left.std() and right.std() else 1.0


def _save(state: Path, key: RangesKey, done: int, histograms: Mapping[str, Histogram]) -> None:
    held = list(histograms.values())
    file = io.BytesIO()
    np.savez_compressed(
        file,
        key=np.array(to_json(key)),
        done=np.array(done),
        names=np.array(list(histograms)),
        counts=np.stack([h.counts for h in held]),
        exponents=np.array([_NONE if h.exponent is None else h.exponent for h in held]),
        zeros=np.array([h.zeros for h in held]),
        low=np.array([h.low for h in held]),
        high=np.array([h.high for h in held]),
    )
    write_atomically(state, file.getvalue(), CalibrationError)


_NONE = -(1 << 15)  # no exponent
# what numpy, zipfile and zlib raise on bytes that are not a whole archive
_DAMAGED = (
    *(OSError, ValueError, KeyError, EOFError, RuntimeError, SyntaxError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


def _resume(
    state: Path | None, key: RangesKey, tensors: Sequence[str], frames: int
) -> tuple[int, dict[str, Histogram]]:
    """Frames done and their histograms; none of them when there is nothing of this key."""
    fresh = {name: Histogram() for name in tensors}
    if state is None or not state.exists():
        return 0, fresh
    try:
        # opened here: on a damaged archive numpy leaves a file of its own open
        with state.open("rb") as file, np.load(file, allow_pickle=False) as held:
            if str(held["key"]) != to_json(key) or held["names"].tolist() != list(tensors):
                logger.warning("%s is of another calibration: starting at the first frame", state)
                return 0, fresh
            done, shape = int(held["done"]), (len(tensors), BINS)
            if not 0 <= done <= frames or held["counts"].shape != shape or held["counts"].dtype != np.int64:
                raise ValueError("its numbers do not fit")
            rows = zip(*(held[name] for name in ("counts", "exponents", "zeros", "low", "high")), strict=True)
            histograms = [
                Histogram(counts, None if exponent == _NONE else int(exponent), int(zeros), float(low), float(high))
                for counts, exponent, zeros, low, high in rows
            ]
            logger.info("going on after frame %d", done)
            return done, dict(zip(tensors, histograms, strict=True))
    except _DAMAGED as exc:
        logger.warning("%s cannot be read (%s): starting at the first frame", state, exc)
        return 0, fresh
