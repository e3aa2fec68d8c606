"""Conv1x1(x) + Conv1x1(y) -> Conv1x1(concat(x, y))."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from refinenet_edge.fusion.merge_siblings import REWRITE
from refinenet_edge.fusion.rewrite import SHARED
from tests.conftest import apply, graph, operators, weights

TWO = "float[1,2,5,7] x, float[1,3,5,7] z"
BODY = "a = Conv(x, w) b = Conv(z, u) y = Add(a, b)"


def siblings(body: str = BODY, inputs: str = TWO, outputs: str = "float[1,8,5,7] y", **more: Any) -> Any:
    constants = {"w": weights(8, 2, 1, 1), "u": weights(8, 3, 1, 1)}
    return graph(body, inputs, outputs, **(constants | more))


@pytest.mark.parametrize("biases", ["", "p", "q", "pq"], ids=["no bias", "left bias", "right bias", "biases"])
def test_two_siblings_become_one(biases: str) -> None:
    p, q = (f", {name}" if name in biases else "" for name in "pq")
    constants = {name: weights(8, seed=ord(name)) for name in biases}
    model = siblings(f"a = Conv(x, w{p}) b = Conv(z, u{q}) y = Add(a, b)", **constants)
    firing = apply(REWRITE, model)
    assert operators(model) == ["Concat", "Conv"]
    assert (firing.name, firing.fired, firing.refused) == ("merge_siblings", 1, {})


def test_the_new_nodes_are_named_after_the_first() -> None:
    model = siblings("[conv5] a = Conv(x, w) [conv6] b = Conv(z, u) y = Add(a, b)")
    apply(REWRITE, model)
    assert [node.name for node in model.graph] == ["conv5/Concat", "conv5"]


def test_siblings_of_one_input_become_one() -> None:
    model = siblings("a = Conv(x, w) b = Conv(x, v) y = Add(a, b)", "float[1,2,5,7] x", v=weights(8, 2, 1, 1, seed=1))
    assert apply(REWRITE, model).fired == 1


def test_a_convolution_added_to_itself_is_still_right() -> None:
    apply(REWRITE, siblings("a = Conv(x, w) y = Add(a, a)", "float[1,2,5,7] x"))


def test_siblings_with_the_same_weights_become_one() -> None:
    model = siblings("a = Conv(x, w) b = Conv(z, w) y = Add(a, b)", "float[1,2,5,7] x, float[1,2,5,7] z")
    assert apply(REWRITE, model).fired == 1


def test_weights_that_another_convolution_takes_survive() -> None:
    model = siblings("a = Conv(x, w) b = Conv(z, u) s = Add(a, b) r = Relu(s) n = Neg(x) m = Conv(n, w) y = Add(r, m)")
    assert apply(REWRITE, model).fired == 1
    assert "w" in model.graph.initializers


def test_three_siblings_become_one() -> None:
    three = "float[1,2,5,7] x, float[1,3,5,7] z, float[1,1,5,7] t"
    model = siblings(
        "a = Conv(x, w) b = Conv(z, u) c = Conv(t, v) s = Add(a, b) y = Add(s, c)", three, v=weights(8, 1, 1, 1)
    )
    assert apply(REWRITE, model).fired == 2
    assert operators(model) == ["Concat", "Concat", "Conv"]


def test_sides_that_vary_together_are_no_obstacle() -> None:
    # the sizes of both are those of one input
    model = siblings(
        "z = Relu(x) a = Conv(x, w) b = Conv(z, v) y = Add(a, b)",
        "float[1,2,5,n] x",
        "float[1,8,5,n] y",
        v=weights(8, 2, 1, 1),
    )
    firing = apply(REWRITE, model)
    assert firing.fired + sum(firing.refused.values()) == 1


def assert_refused(model: Any, reason: str) -> None:
    before = operators(model)
    firing = apply(REWRITE, model)
    assert (firing.fired, firing.refused) == (0, {reason: 1})
    assert operators(model) == before


def test_a_relu_before_the_sum_keeps_both() -> None:
    model = siblings("a = Conv(x, w) b = Conv(z, u) r = Relu(a) y = Add(r, b)")
    firing = apply(REWRITE, model)
    assert operators(model) == ["Conv", "Conv", "Relu", "Add"]
    assert (firing.fired, firing.refused) == (0, {})


@pytest.mark.parametrize("shared", ["a", "b"])
def test_a_summand_with_another_user_keeps_both(shared: str) -> None:
    assert_refused(siblings(f"a = Conv(x, w) b = Conv(z, u) s = Add(a, b) y = Mul(s, {shared})"), SHARED)


@pytest.mark.parametrize("widths", [(4, 4), (5, 4), (1, 7)])
def test_inputs_as_wide_as_the_sum_keep_both(widths: tuple[int, int]) -> None:
    left, right = widths
    model = siblings(
        inputs=f"float[1,{left},5,7] x, float[1,{right},5,7] z", w=weights(8, left, 1, 1), u=weights(8, right, 1, 1)
    )
    assert_refused(model, "the concatenated inputs are wider than the sum")


def test_inputs_a_channel_narrower_than_the_sum_are_merged() -> None:
    model = siblings(inputs="float[1,4,5,7] x, float[1,3,5,7] z", w=weights(8, 4, 1, 1))
    assert apply(REWRITE, model).fired == 1


NOT_POINTWISE = "a summand is no pointwise convolution"


@pytest.mark.parametrize(
    ("right", "kernel", "inputs"),
    [
        ("Conv <pads = [1,1,1,1]> (z, v)", (8, 3, 3, 3), TWO),
        ("Conv <strides = [2,2]> (z, v)", (8, 3, 1, 1), "float[1,2,5,7] x, float[1,3,9,13] z"),
        ("Conv <pads = [1,1,1,1]> (z, v)", (8, 3, 1, 1), "float[1,2,5,7] x, float[1,3,3,5] z"),
        ("Conv <group = 2> (z, v)", (8, 1, 1, 1), "float[1,2,5,7] x, float[1,2,5,7] z"),
    ],
    ids=["3x3", "strided", "padded", "grouped"],
)
def test_a_summand_that_is_not_pointwise_keeps_both(right: str, kernel: tuple[int, ...], inputs: str) -> None:
    model = siblings(f"a = Conv(x, w) b = {right} y = Add(a, b)", inputs, v=weights(*kernel))
    assert_refused(model, NOT_POINTWISE)


SIZES = "the summands differ in size, or it is unknown"


@pytest.mark.parametrize(
    "inputs",
    [
        "float[1,2,5,7] x, float[1,3,1,1] z",
        "float[1,2,1,7] x, float[1,3,5,7] z",
        "float[1,2,5,7] x, float[1,3,h,w2] z",
    ],
    ids=["a pixel", "a row", "free"],
)
def test_a_summand_that_is_repeated_keeps_both(inputs: str) -> None:
    model = siblings(inputs=inputs, outputs="float[1,8,m,n] y") if "h" in inputs else siblings(inputs=inputs)
    before = operators(model)
    # a size that varies cannot be tried with another one
    firing = REWRITE(model) if "h" in inputs else apply(REWRITE, model)
    assert (firing.fired, firing.refused) == (0, {SIZES: 1})
    assert operators(model) == before


def test_a_single_channel_that_is_repeated_keeps_both() -> None:
    assert_refused(siblings(inputs="float[1,2,5,7] x, float[1,3,5,7] z", u=weights(1, 3, 1, 1)), SIZES)


@pytest.mark.parametrize(
    ("body", "fed"),
    [
        ("a = Conv(x, f) b = Conv(z, u) y = Add(a, b)", ", float[8,2,1,1] f"),
        ("a = Conv(x, w) b = Conv(z, u, f) y = Add(a, b)", ", float[8] f"),
        ("v = Exp(u) a = Conv(x, w) b = Conv(z, v) y = Add(a, b)", ""),
    ],
    ids=["weights fed", "bias fed", "weights computed"],
)
def test_weights_that_are_not_constant_keep_both(body: str, fed: str) -> None:
    assert_refused(siblings(body, TWO + fed), "the weights are computed or not float32")


def test_a_float16_island_keeps_both() -> None:
    half = {"w": weights(8, 2, 1, 1).astype(np.float16), "u": weights(8, 3, 1, 1).astype(np.float16)}
    model = siblings(
        "h = Cast <to = 10> (x) i = Cast <to = 10> (z)"
        "a = Conv(h, w) b = Conv(i, u) s = Add(a, b) y = Cast <to = 1> (s)",
        **half,
    )
    assert_refused(model, "the weights are computed or not float32")
