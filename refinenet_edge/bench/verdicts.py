"""What is faster: verdicts on the subjects of one run, and on two runs, for people and for CI.

In one run, subjects took turns: the ratio is the median over the rounds. Between two runs there are no pairs: it is the
ratio of the medians. Both have a 95 % bootstrap interval, and the words mean

    slower    the whole interval is above 1 + `CLEARLY`
    faster    the whole interval is below 1 - `CLEARLY`
    same      the whole interval is within 1 ± `ALIKE`
    unclear   none of these: measure longer, or on a quieter machine
"""

import statistics
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from refinenet_edge.bench.machine import comparable
from refinenet_edge.bench.measure import RESAMPLES, Estimate, Timing, bounds
from refinenet_edge.bench.record import BenchmarkRun, Case, LatencySummary, Measurement, Subject, summary
from refinenet_edge.errors import InputError
from refinenet_edge.records import Size

Word = Literal["same", "faster", "slower", "unclear"]

CLEARLY = 0.01
ALIKE = 0.02
FLAT = 0.05  # of the time of a frame: less is not gained by a larger batch


@dataclass(frozen=True)
class Verdict:
    """`times` as long as what it is compared with."""

    times: Estimate
    word: Word


@dataclass(frozen=True)
class Change:
    """A subject in a case, before and after. `miou` is the difference in points, None unless both runs have it."""

    subject: str
    case: Case
    before_ms: float
    after_ms: float
    verdict: Verdict
    miou: float | None

    def regressed(self, threshold: float) -> bool:
        """Whether a frame certainly takes more than `threshold` (0.05: 5 %) longer."""
        return self.verdict.times.low > 1 + threshold


def word(times: Estimate) -> Word:
    """The word for an interval, as the module defines it."""
    if times.low > 1 + CLEARLY:
        return "slower"
    if times.high < 1 - CLEARLY:
        return "faster"
    return "same" if times.low > 1 - ALIKE and times.high < 1 + ALIKE else "unclear"


def faster(times: Estimate) -> Estimate:
    """How many times as fast, of how many times as long."""
    return Estimate(1 / times.value, 1 / times.high, 1 / times.low)


def ratios(run: BenchmarkRun, case: Case) -> dict[str, Verdict]:
    """Subject -> how many times as long as the run's first subject a frame takes; without the first itself."""
    measurements = run.of(case)
    first = run.subjects[0].name
    if first not in measurements:
        return {}
    timing = Timing({who: [{"frame": ms} for ms in m.ms] for who, m in measurements.items()}, "")
    estimates = {who: timing.ratio(who, first) for who in measurements if who != first}
    return {who: Verdict(times, word(times)) for who, times in estimates.items()}


@dataclass(frozen=True)
class Row:
    """A subject in a case. `key` is its number in the run, from 1: figures name it by that."""

    key: int
    subject: Subject
    measurement: Measurement
    times: LatencySummary
    verdict: Verdict | None  # None: the reference, or not run in turn with it


def rows(run: BenchmarkRun, case: Case) -> tuple[Row, ...]:
    """What was measured in `case`, in the order of the subjects."""
    measured, verdicts = run.of(case), ratios(run, case)
    return tuple(
        Row(key, subject, measured[subject.name], summary(measured[subject.name].ms), verdicts.get(subject.name))
        for key, subject in enumerate(run.subjects, 1)
        if subject.name in measured
    )


def compare(before: BenchmarkRun, after: BenchmarkRun, force: bool = False) -> tuple[Change, ...]:
    """What changed, for every subject and case that both runs have.

    Raises `InputError` for runs of different devices or power modes, unless `force`, and for runs with nothing in
    common.
    """
    reason = comparable(before.machine, after.machine)
    if reason is not None and not force:
        raise InputError(f"the runs cannot be compared: {reason}; measure both on one machine, or give --force")
    earlier = {(m.subject, m.case): m for m in before.measurements}
    changes = []
    for m in after.measurements:
        old = earlier.get((m.subject, m.case))
        if old is not None:
            times = _unpaired(m.ms, old.ms)
            medians = float(np.median(old.ms)), float(np.median(m.ms))
            verdict = Verdict(times, word(times))
            changes.append(Change(m.subject, m.case, *medians, verdict, _miou(before, after, m.subject)))
    if not changes:
        names = " and ".join(", ".join(subject.name for subject in run.subjects) for run in (before, after))
        raise InputError(f"the runs have no subject and case in common: {names}")
    return tuple(changes)


def measured_once(before: BenchmarkRun, after: BenchmarkRun) -> list[str]:
    """What only one of the runs has, as "SUBJECT, CASE: before" or "... after"."""
    sides = [{f"{m.subject}, {m.case}" for m in run.measurements} for run in (before, after)]
    return sorted(
        [f"{name}: before" for name in sides[0] - sides[1]] + [f"{name}: after" for name in sides[1] - sides[0]]
    )


def _unpaired(samples: tuple[float, ...], to: tuple[float, ...]) -> Estimate:
    dice = np.random.default_rng(0)
    medians = [
        np.median(np.array(values)[dice.integers(len(values), size=(RESAMPLES, len(values)))], axis=1)
        for values in (samples, to)
    ]
    return Estimate(float(np.median(samples) / np.median(to)), *bounds(medians[0] / medians[1]))


def _miou(before: BenchmarkRun, after: BenchmarkRun, name: str) -> float | None:
    old, new = before.subject(name), after.subject(name)
    if old.miou is None or new.miou is None or old.judge != new.judge:
        return None
    return 100 * (new.miou - old.miou)


@dataclass(frozen=True)
class BatchCurve:
    """A subject in batches of several sizes. `ms`: batch -> median ms of all of it, the smallest batch first."""

    subject: str
    size: Size
    streams: int
    ms: dict[int, float]

    @property
    def per_frame(self) -> dict[int, float]:
        """Batch -> ms of a frame of it."""
        return {batch: ms / batch for batch, ms in self.ms.items()}

    @property
    def flat_from(self) -> int:
        """The smallest batch of which a frame takes hardly longer than of the best."""
        return next(batch for batch, ms in self.per_frame.items() if ms <= (1 + FLAT) * min(self.per_frame.values()))


def batch_curves(run: BenchmarkRun) -> tuple[BatchCurve, ...]:
    """Of each subject that was measured with several batches."""
    curves: dict[tuple[str, Case], dict[int, float]] = {}
    for one in sorted(run.measurements, key=lambda one: one.case.batch):
        ms = curves.setdefault((one.subject, replace(one.case, batch=1)), {})
        ms[one.case.batch] = statistics.median(one.ms)
    return tuple(
        BatchCurve(subject, case.size, case.streams, ms) for (subject, case), ms in curves.items() if len(ms) > 1
    )
