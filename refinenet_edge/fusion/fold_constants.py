"""Compute once what does not depend on the frame, and drop what computes nothing.

Constant folding, deduplication of constants and removal of unused nodes are onnxscript's and onnx-ir's own passes; the
exporter's all-zero biases go too: Conv(x; W, 0) -> Conv(x; W); and Resize(x, scales) -> Resize(x, sizes) where only
rounding decides what size the scales give. So do nodes that pass their input through:

Identity(x) -> x;  Dropout(x, ratio, training_mode=False) -> x
"""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import DeduplicateInitializersPass, RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants

from refinenet_edge.fusion.rewrite import GraphRewrite
from refinenet_edge.graph import Names, constant, infer_anew, input_of, lift_constants

MAX_FOLDED = 1 << 28  # elements: weights may be folded, whatever their size
MAX_SHARED = 16  # elements: constants such as the bounds of ReLU6


def _fold(model: ir.Model) -> int:
    before = len(model.graph)
    fold_constants(model, input_size_limit=MAX_FOLDED, output_size_limit=MAX_FOLDED)
    lift_constants(model)
    _settle_sizes(model)
    DeduplicateInitializersPass(size_limit=MAX_SHARED)(model)
    for node in model.graph:
        if node.op_type == "Conv" and len(node.inputs) == 3:
            bias = constant(node.inputs[2])
            if bias is not None and not bias.any():
                node.resize_inputs(2)
    RemoveUnusedNodesPass()(model)
    return before - len(model.graph)


def _settle_sizes(model: ir.Model) -> None:
    """Resizes whose scales stand for whole sizes, but for their rounding, get the sizes.

    Of 24 x 2.2083333 one library makes 53 pixels and another 52.
    """
    names, settled = Names(model.graph), False
    for node in model.graph:
        sizes = _whole_sizes(node) if node.op_type == "Resize" else None
        if sizes is not None:
            node.resize_inputs(4)
            node.replace_input_with(2, None)
            node.replace_input_with(3, names.constant(f"{node.outputs[0].name}/sizes", sizes))
            settled = True
    if settled:
        infer_anew(model)  # a shape may be that of the other size


def _whole_sizes(resize: ir.Node) -> npt.NDArray[np.int64] | None:
    """The sizes that the scales of a Resize stand for, where they are whole but for rounding, and not without."""
    image, scales = resize.inputs[0], constant(input_of(resize, 2))
    if image is None or image.shape is None or scales is None or not scales.size:
        return None
    shape = [image.shape[axis] for axis in resize.attributes.get_ints("axes", range(len(image.shape)))]
    if not all(isinstance(side, int) for side in shape):
        return None
    sides = np.array(shape, np.float32)
    product = sides.astype(np.float64) * scales
    whole = np.rint(product)
    near = (np.abs(product - whole) <= whole * 2.0**-20).all()
    said = near and (product != whole).any() and (np.floor(sides * scales) == whole).all()
    return whole.astype(np.int64) if said else None


def _remove_identities(model: ir.Model) -> int:
    before = len(model.graph)
    for node in model.graph:
        if node.op_type == "Dropout" and _passes_through(node):
            node.resize_inputs(1)
            node.resize_outputs(1)
            node.attributes.clear()
            node.op_type = "Identity"
    for node in list(model.graph):  # not those in subgraphs, whose outputs are their own
        source = node.inputs[0] if (node.domain, node.op_type) == ("", "Identity") else None
        if source is not None and _is_spare(source, node.outputs[0]):
            _pass_on(source, node.outputs[0])
            model.graph.remove(node, safe=True)
    return before - len(model.graph)


def _is_spare(source: ir.Value, target: ir.Value) -> bool:
    """Whether `source` may stand for `target`, which is the same: a graph's output is computed in it, once."""
    return not target.is_graph_output() or (source.producer() is not None and not source.is_graph_output())


def _pass_on(source: ir.Value, target: ir.Value) -> None:
    output = target.is_graph_output()
    ir.convenience.replace_all_uses_with(target, source, replace_graph_outputs=True)
    if source.shape is None:
        source.shape = target.shape
    if output:
        source.name, target.name = target.name, f"{target.name} (before)"


def _passes_through(dropout: ir.Node) -> bool:
    if any(mask.uses() or mask.is_graph_output() for mask in dropout.outputs[1:]):
        return False
    if input_of(dropout, 2) is None:
        return True
    training = constant(input_of(dropout, 2))
    return training is not None and not training.any()


CONSTANTS = GraphRewrite("fold_constants", _fold)
IDENTITIES = GraphRewrite("remove_identities", _remove_identities)
