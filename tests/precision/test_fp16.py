"""A float32 graph becomes a float16 one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from refinenet_edge import precision
from refinenet_edge.build import parity
from refinenet_edge.calibration import peaks
from refinenet_edge.errors import GraphError, InputError
from refinenet_edge.fusion import fuse
from refinenet_edge.graph import to_bytes
from refinenet_edge.precision import stored_in_half
from refinenet_edge.precision.fp16 import to_fp16
from tests.conftest import ODD, Traced, graph, operators, outputs_of, weights

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def typed(model: ir.Model, error: float = 5e-3) -> ir.Model:
    """`model` in float16, fully checked, and its numbers held to the float32 ones."""
    frames = {"random": weights(*(int(side) for side in model.graph.inputs[0].shape or ()), seed=99)}
    expected = parity.logits(to_bytes(model), frames)
    half = to_fp16(model)
    assert outputs_of(half, {str(half.graph.inputs[0].name): frames["random"].astype(np.float16)})
    (found,) = parity.compare("fp16", expected, parity.logits(to_bytes(half), frames))
    assert found.relative_error < error
    return half


def types(model: ir.Model) -> dict[str, ir.DataType | None]:
    return {name: value.dtype for name, value in model.graph.initializers.items()}


def values(model: ir.Model) -> list[ir.Value]:
    return [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]


def test_weights_activations_input_and_output_are_float16() -> None:
    model = typed(graph("c = Conv(x, w, b) y = Relu(c)", w=weights(8, 8, 1, 1), b=weights(8)))
    assert types(model) == {"w": HALF, "b": HALF}
    assert {value.dtype for value in values(model)} == {HALF}
    assert operators(model) == ["Conv", "Relu"]


def test_a_cast_gives_what_float16_does_not_hold() -> None:
    """It is neither made nor read by a node that computes in float16, but read by one that may not."""
    body = "i = Cast<to=6>(x) t = Mul(i, k) f = Cast<to=1>(t) s = Mul(f, d) y = Conv(s, w)"
    model = graph(body, k=np.int32(100_000), d=np.float32(1e-5), w=weights(8, 8, 1, 1))
    frames = {"random": 100 * weights(*(int(side) for side in model.graph.inputs[0].shape or ()), seed=99)}
    expected = parity.logits(to_bytes(model), frames)
    half = to_fp16(model, peaks(model, frames.values()))
    found = parity.logits(to_bytes(stored_in_half(half)), frames)
    assert np.abs(found["random"] - expected["random"]).max() < 1e-2 * np.abs(expected["random"]).max()


def test_weights_are_rounded_to_the_nearest() -> None:
    kernel = weights(8, 8, 1, 1)
    model = to_fp16(graph("y = Conv(x, w)", w=kernel))
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), kernel.astype(np.float16))


def test_weights_that_are_shared_stay_shared() -> None:
    model = typed(graph("a = Conv(x, w) b = Relu(a) y = Conv(b, w)", w=weights(8, 8, 1, 1)))
    assert types(model) == {"w": HALF}


@pytest.mark.parametrize(
    ("arguments", "constants", "kept"),
    [
        (", , s", {"s": np.array([1, 1, 2, 2], np.float32)}, {"s": FLOAT}),
        (", , , s", {"s": np.array([1, 8, 10, 14])}, {"s": ir.DataType.INT64}),
        (
            ", r, s",
            {"r": np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32), "s": np.array([1, 1, 2, 2], np.float32)},
            {"r": HALF, "s": FLOAT},
        ),
    ],
    ids=["scales", "sizes", "region and scales"],
)
def test_a_resize_keeps_the_type_of_its_scales(arguments: str, constants: Any, kept: Any) -> None:
    mode = "tf_crop_and_resize" if "r" in constants else "align_corners"
    body = f'y = Resize <mode = "linear", coordinate_transformation_mode = "{mode}"> (x{arguments})'
    model = typed(graph(body, outputs="float[1,8,10,14] y", **constants))
    assert types(model) == kept


def test_scales_that_are_also_a_summand_are_kept_in_both_types() -> None:
    model = graph(
        'a = Add(x, s) y = Resize <mode = "nearest"> (a, , s)',
        "float[1,8,4,4] x",
        "float[1,8,8,8] y",
        s=np.array([1, 1, 2, 2], np.float32),
    )
    assert sorted(map(str, types(typed(model)).values())) == ["FLOAT", "FLOAT16"]


def test_a_clip_has_bounds_of_its_type() -> None:
    model = typed(graph("y = Clip(x, low, high)", low=np.float32(0), high=np.float32(6)))
    assert set(types(model).values()) == {HALF}


def test_a_cast_to_float32_goes_to_float16() -> None:
    model = typed(graph("i = Cast <to = 7> (x) f = Cast <to = 1> (i) y = Add(x, f)"))
    assert [node.attributes.get_int("to") for node in model.graph if node.op_type == "Cast"] == [7, int(HALF)]


def test_constant_nodes_are_typed_too() -> None:
    # as they are where constants were not folded
    model = typed(
        graph(
            "c = Constant <value = float[1] {2.5}> () d = Constant <value_float = 0.5> () e = Add(c, d) y = Mul(x, e)"
        )
    )
    assert operators(model) == ["Add", "Mul"]


def test_integers_stay() -> None:
    model = typed(graph("s = Shape(x) y = Reshape(x, s)"))
    assert model.graph[0].outputs[0].dtype == ir.DataType.INT64


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights_that_are_not_finite_are_refused_by_name(value: float) -> None:
    kernel = weights(8, 8, 1, 1)
    kernel[3, 4] = value
    model = graph("a = Conv(x, w) y = Conv(a, large)", w=weights(8, 8, 1, 1), large=kernel)
    with pytest.raises(GraphError, match=r"^large holds NaN or infinity"):
        to_fp16(model)


class TestWhatFloat16CannotHold:
    """It stays float32 between casts, and what a GPU would store is right."""

    LAYERS = "a = Conv(x, u) b = Relu(a) c = Conv(b, v) d = Relu(c) e = Conv(d, w) y = Conv(e, z)"
    X = weights(1, 8, 5, 7, seed=99)

    def scaled(self, *by: float) -> ir.Model:
        kernels = [weights(8, 8, 1, 1, seed=seed) * np.float32(scale) for seed, scale in enumerate(by)]
        return graph(self.LAYERS, **dict(zip("uvwz", kernels, strict=True)))

    def proven(self, model: ir.Model) -> tuple[ir.Model, float]:
        """The model in float16, and the error of its numbers as they are stored."""
        frames = {"x": self.X}
        expected = parity.logits(to_bytes(model), frames)
        half = to_fp16(model, peaks(model, frames.values()))
        (found,) = parity.compare("fp16", expected, parity.logits(to_bytes(stored_in_half(half)), frames))
        return half, found.relative_error

    @pytest.mark.parametrize(
        ("by", "kept"),
        [
            ((1, 1, 1, 1), 0),
            ((100, 1000, 1e-4, 0.1), 3),  # c, d reach 1e6 and more: what makes and what reads them
            ((1, 1e5, 1e-5, 1), 3),  # weights that are too large, too
            ((1e-9, 1, 1e9, 1), 6),  # tiny weights, activations and what undoes it
            ((1, 1, 1e-6, 1e6), 2),
        ],
    )
    def test_as_few_nodes_as_need_be_stay_float32(self, by: tuple[float, ...], kept: int) -> None:
        half, error = self.proven(self.scaled(*by))
        left = [node for node in half.graph if node.op_type != "Cast" and node.outputs[0].dtype == FLOAT]
        assert len(left) <= kept
        assert bool(left) == bool(kept)
        assert error < 1e-2
        assert {value.dtype for value in (*half.graph.inputs, *half.graph.outputs)} == {HALF}
        assert [value.name for value in half.graph.outputs] == ["y"]

    def test_without_it_the_numbers_are_lost(self) -> None:
        model = self.scaled(100, 1000, 1e-4, 0.1)
        found = parity.logits(to_bytes(stored_in_half(to_fp16(model))), {"x": self.X})["x"]
        assert not np.isfinite(found).all()

    def test_the_tensor_is_named(self, caplog: pytest.LogCaptureFixture) -> None:
        self.proven(self.scaled(100, 1000, 1e-4, 0.1))
        (said,) = [record.getMessage() for record in caplog.records]
        assert "c reaches" in said and "stay float32" in said

    def test_logits_beyond_it_are_refused(self) -> None:
        with pytest.raises(GraphError, match=r"reaches .*build with --precision fp32"):
            self.proven(self.scaled(100, 1000, 1, 1))

    def test_too_many_are_refused(self) -> None:
        many = " ".join(f"r{i} = Relu({f'r{i - 1}' if i else 'l'})" for i in range(20))
        model = graph(f"l = Mul(x, up) {many} y = Mul(r19, down)", up=np.float32(1e6), down=np.float32(1e-6))
        with pytest.raises(GraphError, match=r"22 of 22 nodes would stay float32; build with --precision fp32"):
            self.proven(model)


def test_the_largest_number_of_float16_is_held() -> None:
    model = to_fp16(graph("y = Mul(x, k)", k=np.float32(65504)))
    assert float(model.graph.initializers["k"].const_value.numpy()) == 65504.0


def test_an_operator_of_nobody_is_refused_by_name() -> None:
    model = graph("y = Relu(x)")
    model.graph[0].op_type, model.graph[0].name = "Unheard", "refine4/Unheard"
    with pytest.raises(GraphError, match="refine4/Unheard: no ONNX operator :Unheard"):
        to_fp16(model)


def test_a_network_is_float16_throughout(traced: Traced) -> None:
    model = traced("rf_lw_mbv2", ODD)
    frames = {"random": weights(1, 3, *ODD)}
    fuse(model)
    expected = parity.logits(to_bytes(model), frames)
    names = [node.name for node in model.graph]
    half = to_fp16(model)
    assert [node.name for node in half.graph] == names
    left = {node.op_type for node in half.graph for value in node.inputs if value is not None and value.dtype == FLOAT}
    assert left <= {"Resize"}
    assert {value.dtype for value in values(half)} == {HALF}
    (found,) = parity.compare("fp16", expected, parity.logits(to_bytes(half), frames))
    assert found.relative_error < 1e-2
    assert found.label_agreement > 0.95


def test_float32_is_left_as_it_is() -> None:
    model = graph("y = Relu(x)")
    before = to_bytes(model)
    assert to_bytes(precision.apply(model, "fp32")) == before


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(InputError, match="no precision 'int4'; there are fp32, fp16"):
        precision.apply(graph("y = Relu(x)"), "int4")
