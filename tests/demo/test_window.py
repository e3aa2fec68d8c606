"""The window's keys and errors, with OpenCV's windows replaced: there is no desktop to test on."""

from __future__ import annotations

from typing import Any

import cv2
import pytest

from refinenet_edge.demo import Show, window
from refinenet_edge.demo.window import Window
from refinenet_edge.errors import InputError
from refinenet_edge.overlay import OverlayStyle
from tests.demo.fakes import source, ticking
from tests.demo.test_show import model


@pytest.fixture
def desktop(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What OpenCV would be told: `keys` are pressed one a picture."""
    desktop: dict[str, Any] = {"keys": [], "shown": 0, "visible": 1.0}

    def show(title: str, picture: Any) -> None:
        desktop["shown"] += 1

    monkeypatch.setattr(window, "has_display", lambda: True)
    monkeypatch.setattr(window, "has_windows", lambda: True)
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "destroyWindow", lambda *_: desktop.update(closed=True))
    monkeypatch.setattr(cv2, "imshow", show)
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord(desktop["keys"].pop(0)) if desktop["keys"] else -1)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: desktop["visible"])
    return desktop


def opened() -> Show:
    show = Show([source(ticking()), source(ticking())], [model(), model(name="other")], OverlayStyle(0.5))
    show.views.append(Window(show))
    return show


def test_keys_change_the_show_and_q_ends_it(desktop: dict[str, Any]) -> None:
    desktop["keys"] = list("++-bfmn q")
    show = opened()
    show.run(frames=100)
    controls = show.controls
    assert controls.style == OverlayStyle(pytest.approx(0.6), side_by_side=True, figures=False)
    assert (controls.model, controls.source, controls.paused) == (1, 1, True)
    assert desktop["closed"] and desktop["shown"] < 100


def test_opacity_stays_between_nothing_and_all(desktop: dict[str, Any]) -> None:
    desktop["keys"] = list("+" * 9 + "q")
    show = opened()
    show.run()
    assert show.controls.style.opacity == 1.0


def test_closing_the_window_ends_the_show(desktop: dict[str, Any]) -> None:
    desktop["visible"] = 0.0
    opened().run(frames=50)
    assert desktop["shown"] == 1


def test_where_there_can_be_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    show = Show([source(ticking())], [model()], OverlayStyle())
    monkeypatch.setattr(window, "has_display", lambda: False)
    with pytest.raises(InputError, match="no display"):
        Window(show)
    monkeypatch.setattr(window, "has_display", lambda: True)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
    with pytest.raises(InputError, match="without windows"):
        Window(show)
