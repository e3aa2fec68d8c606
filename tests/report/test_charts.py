"""The plots as SVG text."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from refinenet_edge.report import charts

NEAR, FAR = {1: [20.0, 21.0, 22.0] * 40, 3: [19.0, 20.0, 25.0] * 40}, {1: [20.0, 21.0], 3: [200.0, 210.0]}


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@pytest.mark.parametrize("draw", [charts.percentiles, charts.histogram])
def test_subjects_are_named_by_number_and_colour(draw: Callable[..., str]) -> None:
    svg = draw("here", NEAR)
    assert {"1", "3", "ms"} <= set(texts(svg))
    assert charts.COLOURS[0] in svg
    assert charts.COLOURS[2] in svg
    assert charts.COLOURS[1] not in svg


def test_the_scale_of_percentiles_ends_where_the_runs_do() -> None:
    assert [text for text in texts(charts.percentiles("a", NEAR)) if text[0] in "pm"] == [
        "min",
        "p50",
        "p90",
        "p99",
        "ms",
    ]
    assert "p90" not in texts(charts.percentiles("a", FAR))


def test_few_runs_are_labelled_to_where_they_end() -> None:
    assert "p96.3" in texts(charts.percentiles("a", {1: [20.0, 21.0, 22.0] * 9}))


@pytest.mark.parametrize(("least", "most"), [(61.24, 61.30), (50.0, 70.0)])
def test_an_axis_of_miou_spans_at_least_a_point(least: float, most: float) -> None:
    found = texts(charts.pareto("a", {1: (10.0, most), 2: (20.0, least)}, {1}))
    shown = [float(text) for text in found if re.fullmatch(r"\d\d(\.\d+)?", text) and float(text) > 25]
    assert max(shown) - min(shown) >= 0.75 * max(1.0, most - least)


def test_times_far_apart_have_a_logarithmic_scale_in_plain_figures() -> None:
    assert {"20", "50", "100", "200"} <= set(texts(charts.percentiles("a", FAR)))


def test_what_is_beaten_is_a_ring() -> None:
    svg = charts.pareto("here", {1: (10.0, 61.0), 2: (20.0, 60.0)}, {1})
    assert f"fill: {charts.COLOURS[0]}" in svg
    assert f"stroke: {charts.COLOURS[1]}" in svg
    assert {"p50, ms", "mIoU, %"} <= set(texts(svg))


def test_parts_are_numbered_within_their_plot() -> None:
    ids = re.findall(r'\bid="([^"]+)"', charts.percentiles("here", NEAR))
    assert ids
    assert all(name.startswith("here-") for name in ids)


def test_text_takes_the_colour_of_the_page() -> None:
    svg = charts.percentiles("here", NEAR)
    label = re.search(r"<text([^>]*)>p50</text>", svg)
    assert label
    assert "fill" not in label[1]
    assert "<metadata" not in svg


def test_the_same_samples_make_the_same_plot() -> None:
    assert charts.histogram("here", NEAR) == charts.histogram("here", NEAR)


def test_numbers_beside_each_other_do_not_overlap() -> None:
    assert charts._apart({1: 0.5, 2: 0.5, 3: 0.1}, 0.1) == pytest.approx({3: 0.1, 1: 0.5, 2: 0.6})
    assert charts._apart({1: 1.0, 2: 0.99}, 0.1) == pytest.approx({2: 0.9, 1: 1.0})


def test_a_ninth_subject_has_the_first_colour_again() -> None:
    assert charts.colour(9) == charts.colour(1) != charts.colour(2)


def test_runs_that_all_took_as_long_have_a_histogram() -> None:
    assert "1" in texts(charts.histogram("a", {1: [20.0] * 30}))
