"""Operators of integers become Q/DQ: the numbers that ONNX Runtime computes with them, whatever their form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from refinenet_edge.errors import GraphError
from refinenet_edge.graph import to_bytes
from refinenet_edge.onnx_import import Said, read_onnx
from refinenet_edge.onnx_import.quantised import write_out
from refinenet_edge.precision import is_quantised
from tests.conftest import operators, weights

SHAPE = (1, 8, 12, 16)
MICROSOFT = "com.microsoft"


class Small:
    """A graph whose image is quantised first and whose logits are dequantised last, in eight bits `dtype`."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self.dtype = dtype
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def const(self, array: object, dtype: object = None) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(array, dtype), f"k{len(self.constants)}"))  # type: ignore[arg-type]
        return str(self.constants[-1].name)

    def scale(self, scale: float, zero: int = 0) -> list[str]:
        offset = 128 if self.dtype is np.uint8 else 0
        return [self.const(np.float32(scale)), self.const(zero + offset, self.dtype)]

    def op(self, operator: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], domain=domain, **attributes))
        return output

    def conv(self, value: str, scale: list[str], out: list[str], inside: int, channels: int) -> str:
        kernel = np.rint(weights(channels, inside, 3, 3) * 30).clip(-127, 127)
        steps = np.linspace(0.002, 0.004, channels).astype(np.float32)
        weight = [self.const(kernel, np.int8), self.const(steps), self.const(np.zeros(channels), np.int8)]
        bias = self.const(np.arange(channels) * 100, np.int32)
        return self.op("QLinearConv", value, *scale, *weight, *out, bias, pads=[1, 1, 1, 1])

    def bytes(self) -> bytes:
        graph = helper.make_graph(
            self.nodes,
            "small",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *SHAPE[2:]])],
            [helper.make_tensor_value_info(self.nodes[-1].output[0], TensorProto.FLOAT, None)],
            self.constants,
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def made(dtype: type[np.generic], operator: str) -> bytes:
    g = Small(dtype)
    first, second, third = g.scale(0.03), g.scale(0.05, 3), g.scale(0.07, -2)
    value = g.conv(g.op("QuantizeLinear", "x", *first), first, second, 3, 8)
    if operator in ("Add", "Mul"):
        value = g.op(f"QLinear{operator}", value, *second, value, *second, *third, domain=MICROSOFT)
    elif operator == "Concat":
        value = g.op("QLinearConcat", *third, value, *second, value, *second, domain=MICROSOFT, axis=1)
    elif operator == "MatMul":
        kernel = [g.const(np.rint(weights(16, 16) * 30), g.dtype), *g.scale(0.02)]
        value = g.op("QLinearMatMul", value, *second, *kernel, *third)
    elif operator == "AveragePool":
        value = g.op(
            "QLinearAveragePool", value, *second, *third, domain=MICROSOFT, kernel_shape=[2, 2], strides=[2, 2]
        )
    elif operator == "LeakyRelu":
        value = g.op("QLinearLeakyRelu", value, *second, *third, domain=MICROSOFT, alpha=0.1)
    elif operator != "Conv":
        value = g.op(f"QLinear{operator}", value, *second, *third, domain=MICROSOFT)
    else:
        third = second
    g.op("DequantizeLinear", value, *third)
    return g.bytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize(
    "operator",
    ["Conv", "Add", "Mul", "Concat", "MatMul", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid"],
)
def test_it_computes_what_onnxruntime_does_in_integers(dtype: type[np.generic], operator: str, tmp_path: Path) -> None:
    (tmp_path / "given.onnx").write_bytes(made(dtype, operator))
    model = read_onnx(tmp_path / "given.onnx", SHAPE[2:], said=Said(classes=8))
    assert is_quantised(model)
    assert not [name for name in operators(model) if name.startswith("QLinear")]
    image = weights(1, 3, *SHAPE[2:])
    expected, found = (
        onnxruntime.InferenceSession(data).run(None, {name: image})[0]
        for data, name in ((made(dtype, operator), "x"), (to_bytes(model), "image"))
    )
    step = 0.05 if operator == "Conv" else 0.07
    assert np.abs(expected - found).max() < 1.5 * step  # a half that is rounded the other way
    assert (np.abs(expected - found) < 1e-4).mean() > 0.98
    assert np.unique(found).size > 2


def test_what_computes_channels_last_is_left() -> None:
    proto = onnx.load_model_from_string(made(np.uint8, "GlobalAveragePool"))
    proto.graph.node[2].attribute.append(helper.make_attribute("channels_last", 1))
    model = ir.from_proto(proto)
    write_out(model)
    assert "QLinearGlobalAveragePool" in operators(model)


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (helper.make_tensor("k", TensorProto.INT16, [5, 3, 1, 1], range(15)), "16 bits"),
        (helper.make_tensor("k", TensorProto.UINT4, [5, 3, 1, 1], range(15)), "4 bits"),
        (helper.make_tensor("k", TensorProto.INT8, [5, 3, 1, 1], range(15)), "blocks"),
    ],
    ids=["16", "4", "blocks"],
)
@pytest.mark.parametrize("as_node", [False, True])
def test_what_is_not_in_8_bits_or_in_blocks_is_refused(
    stored: onnx.TensorProto, said: str, as_node: bool, tmp_path: Path
) -> None:
    scale = numpy_helper.from_array(np.full((5, 3, 1, 1), 0.1, np.float32), "s")
    blocks = {"axis": 1, "block_size": 1} if said == "blocks" else {}
    if not blocks:
        scale = numpy_helper.from_array(np.float32(0.1), "s")
    graph = helper.make_graph(
        [
            *([helper.make_node("Constant", [], ["k"], value=stored)] if as_node else []),
            helper.make_node("DequantizeLinear", ["k", "s"], ["w"], **blocks),
            helper.make_node("Conv", ["x", "w"], ["y"]),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *SHAPE[2:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [scale, *([] if as_node else [stored])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (tmp_path / "given.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(
        GraphError, match=rf"quantised in {said} \(w\), .*: quantise it in 8 bits, by tensor or channel"
    ):
        read_onnx(tmp_path / "given.onnx", SHAPE[2:])
