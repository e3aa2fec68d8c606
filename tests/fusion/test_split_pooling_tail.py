"""Conv(S + Conv1x1(p)) -> Conv(S) + Conv(p), where the second has few outputs."""

from __future__ import annotations

from typing import Any

import pytest

from refinenet_edge.fusion.rewrite import SHARED
from refinenet_edge.fusion.split_pooling_tail import REWRITE
from tests.conftest import apply, graph, operators, weights

X = "float[1,32,5,7] s, float[1,32,5,7] p"
BODY = "t = Conv(p, w) a = Add(s, t) y = Conv <pads=[1,1,1,1]> (a, k, b)"


def chain(body: str = BODY, outputs: str = "float[1,3,5,7] y", inputs: str = X, **more: Any) -> Any:
    constants = {"w": weights(32, 32, 1, 1), "k": weights(3, 32, 3, 3), "b": weights(3)}
    return graph(body, inputs, outputs, **(constants | more))


@pytest.mark.parametrize("sum_", ["Add(s, t)", "Add(t, s)"])
def test_the_classifier_takes_the_tail_itself(sum_: str) -> None:
    model = chain(BODY.replace("Add(s, t)", sum_))
    assert apply(REWRITE, model).fired == 1
    assert sorted(operators(model)) == ["Add", "Conv", "Conv"]
    assert [list(node.inputs[1].shape) for node in model.graph if node.op_type == "Conv"] == [[3, 32, 3, 3]] * 2


REFUSALS = {
    "a bias before padding": (BODY.replace("Conv(p, w)", "Conv(p, w, c)"), {"c": weights(32)}, "bias"),
    "many outputs": (
        BODY,
        {"k": weights(4, 32, 3, 3), "b": weights(4), "outputs": "float[1,4,5,7] y"},
        "too many outputs",
    ),
    "a 3x3 tail": (
        BODY.replace("Conv(p, w)", "Conv <pads=[1,1,1,1]> (p, w)"),
        {"w": weights(32, 32, 3, 3)},
        "pointwise",
    ),
    "a shared tail": (f"{BODY} z = Relu(t)", {"outputs": "float[1,3,5,7] y, float[1,32,5,7] z"}, SHARED),
    "a shared sum": (f"{BODY} z = Relu(a)", {"outputs": "float[1,3,5,7] y, float[1,32,5,7] z"}, SHARED),
    "a broadcast sum": (BODY, {"inputs": "float[1,32,1,1] s, float[1,32,5,7] p"}, "size"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused(name: str) -> None:
    body, more, reason = REFUSALS[name]
    model = chain(body, **more)
    before = operators(model)
    firing = apply(REWRITE, model)
    assert firing.fired == 0 and operators(model) == before
    assert any(reason in said for said in firing.refused)


def test_an_activation_between_keeps_the_sum() -> None:
    model = chain("t = Conv(p, w) a = Add(s, t) r = Relu(a) y = Conv <pads=[1,1,1,1]> (r, k, b)")
    assert apply(REWRITE, model).fired == 0
