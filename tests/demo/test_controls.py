from __future__ import annotations

import pytest

from refinenet_edge.demo import Controls
from refinenet_edge.errors import InputError
from refinenet_edge.labels import VOC
from refinenet_edge.overlay import OverlayStyle
from tests.demo.fakes import THREE

CONTROLS = Controls(OverlayStyle())


def test_what_is_asked_for_is_changed_and_nothing_else() -> None:
    changed = CONTROLS.changed({"opacity": 1, "hidden": [2, 0], "paused": True, "source": 1}, 2, [THREE])
    assert changed == Controls(OverlayStyle(1, frozenset({0, 2})), paused=True, source=1)
    assert changed.changed({"side_by_side": True, "figures": False}, 2, [THREE]).style == OverlayStyle(
        1, frozenset({0, 2}), side_by_side=True, figures=False
    )
    assert Controls(OverlayStyle()) == CONTROLS


def test_hidden_classes_are_those_of_the_model() -> None:
    hidden = Controls(OverlayStyle(hidden=frozenset({1})))
    assert hidden.changed({"model": 1}, 1, [THREE, THREE]).style.hidden == {1}
    assert hidden.changed({"model": 1}, 1, [THREE, VOC]).style.hidden == frozenset()
    # numbers beside a model are of the one before
    assert CONTROLS.changed({"model": 1, "hidden": [2]}, 1, [THREE, VOC]).style.hidden == frozenset()


@pytest.mark.parametrize(
    "asked",
    [
        {"opacity": 1.5},
        {"opacity": "0.5"},
        {"opacity": float("nan")},
        {"opacity": True},
        {"hidden": [3]},
        {"hidden": "all"},
        {"hidden": [True]},
        {"paused": 1},
        {"side_by_side": None},
        {"figures": "no"},
        {"source": 1},
        {"source": -1},
        {"model": 1.0},
        {"look": {}},
        {"opacity": 0.1, "anything": 1},
    ],
    ids=str,
)
def test_what_cannot_be_changed(asked: dict[str, object]) -> None:
    with pytest.raises(InputError):
        CONTROLS.changed(asked, 1, [THREE])
