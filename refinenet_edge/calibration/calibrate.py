"""The frames, one by one: checked, counted and made into ranges.

What is known after each frame is kept beside the result, so a run that was stopped goes on with the frame it was at,
and ends in the same bits.
"""

import dataclasses
import fnmatch
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from refinenet_edge import __version__
from refinenet_edge.calibration.histogram import Histogram
from refinenet_edge.calibration.methods import Method, Percentile
from refinenet_edge.calibration.observe import activation_counter, observable
from refinenet_edge.calibration.partial import partial_bytes, read_partial
from refinenet_edge.calibration.ranges import key_of, write_ranges
from refinenet_edge.errors import CalibrationError, InputError
from refinenet_edge.files import resumable
from refinenet_edge.frames import Frames, Scenes, open_frames, parse
from refinenet_edge.frames.images import digest_of
from refinenet_edge.records import Frame, FrameSpec, Range, Ranges, RangesKey
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.scenes import VALIDATION

logger = logging.getLogger(__name__)

DEFAULT: Method = Percentile(99.99)  # the methods side by side: docs/measurements.md
SEED = 2  # of scenes: neither the training's stream nor the validation's
COUNT = 64  # of scenes, and of frames taken from a video
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


@dataclass(frozen=True)
class FrameObserver:
    """What checks frames and counts their activations, `here` or on many machines (cluster/calibrate.py).

    `checks` are of every frame, in order; `counts` are of those from a first one on.
    """

    checks: Callable[[], Iterable[FrameCheck]]
    counts: Callable[[int], Iterable[Counted]]


def here(model: ir.Model, spec: FrameSpec, frames: Frames) -> FrameObserver:
    """Checks and counts in this process."""
    count = counting(model, spec, frames)
    return FrameObserver(
        lambda: (check_frame(frames.read(index)) for index in range(len(frames))),
        lambda first: ((1, count(index)) for index in range(first, len(frames))),
    )


def counting(
    model: ir.Model, spec: FrameSpec, frames: Frames, threads: int = 0
) -> Callable[[int], Mapping[str, Histogram]]:
    """Index of a frame -> its histograms, by tensor; so many `threads` compute, 0: as many as there are cores."""
    counter = cache(lambda: activation_counter(model, threads=threads))  # once there is a frame
    return lambda index: counter().count(prepare(frames.read(index), spec), frames.names[index])


def calibrate(
    model: ir.Model,
    spec: FrameSpec,
    frames: Frames,
    method: Method = DEFAULT,
    overrides: Mapping[str, Method] | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
    observer: FrameObserver | None = None,
) -> Ranges:
    """The ranges of every observable tensor of the fused float32 `model`; `observer` None: all in this process.

    `overrides`: glob of tensor names -> method, the first that matches. `out` receives the ranges as JSON, whole or not
    at all; beside it an interrupted run is kept, from which the same call goes on.
    Raises `CalibrationError` for activations that are not finite or an `out` that cannot be written, `InputError` for
    frames that cannot be read.
    """
    overrides = overrides or {}
    tensors = observable(model)
    for glob in overrides:
        if not fnmatch.filter(tensors, glob):
            raise InputError(f"no tensor fits {glob!r}; there are {', '.join(tensors[:5])} ...")
    observer = observer or here(model, spec, frames)
    digests, warnings = _checked(frames.names, observer.checks())
    for warning in warnings:
        logger.warning("calibration: %s", warning)
    key = key_of(model, spec, digests, method, overrides)
    partial = out.with_name(f".{out.name}.partial.npz") if out else None
    of = dataclasses.replace(key, method="")  # histograms serve every method
    done, histograms = read_partial(partial, of, tensors, len(frames))
    with resumable(partial, lambda: partial_bytes(of, done, histograms), lambda: done, CalibrationError) as save:
        if progress:
            progress(done, len(frames))
        for more, counted in observer.counts(done):
            # replaced as a whole: an interrupt leaves count and histograms in agreement
            done, histograms = done + more, {name: histograms[name] + counted[name] for name in tensors}
            save()
            if progress:
                progress(done, len(frames))
        methods = {name: _method(name, method, overrides) for name in tensors}
        ranges = _ranges(key, frames, histograms, methods, warnings)
        if out:
            write_ranges(out, ranges)
    return ranges


def _ranges(
    key: RangesKey,
    frames: Frames,
    histograms: Mapping[str, Histogram],
    methods: Mapping[str, Method],
    warnings: Sequence[str],
) -> Ranges:
    zeros = [f"{name} was always zero" for name, histogram in histograms.items() if histogram.amax == 0]
    for warning in zeros:
        logger.warning("calibration: %s", warning)
    ranges = {
        name: Range(_short(methods[name].amax(h)), _short(h.low), _short(h.high), str(methods[name]))
        for name, h in histograms.items()
    }
    return Ranges(key, frames.source, len(frames), ranges, __version__, (*warnings, *zeros))


def _method(name: str, method: Method, overrides: Mapping[str, Method]) -> Method:
    return next((special for glob, special in overrides.items() if fnmatch.fnmatchcase(name, glob)), method)


def _short(value: float) -> float:
    """Six digits: more than INT8 can tell apart, and a file that people can review."""
    return float(f"{value:.6g}")


def _checked(names: Sequence[str], checks: Iterable[FrameCheck]) -> tuple[list[str], list[str]]:
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
