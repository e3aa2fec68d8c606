"""The file as onnx has it: opened, checked, and brought to float32 before it becomes a graph."""

import math
import os
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
import onnx_ir as ir
from onnx import numpy_helper

from refinenet_edge.errors import GraphError
from refinenet_edge.files import open_regular
from refinenet_edge.onnx_import.ends import FLOAT, HALF

MAX_ONNX_BYTES = 2 << 30  # protobuf's own limit
OTHER_BITS = {
    **dict.fromkeys((onnx.TensorProto.INT16, onnx.TensorProto.UINT16), 16),
    **dict.fromkeys((onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1), 4),
}  # of quantised numbers


def open_proto(path: Path, data: bytes | None) -> onnx.ModelProto:
    """The checked model in a file, or in `data` that was read of it, with its weights and without functions.

    Raises `GraphError` for what no backend computes, and whatever onnx does on a damaged file.
    """
    # inlined now: the converter of opsets drops a model's functions
    proto = onnx.inliner.inline_local_functions(_loaded(path, data))
    _refuse_other_bits(proto, path)
    if any(tensor.data_type == onnx.TensorProto.BFLOAT16 for tensor in proto.graph.initializer):
        raise GraphError(f"{path} computes in bfloat16, which nothing here does: export it in float32")
    return proto


def _loaded(path: Path, data: bytes | None) -> onnx.ModelProto:
    """The checked model in a file, with its weights."""
    if data is None:
        with open_regular(path) as file:
            size_of_file = os.fstat(file.fileno()).st_size
        proto = onnx.load(path, load_external_data=False) if size_of_file <= MAX_ONNX_BYTES else None
        if proto is None or sum(map(_bytes_of, proto.graph.initializer)) > MAX_ONNX_BYTES:
            raise GraphError(
                f"{path} is larger than {MAX_ONNX_BYTES >> 30} GiB, weights and all, which no ONNX file can hold: "
                "export a smaller network"
            )
        onnx.load_external_data_for_model(proto, str(path.parent))
    else:
        proto = onnx.load_model_from_string(data)
    _refuse_own_operators(proto, path)
    if not all(output.type.WhichOneof("value") for output in proto.graph.output):
        proto = onnx.shape_inference.infer_shapes(proto)  # which types them
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()  # the checker wants one, no runtime does
    onnx.checker.check_model(proto)
    return proto


def _bytes_of(tensor: onnx.TensorProto) -> int:
    return int(math.prod(tensor.dims) * ir.DataType(tensor.data_type).itemsize)


def _refuse_own_operators(proto: onnx.ModelProto, path: Path) -> None:
    """Raise `GraphError` for operators that are neither ONNX's, nor a runtime's, nor functions of the file."""
    functions = {(function.domain, function.name) for function in proto.functions}
    for node in proto.graph.node:
        if node.domain not in ("", "ai.onnx", "com.microsoft") and (node.domain, node.op_type) not in functions:
            raise GraphError(
                f"{path} has an operator that is not ONNX's, {node.domain}.{node.op_type} "
                f"({node.name or node.output[0]}), which nothing here can run: export it without"
            )


def _refuse_other_bits(proto: onnx.ModelProto, path: Path) -> None:
    """Raise `GraphError` for Q/DQ in 16 or 4 bits or in blocks: our opset has none, no backend computes in them."""
    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    kinds |= {n.output[0]: a.t.data_type for n in proto.graph.node for a in n.attribute if n.op_type == "Constant"}
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            inputs = (kinds.get(name) for index, name in enumerate(node.input) if index != 1)
            bits = next((OTHER_BITS[kind] for kind in inputs if kind in OTHER_BITS), None)
            blocks = any(attribute.name == "block_size" and attribute.i for attribute in node.attribute)
            if bits or blocks:
                raise GraphError(
                    f"{path} is quantised in {f'{bits} bits' if bits else 'blocks'} ({node.name or node.output[0]}), "
                    "which nothing here computes in: quantise it in 8 bits, by tensor or channel, or build the float "
                    "model with --precision int8 --calib FRAMES"
                )


def in_float32(proto: onnx.ModelProto) -> bool:
    """Make every float16 of a graph float32, in place; whether there was any."""
    return _widen(proto.graph)


def _widen(graph: onnx.GraphProto) -> bool:
    half, single = int(HALF), int(FLOAT)
    found = False
    for tensor in graph.initializer:
        if tensor.data_type == half:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
            found = True
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type, found = single, True
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "output_dtype") and attribute.i == half:
                attribute.i, found = single, True
            if attribute.t.data_type == half:
                wide = numpy_helper.to_array(attribute.t).astype(np.float32)
                attribute.t.CopyFrom(numpy_helper.from_array(wide, attribute.t.name))
                found = True
            for inner in (attribute.g, *attribute.graphs):
                found = _widen(inner) or found
    return found


def forget_shapes(proto: onnx.ModelProto) -> dict[str, ir.Shape]:
    """Forget the shapes that `proto` declares of all that it computes: they may be stale. Returns the outputs'."""
    declared = ir.from_proto(proto).graph.outputs
    del proto.graph.value_info[:]
    for output in proto.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    return {str(output.name): output.shape for output in declared if output.shape}
