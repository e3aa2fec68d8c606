"""Sums are ordered so that convolutions carry them."""

from __future__ import annotations

from typing import Any

from refinenet_edge.fusion.carry_sums import REWRITE
from tests.conftest import apply, graph, operators, weights

X = "float[1,3,5,7] x, float[1,4,5,7] u, float[1,4,5,7] v"


def summed(body: str, inputs: str = X, outputs: str = "float[1,4,5,7] y", **more: Any) -> Any:
    return graph(body, inputs, outputs, **({"w": weights(4, 3, 1, 1), "k": weights(4, 3, 1, 1, seed=1)} | more))


def carried(model: Any) -> list[bool]:
    """For each Add, in order: whether a convolution is one of its summands."""
    adds = [node for node in model.graph if node.op_type == "Add"]
    return [any(value.producer() and value.producer().op_type == "Conv" for value in add.inputs) for add in adds]


def test_the_convolution_comes_last_and_carries_the_activation() -> None:
    model = summed("c = Conv(x, w) a = Add(c, u) s = Add(a, v) y = Relu(s)")
    assert carried(model) == [True, False]
    assert apply(REWRITE, model).fired == 0  # one sum of its own is needed either way

    model = summed("c = Conv(x, w) p = Add(u, v) q = Add(p, u) a = Add(c, q) y = Relu(a)")
    assert apply(REWRITE, model).fired == 0


def test_two_convolutions_carry_two_sums() -> None:
    model = summed("c = Conv(x, w) d = Conv(x, k) a = Add(c, d) y = Add(a, u)")
    assert carried(model) == [True, False]
    assert apply(REWRITE, model).fired == 1
    assert carried(model) == [True, True]
    assert operators(model).count("Add") == 2


def test_a_shared_convolution_carries_nothing() -> None:
    model = summed(
        "c = Conv(x, w) d = Conv(x, k) a = Add(c, d) y = Add(a, u) r = Relu(c) z = Relu(d)",
        outputs="float[1,4,5,7] y, float[1,4,5,7] r, float[1,4,5,7] z",
    )
    assert apply(REWRITE, model).fired == 0


def test_a_partial_sum_with_another_user_stays() -> None:
    model = summed(
        "c = Conv(x, w) d = Conv(x, k) a = Add(c, d) y = Add(a, u) z = Relu(a)",
        outputs="float[1,4,5,7] y, float[1,4,5,7] z",
    )
    assert apply(REWRITE, model).fired == 0


def test_a_broadcast_summand_stays() -> None:
    model = summed("c = Conv(x, w) d = Conv(x, k) a = Add(c, d) y = Add(a, b)", b=weights(4, 1, 1))
    assert apply(REWRITE, model).fired == 0
