"""Q/DQ that another quantiser put in: the same numbers, as a backend takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from refinenet_edge import precision
from refinenet_edge.errors import InputError
from refinenet_edge.graph import copy_of, to_bytes
from refinenet_edge.precision import is_quantised, needs_vnni
from refinenet_edge.precision.foreign import adapt, asymmetric
from refinenet_edge.runtime.openvino import OpenVinoSession
from refinenet_edge.runtime.processor import processor
from refinenet_edge.runtime.without_vnni import run_without_vnni
from tests.conftest import graph, operators, outputs_of, weights
from tests.precision.test_qdq import ranges_of

ENDS = "float[1,16,6,8] x", "float[1,16,6,8] y"
W = weights(16, 16, 1, 1)
BODY = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Conv(d, w)"
STORED = np.random.default_rng(0).integers(-127, 128, (16, 16, 1, 1)).astype(np.int8)
STORED_BODY = (
    "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) v = DequantizeLinear <axis = 0> (w, t, u) "
    "c = DequantizeLinear(b, m) y = Conv(d, v, c)"
)
X = weights(1, 16, 6, 8, seed=5)


def stored(zero: np.generic = np.int8(0)) -> ir.Model:  # noqa: B008 - a number
    """INT8 weights by channel and an INT32 bias, as ONNX Runtime writes them."""
    scales = np.linspace(0.01, 0.02, 16, dtype=np.float32)
    constants: dict[str, Any] = {"s": np.float32(0.03), "z": zero, "w": STORED, "t": scales, "u": np.zeros(16, np.int8)}
    bias = {"b": np.arange(16, dtype=np.int32) * 100, "m": np.float32(0.0003)}
    return graph(STORED_BODY, *ENDS, **constants, **bias)


class TestOnTheCpu:
    @pytest.mark.parametrize("zero", [np.int8(0), np.int8(-7), np.int8(127)])
    def test_signed_is_the_same_unsigned(self, zero: np.generic) -> None:
        model = stored(zero)
        (expected,) = outputs_of(copy_of(model), {"x": X})
        adapted = adapt(model, on_cpu=True)
        pair = next(node for node in adapted.graph if node.op_type == "QuantizeLinear")
        found = pair.inputs[2].const_value.numpy()
        assert (found.dtype, int(found)) == (np.uint8, int(zero) + 128)
        np.testing.assert_array_equal(outputs_of(adapted, {"x": X})[0], expected)

    @pytest.mark.parametrize("zeros", ["", ", other"])
    def test_each_keeps_its_own_zero_point(self, zeros: str) -> None:
        readers = f"d = DequantizeLinear(q, s{zeros}) e = DequantizeLinear(q, s, z)"
        body = f"q = QuantizeLinear(x, s, z) {readers} y = Sub(d, e)"
        constants = {"s": np.float32(0.03), "z": np.int8(-7), **({"other": np.int8(5)} if zeros else {})}
        model = graph(body, *ENDS, **constants)
        (expected,) = outputs_of(copy_of(model), {"x": X})
        adapted = adapt(model, on_cpu=True)
        assert [int(node.inputs[2].const_value.numpy()) for node in adapted.graph if len(node.inputs) == 3] == [
            *(121, 133 if zeros else 128, 121)
        ]
        np.testing.assert_array_equal(outputs_of(adapted, {"x": X})[0], expected)
        assert np.abs(expected).max() > 0.1

    def test_what_is_between_q_and_dq_stays(self) -> None:
        body = "q = QuantizeLinear(x, s, z) r = Relu(q) d = DequantizeLinear(r, s, z) y = Conv(d, w)"
        model = adapt(graph(body, *ENDS, s=np.float32(0.1), z=np.int8(0), w=W), on_cpu=True)
        assert next(iter(model.graph)).inputs[2].const_value.numpy().dtype == np.int8

    def test_weights_get_7_bits_where_asked(self) -> None:
        (expected,) = outputs_of(stored(), {"x": X})
        model = adapt(stored(), on_cpu=True, in_7_bits=True)
        (found,) = outputs_of(model, {"x": X})
        assert needs_vnni(stored()) and not needs_vnni(model)
        assert 0 < np.abs(found - expected).max() < 0.03 * np.abs(expected).max()

    def test_openvino_computes_a_concat_of_it(self) -> None:
        """Signed, it has another scale after the Concat than is written."""
        body = """
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) k = DequantizeLinear(w, s, z)
        l = DequantizeLinear(v, s, z) a = Conv(d, k) b = Conv <pads = [1,1,1,1]> (d, l)
        c = Concat <axis = 1> (a, b) e = QuantizeLinear(c, t, z) f = DequantizeLinear(e, t, z)
        h = DequantizeLinear(u, s, z) y = Conv(f, h)
        """
        whole = np.random.default_rng(1)
        kernels = {
            name: whole.integers(-63, 64, shape).astype(np.int8)  # of 7 bits: any processor adds them up
            for name, shape in {"w": (16, 16, 1, 1), "v": (16, 16, 3, 3), "u": (16, 32, 1, 1)}.items()
        }
        model = graph(body, *ENDS, s=np.float32(0.03), t=np.float32(0.3), z=np.int8(0), **kernels)
        (expected,) = outputs_of(copy_of(model), {"x": X})
        adapted = adapt(model, on_cpu=True)
        with OpenVinoSession(to_bytes(adapted)) as session:
            found = session.run({"x": X})["y"].copy()
        assert np.sqrt(np.square(found - expected).mean() / expected.var()) < 0.02

    @pytest.mark.processor
    def test_a_lesser_processor_can_be_tried_anywhere(self) -> None:
        if processor() not in ("vnni", "avx512", "avx2"):
            pytest.skip("an x86 is told to be less")
        eight, seven = adapt(stored(), on_cpu=True), adapt(stored(), on_cpu=True, in_7_bits=True)
        loud = {"x": np.full_like(X, 3.8)}
        errors = []
        for model in (eight, seven):
            (expected,) = outputs_of(copy_of(model), loud)
            errors.append(
                np.abs(run_without_vnni(to_bytes(model), loud)["x"] - expected).max() / np.abs(expected).max()
            )
        assert errors[0] > 0.1 and errors[1] < 0.01


class TestOnAGpu:
    def test_a_bias_that_is_stored_is_folded(self) -> None:
        model = stored()
        (expected,) = outputs_of(copy_of(model), {"x": X})
        adapted = adapt(model, on_cpu=False)
        assert asymmetric(adapted) == []
        assert operators(adapted).count("DequantizeLinear") == 2
        np.testing.assert_allclose(outputs_of(adapted, {"x": X})[0], expected, rtol=1e-6)

    @pytest.mark.parametrize(
        ("zero", "odd"),
        [(np.int8(0), []), (np.int8(3), ["q", "d"]), (np.uint8(0), ["q", "d"]), (np.uint8(128), ["q", "d"])],
    )
    def test_a_zero_point_must_be_zero_and_signed(self, zero: np.generic, odd: list[str]) -> None:
        model = graph(BODY, *ENDS, s=np.float32(0.1), z=zero, w=W)
        assert is_quantised(model)
        assert asymmetric(model) == odd

    def test_no_zero_point_means_uint8(self) -> None:
        body = "q = QuantizeLinear(x, s) d = DequantizeLinear(q, s) y = Conv(d, w)"
        assert asymmetric(graph(body, *ENDS, s=np.float32(0.1), w=W)) == ["q", "d"]


def test_int8_in_which_nothing_is_int8_is_refused() -> None:
    model = graph("y = Conv(x, w)", *ENDS, w=W)
    with pytest.raises(InputError, match=r"no layer .* in int8 by tensorrt .*: build with --precision fp16"):
        precision.apply(model, "int8", "tensorrt", ranges_of(model))
