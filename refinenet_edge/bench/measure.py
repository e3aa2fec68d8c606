"""Time contenders side by side: all of them once a round, in a new order every round, so that drift meets them alike.

A contender is a call that says how long each of its stages took. The first two rounds warm up: they are kept apart. It
ends after so many rounds, or by one of the rules of `_ended`, and the result says which. Figures are medians; how many
times longer than another a contender took is the median over the rounds, with a bootstrap interval.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Stages = dict[str, float]  # ms
Contender = Callable[[], Stages]

WARM_UPS = 2  # rounds
MIN_ROUNDS = 10
FEWEST = 5  # rounds, however long they take: of fewer an interval says nothing
MIN_SECONDS, MAX_SECONDS = 0.5, 15.0  # of each contender
STEADY = 0.005  # relative deviation
WINDOW = 10  # rounds in which the deviation has to improve, by a twentieth
RESAMPLES, CONFIDENCE = 2000, 0.95
RULE = (
    f"{WARM_UPS} warm-ups; then at least {MIN_ROUNDS} runs and {MIN_SECONDS:g} s each, until the relative deviation "
    f"(1.4826 MAD / median) is below {100 * STEADY:g} % or has not improved by a twentieth in {WINDOW} runs, or "
    f"{MAX_SECONDS:g} s each and {FEWEST} runs"
)


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}..{self.high:.2f})"


@dataclass(frozen=True)
class Timing:
    """`runs[who][round]` are the stages of one run, `warm_ups` those before; `ended` is the rule that ended it."""

    runs: Mapping[str, list[Stages]]
    ended: str
    warm_ups: Mapping[str, list[Stages]] = field(default_factory=dict)

    def samples(self, who: str) -> list[float]:
        return [sum(run.values()) for run in self.runs[who]]

    def ms(self, who: str) -> float:
        return statistics.median(self.samples(who))

    def ratio(self, who: str, to: str) -> Estimate:
        """Time of `who` / time of `to`: the median over the rounds."""
        ratios = np.divide(self.samples(who), self.samples(to))
        picked = np.random.default_rng(0).integers(len(ratios), size=(RESAMPLES, len(ratios)))
        return Estimate(float(np.median(ratios)), *bounds(np.median(ratios[picked], axis=1)))


def timed(stages: Stages, name: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call `function`, put its milliseconds into `stages[name]`, and return its result."""
    start = time.perf_counter()
    result = function(*args)
    stages[name] = 1000 * (time.perf_counter() - start)
    return result


def bounds(resampled: np.ndarray) -> tuple[float, float]:
    """The interval that holds `CONFIDENCE` of the resampled figures."""
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def take_turns(contenders: Mapping[str, Contender], rounds: int | None = None, seconds: float | None = None) -> Timing:
    """Time them for `rounds`, or until a rule ends it, at the latest after `seconds` (`MAX_SECONDS`) of each."""
    order = np.random.default_rng(0)
    warm_ups = {who: [run() for _ in range(WARM_UPS)] for who, run in contenders.items()}
    timing = Timing({who: [] for who in contenders}, f"{rounds} rounds", warm_ups)
    deviations: list[float] = []
    while True:
        for who in order.permutation(list(contenders)):
            timing.runs[who].append(contenders[who]())
        totals = [timing.samples(who) for who in contenders]
        deviations.append(max(map(_deviation, totals)))
        if rounds is None and (ended := _ended(totals, deviations, seconds or MAX_SECONDS)):
            return Timing(timing.runs, ended, warm_ups)
        if len(deviations) == rounds:
            return timing


def _ended(totals: list[list[float]], deviations: list[float], most: float) -> str | None:
    """The rule that is met: `totals` are the contenders' ms, `deviations` the worst contender's after each round."""
    seconds = [sum(samples) / 1000 for samples in totals]
    if sum(seconds) > most * len(totals) and len(deviations) >= FEWEST:
        return f"{most:g} s a contender"
    if len(deviations) < MIN_ROUNDS or min(seconds) < MIN_SECONDS:
        return None
    if deviations[-1] < STEADY:
        return f"deviation below {100 * STEADY:g} %"
    before = deviations[MIN_ROUNDS - 1 : -WINDOW]  # a deviation of a few samples says nothing
    if before and min(deviations[-WINDOW:]) > 0.95 * min(before):
        return "deviation no longer improving"
    return None


def _deviation(samples: list[float]) -> float:
    """1.4826 MAD / median: the relative standard deviation, if they were normally distributed."""
    middle = np.median(samples)
    return float(1.4826 * np.median(np.abs(np.array(samples) - middle)) / middle)
