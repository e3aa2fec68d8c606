"""How much longer each subject takes than the first, and whether that is a difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from refinenet_edge.bench.measure import Estimate, Timing
from refinenet_edge.bench.record import Case, Run

SAME = 0.02  # a ratio within 1 ± this is no difference


@dataclass(frozen=True)
class Verdict:
    """`times`: how many times as long as the reference's a frame takes."""

    times: Estimate
    word: Literal["same", "faster", "slower", "unclear"]


def ratios(run: Run, case: Case) -> dict[str, Verdict]:
    """Subject name -> its verdict in `case`; the reference has none, nor has what did not run in turn with it."""
    measured, reference = run.of(case), run.subjects[0].name
    if reference not in measured:
        return {}
    rounds = len(measured[reference].ms)
    timing = Timing({name: [{"all": ms} for ms in m.ms] for name, m in measured.items() if len(m.ms) == rounds}, "")
    return {name: _verdict(timing.ratio(name, reference)) for name in timing.runs if name != reference}


def _verdict(times: Estimate) -> Verdict:
    if times.low > 1 - SAME and times.high < 1 + SAME:
        return Verdict(times, "same")
    return Verdict(times, "faster" if times.high < 1 else "slower" if times.low > 1 else "unclear")
