"""What can be timed: a bundle, through the Segmenter that people use; baselines.py has the others.

An entry is a value that can be sent to another process: what it needs is opened by `open`, for one case.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from refinenet_edge.bench.measure import Stages, timed
from refinenet_edge.bench.record import Case, Subject
from refinenet_edge.bundle import open_bundle
from refinenet_edge.records import DEFAULT_SIZE, Frame, LabelMap, Manifest, Size
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.backends import choose
from refinenet_edge.runtime.frame_path import or_raise
from refinenet_edge.runtime.libraries import MODULES

WHOLE = "frame"  # the one stage of a run that is not divided
Runner = Callable[[Sequence[Frame]], Stages]  # frames (one, or a batch) to labels -> ms of each stage, or of `WHOLE`


class Entry(Protocol):
    """One thing to time."""

    @property
    def subject(self) -> Subject:
        """What a result says of it."""

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU runs it."""

    def open(self, case: Case) -> AbstractContextManager[Runner]:
        """Load what `case` needs. Raises `RefineNetEdgeError` for what cannot be had here."""

    def segmenting(self) -> AbstractContextManager[Callable[[Frame], LabelMap]]:
        """Load what it takes for a frame of any size -> its labels, of that size; raises as `open` does."""


@dataclass(frozen=True)
class BundleEntry:
    """A bundle on one backend. A batch goes through `Segmenter.segment_batch`, on a CPU for throughput."""

    subject: Subject
    path: Path
    manifest: Manifest
    allow_host_code: bool = False

    @property
    def size(self) -> Size:
        """That of its frames, where nobody says another."""
        engine = self.manifest.engine
        return self.manifest.frame.size or (engine.profile.opt if engine and engine.profile else DEFAULT_SIZE)

    @property
    def on_gpu(self) -> bool:
        return self.subject.backend in MODULES

    @contextmanager
    def open(self, case: Case) -> Iterator[Runner]:
        with self.segmenter(throughput=case.batch > 1) as segmenter:

            def run(frames: Sequence[Frame]) -> Stages:
                stages: Stages = {}
                if len(frames) > 1:
                    for answer in timed(stages, WHOLE, segmenter.segment_batch, frames):
                        or_raise(answer)
                elif self.on_gpu:  # between waits its stages would not be what people run
                    timed(stages, WHOLE, segmenter.segment, frames[0])
                else:
                    stages = segmenter.staged(frames[0])[1]
                return stages

            yield run

    @contextmanager
    def segmenting(self) -> Iterator[Callable[[Frame], LabelMap]]:
        with self.segmenter() as segmenter:
            yield lambda frame: segmenter.segment(frame).labels

    def segmenter(self, throughput: bool = False) -> Segmenter:
        """The bundle's segmenter, to be closed by the caller."""
        return Segmenter(self.path, self.subject.backend, allow_host_code=self.allow_host_code, throughput=throughput)


def bundle_entry(path: Path, backend: str = "auto", allow_host_code: bool = False) -> BundleEntry:
    """The bundle at `path`, named after its folder. Raises `BundleError` or `InputError` where it cannot run here."""
    bundle = open_bundle(path)
    subject = Subject(path.resolve().name, "bundle", bundle.identity, choose(bundle, backend))
    return BundleEntry(subject, path, bundle.manifest, allow_host_code)
