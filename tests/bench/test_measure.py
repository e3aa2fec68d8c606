"""Statistics on fixed numbers, and the rules that end a measurement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from refinenet_edge.bench import Stages, Timing, measure, take_turns, timed


def timing(**samples: Sequence[float]) -> Timing:
    return Timing({who: [{"all": ms} for ms in runs] for who, runs in samples.items()}, "given")


class Clock:
    """A contender that says the next of `ms`, again and again."""

    def __init__(self, *ms: float) -> None:
        self.ms, self.runs = ms, 0

    def __call__(self) -> Stages:
        self.runs += 1
        return {"all": self.ms[(self.runs - 1) % len(self.ms)]}


def test_figures_are_medians() -> None:
    held = Timing({"a": [{"x": 1.0, "y": 5.0}, {"x": 2.0, "y": 5.0}, {"x": 9.0, "y": 1.0}]}, "given")
    assert held.samples("a") == [6.0, 7.0, 10.0]
    assert held.ms("a") == 7.0


def test_a_ratio_is_that_of_the_rounds() -> None:
    # the machine slows down in the third round, for both: no round says anything but 2
    found = timing(a=[2.0, 4.0, 20.0], b=[1.0, 2.0, 10.0]).ratio("a", "b")
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)


def test_an_interval_holds_the_ratio() -> None:
    rng = np.random.default_rng(3)
    found = timing(a=list(rng.normal(11, 0.2, 40)), b=list(rng.normal(10, 0.2, 40))).ratio("a", "b")
    assert found.low < 1.1 < found.high
    assert found.high - found.low < 0.05
    assert str(found) == f"{found.value:.2f} ({found.low:.2f}..{found.high:.2f})"


def test_warm_ups_are_not_counted() -> None:
    first, second = Clock(1.0), Clock(2.0)
    found = take_turns({"first": first, "second": second}, rounds=5)
    assert found.samples("first") == [1.0] * 5
    assert first.runs == second.runs == 5 + measure.WARM_UPS
    assert found.ended == "5 rounds"


def test_a_steady_contender_ends_it_when_there_is_enough() -> None:
    found = take_turns({"only": Clock(100.0)})
    assert found.ended == "deviation below 0.5 %"
    assert len(found.samples("only")) == measure.MIN_ROUNDS


def test_what_no_longer_improves_ends_it() -> None:
    assert take_turns({"only": Clock(80.0, 100.0, 120.0)}).ended == "deviation no longer improving"


@pytest.mark.parametrize(("seconds", "rounds"), [(measure.MAX_SECONDS, 16), (3.0, 5)])
def test_time_ends_it(seconds: float, rounds: int) -> None:
    found = take_turns({"only": Clock(1000.0)}, seconds=seconds)
    assert found.ended == f"{seconds:g} s a contender" or len(found.samples("only")) == measure.MIN_ROUNDS
    assert len(found.samples("only")) <= rounds


def test_a_slow_contender_runs_often_enough_for_an_interval() -> None:
    found = take_turns({"slow": Clock(60_000.0, 61_000.0), "fast": Clock(30_000.0)}, seconds=3.0)
    assert len(found.samples("slow")) == measure.FEWEST
    ratio = found.ratio("slow", "fast")
    assert ratio.low < ratio.high


def test_a_stage_is_timed_and_gives_its_result() -> None:
    stages: Stages = {}
    assert timed(stages, "add", lambda a, b: a + b, 2, 3) == 5
    assert stages["add"] >= 0
