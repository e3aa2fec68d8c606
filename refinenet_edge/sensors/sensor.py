"""One sensor: how it is read, what it gave, and why it gave nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["joules", "watts", "celsius", "mhz", "throttled"]


@dataclass
class Sensor:
    """`read` gives joules, watts, °C or MHz, or the set of reasons that throttle; or `OSError` or `ValueError`."""

    name: str
    kind: Kind
    read: Callable[[], Any]
    wraps: float | None = None  # joules, of a counter that begins again at 0
    samples: list[tuple[float, Any]] = field(default_factory=list)  # seconds, value
    missed: int = 0
    why: str = ""  # of the first that was missed

    def sample(self, now: float) -> None:
        """Read it; one that cannot be read is counted."""
        try:
            self.samples.append((now, self.read()))
        except (OSError, ValueError) as exc:
            self.missed += 1
            self.why = self.why or _why(exc)

    def note(self) -> str | None:
        """How often it could not be read, and why; None: it always could."""
        if not self.missed:
            return None
        missing = f"missing {self.missed} of {self.missed + len(self.samples)} times" if self.samples else "absent"
        return f"{self.name} ({self.kind}) is {missing}: {self.why}"


def _why(exc: OSError | ValueError) -> str:
    if isinstance(exc, PermissionError):
        return f"{exc.filename} may not be read; until the next start: sudo chmod a+r {exc.filename}"
    if isinstance(exc, OSError) and exc.filename is not None:
        return f"{exc.filename}: {exc.strerror}"
    return str(exc)
