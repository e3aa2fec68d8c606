"""Compute once what does not depend on the frame, and drop what computes nothing.

Constant folding, deduplication of constants and removal of unused nodes are onnxscript's and onnx-ir's own passes; the
exporter's all-zero biases go too: Conv(x; W, 0) -> Conv(x; W).
"""

import onnx_ir as ir
from onnx_ir.passes.common import DeduplicateInitializersPass, LiftConstantsToInitializersPass, RemoveUnusedNodesPass
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


REWRITE = LibraryRewrite("fold_constants", _fold)
