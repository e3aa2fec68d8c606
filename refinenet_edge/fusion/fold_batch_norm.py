"""Fold a batch normalisation into the convolution before it.

BN(Conv(x; W, b); gamma, beta, mu, var) -> Conv(x; s·W, s·(b - mu) + beta),  s = gamma / sqrt(var + eps) per channel

Always pays: one pass over the map less. Refused where the convolution's result is also used unnormalised.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from refinenet_edge.fusion.rewrite import PatternRewrite, conv, conv_inputs, refused
from refinenet_edge.graph import constant


class FoldBatchNorm(PatternRewrite):
    name = "fold_batch_norm"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.BatchNormalization(
            op.Conv(x, _allow_other_inputs=True, _outputs=["convolution"]),
            _allow_other_inputs=True,
            _outputs=["norm"],
        )

    def check(self, x: ir.Value, convolution: ir.Node, norm: ir.Node) -> MatchResult:
        if conv_inputs(convolution) is None:
            return refused("the convolution's weights are computed or not float32", convolution)
        if any(constant(value) is None for value in norm.inputs[1:]):
            return refused("the normalisation's statistics are computed", norm)
        if norm.attributes.get_int("training_mode", 0):
            return refused("the normalisation is in training mode", norm)
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, convolution: ir.Node, norm: ir.Node) -> ir.Value:
        kernel, bias = conv_inputs(convolution)  # type: ignore[misc]
        gamma, beta, mean, variance = (np.asarray(constant(v), np.float64) for v in norm.inputs[1:])
        scale = gamma / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
        shift = (0 if bias is None else bias) - mean
        return conv(op, x, convolution, kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1)), shift * scale + beta)


REWRITE = FoldBatchNorm()
