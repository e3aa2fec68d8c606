"""Figures in words: numbers as a report prints them, and the sentences that sum a run up."""

import math
from collections.abc import Sequence
from datetime import datetime, timezone

from refinenet_edge.bench.measure import Estimate
from refinenet_edge.bench.record import BenchmarkRun, Case, LatencySummary, Subject
from refinenet_edge.bench.verdicts import Row, faster, rows
from refinenet_edge.report.view import fastest

SAME_POINTS = 0.005  # of mIoU: below, what is printed is the same


def number(value: float) -> str:
    """Three significant digits where they are decimals, at most three of those: 0.012, 1.23, 12.3, 123, 1234."""
    if not math.isfinite(value):
        return str(value)
    rounded = float(f"{value:.3g}")  # 9.999 is printed as 10.0
    decimals = 2 - math.floor(math.log10(abs(rounded))) if rounded else 0
    return f"{value:.{min(3, max(0, decimals))}f}"


def interval(estimate: Estimate) -> str:
    """An estimate with what it lies between."""
    return f"{number(estimate.value)} ({number(estimate.low)} to {number(estimate.high)})"


def moment(started: str) -> str:
    """An ISO 8601 time to the minute, anything else as it is; without a zone it is UTC."""
    try:
        read = datetime.fromisoformat(started)
        zoned = read if read.tzinfo else read.replace(tzinfo=timezone.utc)
        return f"{zoned.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError):
        return started


def percent(share: float) -> str:
    """A share as percent with two decimals, as mIoU is given."""
    return f"{100 * share:.2f} %"


def size(count: int) -> str:
    """Bytes in MiB, from 1 GiB on in GiB."""
    return f"{number(count / 2**30)} GiB" if count >= 2**30 else f"{number(count / 2**20)} MiB"


def frames(case: Case) -> str:
    """What one time of `case` is of."""
    what = f"{case.size[0]}x{case.size[1]}"
    what = f"a frame of {what}" if case.batch == 1 else f"{case.batch} frames of {what} at once"
    return what if case.streams == 1 else f"{what} in each of {case.streams} streams"


def sentence(run: BenchmarkRun) -> str:
    """Which subject is the fastest in the first case, by how much and how surely, and what that costs in mIoU."""
    if not run.measurements:
        return f"Nothing was timed on {run.machine.device}."
    case = run.cases()[0]
    timed = rows(run, case)
    best = fastest(timed)
    took = f"{number(best.times.p50)} ms for {frames(case)}, {_tail(best.times)}"
    rate = f"{number(best.measurement.frames_per_second)} frames per second"
    name, accuracy = best.subject.name, _accuracy(best.subject, run)
    if len(timed) == 1:
        return f"On {run.machine.device}, {name} takes {took}: {rate}. {accuracy}"
    lead = _lead(best, timed, run.subjects[0].name)
    return f"On {run.machine.device}, {name} is the fastest of {len(timed)}: {took}, {rate}. {lead} {accuracy}"


def _tail(times: LatencySummary) -> str:
    """How long the slow ones took; of fewer than a hundred runs, 99 of 100 would be a guess."""
    if times.count < 100:
        return f"the slowest of {times.count} took {number(times.most)} ms"
    return f"99 of 100 within {number(times.p99)} ms"


def _lead(best: Row, timed: Sequence[Row], reference: str) -> str:
    """How far ahead of the reference it is; the reference: how far ahead of the next."""
    doubt = {"same": ": no difference that counts", "unclear": ", which is not certain"}
    if best.subject.name == reference:
        other = fastest([row for row in timed if row is not best])
        if other.verdict is None:
            return f"Next is {other.subject.name} with {number(other.times.p50)} ms."
        behind = f"{interval(faster(other.verdict.times))} times as fast{doubt.get(other.verdict.word, '')}"
        return f"Next is {other.subject.name}, {behind}."
    if best.verdict is None:
        return f"It did not run in turn with {reference}: no ratio."
    times = best.verdict.times
    ahead = interval(faster(times))
    lead = f"It is {ahead} times as fast as {reference}{doubt.get(best.verdict.word, '')}."
    level = [
        row.subject.name
        for row in timed
        if row is not best and row.verdict is not None and row.verdict.times.low <= times.high
    ]
    return f"{lead} Within the intervals, as fast: {', '.join(level)}." if level else lead


def _accuracy(best: Subject, run: BenchmarkRun) -> str:
    """What it costs in mIoU to be as fast as `best`."""
    if all(subject.miou is None for subject in run.subjects):
        return "mIoU was not asked."
    if best.miou is None:
        return "Its mIoU was not asked."
    reference = run.subjects[0]
    reached = f"{percent(best.miou)}{f' on {best.judge}' if best.judge else ''}"
    if best is reference or reference.miou is None or reference.judge != best.judge:
        return f"mIoU: {reached}."
    points = 100 * (reference.miou - best.miou)
    if abs(points) < SAME_POINTS:
        return f"It costs no mIoU: {reached}."
    against = f"{reached} against {percent(reference.miou)}"
    return f"It costs {points:.2f} points of mIoU: {against}." if points > 0 else f"mIoU is higher: {against}."
