"""What viewers set: how masks look, and what plays. A change is checked whole before any of it counts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refinenet_edge.errors import InputError
from refinenet_edge.overlay import OverlayStyle
from refinenet_edge.records import Labels

STYLE = {field.name for field in dataclasses.fields(OverlayStyle)}


@dataclass(frozen=True)
class Controls:
    """How masks are shown, and which source and model (indices) play."""

    style: OverlayStyle
    paused: bool = False
    source: int = 0
    model: int = 0

    def changed(self, asked: Mapping[str, Any], sources: int, models: Sequence[Labels]) -> Controls:
        """The controls after `asked`: opacity, hidden (class indices), side_by_side, figures, paused, source, model.

        `sources` is their number, `models` the classes of each. `asked` is not to be trusted: `InputError` says what of
        it cannot be. A model of other classes hides none.
        """
        classes = len(models[self.model].names)
        boolean = (lambda v: isinstance(v, bool), "true or false")
        rules: dict[str, tuple[Callable[[Any], bool], str]] = {
            "opacity": (lambda v: _is_number(v) and 0 <= v <= 1, "0 to 1"),
            "hidden": (lambda v: isinstance(v, list) and all(_is_index(i, classes) for i in v), "class numbers"),
            **dict.fromkeys(("side_by_side", "figures", "paused"), boolean),
            "source": (lambda v: _is_index(v, sources), f"0 to {sources - 1}"),
            "model": (lambda v: _is_index(v, len(models)), f"0 to {len(models) - 1}"),
        }
        for name, value in asked.items():
            if name not in rules:
                raise InputError(f"{name[:40]!r} cannot be changed; {', '.join(rules)} can")
            fits, expected = rules[name]
            if not fits(value):
                raise InputError(f"{name}: expected {expected}")
        given: dict[str, Any] = {name: frozenset(value) if name == "hidden" else value for name, value in asked.items()}
        style = {name: given.pop(name) for name in STYLE & given.keys()}
        if models[given.get("model", self.model)] != models[self.model]:
            style["hidden"] = frozenset()
        return dataclasses.replace(self, style=dataclasses.replace(self.style, **style), **given)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_index(value: Any, count: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count
