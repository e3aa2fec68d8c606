"""Merge two pointwise convolutions whose results are summed into one over the concatenated inputs.

Conv1x1(x; W1, b1) + Conv1x1(y; W2, b2) -> Conv1x1(concat(x, y); [W1 W2], b1 + b2)

MobileNet-v2's taps of one resolution (conv5 + conv6). The multiplications are the same; what changes is traffic: the
intermediate sum of c_out channels is neither written nor read, the c_x + c_y channels of the concat may be. Pays, and
is done, when c_x + c_y < c_out. Refused where a result has another user or the maps differ in size.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from refinenet_edge.fusion.rewrite import PatternRewrite, conv, conv_inputs, is_pointwise, refused


class MergeSiblings(PatternRewrite):
    name = "merge_siblings"

    def pattern(self, op: Any, x: Any, y: Any) -> Any:
        return op.Add(
            op.Conv(x, _allow_other_inputs=True, _outputs=["left"]),
            op.Conv(y, _allow_other_inputs=True, _outputs=["right"]),
        )

    def check(self, x: ir.Value, y: ir.Value, left: ir.Node, right: ir.Node) -> MatchResult:
        if not (is_pointwise(left) and is_pointwise(right)):
            return refused("a summand is no pointwise convolution", left, right)
        inputs = conv_inputs(left), conv_inputs(right)
        if inputs[0] is None or inputs[1] is None:
            return refused("the weights are computed or not float32", left, right)
        shape = left.outputs[0].shape
        if shape is None or shape != right.outputs[0].shape:
            return refused("the summands differ in size, or it is unknown", left, right)
        (c_out, c_x), (_, c_y) = inputs[0][0].shape[:2], inputs[1][0].shape[:2]
        if c_x + c_y >= c_out:
            return refused("the concatenated inputs are wider than the sum", x, y)
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value, left: ir.Node, right: ir.Node) -> ir.Value:
        (w1, b1), (w2, b2) = conv_inputs(left), conv_inputs(right)  # type: ignore[misc]
        biases = [bias for bias in (b1, b2) if bias is not None]
        both = op.Concat(x, y, axis=1, _name=f"{left.name}/Concat")
        return conv(op, both, left, np.concatenate([w1, w2], axis=1), np.sum(biases, axis=0) if biases else None)


REWRITE = MergeSiblings()
