"""Operators that compute in integers, of somebody's ONNX graph, as Q/DQ around operators of floats: one form for all.

    QLinearConv(x, w)  ->  QuantizeLinear(Conv(DequantizeLinear(x), DequantizeLinear(w)))       its bias is a float one

So what is true of Q/DQ is true of them, whatever backend they are built for. What has no such form stays as it is.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from refinenet_edge.graph import constant

RUNTIME = "com.microsoft"  # the domain of ONNX Runtime's own operators
# how many quantised inputs an operator has, each with its scale and zero point; 0: those after its output's
OPERATORS = {
    ("", "QLinearConv"): 2,
    ("", "QLinearMatMul"): 2,
    (RUNTIME, "QLinearAdd"): 2,
    (RUNTIME, "QLinearMul"): 2,
    (RUNTIME, "QLinearConcat"): 0,
    **{(RUNTIME, f"QLinear{name}"): 1 for name in ("Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool")},
}


def write_out(model: ir.Model) -> None:
    """Write the operators of integers in `model` as Q/DQ, in place."""
    graph = model.graph
    for node in list(graph):
        if node.domain == RUNTIME and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.domain = ""  # they are ONNX's: with 16 bits, which these may have, a file was refused
        elif (count := OPERATORS.get((node.domain, node.op_type))) is not None:
            _write_out(graph, node, count)
    if not any(node.domain == RUNTIME for node in graph.all_nodes()):
        graph.opset_imports.pop(RUNTIME, None)


def _write_out(graph: ir.Graph, node: ir.Node, count: int) -> None:
    inputs = list(node.inputs)
    given, (scale, zero), rest = (
        (inputs[2:], inputs[:2], [])
        if count == 0
        else (inputs[: 3 * count], inputs[3 * count : 3 * count + 2], inputs[3 * count + 2 :])
    )
    if any(value is None for value in (*given, scale, zero)) or node.attributes.get_int("channels_last", False):
        return
    made: list[ir.Node] = []
    floats: list[ir.Value | None] = []
    for place in range(0, len(given), 3):
        axis = {"axis": 0} if place and node.op_type == "QLinearConv" else None
        made.append(ir.node("DequantizeLinear", given[place : place + 3], axis))
        floats.append(made[-1].outputs[0])
    if rest:
        bias = _bias(rest[0], given[1], given[4])
        if bias is None:
            return
        made.append(bias)
        floats.append(bias.outputs[0])
    attributes = [each for name, each in node.attributes.items() if name != "channels_last"]
    operator = ir.Node("", node.op_type.removeprefix("QLinear"), floats, attributes, num_outputs=1, name=node.name)
    back = ir.node("QuantizeLinear", [operator.outputs[0], scale, zero])
    ir.convenience.replace_nodes_and_values(graph, node, [node], [*made, operator, back], node.outputs, back.outputs)


def _bias(stored: ir.Value | None, *scales: ir.Value | None) -> ir.Node | None:
    """A constant of the floats that an INT32 bias stands for; None where it is no constant."""
    floats = np.ones(1)
    for value in (stored, *scales):
        array = constant(value)
        if array is None:
            return None
        floats = floats * array.astype(np.float64).reshape(-1)
    return ir.node("Constant", [], {"value": ir.tensor(floats.astype(np.float32))})
