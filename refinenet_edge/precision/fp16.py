"""Type a float32 graph as float16: weights, activations, input and output.

An operator input is retyped when its ONNX schema lets it be float16; one that must stay float32 (the scales of a
Resize) does. So no float32 island, with its casts, is left around Resize.
"""

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass, LiftConstantsToInitializersPass

from refinenet_edge.errors import GraphError
from refinenet_edge.precision.constant import constant

FP16_MAX = 65504.0


def to_fp16(model: ir.Model) -> ir.Model:
    """`model` with every float32 tensor float16, in place. Raises `GraphError` for a weight float16 cannot hold."""
    # the type of a Constant node is inside it
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    graph = model.graph
    typed: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        schema = _schema(node, graph.opset_imports.get("", 20))
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype != ir.DataType.FLOAT or not _may_be_half(schema, index):
                continue
            if value.is_initializer():
                if value not in typed:
                    typed[value] = _half(value)
                    graph.initializers.add(typed[value])
                node.replace_input_with(index, typed[value])
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == ir.DataType.FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT16))
    for value in list(graph.initializers.values()):
        if not value.uses():
            del graph.initializers[str(value.name)]
    for old, new in typed.items():
        if old.name not in graph.initializers:
            new.name = old.name
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.dtype == ir.DataType.FLOAT:
            value.dtype = ir.DataType.FLOAT16
    return CheckerPass()(model).model


def _schema(node: ir.Node, opset: int) -> onnx.defs.OpSchema:
    try:
        return onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError as exc:
        raise GraphError(
            f"{node.name or 'a node'}: no ONNX operator {node.domain}:{node.op_type}, so its types are unknown"
        ) from exc


def _may_be_half(schema: onnx.defs.OpSchema, index: int) -> bool:
    formal = schema.inputs[min(index, len(schema.inputs) - 1)]
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    return "tensor(float16)" in allowed.get(formal.type_str, [formal.type_str])


def _half(value: ir.Value) -> ir.Value:
    tensor = value.const_value
    assert tensor is not None
    array = np.asarray(tensor.numpy())
    largest = float(np.abs(array).max(initial=0.0))
    if not largest <= FP16_MAX:
        raise GraphError(
            f"{value.name} holds {largest:.3g}, float16 ends at {FP16_MAX:.0f}: build with --precision fp32"
        )
    return constant(f"{value.name} (float16)", array.astype(np.float16))
