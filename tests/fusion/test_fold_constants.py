"""Constants are computed once; what computes nothing, or passes its input through, goes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from refinenet_edge.fusion.fold_constants import CONSTANTS, IDENTITIES
from tests.conftest import apply, graph, operators, weights


def test_a_computed_constant_becomes_a_weight() -> None:
    model = graph("c = Add(a, b) d = Mul(c, c) y = Mul(x, d)", a=weights(8, 1, 1), b=weights(8, 1, 1, seed=1))
    firing = apply(CONSTANTS, model)
    assert operators(model) == ["Mul"]
    assert firing.fired == 2


def test_weights_of_any_size_are_folded() -> None:
    large = np.ones((8, 8, 90, 90), np.float32)
    model = graph("w = Neg(v) y = Conv <pads = [45,45,44,44]> (x, w)", v=large)
    apply(CONSTANTS, model)
    assert operators(model) == ["Conv"]


def test_constant_nodes_become_initializers() -> None:
    model = graph("c = Constant <value_float = 2.0> () y = Mul(x, c)")
    apply(CONSTANTS, model)
    assert operators(model) == ["Mul"]
    assert len(model.graph.initializers) == 1


def test_the_shape_of_a_fixed_input_is_a_constant() -> None:
    model = graph("s = Shape(x) f = Cast <to = 1> (s) m = ReduceMax <keepdims = 0> (f) y = Div(x, m)")
    apply(CONSTANTS, model)
    assert operators(model) == ["Div"]


def test_the_shape_of_a_free_input_is_not() -> None:
    model = graph(
        "s = Shape(x) f = Cast <to = 1> (s) m = ReduceMax <keepdims = 0> (f) y = Div(x, m)",
        inputs="float[1,8,h,w] x",
        outputs="float[1,8,h,w] y",
    )
    apply(CONSTANTS, model)
    assert "Shape" in operators(model)


def test_equal_small_constants_are_shared() -> None:
    model = graph("a = Clip(x, l1, h1) b = Neg(a) y = Clip(b, l2, h2)", **clips(), outputs="float[1,8,5,7] y")
    apply(CONSTANTS, model)
    assert sorted(float(v.const_value.numpy()) for v in model.graph.initializers.values()) == [0.0, 6.0]


def clips() -> dict[str, np.float32]:
    return {"l1": np.float32(0), "h1": np.float32(6), "l2": np.float32(0), "h2": np.float32(6)}


def test_nodes_that_nobody_uses_go() -> None:
    model = graph("a = Relu(x) b = Neg(x) y = Neg(a)")
    apply(CONSTANTS, model)
    assert operators(model) == ["Relu", "Neg"]


def test_a_bias_of_zeros_goes() -> None:
    model = graph("y = Conv(x, w, b)", w=weights(8, 8, 1, 1), b=np.zeros(8, np.float32))
    apply(CONSTANTS, model)
    assert [len(node.inputs) for node in model.graph] == [2]
    assert set(model.graph.initializers) == {"w"}


def test_any_other_bias_stays() -> None:
    bias = np.zeros(8, np.float32)
    bias[7] = 1e-30
    model = graph("y = Conv(x, w, b)", w=weights(8, 8, 1, 1), b=bias)
    apply(CONSTANTS, model)
    assert [len(node.inputs) for node in model.graph] == [3]


def test_zeros_that_can_be_fed_stay() -> None:
    model = graph("y = Conv(x, w, b)", inputs="float[1,8,5,7] x, float[8] b", w=weights(8, 8, 1, 1))
    apply(CONSTANTS, model)
    assert [len(node.inputs) for node in model.graph] == [3]


def test_zeros_that_are_shared_stay_for_the_other() -> None:
    model = graph("c = Conv(x, w, b) y = BatchNormalization(c, s, b, b, s)", w=weights(8, 8, 1, 1), **norm_of_ones())
    apply(CONSTANTS, model)
    assert [len(node.inputs) for node in model.graph] == [2, 5]


def norm_of_ones() -> dict[str, np.ndarray]:
    return {"s": np.ones(8, np.float32), "b": np.zeros(8, np.float32)}


def test_nothing_to_do_is_nothing_done() -> None:
    model = graph("a = Relu(x) y = Conv(a, w)", w=weights(8, 8, 1, 1))
    firing = apply(CONSTANTS, model)
    assert (firing.name, firing.fired, firing.refused) == ("fold_constants", 0, {})


def test_an_identity_goes() -> None:
    model = graph("a = Identity(x) b = Relu(a) c = Identity(b) y = Neg(c)")
    assert apply(IDENTITIES, model).fired == 2
    assert operators(model) == ["Relu", "Neg"]


def test_an_identity_before_the_output_goes_and_the_name_stays() -> None:
    model = graph("a = Relu(x) y = Identity(a)")
    apply(IDENTITIES, model)
    assert operators(model) == ["Relu"]
    assert model.graph.outputs[0].name == "y"


def test_an_identity_from_input_to_output_stays() -> None:
    model = graph("y = Identity(x)")
    assert apply(IDENTITIES, model).fired == 0
    assert operators(model) == ["Identity"]


def test_a_dropout_outside_training_goes() -> None:
    model = graph("a = Dropout(x) b = Relu(a) c = Dropout(b, r, t) y = Neg(c)", r=np.float32(0.5), t=np.array(False))
    assert apply(IDENTITIES, model).fired == 2
    assert operators(model) == ["Relu", "Neg"]


def test_a_dropout_in_training_stays() -> None:
    model = graph("a = Relu(x) y = Dropout <seed = 1> (a, r, t)", r=np.float32(0.5), t=np.array(True))
    assert apply(IDENTITIES, model).fired == 0
    assert operators(model) == ["Relu", "Dropout"]


def test_a_dropout_that_may_be_told_to_train_stays() -> None:
    model = graph("y = Dropout(x, r, t)", inputs="float[1,8,5,7] x, bool t", r=np.float32(0.5))
    IDENTITIES(model)
    assert operators(model) == ["Dropout"]


def test_a_dropout_whose_mask_is_read_stays() -> None:
    model = graph("a, m = Dropout(x) f = Cast <to = 1> (m) y = Add(a, f)")
    assert apply(IDENTITIES, model).fired == 0
    assert operators(model) == ["Dropout", "Cast", "Add"]


def test_an_older_dropout_before_the_output_goes() -> None:
    model = graph("a = Relu(x) y = Dropout <ratio = 0.5> (a)", opset=10)
    assert apply(IDENTITIES, model).fired == 1
    assert operators(model) == ["Relu"]
    assert model.graph.outputs[0].name == "y"


def test_an_identity_in_a_branch_stays_where_its_output_is() -> None:
    model = graph(
        "y = If (way) <then_branch = yes () => (float[1,8,5,7] a) { a = Identity(x) }, "
        "else_branch = no () => (float[1,8,5,7] b) { b = Neg(x) }>",
        inputs="float[1,8,5,7] x, bool[1] way",
    )
    IDENTITIES(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    (found,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": weights(1, 8, 5, 7), "way": np.array([True])})
    np.testing.assert_array_equal(found, weights(1, 8, 5, 7))


def test_one_value_is_not_two_outputs() -> None:
    model = graph("a = Relu(x) y = Identity(a) z = Identity(a)", outputs="float[1,8,5,7] y, float[1,8,5,7] z")
    apply(IDENTITIES, model)
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    assert operators(model) == ["Relu", "Identity"]


# what exporters write for 24 -> 53 and 16 -> 37, and float32's neighbours of it
AMBIGUOUS = [np.float32(53 / 24), np.nextafter(np.float32(53 / 24), np.float32(3), dtype=np.float32)]


@pytest.mark.parametrize("scale", AMBIGUOUS)
def test_scales_that_stand_for_whole_sizes_become_sizes(scale: np.float32) -> None:
    model = graph(
        'y = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(x, , s)',
        inputs="float[1,8,16,24] x",
        outputs="float[1,8,h,w] y",
        s=np.array([1, 1, 37 / 16, scale], np.float32),
    )
    CONSTANTS(model)
    (resize,) = model.graph
    assert resize.inputs[2] is None
    assert resize.inputs[3] is not None
    assert resize.inputs[3].const_value is not None
    assert resize.inputs[3].const_value.numpy().tolist() == [1, 8, 37, 53]
    assert list(resize.outputs[0].shape or ()) == [1, 8, 37, 53]


@pytest.mark.parametrize("scale", [2.0, 1.7, 0.5])
def test_other_scales_stay(scale: float) -> None:
    model = graph(
        "y = Resize(x, , s)",
        inputs="float[1,8,16,24] x",
        outputs="float[1,8,h,w] y",
        s=np.array([1, 1, scale, scale], np.float32),
    )
    CONSTANTS(model)
    (resize,) = model.graph
    assert resize.inputs[2] is not None
    assert len(resize.inputs) == 3
