"""Verdicts on fixed intervals and on planted slowdowns."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from refinenet_edge.bench.measure import Estimate
from refinenet_edge.bench.record import BenchmarkRun, Case
from refinenet_edge.bench.verdicts import batch_curves, compare, ratios, word
from refinenet_edge.errors import InputError
from tests.bench.runs import CASE, MACHINE, measurement, run


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (1.02, 1.30, "slower"),
        (1.011, 1.015, "slower"),
        (0.70, 0.98, "faster"),
        (0.99, 1.01, "same"),
        (0.985, 1.015, "same"),
        (0.97, 1.01, "unclear"),
        (0.99, 1.05, "unclear"),
    ],
)
def test_words(low: float, high: float, says: str) -> None:
    assert word(Estimate((low + high) / 2, low, high)) == says


def noisy(trial: int, slowdown: float, rounds: int = 40) -> BenchmarkRun:
    """Two subjects in turn, the second `slowdown` times as long; 3 % noise each, drift, and now and then a hiccup."""
    dice = np.random.default_rng(trial)
    drift = 20 * (1 + 0.1 * np.sin(np.arange(rounds) / 7))
    hiccups = np.where(dice.random((2, rounds)) < 0.05, 1.5, 1.0)
    first, second = drift * dice.lognormal(0, 0.03, (2, rounds)) * hiccups
    return run(measurement("ours", *first), measurement("theirs", *(slowdown * second)))


def test_a_planted_slowdown_is_slower() -> None:
    words = [ratios(noisy(trial, 1.10), CASE)["theirs"].word for trial in range(20)]
    assert words.count("slower") >= 19


def test_an_identical_pair_is_the_same_or_unclear() -> None:
    words = [ratios(noisy(trial, 1.0), CASE)["theirs"].word for trial in range(20)]
    assert words.count("same") + words.count("unclear") >= 19


def test_a_planted_slowdown_between_two_runs() -> None:
    def alone(trial: int, slowdown: float) -> BenchmarkRun:
        ms = 20 * slowdown * np.random.default_rng(trial).lognormal(0, 0.03, 40)
        return run(measurement("ours", *ms))

    for slowdown, words in ((1.10, {"slower"}), (1.0, {"same", "unclear"})):
        found = [compare(alone(trial, 1.0), alone(100 + trial, slowdown))[0] for trial in range(20)]
        assert sum(change.verdict.word in words for change in found) >= 19
        assert (
            sum(change.regressed(0.05) for change in found) >= 19
            if slowdown > 1
            else not any(change.regressed(0.05) for change in found)
        )


def test_ratios_are_of_the_first_subject_and_exact() -> None:
    whole = run(measurement("ours", 10.0, 20.0, 40.0), measurement("theirs", 15.0, 30.0, 60.0))
    verdicts = ratios(whole, CASE)
    assert list(verdicts) == ["theirs"] and verdicts["theirs"].times == Estimate(1.5, 1.5, 1.5)


def test_a_case_without_the_first_subject_has_no_ratios() -> None:
    other = Case((64, 64))
    whole = run(measurement("ours", 10.0), measurement("theirs", 10.0, case=other))
    assert ratios(whole, other) == {}


def test_changes() -> None:
    before = run(measurement("ours", 10.0, 10.0), miou=0.80)
    after = run(measurement("ours", 12.0, 12.0), miou=0.75)
    (change,) = compare(before, after)
    assert (change.before_ms, change.after_ms, change.verdict.times.value) == (10.0, 12.0, 1.2)
    assert change.miou == pytest.approx(-5.0)
    assert change.regressed(0.19) and not change.regressed(0.2)
    assert compare(after, before)[0].verdict.word == "faster"


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"power_mode": "MAXN"}, "different power modes: 15W and MAXN"),
        ({"device": "Desk"}, "different devices: Board and Desk"),
    ],
)
def test_other_devices_and_power_modes_are_refused_unless_forced(other: dict[str, str], says: str) -> None:
    before, after = (
        run(measurement("ours", 10.0)),
        run(measurement("ours", 10.0), machine=dataclasses.replace(MACHINE, **other)),
    )
    with pytest.raises(InputError, match=rf"{says}.*--force"):
        compare(before, after)
    assert compare(before, after, force=True)[0].verdict.word == "same"


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(InputError, match="no subject and case in common: ours and theirs"):
        compare(run(measurement("ours", 10.0)), run(measurement("theirs", 10.0)))


def test_a_miou_on_other_frames_is_not_compared() -> None:
    before, after = (run(measurement("ours", 10.0), miou=0.8) for _ in range(2))
    other = dataclasses.replace(after, subjects=(dataclasses.replace(after.subjects[0], judge="voc"),))
    assert compare(before, after)[0].miou == 0 and compare(before, other)[0].miou is None


def test_where_more_frames_at_once_gain_little() -> None:
    ms = {4: (100.0, 90.0, 110.0), 1: (100.0,), 8: (190.4,), 2: (100.0,)}
    batches = (measurement("a", *times, case=Case((64, 96), batch)) for batch, times in ms.items())
    (curve,) = batch_curves(run(*batches, measurement("b", 1.0)))
    assert (curve.subject, curve.size, curve.streams) == ("a", (64, 96), 1)
    assert curve.ms == {1: 100.0, 2: 100.0, 4: 100.0, 8: 190.4} and list(curve.ms) == [1, 2, 4, 8]
    assert curve.per_frame == {1: 100.0, 2: 50.0, 4: 25.0, 8: 23.8}
    assert curve.flat_from == 8
    assert dataclasses.replace(curve, ms={**curve.ms, 8: 190.5}).flat_from == 4
    assert dataclasses.replace(curve, ms={1: 10.0, 2: 25.0}).flat_from == 1
