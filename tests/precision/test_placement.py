"""Each rule of a placement: where it applies, and where it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from rtx_plans import kernels

from refinenet_edge import precision
from refinenet_edge.fusion import fuse
from refinenet_edge.graph import to_bytes
from refinenet_edge.precision import quantise
from refinenet_edge.precision.placement import OPENVINO, PLACEMENTS, RTX, TENSORRT, Placement
from refinenet_edge.runtime.tensorrt.builder import EngineOptions, build_plan
from refinenet_edge.trace import trace
from tests.conftest import Traced, graph, network, operators, weights
from tests.precision.test_qdq import ALL_ENDS, SHAPE, observed, pairs, ranges_of, sources

RTX_ENDS = replace(RTX, classifier=True)
W, V = weights(16, 16, 1, 1), weights(16, 16, 1, 1, seed=1)
DEPTHWISE = weights(16, 1, 3, 3)
POOL = "MaxPool<kernel_shape = [3,3], pads = [1,1,1,1]>"
EACH_BY_ITSELF = "<group = 16, pads = [1,1,1,1]>"
LOGITS_12 = SHAPE[0], "float[1,12,6,8] y"


def quantised(placement: Placement, body: str, ends: tuple[str, str] = SHAPE, **constants: Any) -> ir.Model:
    model = graph(body, *ends, **constants)
    return quantise(model, ranges_of(model), placement)


@pytest.mark.parametrize(
    ("placement", "found"), [(ALL_ENDS, ["c", "y"]), (RTX_ENDS, ["y"]), (OPENVINO, ["d", "c", "y"])]
)
def test_depthwise_and_what_reads_it(placement: Placement, found: list[str]) -> None:
    model = graph(
        f"d = Conv{EACH_BY_ITSELF}(x, k) a = Relu(d) c = Conv(a, w) y = Conv(c, v)", *SHAPE, k=DEPTHWISE, w=W, v=V
    )
    assert [str(node.outputs[0].name) for node in model.graph if placement.quantises(node)] == found


def test_what_reads_a_full_convolution_is_quantised_on_rtx() -> None:
    model = quantised(RTX, "c = Conv(x, w) r = Relu(c) b = Conv(r, v) y = Relu(b)", w=W, v=V)
    assert pairs(model) == ["r", "x"]


class TestClassifier:
    @pytest.mark.parametrize(("placement", "found"), [(TENSORRT, []), (RTX, []), (OPENVINO, ["x"])])
    def test_only_openvino_quantises_it(self, placement: Placement, found: list[str]) -> None:
        assert pairs(quantised(placement, "y = Conv(x, w)", w=W)) == found

    def test_its_summands_are_it_too(self) -> None:
        assert pairs(quantised(TENSORRT, "a = Conv(x, w) b = Conv(x, v) y = Add(a, b)", w=W, v=V)) == []

    def test_a_convolution_that_others_read_is_not_it(self) -> None:
        model = quantised(TENSORRT, "a = Conv(x, w) r = Relu(a) y = Add(a, r)", w=W)
        assert sources(model, "Conv") == [["DequantizeLinear", "DequantizeLinear"]]

    def test_the_engine_keeps_its_channel_last_ends(self) -> None:
        """With 40 classes, as NYUv2 has, INT8 kernels would fit the classifier."""
        model = graph(
            "c = Conv(x, s) r = Relu(c) d = Conv(r, w) y = Conv(d, k)",
            "float[1,3,6,8] x",
            "float[1,40,6,8] y",
            s=weights(16, 3, 1, 1),
            w=W,
            k=weights(40, 16, 1, 1),
        )
        precision.apply(model, "int8", "tensorrt-rtx", ranges_of(model))
        assert precision.pad_channels(model)


class TestSums:
    def test_a_skip_in_an_epilogue(self) -> None:
        body = "a = Conv(x, w) y = Add(a, x)"
        assert sources(quantised(ALL_ENDS, body, w=W), "Add") == [["Conv", "DequantizeLinear"]]
        assert sources(quantised(RTX_ENDS, body, w=W), "Add") == [["Conv", ""]]

    @pytest.mark.parametrize("placement", [ALL_ENDS, RTX_ENDS, OPENVINO])
    def test_a_chain_of_pools_is_summed_from_int8(self, placement: Placement) -> None:
        """No convolution can add here: what it gives is pooled, too."""
        body = f"p = {POOL}(x) a = Conv(p, w) s = Add(x, a) q = {POOL}(a) b = Conv(q, v) y = Add(s, b)"
        model = quantised(placement, body, w=W, v=V)
        assert sources(model, "Add") == [["DequantizeLinear", "DequantizeLinear"], ["Add", "Conv"]]
        assert pairs(model) == ["a", "p", "q", "x"]

    def test_none(self) -> None:
        model = quantised(replace(ALL_ENDS, sums=False), "a = Conv(x, w) y = Add(a, x)", w=W)
        assert sources(model, "Add") == [["Conv", ""]]

    @pytest.mark.parametrize("placement", PLACEMENTS.values(), ids=str)
    def test_arithmetic_on_shapes_is_left_alone(self, placement: Placement) -> None:
        model = graph("s = Shape(x) t = Add(s, s) y = Relu(x)", SHAPE[0], f"{SHAPE[1]}, int64[4] t")
        assert operators(quantise(model, replace(ranges_of(model), tensors={}), placement)) == ["Shape", "Add", "Relu"]


class TestPoolsAndResizes:
    RESIZE = 'Resize<mode = "linear", coordinate_transformation_mode = "align_corners">'

    @pytest.mark.parametrize(
        ("body", "operator"), [(f"p = {POOL}(x)", "MaxPool"), (f"p = {RESIZE}(x, , , s)", "Resize")], ids=str
    )
    def test_both_sides_or_neither(self, body: str, operator: str) -> None:
        sizes = {"s": np.array([1, 16, 6, 8])} if operator == "Resize" else {}
        inside = quantised(ALL_ENDS, f"{body} y = Conv(p, w)", w=W, **sizes)
        assert sources(inside, operator)[0][0] == "DequantizeLinear"
        assert pairs(inside) == ["p", "x"]
        outside = quantised(ALL_ENDS, f"{body} y = Conv(p, w)", LOGITS_12, w=weights(12, 16, 1, 1), **sizes)
        assert pairs(outside) == []

    def test_a_chain_before_a_float_convolution_is_float(self) -> None:
        model = quantised(ALL_ENDS, f"p = {POOL}(x) q = {POOL}(p) y = Conv(q, w)", LOGITS_12, w=weights(12, 16, 1, 1))
        assert operators(model) == ["MaxPool", "MaxPool", "Conv"]

    def test_a_pool_before_a_convolution_that_is_kept_is_float(self) -> None:
        model = graph(f"p = {POOL}(x) [kept] y = Conv(p, w)", *SHAPE, w=W)
        assert operators(quantise(model, ranges_of(model), ALL_ENDS, keep=["kept"])) == ["MaxPool", "Conv"]

    @pytest.mark.parametrize("choice", ["pools", "resizes"])
    def test_none(self, choice: str) -> None:
        body = f"p = {POOL}(x)" if choice == "pools" else f"p = {self.RESIZE}(x, , , s)"
        sizes = {"s": np.array([1, 16, 6, 8])} if choice == "resizes" else {}
        model = quantised(replace(ALL_ENDS, **{choice: False}), f"{body} y = Conv(p, w)", w=W, **sizes)
        assert pairs(model) == ["p"]


@pytest.mark.parametrize("placement", PLACEMENTS.values(), ids=str)
def test_a_network_of_free_size_is_quantised(placement: Placement) -> None:
    model = trace(network("rf_lw_mbv2"), (64, 96), dynamic=True)
    fuse(model)
    assert operators(quantise(model, ranges_of(model), placement)).count("QuantizeLinear") > 40


def test_scales_are_float16_in_a_float16_graph(traced: Traced) -> None:
    model = traced("rf_lw_mbv2", (64, 96))
    fuse(model)
    precision.apply(model, "int8", "tensorrt", ranges_of(model))
    linear = [node for node in model.graph if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {node.inputs[1].dtype for node in linear} == {ir.DataType.FLOAT16}
    assert {(node.op_type, node.outputs[0].dtype) for node in linear} == {
        ("QuantizeLinear", ir.DataType.INT8),
        ("DequantizeLinear", ir.DataType.FLOAT16),
    }


def test_tensorrt_rtx_moves_no_more_in_int8_than_in_half_precision(traced: Traced) -> None:
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    moved = {}
    for kind in ("fp16", "int8"):
        model = traced("rf_lw_mbv2", (256, 256))
        fuse(model)
        ranges = observed(model, weights(1, 3, 256, 256)) if kind == "int8" else None
        precision.apply(model, kind, "tensorrt-rtx", ranges)
        assert precision.pad_channels(model)
        plan, _ = build_plan(to_bytes(model), "tensorrt-rtx", EngineOptions())
        assert b"int8" in plan
        moved[kind] = (kernels(plan) or pytest.skip("this TensorRT-RTX keeps no program text"))[1]
    assert moved["int8"] < moved["fp16"]
