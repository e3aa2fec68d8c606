"""Remove nodes that pass their input through: Identity, and Dropout outside training.

Identity(x) -> x;  Dropout(x, ratio, training_mode=False) -> x
"""

import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass

from refinenet_edge.fusion.rewrite import LibraryRewrite, constant


def _remove(model: ir.Model) -> int:
    before = len(model.graph)
    for node in model.graph:
        if node.op_type == "Dropout" and _passes_through(node):
            node.resize_inputs(1)
            node.resize_outputs(1)
            node.attributes.clear()
            node.op_type = "Identity"
    IdentityEliminationPass()(model)
    return before - len(model.graph)


def _passes_through(node: ir.Node) -> bool:
    if any(mask.uses() or mask.is_graph_output() for mask in node.outputs[1:]):
        return False
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    training = constant(node.inputs[2])
    return training is not None and not training.any()


REWRITE = LibraryRewrite("remove_identities", _remove)
