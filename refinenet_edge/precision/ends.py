"""The ends of a typed graph as other tools want them: plain float32, and what comes after the network in the graph.

    plain        image and logits float32, 1x3xHxW and 1xCxhxw, whatever lies between
    full-logits  the logits upsampled to the image's size as the head does, float32 1xCxHxW
    labels       their ArgMax, uint8 1xHxW: the label of every pixel of the image

The upsampling is float32 in every precision, as the head's is: the labels are the head's, but where rounding decides.
They become uint8 by way of float32: TensorRT, 10.3 to 11 and RTX, has uint8 only at a network's ends, and documents no
other conversion to it (`DataType::kUINT8` in NvInferRuntimeBase.h). 255 classes at most are exact in both.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass, ShapeInferencePass

from refinenet_edge.errors import GraphError
from refinenet_edge.graph import Names, replace_uses
from refinenet_edge.records import LABELS, OUTPUT, Bilinear, Cubic, Gives, Interpolation

FLOAT, INT64, BYTE = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.UINT8


def plain_ends(model: ir.Model) -> ir.Model:
    """`model` with a float32 image and float32 logits, in place."""
    graph, names = model.graph, Names(model.graph)
    (image,), (logits,) = graph.inputs, graph.outputs
    if image.dtype != FLOAT:
        typed = names.cast(image, image.dtype or FLOAT, "image/typed")
        replace_uses(image, typed.outputs[0], typed)
        graph.insert_before(graph[0], typed)
        image.dtype = FLOAT
    if logits.dtype != FLOAT:
        _append(graph, names, "Cast", [logits], {"to": int(FLOAT)}, OUTPUT)
    return CheckerPass()(model).model


def append_head(model: ir.Model, what: Gives, how: Interpolation) -> ir.Model:
    """`model`, whose ends are plain, with its logits upsampled by `how` to the image's size, in place, or their labels.

    Raises `GraphError` where the sides are free.
    """
    if what == "logits":
        return model
    graph, names = model.graph, Names(model.graph)
    sides = graph.inputs[0].shape[2:] if graph.inputs[0].shape is not None else ()
    logits = graph.outputs[0]
    if logits.shape is None or not all(isinstance(side, int) for side in (*sides, *logits.shape)):
        raise GraphError(f"--gives {what} is for networks of one size: leave --dynamic out")
    if tuple(logits.shape[2:]) != tuple(sides):
        size = names.constant("size", np.array([1, logits.shape[1], *sides], np.int64))
        logits = _append(graph, names, "Resize", [logits, None, None, size], _resize(how), OUTPUT)
    if what == "labels":
        label = _append(graph, names, "ArgMax", [logits], {"axis": 1, "keepdims": 0}, names.free("largest"), INT64)
        exact = _append(graph, names, "Cast", [label], {"to": int(FLOAT)}, names.free("label"))
        _append(graph, names, "Cast", [exact], {"to": int(BYTE)}, LABELS, BYTE)
    return CheckerPass()(ShapeInferencePass()(model).model).model


def _resize(how: Interpolation) -> dict[str, Any]:
    """Resize as `how` is defined."""
    if isinstance(how, Bilinear):
        return {
            "mode": "linear",
            "coordinate_transformation_mode": "align_corners" if how.align_corners else "half_pixel",
        }
    half = {"coordinate_transformation_mode": "half_pixel"}
    if isinstance(how, Cubic):
        return {"mode": "cubic", "cubic_coeff_a": -0.75, **half}
    return {"mode": "nearest", "nearest_mode": "round_prefer_ceil", **half}


def _append(
    graph: ir.Graph,
    names: Names,
    operator: str,
    inputs: list[ir.Value | None],
    attributes: dict[str, Any],
    name: str,
    dtype: ir.DataType = FLOAT,
) -> ir.Value:
    """What `operator` makes of `inputs`, called `name`, becomes the graph's only output."""
    for value in (*graph.initializers.values(), *(value for node in graph for value in node.outputs)):
        if value.name == name:
            value.name = names.free(f"{name}/before")
    shape = inputs[0].shape if operator == "Cast" and inputs[0] is not None else None
    node = names.node(operator, inputs, f"{name}/{operator}", attributes, dtype, shape)
    node.outputs[0].name = name
    graph.append(node)
    graph.outputs[:] = node.outputs
    return node.outputs[0]
