"""Segmenter + data set -> EvaluationResult: every frame at its original size, one confusion matrix over all of them.

A static bundle has every frame resized to its size and gives labels at the frame's own; a dynamic one is fed the frame
as it is, and refuses a frame outside its range. Truth is never resized.

A run with `out` keeps `OUT.partial` beside it: what was counted so far, written now and then and when the run
stops for whatever reason. The same call goes on from there, with the same result as a run that never stopped. Samples
that could not be used are tried again, so that a mask may be repaired in between.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from refinenet_edge import __version__
from refinenet_edge.errors import BundleError, InputError, RefineNetEdgeError
from refinenet_edge.evaluation.confusion import IGNORE, Confusion, Truth
from refinenet_edge.evaluation.datasets import DataSet
from refinenet_edge.evaluation.doubts import doubts, numbering_doubt
from refinenet_edge.evaluation.samples import Kind, Sample, Unusable
from refinenet_edge.files import read_utf8, resumable, write_atomically
from refinenet_edge.records import WHOLE, Frame, FrameSpec, Identity, Inference, Labels, Mask, from_json, to_json
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.frame_path import or_raise
from refinenet_edge.runtime.many import Many, Segments

MAX_PARTIAL = 256 << 20  # bytes

Matrix = tuple[tuple[int, ...], ...]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleProblem:
    """A sample that could not be used, and was counted nowhere.

    missing: the image or the mask is not there; unreadable; size: the two differ in it; label: the mask has a class
    that the data set does not; refused: the frame is outside the engine's range.
    """

    sample: str
    kind: Kind
    detail: str


@dataclass(frozen=True)
class EvaluationResult:
    """`classes`, `iou` and `confusion` (row: truth, column: prediction, in pixels) are in the order of the classes.

    None stands for nan: the IoU of a class that is in neither truth nor prediction, and everything where nothing was
    counted. `frame` is as it was used, `seconds` is the wall time of all parts of the run.
    """

    identity: Identity | None
    backend: str
    dataset: str
    samples: int
    counted: int
    frame: FrameSpec
    classes: tuple[str, ...]
    miou: float | None
    pixel_accuracy: float | None
    iou: tuple[float | None, ...]
    confusion: Matrix
    problems: tuple[SampleProblem, ...]
    seconds: float
    inference: Inference = WHOLE
    doubts: tuple[str, ...] = ()  # why the masks may mean something else (doubts.py)
    toolkit: str = __version__
    schema: int = 2


@dataclass(frozen=True)
class _Partial:
    """A run that is not finished: `key` is what must be the same to go on, `done` the counted samples' stamps by id."""

    key: Mapping[str, str]
    done: Mapping[str, str]
    confusion: Matrix
    void: int
    turned: int
    seconds: float


_Read = tuple[Sample, str, Truth | None, Truth | None]  # with its stamp, truth, and truth turned by EXIF
Compared = tuple[Sample, str, Confusion | SampleProblem]  # the stamp is from before the sample was read


@dataclass(frozen=True)
class Evaluator:
    """What segments samples and compares, `here` or on many machines (cluster/evaluate.py); all of them, in order."""

    labels: Labels
    frame: FrameSpec
    backend: str
    inference: Inference
    compare: Callable[[Sequence[Sample]], Iterator[Compared]]


def here(segmenter: Segmenter) -> Evaluator:
    """A segmenter in this process, as many samples at once as pay."""
    labels, spec = segmenter.labels, segmenter.frame_spec
    comparing = functools.partial(compare_each, segmenter, labels, spec)
    return Evaluator(labels, spec, segmenter.session.name, segmenter.inference, comparing)


def compare_each(segmenter: Segments, labels: Labels, spec: FrameSpec, samples: Iterable[Sample]) -> Iterator[Compared]:
    """What `segmenter`, which is fed as `spec` says, makes of each sample, in order."""

    def taken(sample: Sample) -> tuple[Frame | Unusable, _Read]:
        stamp = sample.stamp()
        try:
            frame, truth, turned = read(sample, len(labels.names))
        except Unusable as exc:
            return exc, (sample, stamp, None, None)
        return frame, (sample, stamp, truth, turned)

    def compared(read: _Read, answer: Mask | RefineNetEdgeError, _: float) -> Compared:
        sample, stamp, truth, turned = read
        if isinstance(answer, InputError):
            kind = answer.kind if isinstance(answer, Unusable) else "refused"
            return sample, stamp, SampleProblem(sample.id, kind, str(answer))
        assert truth is not None  # it was read
        return sample, stamp, compare(or_raise(answer), truth, turned, spec)

    with Many(segmenter) as many:
        yield from many.each(samples, taken, compared)


@dataclass(frozen=True)
class _Tally:
    """Replaced as a whole after each sample: an interrupt at any moment leaves matrix and list in agreement.

    `done`: the stamps by id of those that are counted, `count` of them: of the others one may be there already.
    """

    confusion: Confusion
    done: dict[str, str]
    count: int

    def and_(self, sample: Sample, stamp: str, confusion: Confusion) -> _Tally:
        self.done[sample.id] = stamp
        return _Tally(self.confusion + confusion, self.done, self.count + 1)


class _Resumable:
    """What was counted so far; begins with what is in the file `partial`."""

    def __init__(self, partial: Path | None, key: Mapping[str, str], dataset: DataSet, by: Evaluator) -> None:
        classes = len(by.labels.names)
        before = _read_partial(partial, key, dataset, classes) if partial else None
        self.tally = _Tally(Confusion.zero(classes), {}, 0)
        if before:
            confusion = Confusion(np.array(before.confusion, np.int64), before.void, before.turned)
            self.tally = _Tally(confusion, dict(before.done), len(before.done))
        self._key = key
        self._began = time.monotonic() - (before.seconds if before else 0.0)

    def seconds(self) -> float:
        """Wall time of all parts of the run."""
        return time.monotonic() - self._began

    def state(self) -> bytes:
        """What goes into the file."""
        tally, found = self.tally, self.tally.confusion
        counted = dict(itertools.islice(tally.done.items(), tally.count))
        state = _Partial(self._key, counted, _rows(found), found.void, found.turned, self.seconds())
        return to_json(state).encode()


def evaluate(
    segmenter: Segmenter | Evaluator,
    dataset: DataSet,
    *,
    identity: Identity | None = None,
    out: Path | None = None,
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Segment every sample and compare; `out` receives the result as JSON, whole or not at all.

    `progress(used or not, of how many)` is called at the start and after each sample. A sample that cannot be used
    becomes a `SampleProblem`; with `strict` it raises.

    Raises `InputError` when the classes are not the data set's, no sample can be used, `out` cannot be written, or
    `OUT.partial` is of another run; `BundleError` when the network's output is not usable logits.
    """
    by = here(segmenter) if isinstance(segmenter, Segmenter) else segmenter
    _require_same_classes(by, dataset)
    partial = out.with_name(f"{out.name}.partial") if out else None
    run = _Resumable(partial, _key(by, dataset, identity), dataset, by)
    problems: list[SampleProblem] = []

    def tell() -> None:
        if progress:
            progress(run.tally.count + len(problems), len(dataset.samples))

    with resumable(partial, run.state, lambda: run.tally.count, InputError) as save:
        tell()
        for sample, stamp, outcome in by.compare([s for s in dataset.samples if s.id not in run.tally.done]):
            if isinstance(outcome, SampleProblem):
                if strict:
                    raise Unusable(outcome.kind, f"{outcome.sample}: {outcome.detail}")
                problems.append(outcome)
                logger.info("%s: %s", outcome.sample, outcome.detail)
            else:
                run.tally = run.tally.and_(sample, stamp, outcome)
            tell()
            save()
        if not run.tally.count:
            raise InputError(f"no sample of {dataset.name} can be used; {problems[0].sample}: {problems[0].detail}")
        _require_no_contradiction(run.tally.confusion, dataset, problems)
        result = _result(by, dataset, identity, run.tally, tuple(problems), run.seconds())
        if out:
            write_atomically(out, to_json(result).encode(), InputError)
    for doubt in result.doubts:
        logger.warning("%s: %s", dataset.name, doubt)
    return result


def read(sample: Sample, classes: int) -> tuple[Frame, Truth, Truth | None]:
    """A sample's frame, its truth, and that turned where only so it fits the frame. Raises `Unusable`."""
    frame, truth = sample.read()
    turn = sample.turn()
    turned = turn(truth) if turn and turn(truth).shape == frame.shape[:2] else None
    if truth.shape != frame.shape[:2]:
        sizes = (f"{array.shape[0]}x{array.shape[1]}" for array in (frame, truth))
        hint = "" if turned is None else ", as the image is before EXIF turns it: --masks-as-stored"
        raise Unusable("size", f"the image is {next(sizes)} pixels, its mask {next(sizes)}{hint}")
    wrong = truth[(truth >= classes) & (truth != IGNORE)]
    if wrong.size:
        unknown = ", ".join(map(str, np.unique(wrong)[:5]))
        raise Unusable("label", f"the mask has label {unknown}, the classes are 0..{classes - 1}")
    return frame, truth, turned


def compare(mask: Mask, truth: Truth, turned: Truth | None, spec: FrameSpec) -> Confusion:
    """One sample's matrix."""
    if spec.fit == "crop":  # what it does not see counts for nothing
        seen = mask.labels != mask.classes.ignore
        mask, truth = replace(mask, labels=np.where(seen, mask.labels, 0)), np.where(seen, truth, IGNORE)
    found = Confusion.of(truth, mask.labels, len(mask.classes.names))
    if turned is None:
        return found
    return replace(found, turned=int((turned == mask.labels).sum()) - int(found.matrix.trace()))


def _require_no_contradiction(found: Confusion, dataset: DataSet, problems: Sequence[SampleProblem]) -> None:
    """Masks with numbers that there are not, and others that fit better when they are read another way: no result."""
    strange = [problem for problem in problems if problem.kind == "label"]
    if strange and (doubt := numbering_doubt(found, dataset)):
        raise InputError(f"{doubt}. {strange[0].sample}: {strange[0].detail}")


def _require_same_classes(by: Evaluator, dataset: DataSet) -> None:
    ours, theirs = by.labels, dataset.labels
    if theirs is None:
        return
    if len(ours.names) != len(theirs.names):
        raise InputError(
            f"the bundle has {len(ours.names)} classes ({ours.name}), data set {dataset.name} has {len(theirs.names)} "
            f"({theirs.name}): evaluate it on a data set of its own classes"
        )
    if ours.name != "numbered" and ours.names != theirs.names:
        first = next(pair for pair in zip(ours.names, theirs.names, strict=True) if pair[0] != pair[1])
        logger.warning("class names differ, %s has %r where %s has %r", ours.name, first[0], theirs.name, first[1])


def _key(by: Evaluator, dataset: DataSet, identity: Identity | None) -> dict[str, str]:
    ids = "\n".join(sample.id for sample in dataset.samples)
    return {
        "bundle": (identity and identity.digest) or "",
        "backend": by.backend,
        "frame or upsampling": repr(by.frame),
        "scales, flip or tiles": repr(by.inference),
        "data set": dataset.name,
        "samples": hashlib.sha256(ids.encode("utf-8", "surrogateescape")).hexdigest(),
        "toolkit": __version__,
    }


def _read_partial(path: Path, key: Mapping[str, str], dataset: DataSet, classes: int) -> _Partial | None:
    """The run to go on from, None if there is none. Raises `InputError` if it is another's, or damaged."""
    remove = f"remove {path} to start again"
    try:
        if not path.exists():
            return None
        partial = from_json(_Partial, read_utf8(path, MAX_PARTIAL, "the result"))
        matrix = np.array(partial.confusion, np.int64)
    except (InputError, ValueError, OverflowError, BundleError) as exc:
        raise InputError(f"{path} cannot be read: {exc}; {remove}") from exc
    if not partial.done:
        return None
    other = [name for name in key if partial.key.get(name) != key[name]]
    if other:
        raise InputError(
            f"{path} is of a run with another {' and another '.join(other)}: {remove}, or name another --out"
        )
    if matrix.shape != (classes, classes) or (matrix < 0).any() or not 0 <= partial.seconds < math.inf:
        raise InputError(f"{path} is damaged: {remove}")
    stamps = {sample.id: sample.stamp() for sample in dataset.samples if sample.id in partial.done}
    changed = [id_ for id_, stamp in partial.done.items() if stamps.get(id_) != stamp]
    if changed:
        raise InputError(f"{changed[0]} has changed since {path} was written: {remove}")
    return partial


def _result(
    by: Evaluator,
    dataset: DataSet,
    identity: Identity | None,
    tally: _Tally,
    problems: tuple[SampleProblem, ...],
    seconds: float,
) -> EvaluationResult:
    confusion = tally.confusion
    return EvaluationResult(
        identity=identity,
        backend=by.backend,
        dataset=dataset.name,
        samples=len(dataset.samples),
        counted=tally.count,
        frame=by.frame,
        classes=(dataset.labels or by.labels).names,
        miou=_or_none(confusion.miou),
        pixel_accuracy=_or_none(confusion.pixel_accuracy),
        iou=tuple(_or_none(float(iou)) for iou in confusion.iou),
        confusion=_rows(confusion),
        problems=problems,
        seconds=seconds,
        inference=by.inference,
        doubts=doubts(confusion, dataset),
    )


def _rows(confusion: Confusion) -> Matrix:
    return tuple(map(tuple, confusion.matrix.tolist()))


def _or_none(value: float) -> float | None:  # JSON has no nan
    return None if math.isnan(value) else value
