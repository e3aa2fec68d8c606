"""The demo's page in a real browser: the picture moves, the figures change, every control does what it says."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refinenet_edge.demo import Captured, LiveSource, Model, Show
from refinenet_edge.demo.web import Web
from refinenet_edge.errors import InputError
from refinenet_edge.frames import CapturedFrames
from refinenet_edge.labels import VOC
from refinenet_edge.overlay import OverlayStyle
from tests.browser import DESKTOP, PHONE, browser, complaints, resize
from tests.demo.fakes import THREE, segmenter, ticking
from tests.demo.test_show import running

# the picture that is on the page now, as a number: 0 while there is none
PICTURE = """
const picture = document.getElementById("picture");
if (!picture.naturalWidth) return 0;
const canvas = new OffscreenCanvas(picture.naturalWidth, picture.naturalHeight);
const context = canvas.getContext("2d", {willReadFrequently: true});
context.drawImage(picture, 0, 0);
return context.getImageData(0, 0, canvas.width, canvas.height).data.reduce((sum, byte) => (31 * sum + byte) % 1e9, 1);
"""
SIZE = "const picture = document.getElementById('picture'); return [picture.naturalWidth, picture.naturalHeight];"
TEXT = "return document.getElementById(arguments[0]).textContent"
# what sticks out of the page
WIDE = """
return [...document.querySelectorAll("body *")].filter((part) =>
    part.getBoundingClientRect().right > document.documentElement.clientWidth + 1
).map((part) => part.outerHTML.slice(0, 80))
"""
# controls that a keyboard cannot reach, or that have no name
UNREACHABLE = """
return [...document.querySelectorAll("button, select, input, a[href], summary")].filter((part) =>
    part.tabIndex < 0 || !(part.textContent.trim() || part.closest("label")?.textContent.trim())
).map((part) => part.outerHTML)
"""


# of each camera's tile: its state, what is under it, where it is, and whether colours are in its middle
TILES = """
return [...document.querySelectorAll("#cameras li")].map((item) => {
    const canvas = item.querySelector("canvas"), {left, top, width, height} = canvas.getBoundingClientRect();
    const context = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
    context.drawImage(canvas, canvas.width / 2, 0.7 * canvas.height, 1, 1, 0, 0, 1, 1);
    const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
    const text = item.querySelector("span").textContent;
    return {state: item.dataset.state, text, left, top, width, height, colours: Math.max(red, green, blue)
        - Math.min(red, green, blue) > 10, button: item.querySelector("button").getAttribute("aria-label")};
});
"""


class Camera:
    """A fast camera that can be unplugged; its frames know their truth."""

    def __init__(self) -> None:
        self.unplugged = False

    def frames(self) -> CapturedFrames:
        for item in ticking(0.01, size=(240, 320))():
            if self.unplugged:
                raise InputError("it is unplugged")
            yield Captured(item.frame, item.at, np.zeros(item.frame.shape[:2], np.uint8))


def missing() -> CapturedFrames:
    raise InputError("camera 9 does not open")
    yield


@dataclass
class Page:
    driver: Any
    show: Show
    web: Web
    camera: Camera


@contextlib.contextmanager
def together(driver: Any) -> Iterator[Page]:
    """Three cameras in a grid, and one that is not there."""
    camera, web_sizes = Camera(), ((120, 160), (90, 160))
    sources = [LiveSource("camera", camera.frames, live=True, lasting=True)]
    sources += [LiveSource("small", ticking(0.02, size=size), live=True, lasting=True) for size in web_sizes]
    sources.append(LiveSource("camera 9", missing, live=True, lasting=True))
    show = Show(sources, [Model("street", "fp32", segmenter(0.01))], OverlayStyle(1.0), together=True)
    web = Web(show)
    web.start()
    show.views.append(web)
    with running(show):
        driver.get(web.address)
        until(lambda: [tile["state"] for tile in driver.execute_script(TILES)] == ["live"] * 3 + ["no signal"])
        yield Page(driver, show, web, camera)
        driver.get("about:blank")
    assert complaints(driver) == []


@contextlib.contextmanager
def served(driver: Any = None, **options: Any) -> Iterator[Page]:
    camera = Camera()
    models = [Model("street", "fp32", segmenter(0.01)), Model("street", "int8", segmenter(0.01))]
    models.append(Model("objects", "fp32", segmenter(0.01, VOC)))
    sources = [
        LiveSource("camera", camera.frames, live=True, lasting=True, labels=THREE),
        LiveSource("small", ticking(0.01, size=(120, 160)), live=True, lasting=True),
        LiveSource("camera 9", missing, live=True, lasting=True),
    ]
    show = Show(sources, models, OverlayStyle())
    web = Web(show, **options)
    web.start()
    show.views.append(web)
    with running(show):
        yield Page(driver, show, web, camera)


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    with browser(*DESKTOP) as driver:
        yield driver


@pytest.fixture
def page(opened: Any) -> Iterator[Page]:
    with served(opened) as page:
        opened.get(page.web.address)
        until(lambda: opened.execute_script(PICTURE))
        until(lambda: text(opened, "state") == "live")
        yield page
        assert complaints(opened) == []
        opened.get("about:blank")


def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.03)


def text(driver: Any, name: str) -> str:
    return str(driver.execute_script(TEXT, name))


def click(driver: Any, name: str) -> None:
    driver.find_element("id", name).click()


def press(driver: Any, keys: str) -> None:
    driver.find_element("css selector", "body").send_keys(keys)


def moves(driver: Any) -> bool:
    return len({driver.execute_script(PICTURE) for _ in range(12) if not time.sleep(0.05)}) > 2


def test_the_picture_moves_and_the_figures_change(page: Page) -> None:
    driver = page.driver
    assert moves(driver)
    drops = text(driver, "drops")
    until(lambda: text(driver, "drops") != drops)
    until(lambda: float(text(driver, "fps")) > 5)
    assert "street (fp32) on fake, camera" in text(driver, "running")
    assert float(text(driver, "p50")) >= 10
    until(lambda: float(text(driver, "miou")) > 0)
    assert driver.execute_script("return document.querySelectorAll('#classes label').length") == 3
    assert len(driver.find_elements("css selector", "#bar div")) == 5
    until(lambda: len(driver.find_element("id", "line").get_attribute("points").split()) > 3)


def test_the_axis_of_the_age_chart_holds_what_is_drawn(page: Page) -> None:
    driver = page.driver

    def heights() -> list[str]:
        return [item.text for item in driver.find_elements("css selector", "#heights li")]

    until(lambda: all(heights()))
    top, middle, bottom = (float(label.replace(",", "")) for label in heights())
    assert str(top)[0] in "125" and set(str(int(top))[1:]) <= {"0"} and (middle, bottom) == (top / 2, 0)
    assert [item.text for item in driver.find_elements("css selector", "#moments li")] == ["60 s ago", "30", "now"]
    least, most = (float(age.replace(",", "")) for age in text(driver, "age-range").split(" to "))
    assert 0 < least <= most <= top
    assert (
        driver.execute_script("return roundUp(0.7) + roundUp(20) + roundUp(201) + roundUp(1000)") == 1 + 20 + 500 + 1000
    )


@pytest.mark.parametrize("by_key", [False, True], ids=["mouse", "keyboard"])
def test_buttons(page: Page, by_key: bool) -> None:
    driver = page.driver

    def use(name: str, key: str) -> None:
        if by_key:
            press(driver, key)
        else:
            click(driver, name)

    use("paused", " ")
    until(lambda: text(driver, "state") == "paused" and text(driver, "paused") == "Go on")
    time.sleep(0.3)
    assert not moves(driver)
    use("side_by_side", "b")
    until(lambda: driver.execute_script(SIZE) == [640, 240])  # while it is paused
    use("paused", " ")
    until(lambda: text(driver, "state") == "live")
    assert moves(driver)
    use("side_by_side", "b")
    until(lambda: driver.execute_script(SIZE) == [320, 240])


def test_opacity(page: Page) -> None:
    driver, show = page.driver, page.show
    driver.find_element("id", "opacity").send_keys("\ue012" * 3)  # three times to the left
    until(lambda: show.controls.style.opacity == pytest.approx(0.35))
    until(lambda: text(driver, "opacity-value") == "35 %")
    driver.execute_script("document.activeElement.blur()")
    press(driver, "+")
    until(lambda: show.controls.style.opacity == pytest.approx(0.45))
    press(driver, "-")
    until(lambda: show.controls.style.opacity == pytest.approx(0.35))


def test_classes(page: Page) -> None:
    driver, show = page.driver, page.show
    driver.execute_script("rows[1].firstChild.click()")
    until(lambda: show.controls.style.hidden == {1})
    click(driver, "none")
    checked = "return rows.filter((row) => row.firstChild.checked).length"
    until(lambda: show.controls.style.hidden == {0, 1, 2} and driver.execute_script(checked) == 0)
    click(driver, "all")
    until(lambda: not show.controls.style.hidden and driver.execute_script(checked) == 3)
    third = ["dark", "grey", "light"].index(names(driver, "#classes")[2])  # they keep their places after a click
    press(driver, "3")
    until(lambda: show.controls.style.hidden == {third} and driver.execute_script(checked) == 2)


def names(driver: Any, where: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0] + ' label span')].map((name) => name.textContent)"
    return list(driver.execute_script(script, where))


def test_classes_that_are_not_in_the_picture_are_folded(page: Page) -> None:
    driver, show = page.driver, page.show
    show.change({"model": 2})  # each frame is one class of its 21, after another
    driver.execute_script("window.before = show; show = () => {}")
    until(lambda: len(names(driver, "#classes")) in (3, 21))
    # what the page is told here is made up: the last three classes of 21, then the first alone
    tell = """
    const figures = structuredClone(shown);
    const shares = arguments[0];
    figures.classes = Array.from({length: 21}, (_, i) => ({name: `c${i}`, colour: [i, 99, 0], share: shares[i] ?? 0}));
    figures.controls.style.hidden = arguments[1];
    before(figures);
    """
    driver.execute_script(tell, {"18": 0.5, "19": 0.25, "20": 0.25}, [19])
    assert names(driver, "#present") == ["c18", "c19", "c20"] and names(driver, "#absent")[::17] == ["c0", "c17"]
    assert text(driver, "absent-count") == "18"
    assert not driver.find_element("id", "absent").is_displayed()
    assert driver.find_element("id", "legend").text.split() == ["c18", "c20"]  # c19 is hidden
    swatch = driver.find_element("css selector", "#legend i").value_of_css_property("background-color")
    assert swatch.replace("rgba", "rgb").startswith("rgb(18, 99, 0")
    height = driver.find_element("id", "classes").size["height"]
    driver.execute_script(tell, {"0": 0.999, "18": 0.001}, [])
    assert names(driver, "#present") == ["c0", "c18"]  # still a little of it
    driver.execute_script(tell, {"0": 1.0}, [])
    assert names(driver, "#present") == ["c0"] and text(driver, "absent-count") == "20"
    assert driver.find_element("id", "classes").size["height"] < height < 300
    press(driver, "1")
    until(lambda: show.controls.style.hidden == {0})
    driver.execute_script(tell, {"5": 1.0}, [0])
    assert names(driver, "#present") == ["c0"]  # rows stay where they are while somebody is at them
    click_summary = driver.find_element("css selector", "#others summary")
    click_summary.click()
    assert driver.find_element("id", "absent").is_displayed()
    driver.execute_script("show = before")


def test_models(page: Page) -> None:
    driver, show = page.driver, page.show
    driver.find_element("css selector", "#model option:nth-child(2)").click()
    until(lambda: "street (int8)" in text(driver, "running") and show.controls.model == 1)
    driver.execute_script("document.activeElement.blur()")
    press(driver, "m")
    until(lambda: "objects (fp32)" in text(driver, "running"))
    until(lambda: driver.execute_script("return document.querySelectorAll('#classes label').length") == len(VOC.names))
    assert driver.execute_script("return document.getElementById('model').selectedIndex") == 2
    until(lambda: driver.find_element("id", "miou-tile").get_attribute("hidden"))  # the truth is of other classes


def test_sources(page: Page) -> None:
    driver, show = page.driver, page.show
    driver.find_element("css selector", "#source option:nth-child(2)").click()
    until(lambda: driver.execute_script(SIZE) == [160, 120])
    driver.execute_script("document.activeElement.blur()")
    press(driver, "n")  # the one that does not open
    until(lambda: driver.find_element("id", "message").text == "camera 9 does not open")
    until(lambda: text(driver, "state") == "live" and show.controls.source == 1)
    until(lambda: driver.execute_script("return document.getElementById('source').selectedIndex") == 1)


def test_a_snapshot_is_downloaded(page: Page, tmp_path: Path) -> None:
    driver = page.driver
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    click(driver, "snapshot")
    until(lambda: list(tmp_path.glob("*.png")))
    for path in tmp_path.glob("*.png"):
        path.unlink()
    press(driver, "s")
    until(lambda: list(tmp_path.glob("*.png")))


def test_an_unplugged_camera_is_said(page: Page) -> None:
    driver, camera = page.driver, page.camera
    camera.unplugged = True
    until(lambda: text(driver, "state") == "no signal")
    camera.unplugged = False
    until(lambda: text(driver, "state") == "live")
    assert moves(driver)


@pytest.mark.parametrize(("screen", "columns"), [(PHONE, 1), (DESKTOP, 2)], ids=["phone", "desktop"])
def test_the_tiles_of_several_cameras_stand_as_there_is_place(
    opened: Any, screen: tuple[int, int], columns: int
) -> None:
    with together(opened):
        resize(opened, *screen)
        try:
            until(lambda: [tile["colours"] for tile in opened.execute_script(TILES)] == [True] * 3 + [False])
            tiles = opened.execute_script(TILES)
            assert len({tile["left"] for tile in tiles}) == columns
            order = [(tile["top"], tile["left"]) for tile in tiles]
            assert order == sorted(order)
            assert all(tile["width"] / tile["height"] == pytest.approx(16 / 9, abs=0.02) for tile in tiles)
            assert min(tile["width"] for tile in tiles) > (350 if columns == 1 else 300)
            assert opened.execute_script(WIDE) == [] and opened.execute_script(UNREACHABLE) == []
        finally:
            resize(opened, *DESKTOP)


def test_each_camera_has_its_figures_and_is_seen_alone_when_it_is_pressed(opened: Any) -> None:
    with together(opened) as page:
        figures = re.compile(r"\d+ ms old, [\d.]+ fps, \d+ % of frames, [\d,]+ dropped")
        until(lambda: all(figures.fullmatch(tile["text"]) for tile in opened.execute_script(TILES)[:3]))
        tiles = opened.execute_script(TILES)
        assert tiles[3]["text"] == "no signal: camera 9 does not open"
        names = ["camera", "small", "small (2)", "camera 9"]
        assert [tile["button"] for tile in tiles] == [f"{name}: see it alone" for name in names]
        opened.find_elements("css selector", "#cameras button")[2].click()
        until(lambda: opened.execute_script(SIZE) == [160, 90] and not opened.execute_script(TILES))
        assert page.show.controls.source == 3 and opened.find_element("id", "picture").size["width"] > 300
        opened.find_element("css selector", "#source option:nth-child(1)").click()
        until(lambda: len(opened.execute_script(TILES)) == 4 and opened.execute_script(SIZE) == [1280, 720])
        page.camera.unplugged = True
        until(lambda: opened.execute_script(TILES)[0]["state"] == "no signal")
        until(lambda: [tile["colours"] for tile in opened.execute_script(TILES)] == [False, True, True, False])
        assert text(opened, "state") == "live"
        page.camera.unplugged = False
        until(lambda: opened.execute_script(TILES)[0]["colours"])


def test_two_viewers_and_one_that_stops_reading(page: Page) -> None:
    driver, web = page.driver, page.web
    with socket.create_connection(("127.0.0.1", web.port)) as stopped:
        stopped.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        first = driver.current_window_handle
        driver.switch_to.new_window("window")
        driver.get(web.address)
        until(lambda: driver.execute_script(PICTURE))
        assert moves(driver)
        press(driver, "b")
        until(lambda: driver.execute_script(SIZE) == [640, 240])
        assert complaints(driver) == []
        driver.close()
        driver.switch_to.window(first)
        until(lambda: driver.find_element("id", "side_by_side").get_attribute("aria-pressed") == "true")
        assert moves(driver)


def test_a_server_that_ends_and_comes_back(opened: Any) -> None:
    with served() as first:
        opened.get(first.web.address)
        until(lambda: text(opened, "state") == "live")
    until(lambda: text(opened, "state") == "connection lost")
    said = text(opened, "message")
    assert f"127.0.0.1:{first.web.port} does not answer" in said and "refinenet-edge demo" in said
    with served(port=first.web.port):
        until(lambda: text(opened, "state") == "live")
        until(lambda: moves(opened))
        assert text(opened, "message") == ""
    with served(port=first.web.port, token="a-token-of-some-length"):
        until(lambda: text(opened, "state") == "not let in")
        assert "?token=" in text(opened, "message")
    opened.get("about:blank")
    complaints(opened)  # of the lost connection


def test_a_token_is_asked_for_once(opened: Any) -> None:
    with served(token="a-token-of-some-length") as page:
        opened.get(page.web.address.partition("?")[0])
        assert opened.find_element("css selector", "h1").text == "Not let in"
        assert "?token=" in opened.find_element("css selector", "body").text
        complaints(opened)
        opened.get(page.web.address)
        until(lambda: opened.execute_script(PICTURE))
        assert "token" not in opened.current_url
        click(opened, "paused")
        until(lambda: text(opened, "state") == "paused")
        assert complaints(opened) == []
        opened.get("about:blank")


@pytest.mark.parametrize("screen", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_and_all_is_reachable(page: Page, screen: tuple[int, int], scheme: str) -> None:
    driver = page.driver
    emulated = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)
    resize(driver, *screen)
    try:
        assert driver.execute_script("return document.documentElement.scrollWidth") <= screen[0]
        assert driver.execute_script(WIDE) == []
        assert driver.execute_script(UNREACHABLE) == []
        ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground)[:3])) > 3 * 128) == (scheme == "light")
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        resize(driver, *DESKTOP)
