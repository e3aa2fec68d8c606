"""Every error this package raises on purpose, one tree.

* RefineNetEdgeError
  - CheckpointError      a weights file that cannot be read, is not ours to read, or does not fit the model
  - GraphError           tracing or rewriting: an unsupported graph, or a rewrite that changed the logits
  - CalibrationError     ranges that are missing, stale or unusable
  - BuildError           the engine builder refused the network, or the bundle could not be written
  - BundleError          a bundle that is missing, incomplete or damaged
    + EngineMismatch     a sound bundle made for another TensorRT, device or toolkit
  - InputError           an image, label file, recipe or option the user gave
    + PartFailed         some of many images or frames could not be used; the rest is done
  - MissingExtra         an optional dependency is not installed; names the extra
  - CudaError            a CUDA call failed: the GPU is full, lost or refuses; carries CUDA's name for it

Messages say what, where, and the next command. The commands print them as one line and exit with 2; with 3 where an
extra is missing, with 4 where a part failed.

`require` is for what no user can cause: a program that hands over something of another type gets a `TypeError`.
"""

from numbers import Integral
from typing import Any

from refinenet_edge.urls import is_url, masked, shown


def require(value: Any, kinds: Any, what: str) -> None:
    """Raise `TypeError` unless `value`, which an error calls `what`, is of the type or types `kinds`.

    int stands for any integer but a bool.
    """
    expected = kinds if isinstance(kinds, tuple) else (kinds,)
    numbers = (Integral,) if int in expected else ()
    if not isinstance(value, (*expected, *numbers)) or (isinstance(value, bool) and bool not in expected):
        names = " or ".join("None" if kind is type(None) else kind.__name__ for kind in expected)
        raise TypeError(f"{what}: expected {names}, got {value!r:.80}")


class RefineNetEdgeError(Exception):
    """Base of all expected failures; as text without the secrets of URLs."""

    def __str__(self) -> str:
        return masked(super().__str__())


class CheckpointError(RefineNetEdgeError):
    """A weights file cannot be used."""


class GraphError(RefineNetEdgeError):
    """A graph is unsupported, or a rewrite changed what it computes."""


class CalibrationError(RefineNetEdgeError):
    """Calibration ranges are missing, stale or unusable."""


class BuildError(RefineNetEdgeError):
    """The engine could not be built or written."""


class BundleError(RefineNetEdgeError):
    """A bundle is missing, incomplete or damaged."""


class EngineMismatch(BundleError):
    """A sound bundle was made for another runtime or device."""


class InputError(RefineNetEdgeError):
    """Something the user handed in cannot be used."""


class PartFailed(InputError):
    """Some of many inputs could not be used; what could is done."""


class MissingExtra(RefineNetEdgeError):
    """An optional dependency is not installed."""


class CudaError(RefineNetEdgeError):
    """A CUDA call failed. `code` is CUDA's name for it, such as "CUDA_ERROR_OUT_OF_MEMORY"."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def require_local(text: str) -> None:
    """Raise `InputError` for a URL where a file or folder is expected."""
    if is_url(text):
        raise InputError(f"{shown(text)} is a URL: expected a file or folder of this machine")


def first_line(exc: Exception) -> str:
    """What an error of somebody else's says, without the pages below it."""
    return (str(exc).splitlines() or [type(exc).__name__])[0]
