"""A real browser for the tests that look at pages: Chromium without a window, skipped where there is none.

with browser(390, 844) as driver:
    driver.get(path.as_uri())
    assert complaints(driver) == []
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

PHONE, DESKTOP = (390, 844), (1280, 800)  # CSS pixels, width and height


@contextlib.contextmanager
def browser(width: int, height: int) -> Iterator[WebDriver]:
    """A new Chromium, nothing remembered from another, whose pages are `width` x `height` CSS pixels."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install 'refinenet-edge[dev]'")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("needs Chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "disable-background-networking"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))
    try:
        resize(driver, width, height)
        yield driver
    finally:
        driver.quit()


def resize(driver: WebDriver, width: int, height: int) -> None:
    """As a phone below 600 pixels: a window cannot be that narrow, and a phone minds the page's viewport."""
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)


def complaints(driver: WebDriver) -> list[str]:
    """Warnings and errors in the console since it was last asked."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]
