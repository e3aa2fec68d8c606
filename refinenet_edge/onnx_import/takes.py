"""What somebody's ONNX graph takes becomes a float32 image, 1x3xHxW, whatever number of frames it takes at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from refinenet_edge.errors import GraphError
from refinenet_edge.graph import Names, constant, input_of
from refinenet_edge.graph.batch import set_batch
from refinenet_edge.onnx_import.ends import (
    AXES,
    BYTE,
    EXPECTED,
    FLOAT,
    PLANES_FIRST,
    PLANES_LAST,
    Layout,
    Said,
    Taken,
    known,
    shown,
)
from refinenet_edge.records import MAX_BATCH, ONE, Size

AT_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
AFFINE = ("BatchNormalization", "Div", "Mul", "Sub", "Add")  # by constants, what normalises an image in the graph
NEUTRAL = ("Cast", "Identity", "Transpose")  # what may lie between them
BYTES_PASS = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice")  # the same of float32 as of uint8


def take_image(
    model: ir.Model, name: str, said: Said, size: Size | None, otherwise: Size | None, declared: dict[str, ir.Shape]
) -> Taken:
    """Make `model`, of the file `name` and without a float16, take a float32 image, 1x3xHxW, in place; what it took.

    `size` is what its sides have to be, `otherwise` what they become where they are free; `declared` are the shapes
    that the file has of its outputs. Raises `GraphError` for what cannot be such a network, or does not say what it is.
    """
    graph = model.graph
    output = _choose_output(model, name, said.output, declared)
    RemoveUnusedNodesPass()(model)
    _refuse_chance(graph, name)
    image = _find_image(graph, name)
    layout = _image_layout(image, name, said.layout)
    sides = _fix_sides(image, layout, name, size, otherwise)
    ShapeInferencePass()(model)
    if output.shape is None:
        output.shape = declared.get(str(output.name))
    dtype = "uint8" if image.dtype == BYTE else "float32"
    if image.dtype == BYTE:
        _bytes_as_floats(image, name)
    _drop_casts(graph)
    _take_planes(graph, image, layout)
    return Taken(str(image.name), layout, dtype, sides, str(output.name), _one_frame(model, name))


def _choose_output(model: ir.Model, name: str, wanted: str | None, declared: dict[str, ir.Shape]) -> ir.Value:
    """The output that is wanted, made the only one."""
    graph = model.graph
    outputs = list(graph.outputs)
    named = [value for value in outputs if wanted in (None, value.name)]
    if len(named) != 1:
        ShapeInferencePass()(model)
        each = ", ".join(f"{v.name} ({v.dtype} {shown(declared.get(str(v.name), v.shape))})" for v in outputs)
        said = f"has no output {wanted!r}, but" if wanted else "has several outputs:"
        raise GraphError(f"{name} {said} {each or 'none'}: choose one with --output-name")
    if not isinstance(named[0].type, ir.TensorType):
        raise GraphError(f"{name} gives {named[0].name} ({named[0].type}); {EXPECTED}")
    graph.outputs[:] = named
    return named[0]


def _refuse_chance(graph: ir.Graph, name: str) -> None:
    """Raise `GraphError` for what is another network at each run, or by each frame."""
    for node in graph.all_nodes():
        trains = node.attributes.get_int("training_mode", 0) != 0
        if node.op_type == "Dropout" and input_of(node, 2) is not None:
            flag = constant(input_of(node, 2))
            trains = flag is None or bool(flag.any())
        if trains:
            raise GraphError(
                f"{name} is in training mode ({node.op_type} {node.name or ''}): call model.eval() and export it again"
            )
        if node.op_type in AT_RANDOM:
            raise GraphError(f"{name} draws random numbers ({node.op_type} {node.name or ''}): export it without")


def _find_image(graph: ir.Graph, name: str) -> ir.Value:
    """The only input that is read, made the only one. Inputs with a value of their own are constants."""
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    read = [value for value in inputs if value.uses() or value.is_graph_output()]
    rank = len(read[0].shape or ()) if len(read) == 1 else 0
    if rank != 4 or read[0].dtype not in (FLOAT, BYTE):
        each = ", ".join(f"{v.name} ({v.dtype} {shown(v.shape)})" for v in read or inputs)
        raise GraphError(
            f"{name} takes {each or 'nothing'}; expected one image, 1x3xHxW or 1xHxWx3 of float32, float16 or uint8: "
            "export it so, with what else it takes as constants"
        )
    graph.inputs[:] = read
    return read[0]


def _image_layout(image: ir.Value, name: str, said: Layout | None) -> Layout:
    assert image.shape is not None
    first, last = image.shape[1], image.shape[3]
    possible: list[Layout] = [layout for layout, side in (("nchw", first), ("nhwc", last)) if side == 3]  # type: ignore[misc]
    if not possible and not known(first):
        possible = ["nchw"] if known(last) else ["nchw", "nhwc"]
    if said is not None:
        side = first if said == "nchw" else last
        if known(side) and side != 3:
            raise GraphError(f"{name} takes {shown(image.shape)}: that is not --layout {said} of three channels")
        return said
    if len(possible) == 2:
        possible = [_layout_within(image)] if _layout_within(image) else possible  # type: ignore[list-item]
    if len(possible) != 1:
        advice = "say which with --layout nchw or nhwc" if possible else "only three channels are taken: export it so"
        raise GraphError(
            f"{name} takes {image.name}, {shown(image.shape)}, where no side is the three channels: {advice}"
        )
    return possible[0]


def _layout_within(image: ir.Value) -> Layout | None:
    """What the first operator that has a layout says of the image's."""
    value = image
    while len(users := value.consumers()) == 1:
        node = users[0]
        if node.op_type == "Transpose":
            return "nhwc" if tuple(node.attributes.get_ints("perm", ())) == PLANES_FIRST else None
        if node.op_type == "Conv":
            return "nchw"
        value = node.outputs[0]
    return "nchw" if users and all(node.op_type == "Conv" for node in users) else None


def _fix_sides(image: ir.Value, layout: Layout, name: str, size: Size | None, otherwise: Size | None) -> Size | None:
    """Give `image` the sides that are wanted, or those that it has; None: they stay free."""
    assert image.shape is not None
    shape: list[Any] = list(image.shape)
    axes = (2, 3) if layout == "nchw" else (1, 2)
    fixed = [int(shape[axis]) if known(shape[axis]) else None for axis in axes]
    for place, axis in enumerate(axes):
        wanted = size[place] if size else otherwise[place] if otherwise else None
        if size is not None and fixed[place] not in (None, size[place]):
            sides = "x".join(str(side or wanted) for side, wanted in zip(fixed, size, strict=True))
            raise GraphError(f"{name} is fixed to {sides}: build it with --size {sides}")
        shape[axis] = fixed[place] or wanted or ("H", "W")[place]
    shape[AXES[layout]] = 3
    shape[0] = int(shape[0]) if known(shape[0]) else 1
    image.shape = ir.Shape(shape)
    height, width = (shape[axis] for axis in axes)
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _one_frame(model: ir.Model, name: str) -> int:
    """Let `model` take one frame; how many at once it was made for."""
    image = model.graph.inputs[0]
    assert image.shape is not None
    frames = image.shape[0]
    assert isinstance(frames, int)
    if frames > MAX_BATCH:
        raise GraphError(f"{name} is fixed to batches of {frames}, at most {MAX_BATCH} are taken: export it with fewer")
    set_batch(model, ONE, name)
    return frames


def _bytes_as_floats(image: ir.Value, name: str) -> None:
    """Make what is uint8 from `image` on float32, to where it is cast."""
    pending = [image]
    while pending:
        value = pending.pop()
        value.dtype = FLOAT
        for node in value.consumers():
            if node.op_type in BYTES_PASS and node.inputs[0] is value:
                pending += node.outputs
            elif node.op_type != "Cast" and not _dequantised(node):
                raise GraphError(
                    f"{name} takes uint8 and computes with it ({node.op_type} {node.name or ''}): "
                    "export it with a Cast to float32 first"
                )


def _dequantised(node: ir.Node) -> bool:
    """Whether `node` is the DequantizeLinear of one scale of what is float32 from now on; then it is arithmetic."""
    numbers = [constant(value) for value in node.inputs[1:]]
    if node.op_type != "DequantizeLinear" or any(number is None or number.size != 1 for number in numbers):
        return False
    scale, zero = (np.float32(number.reshape(())) for number in (*numbers, np.zeros(()))[:2])  # type: ignore[union-attr]
    made = [ir.node("Constant", [], {"value": ir.tensor(each)}) for each in (zero, scale)]
    made.append(ir.node("Sub", [node.inputs[0], made[0].outputs[0]]))
    made.append(ir.node("Mul", [made[2].outputs[0], made[1].outputs[0]]))
    assert isinstance(node.graph, ir.Graph)
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], made, node.outputs, made[3].outputs)
    return True


def _drop_casts(graph: ir.Graph) -> None:
    """Drop the casts of float32 to float32."""
    for node in list(graph):
        if node.op_type == "Cast" and node.inputs[0] is not None and node.inputs[0].dtype == FLOAT:
            source, made = node.inputs[0], node.outputs[0]
            if node.attributes.get_int("to", 0) == FLOAT and not (source.is_graph_input() and made.is_graph_output()):
                made.replace_all_uses_with(source, replace_graph_outputs=True)
                graph.remove(node, safe=True)


def _take_planes(graph: ir.Graph, image: ir.Value, layout: Layout) -> None:
    """Let `image` come as 1x3xHxW, whatever the graph takes."""
    if layout == "nchw":
        return
    assert image.shape is not None
    users = image.consumers()
    planes = ir.Value(name=image.name, shape=ir.Shape([image.shape[axis] for axis in PLANES_FIRST]), type=image.type)
    for node in users:
        if node.op_type == "Transpose" and tuple(node.attributes.get_ints("perm", ())) == PLANES_FIRST:
            node.outputs[0].replace_all_uses_with(planes)
            if not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
                graph.remove(node, safe=True)
    if image.uses():
        moved = {"perm": PLANES_LAST}
        back = Names(graph).node("Transpose", [planes], "image/channels_last", moved, shape=image.shape)
        image.replace_all_uses_with(back.outputs[0])
        graph.insert_before(graph[0], back)
    graph.inputs[:] = [planes]


def scaling_of(image: ir.Value) -> tuple[str, ...]:
    """The operators by which a graph scales and shifts `image` before anything else, in order."""
    value, found = image, []
    while len(consumers := value.consumers()) == 1 and (node := consumers[0]).op_type in (*AFFINE, *NEUTRAL):
        others = [other for other in node.inputs if other is not value]
        if any(constant(other) is None for other in others) or len(others) != len(node.inputs) - 1:
            break  # computed, or a square
        if node.op_type == "Div" and node.inputs[0] is not value:
            break
        if node.op_type in AFFINE:
            found.append(node.op_type)
        value = node.outputs[0]
    return tuple(found)
