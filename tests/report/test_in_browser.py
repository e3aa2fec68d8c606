"""The page in a real browser: on a phone, on a desktop, in the dark and on paper."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refinenet_edge.report import page
from tests.browser import DESKTOP, PHONE, browser, complaints, resize
from tests.report.made_up import MACHINE, full_run, judged_run, run

TARGETS = """
return [...document.querySelectorAll('a[href]')].filter(a => !document.querySelector(a.getAttribute('href'))).length
"""
SHOWN = """
return [...document.querySelectorAll('details > :not(summary)')].map(part => part.checkVisibility())
"""
# what sticks out of the page without a box of its own to scroll in
WIDE = """
return [...document.querySelectorAll('body *')].filter(part =>
    !part.closest('.scroll table') && part.getBoundingClientRect().right > document.documentElement.clientWidth + 1
).map(part => part.outerHTML.slice(0, 80))
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("report") / "report.html"
    long = "a_board_with_a_name_that_has_no_place_to_break_" * 3
    odd = run(machine=replace(MACHINE, device=long))
    path.write_text(page([("result.json", full_run()), (f"{long}.json", odd)]), "utf-8")
    with browser(*DESKTOP) as opened:
        opened.get(path.as_uri())
        yield opened


def emulate(driver: Any, media: str = "", **features: str) -> None:
    asked = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": asked})


@pytest.mark.parametrize("screen", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_nothing_sticks_out(driver: Any, screen: tuple[int, int]) -> None:
    resize(driver, *screen)
    assert driver.execute_script("return innerWidth") == screen[0]
    scrolled, seen = driver.execute_script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert scrolled == seen
    assert driver.execute_script(WIDE) == []


def test_no_complaint_in_the_console(driver: Any) -> None:
    driver.refresh()
    assert complaints(driver) == []


def test_the_plots_are_drawn(driver: Any) -> None:
    sizes = driver.execute_script(
        "return [...document.querySelectorAll('svg')].filter(svg => svg.checkVisibility())"
        ".map(svg => [svg.clientWidth, svg.clientHeight])"
    )
    assert len(sizes) == 6  # two a case and one of mIoU, in two runs; those of the folded case wait
    assert all(width > 300 and height > 100 for width, height in sizes)


def test_the_examples_are_seen(driver: Any, tmp_path: Path) -> None:
    path = tmp_path / "examples.html"
    path.write_text(page([("result.json", judged_run())]), "utf-8")
    complaints(driver)
    driver.get(path.as_uri())
    try:
        for screen in (PHONE, DESKTOP):
            resize(driver, *screen)
            widths = driver.execute_script("return [...document.images].map(i => [i.naturalWidth, i.clientWidth])")
            assert len(widths) == 6 and all(natural == 50 and seen > 150 for natural, seen in widths)
            assert driver.execute_script(WIDE) == []
        assert complaints(driver) == []
    finally:
        driver.back()


def test_a_phone_shows_verdict_and_ratio_without_scrolling(driver: Any) -> None:
    resize(driver, *PHONE)
    rows = driver.execute_script(
        "const table = document.querySelector('#run-1-times').closest('section').querySelector('table');"
        "return [...table.rows].map(row => [...row.cells].slice(0, 4).map(cell => ["
        "cell.getBoundingClientRect().right, cell.scrollWidth > cell.clientWidth]))"
    )
    assert len(rows) == 3 and all(right <= PHONE[0] and not cut for row in rows for right, cut in row)
    heights = driver.execute_script("return [...document.querySelectorAll('td.long')].map(cell => cell.clientHeight)")
    assert max(heights) < 60  # what is to be scrolled to makes no row tall
    resize(driver, *DESKTOP)


def test_every_link_leads_somewhere(driver: Any) -> None:
    assert driver.execute_script(TARGETS) == 0
    driver.find_element("css selector", "a[href='#run-2-reproduce']").click()
    assert driver.current_url.endswith("#run-2-reproduce")
    top = driver.execute_script("return document.querySelector('#run-2-reproduce').getBoundingClientRect().top")
    assert 0 <= top < DESKTOP[1]


def test_what_is_folded_opens_and_closes_at_a_click(driver: Any) -> None:
    driver.refresh()
    assert not any(driver.execute_script(SHOWN))
    for details in driver.find_elements("css selector", "article:first-child details"):
        if details.is_displayed():
            summary, content = details.find_elements("css selector", "summary, :scope > :not(summary)")[:2]
            summary.click()
            assert content.is_displayed()
            summary.click()
            assert not content.is_displayed()


def test_it_is_dark_where_the_reader_likes_it_dark(driver: Any) -> None:
    script = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    emulate(driver, prefers_color_scheme="dark")
    dark = driver.execute_script(script)
    emulate(driver, prefers_color_scheme="light")
    assert driver.execute_script(script) == ["rgb(255, 255, 255)", "rgb(27, 32, 39)"]
    assert dark == ["rgb(20, 23, 27)", "rgb(231, 234, 238)"]
    label = "return getComputedStyle(document.querySelector('.chart text:not([style*=fill])')).fill"
    assert driver.execute_script(label) == "rgb(27, 32, 39)"
    emulate(driver, prefers_color_scheme="dark")
    assert driver.execute_script(label) == "rgb(231, 234, 238)"
    emulate(driver)


def test_on_paper_everything_is_open_and_light(driver: Any) -> None:
    driver.refresh()
    emulate(driver, "print", prefers_color_scheme="dark")
    assert all(driver.execute_script(SHOWN))
    heights = driver.execute_script("return [...document.querySelectorAll('details table')].map(t => t.clientHeight)")
    assert min(heights) > 20
    assert driver.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert driver.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"
    emulate(driver)
