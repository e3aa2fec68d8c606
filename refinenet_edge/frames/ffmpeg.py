"""FFmpeg's options, which OpenCV reads from the environment of the whole process whenever it opens something."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
UNBUFFERED = "rtsp_transport;tcp|fflags;nobuffer|flags;low_delay"  # nothing is old; a file would lose its first frame


class _Openings:
    """What is being opened: at once only what has the same options, in the order in which it came.

    Without that order, streams that are away and tried again and again would keep a file from its turn.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[object] = []
        self._count = 0
        self._options: str | None = None  # of those that are being opened

    def enter(self, options: str | None) -> None:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(lambda: self._waiting[0] is ticket and (not self._count or self._options == options))
            self._waiting.pop(0)
            self._count, self._options = self._count + 1, options
            if options is not None:
                os.environ[OPTIONS] = options
            self._changed.notify_all()

    def leave(self) -> None:
        with self._changed:
            self._count -= 1
            if not self._count and self._options is not None:
                del os.environ[OPTIONS]
                self._options = None
            self._changed.notify_all()

    def chosen(self) -> bool:
        """Whether the user has chosen options: all have these."""
        with self._changed:
            return OPTIONS in os.environ and self._options is None


_openings = _Openings()


@contextmanager
def opening(options: str | None = None) -> Iterator[None]:
    """What is opened meanwhile has these options and nothing else has them; all have the user's, if there are any."""
    if _openings.chosen():
        yield
        return
    _openings.enter(options)
    try:
        yield
    finally:
        _openings.leave()
