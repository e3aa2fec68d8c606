"""Bundle + many frames -> a folder of labels: any number of workers, the same bytes; begun again, only what is missing.

    batch.json       what made the labels: bundle, backend, classes, input
    inputs.json      the images and videos they are of, each with a stamp that changes when the file does
    NAME.png         --format png: the label map of frame NAME, class numbers in the classes' colours
    NAME.geojson     --format geojson: its regions as polygons (mask_files.py)
    NAME.coco.json   --format coco, coco-polygons: a COCO file of that frame; NAME.shares.csv: --format csv
    coco.json        with these, at the end, from what lies beside it: all frames, by name (as mask_files.py calls it)
    NAME_confidence.png   with --confidence: how sure each label is, its softmax in 255ths
    part-*.parquet   --format parquet: one row a frame, see `COLUMNS`
    problems.json    the frames that have no labels, and why; they are tried again when the same run is started again

Labels of a file that is another by now are removed and made again. A part is named after the frames it was to hold, so
no other is written over. A frame that cannot be read or labelled is a problem of its own; so is one that kills its
worker on Ray, where the rest of its piece is done again frame by frame. What concerns all frames (a full disk, a lost
GPU, a bundle that does not open) stops the run.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import logging
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from refinenet_edge import __version__
from refinenet_edge.bundle import Bundle
from refinenet_edge.cluster.bundles import Opening, common_backend, gpus_of, opening
from refinenet_edge.cluster.pool import Pool, Worker, as_one, open_pool
from refinenet_edge.cluster.storage import CLUSTER, Storage, absolute, open_storage
from refinenet_edge.cluster.work import (
    Counter,
    InputFile,
    Item,
    Piece,
    Read,
    Reader,
    everywhere,
    find,
    is_video,
    pieces_of,
)
from refinenet_edge.errors import BundleError, InputError, MissingExtra
from refinenet_edge.frames.images import digest_of, encode_image
from refinenet_edge.mask_files import FORMATS
from refinenet_edge.records import WHOLE, Frame, Identity, Inference, Labels, Mask, from_json, to_json
from refinenet_edge.runtime.frame_path import Answer, or_raise
from refinenet_edge.runtime.many import Many
from refinenet_edge.runtime.multi_scale import at_sizes
from refinenet_edge.urls import is_url, shown

RUN, INPUTS, PROBLEMS = "batch.json", "inputs.json", "problems.json"
PART = "part-"
CONFIDENCE = "_confidence.png"
COLUMNS = {
    "id": "the frame's name",
    "height": "of the frame, in pixels",
    "width": "of the frame, in pixels",
    "labels": "the label map as a PNG file",
    "confidence": "with --confidence: how sure each label is, its softmax in 255ths, as a PNG file",
    "shares": "of the frame's pixels, by class; the classes' names are in the file's metadata",
    "frame_sha256": "of size and pixels",
    "bundle_sha256": "of the bundle's manifest, which holds the digests of its other files",
}

Format = Literal["png", "geojson", "coco", "coco-polygons", "csv", "parquet"]
# of a frame's labels, where each has a file of its own
ENDINGS = {name: form.ending for name, form in FORMATS.items()} | {"png": ".png"}
Progress = Callable[[int, int], None]  # frames that are labelled or problems, frames

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabellingRecord:
    """What made the labels of a folder; the same when the run is started again."""

    identity: Identity
    backend: str  # that labels
    format: Format
    classes: Labels
    source: str
    confidence: bool = False
    inference: Inference = WHOLE
    unknown_below: float | None = None
    toolkit: str = __version__
    schema: int = 3


@dataclass(frozen=True)
class InputFiles:
    """The files that labels of a folder are of, those that are gone from the input too."""

    files: Mapping[str, InputFile]
    schema: int = 1


@dataclass(frozen=True)
class FrameProblem:
    """A frame without labels."""

    id: str
    reason: str


@dataclass(frozen=True)
class LabellingSummary:
    """`before`: labelled by an earlier run; `labelled`: by this one, in `seconds`, of which its workers computed
    `cpu_seconds`, all together.
    """

    frames: int
    before: int
    labelled: int
    problems: tuple[FrameProblem, ...]
    seconds: float
    cpu_seconds: float
    backend: str


@dataclass(frozen=True)
class PieceReport:
    """Of one piece."""

    labelled: int
    problems: tuple[FrameProblem, ...]
    cpu_seconds: float = 0.0


def label(
    bundle: Bundle,
    source: str,
    out: str,
    *,
    form: Format = "png",
    backend: str = "auto",
    ray: str = "off",
    allow_host_code: bool = False,
    confidence: bool = False,
    unknown_below: float | None = None,
    inference: Inference = WHOLE,
    beside: Sequence[Bundle] = (),
    progress: Progress | None = None,
) -> LabellingSummary:
    """Label every frame of `source` (see work.py) into the folder `out`, a path or a URL.

    `ray`: see `pool.open_pool`. With Ray the workers may be on other machines: `source` and `out` must mean the same
    there. `confidence`: also how sure each label is. `unknown_below`: as of `Mask`; `inference`, `beside`: as of
    `Segmenter`. Raises `InputError` when `out` holds another run's labels or no frame can be labelled, and what the
    bundle raises when it is opened.
    """
    where = everywhere(source)
    _refuse_inside(where, out)
    wanted = common_backend(bundle, backend, ray)
    way = at_sizes(inference, bundle, beside)
    classes = bundle.manifest.labels
    run = LabellingRecord(bundle.identity, wanted, form, classes, shown(where), confidence, way, unknown_below)
    sure = confidence or unknown_below is not None
    storage = open_storage(out)
    if form == "parquet":
        _parquet()  # that it is not installed is found out now
    files = find(where)
    _begin(storage, run, out, storage.names())
    with open_pool(ray, gpus=gpus_of(wanted)) as pool:
        files = _compared(storage, form, files, functools.partial(_counted, pool, where))
        opens = opening(bundle, wanted, pool, allow_host_code, confidence=sure, inference=inference, beside=beside)
        return _label(storage, pool, LabellingJob(opens, run, where, absolute(out)), pieces_of(where, files), progress)


def _label(
    storage: Storage, pool: Pool, job: LabellingJob, pieces: Sequence[Piece], progress: Progress | None
) -> LabellingSummary:
    """Do what is missing of `pieces`."""
    names = storage.names()
    there = _done(storage, job.run.format, names)
    frames = sum(map(len, pieces))
    left = list(filter(None, (tuple(item for item in piece if item.id not in there) for piece in pieces)))
    before = frames - sum(map(len, left))
    started = time.monotonic()
    labelled, cpu_seconds = 0, 0.0
    problems: list[FrameProblem] = []

    def tell() -> None:
        if progress:
            progress(before + labelled + len(problems), frames)

    tell()
    if left and (whole := whole_of(job.run.format)):
        storage.remove(whole)  # one that is there has all there is
    try:
        for report in _reports(pool, job, left):
            labelled += report.labelled
            cpu_seconds += report.cpu_seconds
            problems += report.problems
            tell()
    finally:
        _note(storage, problems, names)
    if not before + labelled and problems:
        raise InputError(f"no frame of {job.run.source} can be labelled; {problems[0].id}: {problems[0].reason}")
    _join(storage, job.run.format)
    seconds = time.monotonic() - started
    return LabellingSummary(frames, before, labelled, tuple(problems), seconds, cpu_seconds, job.run.backend)


@dataclass(frozen=True)
class LabellingJob:
    """What every worker of a run is given."""

    opening: Opening
    run: LabellingRecord
    source: str
    out: str


class Labeller(Worker[Piece, PieceReport]):
    """Piece -> labels in the folder, and its report."""

    def __init__(self, job: LabellingJob) -> None:
        self._run = job.run
        self._segmenter = job.opening.segmenter()
        self._many = Many(self._segmenter)
        self._reader = Reader(job.source)
        self._out = open_storage(job.out)
        try:
            here = from_json(LabellingRecord, self._out.read(RUN).decode())
        except InputError as exc:
            raise InputError(f"on {platform.node()} {exc}; name an --out that all machines share") from exc
        if here != job.run:
            place = shown(job.out)
            raise InputError(f"on {platform.node()} {place} is another folder; name one that all machines share")

    def each(self, pieces: Iterable[Piece]) -> Iterator[PieceReport]:
        """Frames of one piece are read while the last ones of another are labelled."""
        told = time.process_time()
        for piece, done in as_one(pieces, self._labelled):
            problems = tuple(each for each in done if isinstance(each, FrameProblem))
            if rows := [each for each in done if isinstance(each, dict)]:
                self._out.write(part_name(piece), _table(rows, self._run))
            before, told = told, time.process_time()
            yield PieceReport(len(done) - len(problems), problems, told - before)

    def _labelled(self, items: Iterator[Item]) -> Iterator[FrameProblem | dict[str, Any] | None]:
        def read(ahead: Callable[[], Read]) -> tuple[Frame | InputError, Read]:
            item, frame = ahead()
            return frame, (item, frame)

        return self._many.each(self._reader.frames(items), read, self._label)

    def _label(self, read: Read, answer: Answer, _: float) -> FrameProblem | dict[str, Any] | None:
        """Put the labels of a frame there; where they are rows of a table, its row."""
        item, frame = read
        if isinstance(answer, (InputError, BundleError)):
            return FrameProblem(item.id, str(answer))
        assert not isinstance(frame, InputError)  # it has a mask
        mask = or_raise(answer)
        if self._run.unknown_below is not None:
            mask = mask.unknown_below(self._run.unknown_below)
        if self._run.format == "parquet":
            return _row(item, frame, mask, self._run)
        if self._run.confidence and mask.confidence is not None:  # first: the labels say that the frame is done
            self._out.write(f"{item.id}{CONFIDENCE}", encode_image(mask.confidence, item.id))
        data = FORMATS[self._run.format].encode(item.id, mask)
        self._out.write(f"{item.id}{ENDINGS[self._run.format]}", data)
        return None

    def close(self) -> None:
        self._many.close()
        self._reader.close()
        self._segmenter.close()


def part_name(piece: Sequence[Item]) -> str:
    """Of the Parquet file for these frames."""
    ids = json.dumps([item.id for item in piece])
    return f"{PART}{hashlib.sha256(ids.encode()).hexdigest()[:16]}.parquet"


def _reports(pool: Pool, job: LabellingJob, pieces: Sequence[Piece]) -> Iterator[PieceReport]:
    make = functools.partial(Labeller, job)
    deadly: list[Piece] = []
    for piece, report in zip(pieces, pool.run(make, pieces), strict=True):
        if report is None:
            deadly.append(piece)
        else:
            yield report
    # which of its frames it was that a worker died of
    single = [(item,) for piece in deadly for item in piece]
    for (item,), report in zip(single, pool.run(make, single), strict=True):
        yield report or PieceReport(0, (FrameProblem(item.id, "its worker died each time it had this frame"),))


def _refuse_inside(source: str, out: str) -> None:
    if is_url(source) or is_url(out):
        inside = f"{shown(out).rstrip('/')}/".startswith(f"{shown(source).rstrip('/')}/")
    else:
        inside = Path(source).is_dir() and Path(out).resolve().is_relative_to(Path(source).resolve())
    if inside:
        raise InputError(
            f"{shown(out)} is in {shown(source)}: its labels would be taken for images; name another --out"
        )


def _begin(storage: Storage, run: LabellingRecord, out: str, names: Sequence[str]) -> None:
    """Write down what makes the labels, or see that it is what made those that are there."""
    if RUN not in names:
        if names:
            raise InputError(f"{shown(out)} has files and no {RUN}, it is not a folder of labels: name another --out")
        storage.write(RUN, to_json(run).encode())
        return
    try:
        there = from_json(LabellingRecord, storage.read(RUN).decode())
    except (BundleError, UnicodeDecodeError) as exc:
        raise InputError(f"{shown(out)}: {RUN} cannot be read: {exc}; name another --out") from exc
    fields = [field.name for field in dataclasses.fields(LabellingRecord)]
    differing = [name for name in fields if getattr(there, name) != getattr(run, name)]
    if other := ["bundle" if name == "identity" else name for name in differing]:
        raise InputError(f"{shown(out)} holds labels of another {' and another '.join(other)}: name another --out")


def _counted(pool: Pool, source: str, names: Sequence[str]) -> Iterator[int | None]:
    """How many frames each of these videos has; None: it cannot be read."""
    for result in pool.run(functools.partial(Counter, source), names) if names else ():
        yield result[0] if result else None


def _compared(
    storage: Storage,
    form: Format,
    files: Mapping[str, InputFile],
    count: Callable[[Sequence[str]], Iterator[int | None]],
) -> dict[str, InputFile]:
    """`files` with the length of each video. Labels of files that have another stamp than these are removed first."""
    names = storage.names()
    known = _read_inputs(storage).files if INPUTS in names else {}
    same = {name for name, file in files.items() if name in known and known[name].stamp == file.stamp}
    if other := files.keys() - same:
        if whole := whole_of(form):
            storage.remove(whole)
        for name in _labels_of(storage, form, names, other):
            storage.remove(name)
    videos = [name for name in files if is_video(name) and (name not in same or known[name].frames is None)]
    lengths = dict(zip(videos, count(videos), strict=True))
    now = {name: known[name] if name in same else file for name, file in files.items()}
    now |= {name: InputFile(files[name].stamp, length) for name, length in lengths.items()}
    if {**known, **now} != known:
        storage.write(INPUTS, to_json(InputFiles({**known, **now})).encode())
    return now


def _read_inputs(storage: Storage) -> InputFiles:
    try:
        return from_json(InputFiles, storage.read(INPUTS).decode())
    except (BundleError, UnicodeDecodeError) as exc:
        raise InputError(f"{INPUTS} cannot be read: {exc}; name another --out") from exc


def _labels_of(storage: Storage, form: Format, names: Sequence[str], files: Set[str]) -> list[str]:
    """The files of labels that hold some of `files`, also of frames that these do not have any more."""

    def of_them(id_: str) -> bool:
        return id_ in files or id_.rpartition("/")[0] in files

    if form in ENDINGS:
        endings = ENDINGS[form], CONFIDENCE
        return [n for n in names if any(n.endswith(end) and of_them(n.removesuffix(end)) for end in endings)]
    return [name for name in names if name.startswith(PART) and any(map(of_them, _ids_in(storage, name)))]


def _done(storage: Storage, form: Format, names: Sequence[str]) -> set[str]:
    """The ids of the frames whose labels are there."""
    if form in ENDINGS:
        return {name.removesuffix(ENDINGS[form]) for name in names if name.endswith(ENDINGS[form])}
    return {id_ for name in names if name.startswith(PART) for id_ in _ids_in(storage, name)}


def whole_of(form: Format) -> str | None:
    """The file that has all frames."""
    return FORMATS[form].whole if form in FORMATS else None


def _join(storage: Storage, form: Format) -> None:
    """Make the file of all frames from those of each, where it is missing."""
    if form not in FORMATS or not (whole := FORMATS[form].whole) or not (join := FORMATS[form].join):
        return
    names = storage.names()
    if whole not in names:
        parts = [name for name in names if name.endswith(ENDINGS[form])]
        storage.write(whole, join((name, storage.read(name)) for name in parts))


def _ids_in(storage: Storage, part: str) -> list[str]:
    table = _parquet().read_table(io.BytesIO(storage.read(part)), columns=["id"])
    return list(map(str, table["id"].to_pylist()))


def _note(storage: Storage, problems: Sequence[FrameProblem], names: Sequence[str]) -> None:
    if problems:
        text = json.dumps([dataclasses.asdict(problem) for problem in problems], indent=1)
        storage.write(PROBLEMS, f"{text}\n".encode())
    elif PROBLEMS in names:
        storage.remove(PROBLEMS)


def _row(item: Item, frame: Frame, mask: Mask, run: LabellingRecord) -> dict[str, Any]:
    labels = mask.labels
    return {
        "id": item.id,
        "height": labels.shape[0],
        "width": labels.shape[1],
        "labels": encode_image(labels, item.id),
        "confidence": None if not run.confidence or mask.confidence is None else encode_image(mask.confidence, item.id),
        "shares": (mask.pixels() / labels.size).tolist(),
        "frame_sha256": digest_of(frame),
        "bundle_sha256": run.identity.digest,
    }


def _table(rows: Sequence[dict[str, Any]], run: LabellingRecord) -> bytes:
    import pyarrow as pa

    kinds = {"height": pa.int32(), "width": pa.int32(), "labels": pa.binary(), "confidence": pa.binary()}
    kinds["shares"] = pa.list_(pa.float64())
    columns = [name for name in COLUMNS if run.confidence or name != "confidence"]
    metadata = {RUN: to_json(run), "classes": json.dumps(run.classes.names)}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in columns], metadata=metadata)
    file = io.BytesIO()
    # PNG bytes do not shrink again; ids and digests do
    _parquet().write_table(pa.Table.from_pylist(list(rows), schema), file, compression="zstd")
    return file.getvalue()


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as exc:
        raise MissingExtra(f"--format parquet needs pyarrow: {CLUSTER}") from exc
    return pyarrow.parquet
