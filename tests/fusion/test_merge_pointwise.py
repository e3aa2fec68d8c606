"""Conv1x1(Conv(x)) -> Conv(x)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from refinenet_edge.fusion.merge_pointwise import REWRITE
from refinenet_edge.fusion.rewrite import SHARED
from tests.conftest import apply, graph, operators, weights


@pytest.mark.parametrize("biases", ["", "b", "c", "bc"], ids=["no bias", "inner bias", "outer bias", "biases"])
@pytest.mark.parametrize(
    ("attributes", "inner", "shape", "out"),
    [
        ("", (8, 4, 1, 1), "1,4,5,7", "1,2,5,7"),
        ("<pads = [1,1,1,1]>", (8, 4, 3, 3), "1,4,5,7", "1,2,5,7"),
        ("<strides = [2,2], pads = [1,1,1,1]>", (8, 4, 3, 3), "1,4,5,7", "1,2,3,4"),
        ("<pads = [0,1,2,1]>", (8, 4, 3, 3), "1,4,5,7", "1,2,5,7"),
        ("<dilations = [2,1]>", (8, 4, 2, 3), "1,4,5,7", "1,2,3,5"),
        ("<strides = [3,2]>", (8, 4, 1, 1), "1,4,5,7", "1,2,2,4"),
    ],
    ids=["1x1", "3x3", "strided 3x3", "padded unevenly", "dilated", "strided 1x1"],
)
def test_two_convolutions_become_one(
    attributes: str, inner: tuple[int, ...], shape: str, out: str, biases: str
) -> None:
    constants = {"w": weights(*inner), "u": weights(2, 8, 1, 1, seed=1)}
    constants |= {"b": weights(8, seed=2)} if "b" in biases else {}
    constants |= {"c": weights(2, seed=3)} if "c" in biases else {}
    first = f"m = Conv {attributes} (x, w{', b' if 'b' in biases else ''})"
    model = graph(
        f"{first} y = Conv(m, u{', c' if 'c' in biases else ''})", f"float[{shape}] x", f"float[{out}] y", **constants
    )
    firing = apply(REWRITE, model)
    assert operators(model) == ["Conv"]
    assert (firing.name, firing.fired, firing.refused) == ("merge_pointwise", 1, {})
    (node,) = model.graph
    assert len(node.inputs) == (3 if biases else 2)


def test_three_in_a_row_become_one() -> None:
    model = graph("a = Conv(x, w) b = Conv(a, u) y = Conv(b, v)", **squares("w", "u", "v"))
    assert apply(REWRITE, model).fired == 2
    assert operators(model) == ["Conv"]


def squares(*names: str) -> dict[str, np.ndarray]:
    return {name: weights(8, 8, 1, 1, seed=seed) for seed, name in enumerate(names)}


def test_two_convolutions_with_the_same_weights_become_one() -> None:
    model = graph("a = Conv(x, w) y = Conv(a, w)", **squares("w"))
    assert apply(REWRITE, model).fired == 1
    assert operators(model) == ["Conv"]


def test_weights_that_another_convolution_takes_survive() -> None:
    model = graph("a = Conv(x, w) b = Conv(a, u) c = Relu(b) y = Conv(c, w)", **squares("w", "u"))
    assert apply(REWRITE, model).fired == 1
    assert operators(model) == ["Conv", "Relu", "Conv"]
    assert "w" in model.graph.initializers


def test_a_side_that_varies_is_no_obstacle() -> None:
    model = graph("a = Conv(x, w) y = Conv(a, u)", "float[1,8,h,w] x", "float[1,8,h,w] y", **squares("w", "u"))
    assert apply(REWRITE, model).fired == 1


def test_equal_cost_is_merged() -> None:
    # 4·8 weights merged, 4·3 + 3·8 = 36 apart
    model = graph("a = Conv(x, w) y = Conv(a, u)", "float[1,4,5,7] x", w=weights(3, 4, 1, 1), u=weights(8, 3, 1, 1))
    assert apply(REWRITE, model).fired == 1
    # 6·6 merged, 6·3 + 3·6 = 36 apart
    model = graph(
        "a = Conv(x, w) y = Conv(a, u)",
        "float[1,6,5,7] x",
        "float[1,6,5,7] y",
        w=weights(3, 6, 1, 1),
        u=weights(6, 3, 1, 1),
    )
    assert apply(REWRITE, model).fired == 1


def test_what_would_cost_more_keeps_both() -> None:
    # 8·8 weights merged, 8·2 + 2·8 apart
    model = graph("a = Conv(x, w) y = Conv(a, u)", w=weights(2, 8, 1, 1), u=weights(8, 2, 1, 1))
    assert_refused(model, "the merged convolution would cost more than the two")


def assert_refused(model: Any, reason: str) -> None:
    before = operators(model)
    firing = apply(REWRITE, model)
    assert (firing.fired, firing.refused) == (0, {reason: 1})
    assert operators(model) == before


def test_a_relu_between_keeps_both() -> None:
    model = graph("a = Conv(x, w) r = Relu(a) y = Conv(r, u)", **squares("w", "u"))
    firing = apply(REWRITE, model)
    assert operators(model) == ["Conv", "Relu", "Conv"]
    assert (firing.fired, firing.refused) == (0, {})


def test_a_shared_middle_keeps_both() -> None:
    model = graph("a = Conv(x, w) b = Conv(a, u) y = Add(a, b)", **squares("w", "u"))
    assert_refused(model, SHARED)


def test_a_middle_that_is_an_output_keeps_both() -> None:
    outputs = "float[1,8,5,7] y, float[1,8,5,7] a"
    assert_refused(graph("a = Conv(x, w) y = Conv(a, u)", outputs=outputs, **squares("w", "u")), SHARED)


NOT_POINTWISE = "the second convolution is not pointwise"


@pytest.mark.parametrize(
    ("second", "out", "reason"),
    [
        ("Conv <strides = [2,2]> (a, u)", "1,8,3,4", NOT_POINTWISE),
        ("Conv <strides = [1,2]> (a, u)", "1,8,5,4", NOT_POINTWISE),
        ("Conv <pads = [1,1,1,1]> (a, u)", "1,8,7,9", NOT_POINTWISE),
        ("Conv <pads = [0,0,0,1]> (a, u)", "1,8,5,8", NOT_POINTWISE),
        ('Conv <auto_pad = "SAME_UPPER"> (a, u)', "1,8,5,7", NOT_POINTWISE),
        ("Conv <group = 2> (a, half)", "1,8,5,7", NOT_POINTWISE),
        ("Conv <pads = [1,1,1,1]> (a, square)", "1,8,5,7", NOT_POINTWISE),
        ("Conv(a, row)", "1,8,5,5", NOT_POINTWISE),
    ],
    ids=["strided", "strided along", "padded", "padded at one side", "auto pad", "grouped", "3x3", "1x3"],
)
def test_a_second_convolution_that_is_not_pointwise_keeps_both(second: str, out: str, reason: str) -> None:
    kernels = {"half": weights(8, 4, 1, 1), "square": weights(8, 8, 3, 3), "row": weights(8, 8, 1, 3)}
    kernels = {name: kernel for name, kernel in kernels.items() if name in second}
    model = graph(f"a = Conv(x, w) y = {second}", outputs=f"float[{out}] y", **squares("w", "u"), **kernels)
    assert_refused(model, reason)


@pytest.mark.parametrize(("groups", "kernel"), [(2, (8, 4, 1, 1)), (8, (8, 1, 3, 3))], ids=["grouped", "depthwise"])
def test_a_first_convolution_with_groups_keeps_both(groups: int, kernel: tuple[int, ...]) -> None:
    pads = kernel[-1] // 2
    first = f"a = Conv <group = {groups}, pads = [{pads},{pads},{pads},{pads}]> (x, g)"
    model = graph(f"{first} y = Conv(a, u)", g=weights(*kernel), **squares("u"))
    assert_refused(model, "the first convolution is grouped")


@pytest.mark.parametrize(
    ("body", "fed"),
    [
        ("a = Conv(x, f) y = Conv(a, u)", "float[8,8,1,1] f"),
        ("a = Conv(x, w) y = Conv(a, f)", "float[8,8,1,1] f"),
        ("a = Conv(x, w, f) y = Conv(a, u)", "float[8] f"),
        ("a = Conv(x, w) y = Conv(a, u, f)", "float[8] f"),
        ("v = Exp(w) a = Conv(x, v) y = Conv(a, u)", ""),
        ("v = Exp(u) a = Conv(x, w) y = Conv(a, v)", ""),
    ],
    ids=["inner fed", "outer fed", "inner bias fed", "outer bias fed", "inner computed", "outer computed"],
)
def test_weights_that_are_not_constant_keep_both(body: str, fed: str) -> None:
    model = graph(body, ", ".join(filter(None, ["float[1,8,5,7] x", fed])), **squares("w", "u"))
    assert_refused(model, "the weights are computed or not float32")


def test_a_float16_island_keeps_both() -> None:
    half = {name: array.astype(np.float16) for name, array in squares("w", "u").items()}
    model = graph("h = Cast <to = 10> (x) a = Conv(h, w) b = Conv(a, u) y = Cast <to = 1> (b)", **half)
    assert_refused(model, "the weights are computed or not float32")
