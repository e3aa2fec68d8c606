"""A graph of any opset brought to ours. What ours has not is written out, where ONNX says how."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import onnx_ir as ir
from onnx import numpy_helper
from onnx_ir.passes.common import AddDefaultAttributesPass, NameFixPass

from refinenet_edge.errors import GraphError, first_line
from refinenet_edge.graph import IR_VERSION, OPSET


def in_our_opset(model: ir.Model, opset: int, path: Path) -> ir.Model:
    """`model`, of `opset`, in ours. What ours has not is written out, where ONNX says how."""
    if opset in (OPSET - 1, OPSET):
        return model
    if opset < 13:
        _flatten_hardmax(model.graph)
    proto = ir.to_proto(model)
    try:
        if opset < 11:
            proto = _resized_asymmetrically(onnx.version_converter.convert_version(proto, 11))
        elif opset > OPSET and (newer := {node.op_type for node in proto.graph.node if _is_newer(node, opset)}):
            names = [("", name) for name in sorted(newer)]
            proto = ir.to_proto(AddDefaultAttributesPass()(model).model)  # the inliner does not know them
            proto = onnx.inliner.inline_selected_functions(proto, names, inline_schema_functions=True)
        if opset > OPSET:
            _reduce_for_global_max_pool(proto)
        proto = onnx.version_converter.convert_version(proto, OPSET)
    except Exception as exc:  # the converter's errors have no base of their own
        why = re.sub(r"^.*Assertion `.*?` failed: ", "", first_line(exc))
        raise GraphError(
            f"{path} is of opset {opset} and cannot be brought to {OPSET} ({why}): export it with opset {OPSET}"
        ) from exc
    return NameFixPass()(ir.from_proto(proto)).model


def _flatten_hardmax(graph: ir.Graph) -> None:
    """Hardmax before opset 13 takes all axes from its own on as one, which the converter says of Softmax alone."""
    for node in list(graph):
        if node.op_type == "Hardmax":
            shape = ir.node("Shape", node.inputs)
            flat = ir.node("Flatten", node.inputs, {"axis": node.attributes.get_int("axis", 1)})
            largest = ir.node("Hardmax", flat.outputs, {"axis": 1}, name=node.name)
            back = ir.node("Reshape", [largest.outputs[0], shape.outputs[0]])
            made = [shape, flat, largest, back]
            ir.convenience.replace_nodes_and_values(graph, node, [node], made, node.outputs, back.outputs)
    NameFixPass()(ir.Model(graph, ir_version=IR_VERSION))


def _resized_asymmetrically(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto`, just brought to opset 11: before, Upsample and Resize had one way, which the converter does not say."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Resize":
            scales = constants.get(node.input[2])
            nearest = "ceil" if scales is not None and (scales < 1).any() else "floor"
            for name, value in (("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", nearest)):
                node.attribute.append(onnx.helper.make_attribute(name, value))
    return proto


def _is_newer(node: onnx.NodeProto, opset: int) -> bool:
    """Whether our opset has no such operator, or another, and ONNX says what it is made of."""
    if node.domain or not onnx.defs.has(node.op_type, opset):
        return False
    schema: Any = onnx.defs.get_schema(node.op_type, opset)  # its stubs lack these two
    if not (schema.has_function or schema.has_context_dependent_function):
        return False
    return not onnx.defs.has(node.op_type, OPSET) or onnx.defs.get_schema(node.op_type, OPSET).deprecated


def _reduce_for_global_max_pool(proto: onnx.ModelProto) -> None:
    """GlobalMaxPool, which the converter has no way back for, as the ReduceMax that it is."""
    for node in proto.graph.node:
        if node.op_type == "GlobalMaxPool":
            axes = numpy_helper.from_array(np.array([2, 3], np.int64), f"{node.output[0]} (axes)")
            proto.graph.initializer.append(axes)
            node.op_type = "ReduceMax"
            node.input.append(axes.name)
