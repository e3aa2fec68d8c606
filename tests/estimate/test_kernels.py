"""Multiplications and bytes of small graphs, counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from refinenet_edge.errors import GraphError
from refinenet_edge.estimate.kernels import Kernel, kernels
from refinenet_edge.precision import to_fp16
from tests.conftest import graph, weights

X = "float[1,3,5,7] x"
W = weights(4, 3, 1, 1)
IN, OUT = 3 * 35, 4 * 35  # elements
FRAME = Kernel("frame", maps=105 + 2 * IN, link=105)
HEAD = Kernel("head", maps=2 * OUT + 35, link=35)

WIDE = "float[1,16,4,4] x"
MAP = 16 * 16
TWO_LAYERS = {"w": weights(16, 16, 1, 1), "v": weights(8, 16, 1, 1)}


def network(*args: Any, precision: str = "fp16", **constants: Any) -> list[Kernel]:
    """The kernels of the network alone."""
    _, *found, _ = kernels(graph(*args, **constants), precision)
    return found


def test_frame_network_and_head() -> None:
    conv = Kernel("other", 12 * 35, "fp16", maps=2 * (IN + OUT), weights=24)
    assert kernels(graph("y = Conv(x, w)", X, "float[1,4,5,7] y", w=W), "fp16") == [FRAME, conv, HEAD]


def test_float32_is_four_bytes_wide() -> None:
    frame, conv, head = kernels(graph("y = Conv(x, w)", X, "float[1,4,5,7] y", w=W), "fp32")
    assert (frame.maps, head.maps) == (105 + 4 * IN, 4 * OUT + 35)
    assert (conv.arithmetic, conv.maps, conv.weights) == ("fp32", 4 * (IN + OUT), 48)


def test_sum_and_activation_ride_along() -> None:
    body = "c = Conv(x, w) d = Conv(x, v) s = Add(c, d) y = Relu(s)"
    first, second = network(body, X, "float[1,4,5,7] y", w=W, v=weights(4, 3, 1, 1, seed=1))
    assert first.maps == 2 * (IN + OUT)
    assert second.maps == 2 * (IN + OUT + OUT)  # what the first wrote is read, the sum never leaves the kernel


def test_a_map_is_read_once_by_a_kernel() -> None:
    (add,) = network("y = Add(x, x)", X, "float[1,3,5,7] y")
    assert add == Kernel("other", maps=2 * (IN + IN))


def test_a_concat_is_no_kernel() -> None:
    body = "c = Conv(x, w) k = Concat<axis = 1>(x, c) y = Conv(k, v)"
    first, second = network(body, X, "float[1,4,5,7] y", w=W, v=weights(4, 7, 1, 1))
    assert first.maps == 2 * (IN + OUT)
    assert second.maps == 2 * (IN + OUT + OUT)


def test_a_block_is_that_of_the_first_node() -> None:
    model = graph("y = Conv(x, w)", X, "float[1,4,5,7] y", w=W)
    next(iter(model.graph)).name = "refine2.crp.convs.0/Conv"
    assert [kernel.block for kernel in kernels(model, "fp16")] == ["frame", "refine2.crp", "head"]


@pytest.mark.parametrize(
    ("attributes", "kernel", "tensor_cores", "winograd"),
    [
        ("<pads = [1,1,1,1]>", (8, 8, 3, 3), True, True),
        ("<pads = [1,1,1,1], strides = [2,2]>", (8, 8, 3, 3), True, False),
        ("<pads = [2,2,2,2], dilations = [2,2]>", (8, 8, 3, 3), True, False),
        ("<pads = [2,2,2,2]>", (8, 8, 5, 5), True, False),
        ("<pads = [1,1,1,1], group = 8>", (8, 1, 3, 3), False, False),
        ("<pads = [1,1,1,1], group = 2>", (8, 4, 3, 3), True, False),
    ],
)
def test_the_form_of_a_convolution(
    attributes: str, kernel: tuple[int, ...], tensor_cores: bool, winograd: bool
) -> None:
    (conv,) = network(f"y = Conv{attributes}(x, w)", outputs="float[1,8,h,v] y", w=weights(*kernel), precision="fp32")
    assert (conv.tensor_cores, conv.winograd) == (tensor_cores, winograd)


def test_int8_is_where_the_placement_puts_it() -> None:
    body = "a = Conv(x, w) b = Relu(a) y = Conv(b, v)"
    inner, logits = network(body, WIDE, "float[1,8,4,4] y", precision="int8", **TWO_LAYERS)
    # its input is one byte wide; what the classifier reads stays float16, as the classifier itself
    assert inner == Kernel("other", 256 * 16, "int8", maps=MAP + 2 * MAP, weights=256)
    assert logits == Kernel("other", 128 * 16, "fp16", maps=2 * (MAP + 128), weights=256)


def test_a_map_that_all_readers_quantise_is_written_narrow() -> None:
    body = "a = Conv(x, w) b = Conv(a, w) y = Conv(b, v)"
    first, second, _ = network(body, WIDE, "float[1,8,4,4] y", precision="int8", **TWO_LAYERS)
    assert (first.maps, second.maps) == (2 * MAP, MAP + 2 * MAP)


def test_what_the_budget_kept_stays_float() -> None:
    def model() -> ir.Model:
        found = graph("a = Conv(x, w) y = Conv(a, v)", WIDE, "float[1,8,4,4] y", **TWO_LAYERS)
        for number, node in enumerate(found.graph):
            node.name = f"layer{number}"
        return found

    assert kernels(model(), "int8", ["layer0"]) == kernels(model(), "fp16")
    assert kernels(model(), "int8") != kernels(model(), "fp16")


def test_quantised_and_float16_graphs_are_seen_as_float() -> None:
    body = "a = Conv(x, w) y = Conv(a, v)"
    plain = graph(body, WIDE, "float[1,8,4,4] y", **TWO_LAYERS)
    quantised = graph(
        "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) e = DequantizeLinear(u, s, z)"
        " a = Conv(d, e) y = Conv(a, v)",
        WIDE,
        "float[1,8,4,4] y",
        v=TWO_LAYERS["v"],
        u=TWO_LAYERS["w"].astype("int8"),
        s=np.float32(0.1),
        z=np.int8(0),
    )
    half = to_fp16(graph(body, WIDE, "float[1,8,4,4] y", **TWO_LAYERS))
    for precision in ("fp32", "fp16", "int8"):
        assert kernels(quantised, precision) == kernels(half, precision) == kernels(plain, precision)


def test_rounded_logits_are_no_kernel() -> None:
    body = "c = Conv(x, w) q = QuantizeLinear(c, s, z) y = DequantizeLinear(q, s, z)"
    rounded = network(body, X, "float[1,4,5,7] y", w=W, s=np.float32(0.1), z=np.int8(0))
    assert rounded == network("y = Conv(x, w)", X, "float[1,4,5,7] y", w=W)


def test_free_sizes_are_refused() -> None:
    with pytest.raises(GraphError, match="has no fixed size: estimate a bundle of one frame size"):
        kernels(graph("y = Conv(x, w)", "float[1,3,h,v] x", "float[1,4,h,v] y", w=W), "fp16")
