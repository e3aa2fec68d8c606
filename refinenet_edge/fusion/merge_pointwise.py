"""Merge a convolution and the pointwise one after it, when nothing stands between them.

Conv1x1(Conv(x; W1, b1); W2, b2) -> Conv(x; W2·W1, W2·b1 + b2),  (W2·W1)[o,i,y,x] = sum_m W2[o,m] W1[m,i,y,x]

Light-Weight RefineNet's adapting pair (p_ims1d2 and adapt_stage_b2), MobileNet-v2's linear projection into conv8.

Pays when the merged kernel has no more weights than the two had: c_in·c_out·k² <= c_in·c_mid·k² + c_mid·c_out. The map
between them is then never written. Refused where that map has another user, or the first convolution is grouped.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from refinenet_edge.fusion.rewrite import PatternRewrite, conv, conv_inputs, is_pointwise, refused


class MergePointwise(PatternRewrite):
    name = "merge_pointwise"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Conv(
            op.Conv(x, _allow_other_inputs=True, _outputs=["first"]), _allow_other_inputs=True, _outputs=["second"]
        )

    def check(self, x: ir.Value, first: ir.Node, second: ir.Node) -> MatchResult:
        if not is_pointwise(second):
            return refused("the second convolution is not pointwise", second)
        if first.attributes.get_int("group", 1) != 1:
            return refused("the first convolution is grouped", first)
        inner, outer = conv_inputs(first), conv_inputs(second)
        if inner is None or outer is None:
            return refused("the weights are computed or not float32", second)
        (mid, *_rest), (c_out, _mid, *_ones) = inner[0].shape, outer[0].shape
        if c_out * inner[0][0].size > inner[0].size + c_out * mid:
            return refused("the merged convolution would cost more than the two", second)
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, first: ir.Node, second: ir.Node) -> ir.Value:
        (w1, b1), (w2, b2) = conv_inputs(first), conv_inputs(second)  # type: ignore[misc]
        mix = w2[:, :, 0, 0].astype(np.float64)
        kernel = np.tensordot(mix, w1, axes=1)
        terms = ([] if b1 is None else [mix @ b1]) + ([] if b2 is None else [b2])
        return conv(op, x, first, kernel, np.sum(terms, axis=0) if terms else None)


REWRITE = MergePointwise()
