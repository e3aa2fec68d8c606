"""Compute once what does not depend on the frame, and drop what computes nothing.

Constant folding, deduplication of constants and removal of unused nodes are onnxscript's and onnx-ir's own passes; the
exporter's all-zero biases go too: Conv(x; W, 0) -> Conv(x; W). So do nodes that pass their input through:

Identity(x) -> x;  Dropout(x, ratio, training_mode=False) -> x
"""

import onnx_ir as ir
from onnx_ir.passes.common import (
    DeduplicateInitializersPass,
    IdentityEliminationPass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
)
from onnxscript.optimizer import fold_constants

from refinenet_edge.fusion.rewrite import LibraryRewrite, constant

MAX_FOLDED = 1 << 28  # elements: weights may be folded, whatever their size
MAX_SHARED = 16  # elements: constants such as the bounds of ReLU6


def _fold(model: ir.Model) -> int:
    before = len(model.graph)
    fold_constants(model, input_size_limit=MAX_FOLDED, output_size_limit=MAX_FOLDED)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    DeduplicateInitializersPass(size_limit=MAX_SHARED)(model)
    for node in model.graph:
        if node.op_type == "Conv" and len(node.inputs) == 3:
            bias = constant(node.inputs[2])
            if bias is not None and not bias.any():
                node.resize_inputs(2)
    RemoveUnusedNodesPass()(model)
    return before - len(model.graph)


def _remove_identities(model: ir.Model) -> int:
    before = len(model.graph)
    for node in model.graph:
        if node.op_type == "Dropout" and _passes_through(node):
            node.resize_inputs(1)
            node.resize_outputs(1)
            node.attributes.clear()
            node.op_type = "Identity"
    IdentityEliminationPass()(model)
    return before - len(model.graph)


def _passes_through(dropout: ir.Node) -> bool:
    if any(mask.uses() or mask.is_graph_output() for mask in dropout.outputs[1:]):
        return False
    if len(dropout.inputs) < 3 or dropout.inputs[2] is None:
        return True
    training = constant(dropout.inputs[2])
    return training is not None and not training.any()


CONSTANTS = LibraryRewrite("fold_constants", _fold)
IDENTITIES = LibraryRewrite("remove_identities", _remove_identities)
