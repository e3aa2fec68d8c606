"""Numbers as they are printed, and the sentences for what can come out of a run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refinenet_edge.bench.measure import Estimate
from refinenet_edge.bench.verdicts import Verdict
from refinenet_edge.report.words import moment, number, sentence, size
from tests.report.made_up import measured, run, subject

TOOK = "11.0 ms for a frame of 512x512, the slowest of 20 took 12.0 ms, 90.9 frames per second."


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (0, "0"),
        (0.0124, "0.012"),
        (0.5, "0.500"),
        (1.234, "1.23"),
        (9.996, "10.0"),
        (99.96, "100"),
        (1234.4, "1234"),
        (float("nan"), "nan"),
    ],
)
def test_a_number_has_three_digits(value: float, printed: str) -> None:
    assert number(value) == printed


def test_bytes_and_moments_are_printed_in_their_unit() -> None:
    assert [size(count) for count in (0, 300 << 20, 8 << 30)] == ["0 MiB", "300 MiB", "8.00 GiB"]
    assert moment("2026-11-24T11:00:59+01:00") == "2026-11-24 10:00 UTC"
    assert moment("2026-11-24T10:00") == "2026-11-24 10:00 UTC"
    assert moment("yesterday") == "yesterday"


def test_the_fastest_is_named_with_what_it_gains_and_costs() -> None:
    assert sentence(run()) == (
        f"On Some board, int8 is the fastest of 2: {TOOK} "
        "It is 2.00 (2.00 to 2.00) times as fast as fp32. "
        "It costs 0.30 points of mIoU: 61.20 % on scenes:1:20 against 61.50 %."
    )


def test_a_reference_that_is_the_fastest_is_compared_with_the_next() -> None:
    found = sentence(run(measurements=(measured("fp32", 0.5), measured("int8", 1.0))))
    assert f"fp32 is the fastest of 2: {TOOK} Next is int8, 0.500 (0.500 to 0.500) times as fast. " in found
    assert found.endswith("mIoU: 61.50 % on scenes:1:20.")


def test_one_subject_is_compared_with_none() -> None:
    found = sentence(run(measurements=(measured("int8", 0.5),)))
    assert found.startswith(
        "On Some board, int8 takes 11.0 ms for a frame of 512x512, the slowest of 20 took 12.0 ms: 90.9 "
    )


@pytest.mark.parametrize(
    ("word", "doubt"), [("same", ": no difference that counts."), ("unclear", ", which is not certain.")]
)
@pytest.mark.parametrize("first", ["fp32", "int8"])
def test_what_is_not_certain_is_not_claimed(word: str, doubt: str, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = Verdict(Estimate(1.01 if first == "fp32" else 0.99, 0.98, 1.02), word)
    monkeypatch.setattr("refinenet_edge.bench.verdicts.ratios", lambda run, case: {"int8": verdict})
    times = {"fp32": 1.0, "int8": 1.0, first: 0.999}
    assert doubt in sentence(run(measurements=tuple(measured(name, of) for name, of in times.items())))


def test_those_within_the_interval_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"b": Estimate(0.5, 0.48, 0.52), "c": Estimate(0.51, 0.5, 0.53), "d": Estimate(0.6, 0.58, 0.62)}
    verdicts = {name: Verdict(times, "faster") for name, times in found.items()}
    monkeypatch.setattr("refinenet_edge.bench.verdicts.ratios", lambda run, case: verdicts)
    said = sentence(
        run(
            subjects=tuple(subject(name, "fp32") for name in "abcd"),
            measurements=tuple(measured(name, of) for name, of in zip("abcd", (1.0, 0.5, 0.51, 0.6), strict=True)),
        )
    )
    assert "as fast as a. Within the intervals, as fast: c. " in said


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (0.615, 0.615, "It costs no mIoU: 61.50 % on scenes:1:20."),
        (0.615, 0.618, "mIoU is higher: 61.80 % on scenes:1:20 against 61.50 %."),
        (None, 0.618, "mIoU: 61.80 % on scenes:1:20."),
        (0.615, None, "Its mIoU was not asked."),
        (None, None, "mIoU was not asked."),
    ],
)
def test_what_speed_costs_is_said(before: float | None, after: float | None, said: str) -> None:
    assert sentence(run(subjects=(subject("fp32", "fp32", before), subject("int8", "int8", after)))).endswith(said)


def test_figures_of_different_judges_are_not_subtracted() -> None:
    other = subject("int8", "int8", 0.618)
    found = sentence(run(subjects=(subject("fp32", "fp32", 0.615), replace(other, judge="voc"))))
    assert found.endswith("mIoU: 61.80 % on voc.")


def test_a_run_of_nothing_says_so() -> None:
    assert sentence(run(measurements=())) == "Nothing was timed on Some board."


def test_of_a_hundred_runs_the_99th_is_told() -> None:
    found = sentence(run(measurements=(measured("int8", 0.5, ms=(10.0,) * 98 + (20.0,) * 2),)))
    assert "10.0 ms for a frame of 512x512, 99 of 100 within 20.0 ms: " in found
