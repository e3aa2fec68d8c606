"""The show in a window of the desktop, with the web page's keys."""

import os
import re
import sys

from refinenet_edge.demo.figures import Figures
from refinenet_edge.demo.show import Show
from refinenet_edge.errors import InputError
from refinenet_edge.opencv import cv2
from refinenet_edge.records import Frame

TITLE = "refinenet-edge"
STEP = 0.1  # of opacity
KEYS = "space pause, + - opacity, b both side by side, f figures, m model, n source, q end"


def has_display() -> bool:
    """Whether there is a desktop to open windows on."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def has_windows() -> bool:
    """Whether OpenCV can open one here."""
    return has_display() and not re.search(r"GUI:\s+NONE", cv2.getBuildInformation())


class Window:
    """A `View` on the desktop; for the main thread. Closing it ends the show."""

    written = True

    def __init__(self, show: Show) -> None:
        """Raises `InputError` where there is no desktop, or OpenCV was built without windows."""
        if not has_display():  # there OpenCV would end the whole process
            raise InputError("there is no display to open a window on: use --view web")
        if not has_windows():
            problem = "this OpenCV was built without windows (opencv-python-headless)"
            raise InputError(f"{problem}: install opencv-python in its place, or use --view web")
        cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        self._show = show

    def wanted(self) -> bool:
        return True

    def show(self, picture: Frame | None, figures: Figures) -> None:
        if picture is None:
            return
        cv2.imshow(TITLE, picture)
        self._press(chr(cv2.waitKey(1) & 0xFF), figures)
        if cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1:
            self._show.stop()

    def _press(self, key: str, figures: Figures) -> None:
        controls, playing = self._show.controls, figures.playing
        style = controls.style
        opacity = round(style.opacity + (STEP if key == "+" else -STEP), 2)
        changes: dict[str, dict[str, object]] = {
            " ": {"paused": not controls.paused},
            "+": {"opacity": min(opacity, 1.0)},
            "-": {"opacity": max(opacity, 0.0)},
            "b": {"side_by_side": not style.side_by_side},
            "f": {"figures": not style.figures},
            "m": {"model": (controls.model + 1) % len(playing.models)},
            "n": {"source": (controls.source + 1) % len(playing.sources)},
        }
        if key in ("q", "\x1b"):
            self._show.stop()
        elif key in changes:
            self._show.change(changes[key])

    def close(self) -> None:
        cv2.destroyWindow(TITLE)
