"""Pools of INT8 find the same as integers and in two passes, and no other pool is changed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from refinenet_edge import precision
from refinenet_edge.build import parity
from refinenet_edge.graph import to_bytes
from refinenet_edge.precision.integer_pools import pool_integers
from refinenet_edge.records import Backend
from refinenet_edge.runtime.openvino import OpenVinoSession
from tests.conftest import feeds_of, graph, operators, weights

QUANTISED = "q = QuantizeLinear(x, scale, zero) d = DequantizeLinear(q, scale, zero)"
SCALE = {"scale": np.float32(0.02), "zero": np.int8(3)}


def pooled(attributes: str, source: str = "d", output: str = "float[N,8,H,W] y") -> ir.Model:
    return graph(f"{QUANTISED} y = MaxPool<{attributes}>({source})", "float[1,8,9,11] x", output, **SCALE)


def found(model: ir.Model) -> np.ndarray:
    """By ONNX Runtime: ONNX's own reference fails on some of these pools."""
    return parity.logits(to_bytes(model), feeds_of(model))["x"]


def kernels(model: ir.Model) -> list[tuple[int, ...]]:
    return [tuple(node.attributes.get_ints("kernel_shape", ())) for node in model.graph if node.op_type == "MaxPool"]


@pytest.mark.parametrize(
    ("kernel", "pads"), [((5, 5), (2, 2, 2, 2)), ((5, 5), (0, 0, 0, 0)), ((7, 3), (3, 1, 3, 1)), ((4, 6), (3, 0, 1, 5))]
)
def test_the_two_passes_find_what_the_one_found(kernel: tuple[int, int], pads: tuple[int, ...]) -> None:
    model = pooled(f"kernel_shape = [{kernel[0]}, {kernel[1]}], pads = [{', '.join(map(str, pads))}]")
    before = found(model)
    pool_integers(model)
    assert kernels(model) == [(kernel[0], 1), (1, kernel[1])]
    after = found(model)
    np.testing.assert_array_equal(before, after)
    assert after.shape == (1, 8, 10 - kernel[0] + pads[0] + pads[2], 12 - kernel[1] + pads[1] + pads[3])


@pytest.mark.parametrize(
    "attributes",
    [
        "kernel_shape = [3, 3], pads = [1, 1, 1, 1]",  # nothing to be won
        "kernel_shape = [5, 1], pads = [2, 0, 2, 0]",
        "kernel_shape = [5, 5], strides = [2, 2]",
        "kernel_shape = [5, 5], dilations = [2, 2]",
        'kernel_shape = [5, 5], auto_pad = "SAME_UPPER"',
    ],
)
def test_other_pools_stay(attributes: str) -> None:
    model = pooled(attributes)
    before = kernels(model)
    pool_integers(model)
    assert kernels(model) == before


def test_a_pool_whose_indices_are_wanted_stays() -> None:
    body = f"{QUANTISED} y, i = MaxPool<kernel_shape = [5, 5], pads = [2, 2, 2, 2]>(d)"
    model = graph(body, "float[1,8,9,11] x", "float[1,8,9,11] y, int64[1,8,9,11] i", **SCALE)
    pool_integers(model)
    assert kernels(model) == [(5, 5)]


def test_a_pool_of_float_stays() -> None:
    model = pooled("kernel_shape = [5, 5], pads = [2, 2, 2, 2]", source="x")
    pool_integers(model)
    assert kernels(model) == [(5, 5)]


def test_pools_in_a_chain_one_of_whose_names_is_taken() -> None:
    pool = "MaxPool<kernel_shape = [5, 5], pads = [2, 2, 2, 2]>"
    again = "r = QuantizeLinear(p, scale, zero) e = DequantizeLinear(r, scale, zero)"
    model = graph(f"{QUANTISED} p = {pool}(d) {again} c = Relu(e) y = {pool}(c)", **SCALE)
    next(node for node in model.graph if node.op_type == "Relu").outputs[0].name = "p/columns"
    before = found(model)
    pool_integers(model)  # the second is of float
    assert kernels(model) == [(5, 1), (1, 5), (5, 5)]
    np.testing.assert_array_equal(before, found(model))


def between(zero: np.generic, again: np.generic, scale: float = 0.02) -> ir.Model:
    """Q/DQ with one zero point, a pool, Q/DQ of `scale` with another, and a convolution."""
    body = (
        f"{QUANTISED} p = MaxPool<kernel_shape = [5, 5], pads = [2, 2, 2, 2]>(d) "
        "r = QuantizeLinear(p, other, again) e = DequantizeLinear(r, other, again) y = Conv(e, w)"
    )
    constants = {"scale": np.float32(0.02), "zero": zero, "other": np.float32(scale), "again": again}
    return graph(body, "float[1,8,9,11] x", "float[1,8,9,11] y", **constants, w=weights(8, 8, 1, 1))


@pytest.mark.parametrize("zero", [np.int8(3), np.uint8(128), np.uint8(0)])
def test_between_one_scale_integers_are_pooled(zero: np.generic) -> None:
    model = between(zero, zero)
    before = found(model)
    pool_integers(model)
    assert operators(model) == ["QuantizeLinear", "MaxPool", "MaxPool", "DequantizeLinear", "Conv"]
    assert set(model.graph.initializers) == {"scale", "zero", "other", "again", "w"}
    np.testing.assert_array_equal(before, found(model))


@pytest.mark.parametrize(
    "model",
    [
        between(np.uint8(128), np.uint8(127)),
        between(np.uint8(128), np.uint8(128), scale=0.021),
        between(np.int8(0), np.uint8(0)),
    ],
)
def test_between_two_scales_they_are_not(model: ir.Model) -> None:
    before = found(model)
    pool_integers(model)
    assert operators(model).count("QuantizeLinear") == 2
    assert kernels(model) == [(5, 1), (1, 5)]
    np.testing.assert_array_equal(before, found(model))


@pytest.mark.parametrize("scale", [-0.02, 0.0, 3e38])
def test_scales_whose_integers_come_back_as_others(scale: float) -> None:
    """Below 0 the largest number is the smallest integer; zero and infinities bring none back."""
    body = (
        "d = DequantizeLinear(x, scale, zero) p = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(d) "
        "r = QuantizeLinear(p, scale, zero) y = Cast<to = 1>(r)"
    )
    ends = "int8[1,8,9,11] x", "float[1,8,9,11] y"
    model = graph(body, *ends, scale=np.float32(scale), zero=np.int8(0))
    pool_integers(model)
    assert operators(model) == ["DequantizeLinear", "MaxPool", "QuantizeLinear", "Cast"]


def test_without_a_zero_point_a_signed_map_comes_back_unsigned() -> None:
    body = (
        "d = DequantizeLinear(x, scale) p = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(d) "
        "r = QuantizeLinear(p, scale) y = Cast<to = 1>(r)"
    )
    for kind, pairs in (("int8", 1), ("uint8", 0)):
        model = graph(body, f"{kind}[1,8,9,11] x", "float[1,8,9,11] y", scale=np.float32(0.02))
        pool_integers(model)
        assert operators(model).count("QuantizeLinear") == pairs, kind


def test_what_else_reads_the_pool_keeps_it_float() -> None:
    body = (
        f"{QUANTISED} p = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(d) "
        "r = QuantizeLinear(p, scale, zero) e = DequantizeLinear(r, scale, zero) y = Add(e, p)"
    )
    model = graph(body, "float[1,8,9,11] x", "float[1,8,9,11] y", **SCALE)
    pool_integers(model)
    assert operators(model).count("QuantizeLinear") == 2


def test_an_opset_whose_pools_take_no_integers() -> None:
    model = between(np.uint8(0), np.uint8(0))
    model.graph.opset_imports[""] = 11
    pool_integers(model)
    assert operators(model).count("QuantizeLinear") == 2


@pytest.mark.parametrize(
    ("backend", "passes"), [("openvino", 2), ("onnxruntime", 2), ("tensorrt", 1), ("tensorrt-rtx", 1)]
)
def test_it_is_done_on_the_cpu_only(backend: Backend, passes: int) -> None:
    model = precision.apply(between(np.int8(0), np.int8(0)), "int8", backend)
    assert operators(model).count("MaxPool") == passes
    assert operators(model).count("QuantizeLinear") == 3 - passes


@pytest.mark.parametrize("zero", [np.int8(0), np.uint8(0)])
def test_openvino_finds_the_same_bits(zero: np.generic, monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = feeds_of(between(zero, zero))
    outputs = []
    for rewrite in (pool_integers, lambda _: None):
        monkeypatch.setattr(precision, "pool_integers", rewrite)
        model = precision.apply(between(zero, zero), "int8", "openvino")
        with OpenVinoSession(to_bytes(model)) as session:
            outputs.append(np.array(session.run(feeds)["y"]))
    np.testing.assert_array_equal(*outputs)
    assert outputs[0].std() > 0
