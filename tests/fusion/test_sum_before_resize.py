"""Resize(x) + Resize(y) -> Resize(x + y)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from refinenet_edge.fusion.rewrite import SHARED
from refinenet_edge.fusion.sum_before_resize import REWRITE
from tests.conftest import apply, graph, operators

TWO = "float[1,3,5,7] x, float[1,3,5,7] z"
LINEAR = '<mode="linear", coordinate_transformation_mode="align_corners">'
SIZES = np.array([1, 3, 10, 13], np.int64)


def sums(body: str, inputs: str = TWO, outputs: str = "float[1,3,10,13] y", **more: Any) -> Any:
    return graph(body, inputs, outputs, **({"sizes": SIZES, "again": SIZES} | more))


@pytest.mark.parametrize("second", ["sizes", "again"])
def test_two_upsamplings_become_one(second: str) -> None:
    model = sums(f"a = Resize {LINEAR} (x, , , sizes) b = Resize {LINEAR} (z, , , {second}) y = Add(a, b)")
    assert apply(REWRITE, model).fired == 1
    assert operators(model) == ["Add", "Resize"]


def test_three_upsamplings_become_one() -> None:
    body = " ".join(f"{out} = Resize {LINEAR} ({x}, , , sizes)" for out, x in (("a", "x"), ("b", "z"), ("c", "t")))
    model = sums(f"{body} s = Add(a, b) y = Add(s, c)", f"{TWO}, float[1,3,5,7] t")
    assert apply(REWRITE, model).fired == 2
    assert operators(model) == ["Add", "Add", "Resize"]


HALF = '<mode="linear", coordinate_transformation_mode="half_pixel">'
REFUSALS = {
    "other corners": (
        f"a = Resize {LINEAR} (x, , , sizes) b = Resize {HALF} (z, , , sizes) y = Add(a, b)",
        {},
        "differ",
    ),
    "other resolution": (
        f"a = Resize {LINEAR} (x, , , sizes) b = Resize {LINEAR} (z, , , sizes) y = Add(a, b)",
        {"inputs": "float[1,3,5,7] x, float[1,3,4,6] z"},
        "differ in size",
    ),
    "a shared map": (
        f"a = Resize {LINEAR} (x, , , sizes) b = Resize {LINEAR} (z, , , sizes) y = Add(a, b) v = Relu(a)",
        {"outputs": "float[1,3,10,13] y, float[1,3,10,13] v"},
        SHARED,
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused(name: str) -> None:
    body, more, reason = REFUSALS[name]
    model = sums(body, **more)
    before = operators(model)
    firing = apply(REWRITE, model)
    assert firing.fired == 0 and operators(model) == before
    assert any(reason in said for said in firing.refused)
