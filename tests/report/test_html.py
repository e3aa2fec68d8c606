"""The page as a parser sees it: the figures, what is absent, and that nothing of a record becomes markup."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from typing import Any

import pytest

from refinenet_edge.bench.record import BenchmarkRun, Case
from refinenet_edge.bench.verdicts import ALIKE, CLEARLY
from refinenet_edge.report import markdown, page
from refinenet_edge.report.charts import COLOURS
from refinenet_edge.report.html import STAGE_COLOURS
from tests.report.made_up import MACHINE, full_run, measured, run, subject

VOID = {"meta", "link", "img", "br", "hr", "input", "path", "use"}
SILENT = "this machine does not say"


class Page(HTMLParser):
    """`tags` with their attributes, the text, and the tables `found`: caption, rows of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.found: list[tuple[str, list[list[str]]]] = []
        self._open: list[str] = []
        self._caption = ""
        self.feed(text)
        assert self._open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "figcaption":
            self._caption = ""
        if tag == "table":
            self.found.append((" ".join(self._caption.split()), []))
        if tag == "tr":
            self.found[-1][1].append([])
        if tag in ("th", "td"):
            self.found[-1][1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.words.append(data)
        if "figcaption" in self._open:
            self._caption += data
        if {"th", "td"} & set(self._open):
            row = self.found[-1][1][-1]
            row[-1] = " ".join(f"{row[-1]} {data}".split())

    def table(self, start: str) -> list[list[str]]:
        """The table whose caption starts so."""
        return next(rows for caption, rows in self.found if caption.startswith(start))

    def values(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.tags if name in attrs]


@pytest.fixture(scope="module")
def text() -> str:
    return page([("result.json", full_run())])


@pytest.fixture(scope="module")
def full(text: str) -> Page:
    return Page(text)


def test_the_summary_is_of_the_data(full: Page) -> None:
    assert "On Some board, int8 is the fastest of 2: 11.0 ms for a frame of 512x512" in full.text
    assert "It is 2.00 (2.00 to 2.00) times as fast as fp32. It costs 0.30 points of mIoU" in full.text


def test_every_subject_has_its_times_and_its_ratio(full: Page) -> None:
    assert full.table("ms from frame to labels for a frame of 512x512.") == [
        ["subject", "p50", "verdict", "times as fast", "min", "p90", "p99", "max", "jitter", "frames/s", "runs"],
        ["1 fp32", "22.0", "", "reference", "20.0", "24.0", "24.0", "24.0", "2.00", "45.5", "20"],
        ["2 int8", "11.0", "faster", "2.00 (2.00 to 2.00)", "10.0", "12.0", "12.0", "12.0", "1.00", "90.9", "20"],
    ]


def test_the_words_of_a_verdict_are_explained_where_they_stand(full: Page) -> None:
    assert "Faster or slower: the whole interval lies more than 1 % beyond 1. Same: within 2 % of 1." in full.text
    assert (CLEARLY, ALIKE) == (0.01, 0.02)


def test_no_stage_has_the_colour_of_a_subject() -> None:
    def channels(colour: str) -> list[int]:
        return list(bytes.fromhex(colour[1:]))

    for stage in STAGE_COLOURS.values():
        for subject_colour in COLOURS:
            assert max(abs(a - b) for a, b in zip(channels(stage), channels(subject_colour), strict=True)) >= 40


def test_few_runs_are_said_to_be_few() -> None:
    few, many = (Page(page([("a", run(measurements=(measured("fp32", 1.0, ms=(20.0, 21.0) * n),)))])) for n in (10, 50))
    assert "Fewer than 100 runs" in few.text
    assert "Fewer than 100 runs" not in many.text


def test_the_ladder_starts_with_the_fastest(full: Page) -> None:
    assert full.table("From the fastest to the slowest, judged on scenes:1:20. ★ no other")[1:] == [
        ["2 int8 ★", "11.0", "faster", "61.20 %", "90.9", "int8", "openvino", "rf_lw_mbv2, scenes"],
        ["1 fp32 ★", "22.0", "reference", "61.50 %", "45.5", "fp32", "openvino", "rf_lw_mbv2, scenes"],
    ]
    assert "Accuracy beside time" in full.values("aria-label")


def test_a_subject_that_is_beaten_has_no_star() -> None:
    found = Page(page([("a", run(subjects=(subject("fp32", "fp32", 0.6), subject("int8", "int8", 0.6))))]))
    assert [row[0] for row in found.table("From the fastest")[1:]] == ["2 int8 ★", "1 fp32"]


def test_without_miou_there_is_no_plot_of_it() -> None:
    found = Page(page([("a", run(subjects=(subject("fp32", "fp32"), subject("int8", "int8"))))]))
    assert found.table("From the fastest to the slowest. mIoU was not asked.")[1][1:4] == ["11.0", "faster", "90.9"]
    assert "Accuracy beside time" not in found.values("aria-label")


def test_miou_of_different_images_is_not_compared() -> None:
    others = (subject("fp32", "fp32", 0.6), replace(subject("int8", "int8", 0.7), judge="voc"))
    found = Page(page([("a", run(subjects=others))]))
    assert "mIoU was judged on different images (voc; scenes:1:20): it says nothing about which is better" in found.text
    assert "★" not in found.text
    assert "Accuracy beside time" not in found.values("aria-label")


def test_stages_are_medians_in_the_order_of_a_frame(full: Page) -> None:
    shown = [rows for caption, rows in full.found if caption == "The same in figures, ms."]
    assert shown == [
        [["subject", "engine", "head"], ["1 fp32", "235", "117"], ["2 int8", "117", "58.7"]],
        [["subject", "engine", "head"], ["1 fp32", "14.7", "7.33"], ["2 int8", "7.33", "3.67"]],
    ]


def test_all_cases_are_in_one_table(full: Page) -> None:
    assert full.table("Median ms of each case") == [
        ["case", "1 fp32", "2 int8"],
        ["512x512", "22.0 45.5/s", "11.0 90.9/s"],
        ["1024x2048, batch 4", "352 2.84/s", "176 5.68/s"],
    ]
    assert "ms from frame to labels for 4 frames of 1024x2048 at once." in full.text


def test_blocks_come_with_their_layers_the_most_costly_first(full: Page) -> None:
    assert re.search(r"2 int8 12\.0 ms refine1\.crp 9\.00 ms 75 %", full.text)
    assert full.table("Layers of encoder.layer1")[1:] == [
        ["conv2", "Convolution_I8", "2.00"],
        ["conv1", "Convolution_I8", "1.00"],
    ]


def test_starts_and_memory(full: Page) -> None:
    assert full.table("Each in a process of its own")[1:] == [
        ["1 fp32", "250", "40.0", "300 MiB", SILENT],
        ["2 int8", "300", "30.0", "200 MiB", "64.0 MiB"],
    ]


def test_stages_have_their_percentiles(full: Page) -> None:
    assert full.table("Each stage by itself, ms for a frame of 512x512.")[1:] == [
        ["1 fp32", "engine", "13.3", "14.7", "16.0", "16.0", "16.0", "1.33", "68.2"],
        ["1 fp32", "head", "6.67", "7.33", "8.00", "8.00", "8.00", "0.667", "136"],
        ["2 int8", "engine", "6.67", "7.33", "8.00", "8.00", "8.00", "0.667", "136"],
        ["2 int8", "head", "3.33", "3.67", "4.00", "4.00", "4.00", "0.333", "273"],
    ]


def test_camera_to_screen(full: Page) -> None:
    row = ["2 int8", "scenes, 512x512", "22.0", "24.0", "24.0", "24.0", "31.5", "7"]
    assert full.table("The newest frame first")[1:] == [row]
    blind = Page(page([("a", run(screens=(replace(full_run().screens[0], age_ms=()),)))]))
    assert blind.table("The newest frame first")[1][2:] == ["no picture was shown", "31.5", "7"]


def test_what_a_machine_does_not_say_is_said(full: Page) -> None:
    assert full.table("Each running alone.")[1:] == [
        ["1 fp32", "0.166 J", "VDD_IN 7.50 W", "gpu 61 °C", "gpu 306 to 918 MHz", "power cap", "450 frames in 10.0 s"],
        ["2 int8", *[SILENT] * 5, "900 frames in 10.0 s"],
    ]
    bare = Page(page([("a", run(machine=replace(MACHINE, power_mode=None, memory_bytes=None), commit=None))]))
    assert f"memory {SILENT} power mode {SILENT}" in bare.text
    assert "commit of the toolkit not from a checkout" in bare.text


def test_no_reason_to_throttle_is_none_and_a_fixed_clock_one_figure() -> None:
    power = replace(full_run().power[0], throttled=(), mhz={"gpu": (918.0, 918.0)})
    assert Page(page([("a", run(power=(power,)))])).table("Each running alone.")[1][4:6] == ["gpu 918 MHz", "none"]


def test_what_was_not_measured_has_no_section() -> None:
    found = Page(page([("a", run(measurements=(measured("fp32", 1.0, stages={}),)))]))
    titles = {"Stages of a frame", "Blocks of the network", "Start and memory", "All cases", "Notes", "Power and heat"}
    assert not [title for title in titles if title in found.text]


def test_a_run_of_nothing_is_a_page() -> None:
    assert "Nothing was timed on Some board." in Page(page([("a", run(measurements=()))])).text


def test_it_can_be_reproduced(full: Page) -> None:
    for said in (full_run().command, "c0ffee", "5f" * 32, "measured until 20 rounds", "refinenet_edge 0.1", "15W"):
        assert said in full.text
    assert full.table("Warm-ups ran first")[1] == ["1 fp32", "2", "90.0", "30.0", "20 rounds"]
    assert "fp16 was asked for and this CPU has none" in full.text


def test_it_needs_nothing_else(text: str, full: Page) -> None:
    assert not {"link", "script", "img", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in full.tags}
    assert not full.values("src")
    assert "default-src 'none'" in " ".join(full.values("content"))
    references = [*full.values("href"), *full.values("xlink:href"), *re.findall(r"url\(([^)]*)\)", text)]
    ids = Counter(full.values("id"))
    assert references
    assert {reference[0] for reference in references} == {"#"}
    assert {reference[1:] for reference in references} <= set(ids)
    assert set(ids.values()) == {1}
    assert "@import" not in text
    assert ("html", {"lang": "en"}) in full.tags


def test_several_networks_are_not_in_the_title() -> None:
    others = (subject("fp32", "fp32"), subject("int8", "int8", model="rf50"))
    assert " Some board 2026-11-24 10:00 UTC" in Page(page([("a", run(subjects=others))])).text


def test_two_runs_are_two_articles_with_contents() -> None:
    text = page([("a.json", full_run()), ("b.json", run(machine=replace(MACHINE, device="Another board")))])
    found = Page(text)
    assert [tag for tag, _ in found.tags].count("article") == 2
    assert "2 benchmarks rf_lw_mbv2 on Some board a.json" in found.text
    assert "#run-2" in found.values("href")
    assert set(Counter(found.values("id")).values()) == {1}
    assert {href[1:] for href in found.values("href")} <= set(found.values("id"))


def test_the_same_runs_make_the_same_page(text: str) -> None:
    assert page([("result.json", full_run())]) == text


HOSTILE = "</style><script>alert(1)</script>\"'> onload=x $\\frac{ {{ 7 * 7 }} é漢\n"


def poisoned(value: Any, by: str = HOSTILE) -> Any:
    """`value` with something hostile behind every text in it."""
    if isinstance(value, str):
        return value + by
    if isinstance(value, tuple):
        return tuple(poisoned(item, by) for item in value)
    if isinstance(value, dict):
        return {poisoned(name, by): poisoned(item, by) for name, item in value.items()}
    if is_dataclass(value):
        return replace(value, **{f.name: poisoned(getattr(value, f.name), by) for f in fields(value)})
    return value


def test_nothing_in_a_record_becomes_markup(full: Page) -> None:
    given: BenchmarkRun = poisoned(full_run())
    found = Page(page([("result.json" + HOSTILE, given)]))
    assert Counter(tag for tag, _ in found.tags) == Counter(tag for tag, _ in full.tags)
    names = {name for _, attrs in full.tags for name in attrs}
    assert {name for _, attrs in found.tags for name in attrs} == names
    assert "int8</style><script>alert(1)</script>" in found.text
    assert "{{ 7 * 7 }}" in found.text


def test_no_secret_of_a_url_is_on_a_page_or_in_markdown() -> None:
    """Results that others or earlier releases wrote may have them."""
    given: BenchmarkRun = poisoned(full_run(), " rtsp://admin:hunter2@cam/a?key=abc")
    for made in (page([("result.json", given)]), markdown([("result.json", given)])):
        assert "rtsp://cam/a" in made
        assert not [part for part in ("admin", "hunter2", "abc") if part in made]


def test_a_case_without_the_reference_has_no_ratios() -> None:
    found = Page(page([("a", run(measurements=(measured("int8", 0.5), measured("int8", 4.0, Case((8, 8))))))]))
    assert found.table("Median ms of each case")[1:] == [["512x512", "–", "11.0 90.9/s"], ["8x8", "–", "88.0 11.4/s"]]


def test_batches_have_the_time_of_a_frame_and_of_all() -> None:
    times = {1: 40.0, 2: 44.0, 4: 64.0, 8: 126.0}
    measurements = tuple(
        measured("a", 1.0, Case((64, 96), batch), ms=(ms,) * 5, stages={}) for batch, ms in times.items()
    )
    subjects = (subject("a", "fp32"),)
    shown = Page(page([("run", run(subjects=subjects, measurements=measurements))]))
    ((_, table),) = [one for one in shown.found if one[0].startswith("Median ms of a frame by how many")]
    assert [cell.split() for cell in table[0][1:]] == [["1"], ["2"], ["4"], ["8"]]
    assert [cell.split() for cell in table[1][1:]] == [
        ["40.0", "40.0"],
        ["22.0", "44.0"],
        ["16.0", "64.0"],
        ["15.8", "126"],
    ]
    alone = Page(page([("run", run(subjects=subjects, measurements=measurements[:1]))]))
    assert "Several frames at once" in shown.text
    assert "Several frames at once" not in alone.text
