"""Constants are computed once; what computes nothing goes."""

from __future__ import annotations

import numpy as np

from refinenet_edge.fusion.fold_constants import REWRITE
from tests.conftest import apply, graph, operators, weights


def test_a_computed_constant_becomes_a_weight() -> None:
    model = graph("c = Add(a, b) d = Mul(c, c) y = Mul(x, d)", a=weights(8, 1, 1), b=weights(8, 1, 1, seed=1))
    firing = apply(REWRITE, model)
    assert operators(model) == ["Mul"]
    assert firing.fired == 2


def test_weights_of_any_size_are_folded() -> None:
    large = np.ones((8, 8, 90, 90), np.float32)
    model = graph("w = Neg(v) y = Conv <pads = [45,45,44,44]> (x, w)", v=large)
    apply(REWRITE, model)
    assert operators(model) == ["Conv"]


def test_constant_nodes_become_initializers() -> None:
    model = graph("c = Constant <value_float = 2.0> () y = Mul(x, c)")
    apply(REWRITE, model)
    assert operators(model) == ["Mul"]
    assert len(model.graph.initializers) == 1


def test_the_shape_of_a_fixed_input_is_a_constant() -> None:
    model = graph("s = Shape(x) f = Cast <to = 1> (s) m = ReduceMax <keepdims = 0> (f) y = Div(x, m)")
    apply(REWRITE, model)
    assert operators(model) == ["Div"]


def test_the_shape_of_a_free_input_is_not() -> None:
    model = graph(
        "s = Shape(x) f = Cast <to = 1> (s) m = ReduceMax <keepdims = 0> (f) y = Div(x, m)",
        inputs="float[1,8,h,w] x",
        outputs="float[1,8,h,w] y",
    )
    apply(REWRITE, model)
    assert "Shape" in operators(model)


def test_equal_small_constants_are_shared() -> None:
    model = graph("a = Clip(x, l1, h1) b = Neg(a) y = Clip(b, l2, h2)", **clips(), outputs="float[1,8,5,7] y")
    apply(REWRITE, model)
    assert sorted(float(v.const_value.numpy()) for v in model.graph.initializers.values()) == [0.0, 6.0]


def clips() -> dict[str, np.float32]:
    return {"l1": np.float32(0), "h1": np.float32(6), "l2": np.float32(0), "h2": np.float32(6)}


def test_nodes_that_nobody_uses_go() -> None:
    model = graph("a = Relu(x) b = Neg(x) y = Neg(a)")
    apply(REWRITE, model)
    assert operators(model) == ["Relu", "Neg"]


def test_a_bias_of_zeros_goes() -> None:
    model = graph("y = Conv(x, w, b)", w=weights(8, 8, 1, 1), b=np.zeros(8, np.float32))
    apply(REWRITE, model)
    assert [len(node.inputs) for node in model.graph] == [2]
    assert set(model.graph.initializers) == {"w"}


def test_any_other_bias_stays() -> None:
    bias = np.zeros(8, np.float32)
    bias[7] = 1e-30
    model = graph("y = Conv(x, w, b)", w=weights(8, 8, 1, 1), b=bias)
    apply(REWRITE, model)
    assert [len(node.inputs) for node in model.graph] == [3]


def test_zeros_that_can_be_fed_stay() -> None:
    model = graph("y = Conv(x, w, b)", inputs="float[1,8,5,7] x, float[8] b", w=weights(8, 8, 1, 1))
    apply(REWRITE, model)
    assert [len(node.inputs) for node in model.graph] == [3]


def test_zeros_that_are_shared_stay_for_the_other() -> None:
    model = graph("c = Conv(x, w, b) y = BatchNormalization(c, s, b, b, s)", w=weights(8, 8, 1, 1), **norm_of_ones())
    apply(REWRITE, model)
    assert [len(node.inputs) for node in model.graph] == [2, 5]


def norm_of_ones() -> dict[str, np.ndarray]:
    return {"s": np.ones(8, np.float32), "b": np.zeros(8, np.float32)}


def test_nothing_to_do_is_nothing_done() -> None:
    model = graph("a = Relu(x) y = Conv(a, w)", w=weights(8, 8, 1, 1))
    firing = apply(REWRITE, model)
    assert (firing.name, firing.fired, firing.refused) == ("fold_constants", 0, {})
