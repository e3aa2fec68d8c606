"""Remove nodes that pass their input through: Identity, and Dropout outside training.

Identity(x) -> x;  Dropout(x, ratio, training_mode=False) -> x
"""

import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass
from onnxscript.rewriter import RewriteRuleSet
from onnxscript.rewriter.rules.common import dropout_inference_rule, dropout_zero_rule

from refinenet_edge.fusion.rewrite import LibraryRewrite


def _remove(model: ir.Model) -> int:
    before = len(model.graph)
    RewriteRuleSet([dropout_zero_rule, dropout_inference_rule]).apply_to_model(model)
    IdentityEliminationPass()(model)
    return before - len(model.graph)


REWRITE = LibraryRewrite("remove_identities", _remove)
