"""Stage 2: an nn.Module, or somebody's ONNX file, becomes a float32 `ir.Model`.

Nodes are named after the module they come from ("refine4.crp.convs.0/Conv"), so that what a builder or a profiler says
of a layer can be read. Input `image` is 1x3xHxW, output `logits` 1xCxhxw, opset 20 and IR version 9: what the parsers
of TensorRT 10.3 to 11 and TensorRT-RTX all read.
"""

from __future__ import annotations

import ast
import itertools
import logging
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import onnx.shape_inference
import onnx.version_converter
import onnx_ir as ir
import torch
from onnx import numpy_helper
from onnx_ir.passes.common import (
    AddDefaultAttributesPass,
    CheckerPass,
    ClearMetadataAndDocStringPass,
    InlinePass,
    NameFixPass,
    RemoveInitializersFromInputsPass,
    ShapeInferencePass,
)
from onnxscript import FLOAT, INT64
from onnxscript import opset20 as op
from onnxscript.optimizer import fold_constants
from torch import nn

from refinenet_edge.errors import GraphError, first_line
from refinenet_edge.files import open_regular
from refinenet_edge.onnx_ends import NOTHING, Said, give_logits, in_float32, take_image
from refinenet_edge.onnx_quantised import write_out
from refinenet_edge.records import INPUT, MAX_SIDE, OUTPUT, SMALLEST_SIDE, Size

logger = logging.getLogger(__name__)

OPSET = 20
IR_VERSION = 9
Images = npt.NDArray[np.float32]
ENDS = "ends"  # in a model's `meta`: what it took and gave as it was given, `Ends`
MAX_ONNX_BYTES = 2 << 30  # protobuf's own limit
OTHER_BITS = {
    **dict.fromkeys((onnx.TensorProto.INT16, onnx.TensorProto.UINT16), 16),
    **dict.fromkeys((onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1), 4),
}  # of quantised numbers


def trace(module: nn.Module, size: Size, dynamic: bool = False) -> ir.Model:
    """Export `module` (1x3xhxw float32 -> logits) in eval mode at `size`; with `dynamic`, H and W stay free."""
    if min(size) < SMALLEST_SIDE or max(size) > MAX_SIDE:
        raise GraphError(f"size {size[0]}x{size[1]}: each side must be in {SMALLEST_SIDE}..{MAX_SIDE} pixels")
    image = torch.zeros(1, 3, *size)
    free = {2: torch.export.Dim("height", min=SMALLEST_SIDE), 3: torch.export.Dim("width", min=SMALLEST_SIDE)}
    try:
        with quiet():
            program = torch.onnx.export(
                module.eval(),
                (image,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({**free},) if dynamic else None,
                optimize=False,
                verbose=False,
                custom_translation_table=_own_operators(),
            )
    except Exception as exc:  # the exporter raises what it likes
        raise GraphError(f"torch could not export {type(module).__name__} at {size[0]}x{size[1]}: {exc}") from exc
    assert program is not None
    _name_nodes(program.model)
    return _tidied(program.model)


def _own_operators() -> dict[Any, Any]:
    """The operators that our networks add to torch, where there is one of these, in ONNX."""

    def resize_cubic(x: FLOAT, size: INT64) -> Any:
        sides: Any = op.Cast(size, to=INT64.dtype)
        sides = op.Concat(op.Shape(x, start=0, end=2), sides, axis=0)
        half = "half_pixel"
        return op.Resize(x, None, None, sides, mode="cubic", cubic_coeff_a=-0.5, coordinate_transformation_mode=half)

    ours = torch.ops.refinenet_edge
    return {ours.resize_cubic.default: resize_cubic} if hasattr(ours, "resize_cubic") else {}


def torch_logits(module: nn.Module, images: Mapping[str, Images]) -> dict[str, Images]:
    """What torch makes of prepared images (1x3xhxw float32): the logits that a trace has to give."""
    with torch.inference_mode():
        return {name: module(torch.from_numpy(image)).numpy() for name, image in images.items()}


def read_onnx(
    path: Path,
    size: Size | None = None,
    data: bytes | None = None,
    *,
    said: Said = NOTHING,
    otherwise: Size | None = None,
) -> ir.Model:
    """An ONNX segmentation model brought to our opset and ends: float32 1x3xHxW in, logits 1xCxhxw out.

    What it took and gave is in its `meta`, as `ENDS`; see onnx_ends/ for what is taken, and `said`.
    `size` fixes free H and W, `otherwise` those that the file leaves free; `data` is what is in the file, where it was
    read already. Raises `GraphError` for what is no such model.
    """
    try:
        proto = _loaded(path, data)
        opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
        # inlined first: the converter drops a model's functions
        proto = onnx.inliner.inline_local_functions(proto)
        _refuse_other_bits(proto, path)
        if any(tensor.data_type == onnx.TensorProto.BFLOAT16 for tensor in proto.graph.initializer):
            raise GraphError(f"{path} computes in bfloat16, which nothing here does: export it in float32")
        halves = [value.name for value in proto.graph.input if value.type.tensor_type.elem_type == ir.DataType.FLOAT16]
        half = in_float32(proto)
        declared = _forget_shapes(proto)
        # what has no name, or another's, gets one of its own
        model = NameFixPass()(RemoveInitializersFromInputsPass()(ir.from_proto(proto)).model).model
        model.ir_version = max(model.ir_version, IR_VERSION)
        write_out(model)
        taken = take_image(model, str(path), said, size, otherwise, declared)
        if any(node.op_type == "If" for node in model.graph):
            fold_constants(model)  # of torch's own squeeze, which asks for the shape
        if taken.image in halves:
            taken = taken._replace(dtype="float16")
        ends = replace(give_logits(model, str(path), said, taken), half=half)
        model = _in_our_opset(model, opset, path)
    except GraphError:
        raise
    except Exception as exc:  # onnx raises what it likes on a damaged file
        raise GraphError(
            f"{path} is no ONNX model that can be read: {first_line(exc)}; export it again, or copy it again"
        ) from exc
    try:
        model = _tidied(model)
        model.meta[ENDS] = ends
        return model
    except Exception as exc:  # the checker again, on the model with its size fixed
        raise GraphError(f"{path} cannot be used at this size: {first_line(exc)}") from exc


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


def _in_our_opset(model: ir.Model, opset: int, path: Path) -> ir.Model:
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


def _reduce_for_global_max_pool(proto: onnx.ModelProto) -> None:
    """GlobalMaxPool, which the converter has no way back for, as the ReduceMax that it is."""
    for node in proto.graph.node:
        if node.op_type == "GlobalMaxPool":
            axes = numpy_helper.from_array(np.array([2, 3], np.int64), f"{node.output[0]} (axes)")
            proto.graph.initializer.append(axes)
            node.op_type = "ReduceMax"
            node.input.append(axes.name)


def _is_newer(node: onnx.NodeProto, opset: int) -> bool:
    """Whether our opset has no such operator, or another, and ONNX says what it is made of."""
    if node.domain or not onnx.defs.has(node.op_type, opset):
        return False
    schema: Any = onnx.defs.get_schema(node.op_type, opset)  # its stubs lack these two
    if not (schema.has_function or schema.has_context_dependent_function):
        return False
    return not onnx.defs.has(node.op_type, OPSET) or onnx.defs.get_schema(node.op_type, OPSET).deprecated


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


def _forget_shapes(proto: onnx.ModelProto) -> dict[str, ir.Shape]:
    """Forget the shapes that `proto` declares of all that it computes: they may be stale. Returns the outputs'."""
    declared = ir.from_proto(proto).graph.outputs
    del proto.graph.value_info[:]
    for output in proto.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    return {str(output.name): output.shape for output in declared if output.shape}


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


def num_classes(model: ir.Model) -> int:
    """The channels of the logits."""
    shape = model.graph.outputs[0].shape
    if shape is None or len(shape) != 4 or not isinstance(shape[1], int):
        raise GraphError(f"the output has shape {shape}: expected logits 1xCxhxw with a fixed C")
    return int(shape[1])


def to_bytes(model: ir.Model) -> bytes:
    """The serialised ONNX, weights inside."""
    try:
        return bytes(ir.to_proto(model).SerializeToString(deterministic=True))
    except ValueError as exc:
        raise GraphError(f"the model is larger than ONNX can hold in one file (2 GiB): {exc}") from exc


def copy_of(model: ir.Model) -> ir.Model:
    """Another model of the same. `Model.clone` shares the types of values: typing one would type the other."""
    return ir.from_proto(ir.to_proto(model))


def _tidied(model: ir.Model) -> ir.Model:
    """`model` with our names and nothing of its exporter."""
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version, model.doc_string = "refinenet-edge", None, None
    model.graph.name = "segmentation"
    model = InlinePass()(model).model
    _name_ends(model.graph)
    # the exporter's metadata holds stack traces with the paths of this machine
    model = ClearMetadataAndDocStringPass()(model).model
    nodes = list(model.graph)
    ends = (model.graph.inputs, model.graph.initializers.values(), *(node.outputs for node in nodes))
    for value in itertools.chain(*ends):
        value.metadata_props.clear()
        value.doc_string = None
    declared = model.graph.outputs[0].shape
    model = ShapeInferencePass()(model).model
    if model.graph.outputs[0].shape is None:
        model.graph.outputs[0].shape = declared
    shape = model.graph.outputs[0].shape
    if shape is not None and len(shape) == 4:
        # torch writes free sides as formulas of the input's
        sides = [side if isinstance(side, int) else name for side, name in zip(shape[2:], ("h", "w"), strict=True)]
        model.graph.outputs[0].shape = ir.Shape([*shape[:2], *sides])
    return CheckerPass()(model).model


def _name_ends(graph: ir.Graph) -> None:
    """Name the input and the output; what had these names gets another."""
    image, logits = graph.inputs[0], graph.outputs[0]
    inner = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    for value in inner:
        if value is not logits and value.name in (INPUT, OUTPUT):
            value.name = f"{value.name} (inner)"
    image.name, logits.name = INPUT, OUTPUT


def _name_nodes(model: ir.Model) -> None:
    """Name every node after the module it came from."""
    seen: Counter[str] = Counter()
    for node in model.graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "['', '']"))
        name = f"{scopes[-2] if len(scopes) > 1 else ''}/{node.op_type}".lstrip("/")
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name] - 1}"
        if len(node.outputs) == 1 and not node.outputs[0].is_graph_output():
            node.outputs[0].name = f"{node.name}:0"


@contextmanager
def quiet() -> Iterator[None]:
    """The exporter's warnings are about packages that are not installed and about itself."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
