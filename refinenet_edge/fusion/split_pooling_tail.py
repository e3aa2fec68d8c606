"""Let the last convolution of a pooling chain skip the sum and go straight into the next layer.

Conv(S + Conv1x1(p; W); A, a) -> Conv(S; A, a) + Conv(p; A·W),  (A·W)[o,i,y,x] = sum_m A[o,m,y,x] W[m,i]

The end of chained residual pooling: p is the last pooled map, S the sum so far, A the classifier. Exact for any kernel
size of A, zero padding included, because W has no bias. Pays when A has few outputs: the wide sum S + W·p is never
formed, which saves two passes over a map of c_mid channels for two over one of c_out, and the multiplications go from
c_mid to k²·c_out per pixel and input channel. So it is done when k²·c_out <= c_mid and c_out < c_mid: for the 3x3
classifier on 256 channels up to 28 classes, never for the 1x1 convolutions between the blocks (traffic would be equal).
A concat of S and p, the other exact form, is not used: TensorRT-RTX copies the pooled map and the sum into it, which
costs more than it saves. The maps before the last stay in one sum of binary Adds, a single kernel in the plan: each is
read by a pool as well, so no convolution can carry it, and an n-ary Sum is no faster (docs/measurements.md).
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from refinenet_edge.fusion.rewrite import PatternRewrite, conv, conv_inputs, is_pointwise, refused


class SplitPoolingTail(PatternRewrite):
    name = "split_pooling_tail"

    def pattern(self, op: Any, total: Any, pooled: Any) -> Any:
        tail = op.Conv(pooled, _allow_other_inputs=True, _outputs=["last"])
        return op.Conv(op.Add(total, tail), _allow_other_inputs=True, _outputs=["following"])

    def check(self, total: ir.Value, pooled: ir.Value, last: ir.Node, following: ir.Node) -> MatchResult:
        tail = last.outputs[0]
        if total is tail:
            return refused("the chain is summed with itself", tail)
        if not is_pointwise(last):
            return refused("the chain's convolution is not pointwise", last)
        inner, outer = conv_inputs(last), conv_inputs(following)
        if inner is None or outer is None:
            return refused("the weights are computed", last, following)
        if inner[1] is not None:
            return refused("the chain's convolution has a bias, which padding would cut", last)
        if following.attributes.get_int("group", 1) != 1:
            return refused("the next convolution is grouped", following)
        if total.shape is None or total.shape != tail.shape:
            return refused("the sum and the chain differ in size, or it is unknown", total, tail)
        c_out, c_mid, *kernel = outer[0].shape
        if c_out * int(np.prod(kernel)) > c_mid or c_out >= c_mid:
            return refused("the next convolution has too many outputs for it to pay", following)
        return MatchResult()

    def rewrite(self, op: Any, total: ir.Value, pooled: ir.Value, last: ir.Node, following: ir.Node) -> ir.Value:
        (w, _), (a, bias) = conv_inputs(last), conv_inputs(following)  # type: ignore[misc]
        product = np.einsum("omyx,mi->oiyx", a.astype(np.float64), w[:, :, 0, 0].astype(np.float64))
        direct = conv(op, total, following, a, bias)
        skipped = conv(op, pooled, following, product, None, suffix="/tail")
        return op.Add(direct, skipped, _name=f"{following.name}/sum")


REWRITE = SplitPoolingTail()
