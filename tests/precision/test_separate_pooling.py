"""Wide pools of INT8 are made in two passes that find the same, and no other pool is."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from refinenet_edge import precision
from refinenet_edge.build import parity
from refinenet_edge.graph import to_bytes
from refinenet_edge.precision.separate_pooling import separate_pooling
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
    assert separate_pooling(model) == 1
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
    assert separate_pooling(model) == 0
    assert kernels(model) == before


def test_a_pool_whose_indices_are_wanted_stays() -> None:
    body = f"{QUANTISED} y, i = MaxPool<kernel_shape = [5, 5], pads = [2, 2, 2, 2]>(d)"
    model = graph(body, "float[1,8,9,11] x", "float[1,8,9,11] y, int64[1,8,9,11] i", **SCALE)
    assert separate_pooling(model) == 0


def test_a_pool_of_float_stays() -> None:
    model = pooled("kernel_shape = [5, 5], pads = [2, 2, 2, 2]", source="x")
    assert separate_pooling(model) == 0


def test_pools_in_a_chain_one_of_whose_names_is_taken() -> None:
    pool = "MaxPool<kernel_shape = [5, 5], pads = [2, 2, 2, 2]>"
    again = "r = QuantizeLinear(p, scale, zero) e = DequantizeLinear(r, scale, zero)"
    model = graph(f"{QUANTISED} p = {pool}(d) {again} c = Relu(e) y = {pool}(c)", **SCALE)
    next(node for node in model.graph if node.op_type == "Relu").outputs[0].name = "p/columns"
    before = found(model)
    assert separate_pooling(model) == 1  # the second is of float
    assert kernels(model) == [(5, 1), (1, 5), (5, 5)]
    np.testing.assert_array_equal(before, found(model))


def to_be_quantised() -> ir.Model:
    """A pool and a convolution between Q/DQ."""
    body = f"{QUANTISED} p = MaxPool<kernel_shape = [5, 5], pads = [2, 2, 2, 2]>(d) y = Conv(p, w)"
    constants = {**SCALE, "zero": np.int8(0), "w": weights(8, 8, 1, 1)}
    return graph(body, "float[1,8,9,11] x", "float[1,8,9,11] y", **constants)


@pytest.mark.parametrize(
    ("backend", "passes"), [("openvino", 2), ("onnxruntime", 2), ("tensorrt", 1), ("tensorrt-rtx", 1)]
)
def test_it_is_done_on_the_cpu_only(backend: Backend, passes: int) -> None:
    model = precision.apply(to_be_quantised(), "int8", backend)
    assert operators(model).count("MaxPool") == passes


def test_openvino_finds_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = feeds_of(to_be_quantised())
    outputs = []
    for separate in (separate_pooling, lambda _: 0):
        monkeypatch.setattr(precision, "separate_pooling", separate)
        model = precision.apply(to_be_quantised(), "int8", "openvino")
        with OpenVinoSession(to_bytes(model)) as session:
            outputs.append(np.array(session.run(feeds)["y"]))
    np.testing.assert_array_equal(*outputs)
    assert outputs[0].std() > 0
