"""Runs as one HTML page that needs nothing else: no script, no font, no picture from anywhere.

What a record says is untrusted: jinja2 escapes it, secrets of URLs are masked, and the page's own policy forbids
whatever would load or run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
from markupsafe import Markup

from refinenet_edge.bench.record import STAGES, BenchmarkRun, Case, Subject, summary
from refinenet_edge.bench.verdicts import BatchCurve, Row, batch_curves, faster, rows
from refinenet_edge.report import charts, examples
from refinenet_edge.report.examples import ExampleView
from refinenet_edge.report.view import Block, blocks, judges, stages, undominated
from refinenet_edge.report.words import frames, interval, moment, number, percent, sentence, size
from refinenet_edge.urls import masked

STAGE_COLOURS = dict(
    zip(STAGES, ("#9aa3ad", "#5cb8b2", "#a5c05b", "#e0b000", "#b59be0", "#d99a5b", "#e08aa0"), strict=True)
)
FILTERS = (faster, frames, interval, moment, number, percent, size)


@dataclass(frozen=True)
class CaseView:
    """A case with its plots."""

    case: Case
    rows: tuple[Row, ...]
    percentiles: Markup
    histogram: Markup

    def row(self, key: int) -> Row | None:
        """The row of a subject, None where it was not measured in this case."""
        return next((row for row in self.rows if row.key == key), None)


@dataclass(frozen=True)
class RunView:
    """A run as the template shows it; `anchor` starts every id of its section."""

    anchor: str
    name: str
    run: BenchmarkRun
    summary: str
    cases: tuple[CaseView, ...]
    ladder: tuple[Row, ...]  # of the first case, the fastest first
    best: frozenset[int]  # keys of those that none beats in time and mIoU
    judges: tuple[str, ...]
    pareto: Markup | None  # None: fewer than two have a mIoU, or they were judged on different images
    batches: tuple[BatchCurve, ...]
    profiles: dict[int, tuple[Block, ...]]  # key -> blocks
    examples: tuple[ExampleView, ...]

    @property
    def title(self) -> str:
        """The device, and the network where it is one."""
        models = {subject.identity.model for subject in self.run.subjects}
        return f"{min(models)} on {self.run.machine.device}" if len(models) == 1 else self.run.machine.device

    @property
    def judged(self) -> list[tuple[int, Subject]]:
        """The subjects whose IoU is known, each with its number."""
        return [(key, subject) for key, subject in enumerate(self.run.subjects, 1) if subject.iou]

    def key(self, name: str) -> int:
        """The number of the subject of that name."""
        return [subject.name for subject in self.run.subjects].index(name) + 1

    @property
    def sections(self) -> list[tuple[str, str]]:
        """What there is something to show of: (id, title)."""
        run, cases = self.run, self.cases
        every = [
            ("ladder", "Accuracy and speed", cases),
            ("iou", "IoU of each class", any(subject.iou for subject in run.subjects)),
            ("examples", "Examples", self.examples),
            ("times", "Time of a frame", cases),
            ("sweep", "All cases", cases[1:]),
            ("batches", "Several frames at once", self.batches),
            ("stages", "Stages of a frame", cases and any(row.measurement.stages for row in cases[0].rows)),
            ("blocks", "Blocks of the network", self.profiles),
            ("start", "Start and memory", run.starts),
            ("screen", "Camera to screen", run.screens),
            ("power", "Power and heat", run.power),
            ("environment", "Environment", True),
            ("reproduce", "How to reproduce", True),
            ("notes", "Notes", run.notes),
        ]
        return [(anchor, title) for anchor, title, content in every if content]


def page(runs: Sequence[tuple[str, BenchmarkRun]]) -> str:
    """The page of `runs` (name, run), a section each in that order."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("refinenet_edge.report"),
        autoescape=True,
        finalize=lambda value: masked(value) if type(value) is str else value,  # not Markup, which is ours
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {function.__name__: function for function in FILTERS}
    views = [_view(f"run-{i}", name, run) for i, (name, run) in enumerate(runs, 1)]
    return environment.get_template("page.html").render(
        views=views, colours=charts.COLOURS, stages=stages, stage_colours=STAGE_COLOURS, summary=summary
    )


def _view(anchor: str, name: str, run: BenchmarkRun) -> RunView:
    cases = tuple(_case(f"{anchor}-case-{i}", run, case) for i, case in enumerate(run.cases(), 1))
    ladder = tuple(sorted(cases[0].rows, key=lambda row: row.times.p50)) if cases else ()
    judged, best = judges(ladder), frozenset[int]()
    points = {row.key: (row.times.p50, 100 * row.subject.miou) for row in ladder if row.subject.miou is not None}
    pareto = None
    if len(judged) == 1 and len(points) > 1:  # of different images a mIoU says nothing about another
        best = undominated(ladder)
        pareto = charts.pareto(f"{anchor}-pareto", points, best)
    profiles = {key: blocks(run, subject) for key, subject in enumerate(run.subjects, 1)}
    return RunView(
        anchor=anchor,
        name=name,
        run=run,
        summary=sentence(run),
        cases=cases,
        ladder=ladder,
        best=best,
        judges=judged,
        pareto=pareto,
        batches=batch_curves(run),
        profiles={key: layers for key, layers in profiles.items() if layers},
        examples=examples.views(run),
    )


def _case(anchor: str, run: BenchmarkRun, case: Case) -> CaseView:
    measured = rows(run, case)
    samples = {row.key: row.measurement.ms for row in measured}
    return CaseView(
        case,
        measured,
        charts.percentiles(f"{anchor}-percentiles", samples),
        charts.histogram(f"{anchor}-histogram", samples),
    )
