"""OpenCV (`from refinenet_edge.opencv import cv2`); where it does not import, an error that says which fix.

An OpenCV that is there may still not import: JetPack 6's was built for numpy 1, and `opencv-python` needs libraries of
the desktop. Such an import fails with whatever the libraries below say, so it is tried here only.
"""

import contextlib
import io
import os
import platform
import threading
from collections.abc import Iterator

from refinenet_edge.errors import MissingExtra

INSTALL = "pip install opencv-python-headless"
if platform.machine() == "aarch64":
    JETPACK = "sudo apt install nvidia-opencv, for an environment made with --system-site-packages"
    INSTALL = f"on a Jetson {JETPACK}; elsewhere {INSTALL}"


def _explained(exc: Exception) -> MissingExtra:
    said = f"OpenCV does not import ({type(exc).__name__}: {exc})"
    if isinstance(exc, ModuleNotFoundError) and exc.name == "cv2":
        return MissingExtra(f"OpenCV is not installed: {INSTALL}")
    if "numpy" in str(exc):
        import numpy

        return MissingExtra(f"{said}: it was built for another numpy than {numpy.__version__}: pip install 'numpy<2'")
    if "cannot open shared object file" in str(exc):
        return MissingExtra(f"{said}: sudo apt install libgl1 libglib2.0-0")
    again = INSTALL.replace("pip install", "pip install --force-reinstall --no-deps")
    return MissingExtra(f"{said}: pip uninstall -y opencv-python opencv-contrib-python; {again}")


try:
    with contextlib.redirect_stderr(io.StringIO()):  # numpy prints a trace of its own
        import cv2
except Exception as exc:  # a broken installation may raise anything
    raise _explained(exc) from exc

__all__ = ["cv2", "stderr_to"]

_STDERR = threading.Lock()  # the process has one


@contextlib.contextmanager
def stderr_to(descriptor: int) -> Iterator[None]:
    """What OpenCV's libraries write to the process's stderr meanwhile goes to `descriptor`; a thread at a time."""
    with _STDERR, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # there is no stderr
            before = os.dup(2)
            stack.callback(os.close, before)
            stack.callback(os.dup2, before, 2)
            os.dup2(descriptor, 2)
        yield
