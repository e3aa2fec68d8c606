"""Runs as Markdown for a README: a sentence and a table a case."""

import re
from collections.abc import Iterator, Sequence

from refinenet_edge.bench.record import BenchmarkRun
from refinenet_edge.bench.verdicts import Row, faster, rows
from refinenet_edge.report.words import frames, interval, moment, number, percent, sentence
from refinenet_edge.urls import masked

COLUMNS = ("precision", "backend", "mIoU", "p50", "p90", "p99", "max", "frames/s")


def markdown(runs: Sequence[tuple[str, BenchmarkRun]]) -> str:
    """`runs` (name, run) as GitHub's Markdown, without headings: it goes below one of the README's."""
    return "\n".join(line for _, run in runs for line in _lines(run))


def _lines(run: BenchmarkRun) -> Iterator[str]:
    yield f"{_plain(sentence(run))}\n"
    reference = _plain(run.subjects[0].name)
    for case in run.cases():
        yield f"ms for {frames(case)}:\n"
        yield f"| | {' | '.join(COLUMNS)} | times as fast as {reference} |"
        yield f"|---|---|---|{'---:|' * len(COLUMNS[2:])}---|"
        yield from (f"| {' | '.join(_cells(row))} |" for row in rows(run, case))
        yield ""
    versions = ", ".join(f"{name} {version}" for name, version in run.machine.versions.items())
    made = [
        moment(run.started),
        run.machine.system,
        versions,
        run.frames,
        run.rule,
        "ratios with 95 % bootstrap intervals",
    ]
    yield f"{_plain('; '.join(filter(None, made)))}.\n"


def _cells(row: Row) -> list[str]:
    subject, times = row.subject, row.times
    return [
        *map(_plain, (subject.name, subject.identity.precision, subject.backend)),
        "not asked" if subject.miou is None else percent(subject.miou),
        *map(number, (times.p50, times.p90, times.p99, times.most, row.measurement.frames_per_second)),
        f"{interval(faster(row.verdict.times))}, {row.verdict.word}" if row.verdict else "",
    ]


def _plain(text: str) -> str:
    """`text` as itself: no markup, no secret of a URL, and one line."""
    return re.sub(r"([\\`*\[\]|~])", r"\\\1", " ".join(masked(text).split())).replace("&", "&amp;").replace("<", "&lt;")
