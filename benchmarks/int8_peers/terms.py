"""What a quantiser is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Quantiser = Callable[[Path, Path, Path], None]  # plain export, frames (.npz by input), where the Q/DQ graph goes


class Unavailable(Exception):
    """A quantiser that cannot be had here, and why."""
