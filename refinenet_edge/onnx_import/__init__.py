"""Somebody's ONNX file becomes a graph as all stages have it: an image goes in, logits come out.

    takes   1x3xHxW or 1xHxWx3, of float32, float16 or uint8     -> image, float32 1x3xHxW
    gives   scores of classes in either layout, with or without
            a Softmax; one channel, a score or what a Sigmoid
            makes of it; an ArgMax of scores; other labels       -> logits, float32 1xCxhxw

It is done in the graph, in the opset that the file is of, so that all that comes later sees a network like any other.
`Ends` keeps what was found: the proof runs the file as it was given with it, and holds the labels to the file's own.

    ends.py       what is said of a file and found in it   proto.py   the file, before it is a graph
    quantised.py  its operators of integers as Q/DQ        takes.py   what it takes
    gives.py      what its logits can be made of           logits.py  the logits made in the graph
    opset.py      the graph in our opset                   bundled.py the graph of a bundle
"""

from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass, RemoveInitializersFromInputsPass

from refinenet_edge.errors import GraphError, first_line
from refinenet_edge.graph import IR_VERSION, tidied
from refinenet_edge.onnx_import.ends import NOTHING, Ends, Said
from refinenet_edge.onnx_import.gives import give_logits
from refinenet_edge.onnx_import.opset import in_our_opset
from refinenet_edge.onnx_import.proto import forget_shapes, in_float32, open_proto
from refinenet_edge.onnx_import.quantised import write_out
from refinenet_edge.onnx_import.takes import scaling_of, take_image
from refinenet_edge.records import Size

__all__ = ["ENDS", "Ends", "Said", "read_onnx"]

ENDS = "ends"  # in a model's `meta`: what it took and gave as it was given, `Ends`


def read_onnx(
    path: Path,
    size: Size | None = None,
    data: bytes | None = None,
    *,
    said: Said = NOTHING,
    otherwise: Size | None = None,
) -> ir.Model:
    """An ONNX segmentation model brought to our opset and ends: float32 1x3xHxW in, logits 1xCxhxw out.

    What it took and gave is in its `meta`, as `ENDS`; see above for what is taken, and `said`.
    `size` fixes free H and W, `otherwise` those that the file leaves free; `data` is what is in the file, where it was
    read already. Raises `GraphError` for what is no such model.
    """
    try:
        proto = open_proto(path, data)
        opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
        halves = [value.name for value in proto.graph.input if value.type.tensor_type.elem_type == ir.DataType.FLOAT16]
        half = in_float32(proto)
        declared = forget_shapes(proto)
        # what has no name, or another's, gets one of its own
        model = NameFixPass()(RemoveInitializersFromInputsPass()(ir.from_proto(proto)).model).model
        model.ir_version = max(model.ir_version, IR_VERSION)
        write_out(model)
        taken = take_image(model, str(path), said, size, otherwise, declared)
        if any(node.op_type == "If" for node in model.graph):
            from onnxscript.optimizer import fold_constants

            fold_constants(model)  # of torch's own squeeze, which asks for the shape
        if taken.image in halves:
            taken = taken._replace(dtype="float16")
        ends = replace(give_logits(model, str(path), said, taken), half=half)
        model = in_our_opset(model, opset, path)
    except GraphError:
        raise
    except Exception as exc:  # onnx raises what it likes on a damaged file
        raise GraphError(
            f"{path} is no ONNX model that can be read: {first_line(exc)}; export it again, or copy it again"
        ) from exc
    try:
        model = tidied(model)
        model.meta[ENDS] = replace(ends, scaled_by=scaling_of(model.graph.inputs[0]))
        return model
    except Exception as exc:  # the checker again, on the model with its size fixed
        raise GraphError(f"{path} cannot be used at this size: {first_line(exc)}") from exc
