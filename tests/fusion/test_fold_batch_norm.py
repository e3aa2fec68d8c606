"""BN(Conv(x)) -> Conv(x)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from refinenet_edge.fusion.fold_batch_norm import REWRITE
from refinenet_edge.fusion.rewrite import SHARED
from tests.conftest import apply, graph, operators, weights

NORM: dict[str, Any] = {
    "gamma": weights(4, seed=1),
    "beta": weights(4, seed=2),
    "mean": weights(4, seed=3),
    "var": np.abs(weights(4, seed=4)) + 0.1,
}
BODY = "c = Conv {attributes} (x, w{bias}) y = BatchNormalization (c, gamma, beta, mean, var)"


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize(
    ("attributes", "kernel", "shape", "out"),
    [
        ("", (4, 3, 1, 1), "1,3,5,7", "1,4,5,7"),
        ("<pads = [1,1,1,1]>", (4, 3, 3, 3), "1,3,5,7", "1,4,5,7"),
        ("<pads = [1,1,1,1], strides = [2,2]>", (4, 3, 3, 3), "1,3,5,7", "1,4,3,4"),
        ("<pads = [1,1,1,1], group = 4>", (4, 1, 3, 3), "1,4,5,7", "1,4,5,7"),
        ("<group = 2>", (4, 2, 1, 1), "1,4,5,7", "1,4,5,7"),
        ("<dilations = [2,2]>", (4, 3, 2, 3), "1,3,5,7", "1,4,3,3"),
        ('<auto_pad = "SAME_UPPER">', (4, 3, 3, 2), "1,3,5,7", "1,4,5,7"),
        ("", (4, 3, 3), "1,3,7", "1,4,5"),
        ("", (4, 3, 1, 1, 2), "1,3,2,5,7", "1,4,2,5,6"),
    ],
    ids=["pointwise", "3x3", "strided", "depthwise", "grouped", "dilated", "auto pad", "1d", "3d"],
)
def test_a_normalisation_is_folded(attributes: str, kernel: tuple[int, ...], shape: str, out: str, bias: bool) -> None:
    model = graph(
        BODY.format(attributes=attributes, bias=", b" if bias else ""),
        inputs=f"float[{shape}] x",
        outputs=f"float[{out}] y",
        w=weights(*kernel),
        **({"b": weights(4, seed=9)} if bias else {}),
        **NORM,
    )
    firing = apply(REWRITE, model)
    assert operators(model) == ["Conv"]
    assert (firing.name, firing.fired, firing.refused) == ("fold_batch_norm", 1, {})


def small(body: str, inputs: str = "float[1,3,5,7] x", outputs: str = "float[1,4,5,7] y", **more: Any) -> Any:
    return graph(body, inputs, outputs, **({"w": weights(4, 3, 1, 1)} | NORM | more))


def test_epsilon_is_read() -> None:
    model = small("c = Conv(x, w) y = BatchNormalization <epsilon = 0.5> (c, gamma, beta, mean, var)")
    assert apply(REWRITE, model).fired == 1


def test_a_name_and_the_attributes_stay() -> None:
    model = small("[layer1] c = Conv <kernel_shape = [1,1]> (x, w) y = BatchNormalization(c, gamma, beta, mean, var)")
    apply(REWRITE, model)
    (node,) = model.graph
    assert node.name == "layer1"
    assert tuple(node.attributes.get_ints("kernel_shape")) == (1, 1)


def test_two_convolutions_with_the_same_weights_are_both_folded() -> None:
    model = small(
        "a = Conv(x, w) b = BatchNormalization(a, gamma, beta, mean, var) r = Neg(x) c = Conv(r, w)"
        "d = BatchNormalization(c, gamma, var, mean, var) y = Add(b, d)"
    )
    assert apply(REWRITE, model).fired == 2
    assert operators(model) == ["Conv", "Neg", "Conv", "Add"]


def test_weights_that_another_convolution_takes_survive() -> None:
    model = small("a = Conv(x, w) b = BatchNormalization(a, gamma, beta, mean, var) c = Conv(x, w) y = Add(b, c)")
    assert apply(REWRITE, model).fired == 1
    assert "w" in model.graph.initializers


def test_a_relu_between_keeps_both() -> None:
    model = small("a = Conv(x, w) r = Relu(a) y = BatchNormalization(r, gamma, beta, mean, var)")
    firing = apply(REWRITE, model)
    assert operators(model) == ["Conv", "Relu", "BatchNormalization"]
    assert (firing.fired, firing.refused) == (0, {})


def test_a_result_that_is_also_used_unnormalised_keeps_both() -> None:
    model = small("c = Conv(x, w) n = BatchNormalization(c, gamma, beta, mean, var) y = Add(n, c)")
    firing = apply(REWRITE, model)
    assert operators(model) == ["Conv", "BatchNormalization", "Add"]
    assert (firing.fired, firing.refused) == (0, {SHARED: 1})


def test_a_result_that_is_an_output_keeps_both() -> None:
    model = small(
        "c = Conv(x, w) y = BatchNormalization(c, gamma, beta, mean, var)", outputs="float[1,4,5,7] y, float[1,4,5,7] c"
    )
    assert apply(REWRITE, model).refused == {SHARED: 1}


WEIGHTS = "the convolution's weights are computed or not float32"
STATISTICS = "the normalisation's statistics are computed"


@pytest.mark.parametrize(
    ("body", "inputs", "reason"),
    [
        ("c = Conv(x, f) y = BatchNormalization(c, gamma, beta, mean, var)", ", float[4,3,1,1] f", WEIGHTS),
        ("c = Conv(x, w, f) y = BatchNormalization(c, gamma, beta, mean, var)", ", float[4] f", WEIGHTS),
        ("v = Exp(w) c = Conv(x, v) y = BatchNormalization(c, gamma, beta, mean, var)", "", WEIGHTS),
        ("c = Conv(x, w) y = BatchNormalization(c, gamma, f, mean, var)", ", float[4] f", STATISTICS),
        ("v = Exp(var) c = Conv(x, w) y = BatchNormalization(c, gamma, beta, mean, v)", "", STATISTICS),
        (
            "c = Conv(x, w) y, m, v = BatchNormalization <training_mode = 1> (c, gamma, beta, mean, var)",
            "",
            "the normalisation is in training mode",
        ),
    ],
    ids=["fed weights", "fed bias", "computed weights", "fed statistics", "computed statistics", "training"],
)
def test_it_is_refused_with_a_reason(body: str, inputs: str, reason: str) -> None:
    model = small(body, inputs=f"float[1,3,5,7] x{inputs}")
    before = operators(model)
    firing = apply(REWRITE, model)
    assert (firing.fired, firing.refused) == (0, {reason: 1})
    assert operators(model) == before


def test_weights_in_float64_are_refused() -> None:
    double = {name: array.astype(np.float64) for name, array in {"w": weights(4, 3, 1, 1), **NORM}.items()}
    model = graph(
        "c = Conv(x, w) y = BatchNormalization(c, gamma, beta, mean, var)",
        "double[1,3,5,7] x",
        "double[1,4,5,7] y",
        **double,
    )
    assert apply(REWRITE, model).refused == {WEIGHTS: 1}
