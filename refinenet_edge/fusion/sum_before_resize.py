"""Sum maps of one resolution before they are upsampled, not after.

Resize(x) + Resize(y) -> Resize(x + y),  for two Resizes that do the same

Exact because interpolation is linear. Pays always: one upsampling less, and the sum at the small size. Refused where an
upsampled map has another user, or the two differ in size, mode or corners.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from refinenet_edge.fusion.rewrite import PatternRewrite, constant, refused


class SumBeforeResize(PatternRewrite):
    name = "sum_before_resize"

    def pattern(self, op: Any, x: Any, y: Any) -> Any:
        return op.Add(
            op.Resize(x, _allow_other_inputs=True, _outputs=["left"]),
            op.Resize(y, _allow_other_inputs=True, _outputs=["right"]),
            _outputs=["add"],
        )

    def check(self, x: ir.Value, y: ir.Value, left: ir.Node, right: ir.Node, add: ir.Node) -> MatchResult:
        if x.shape is None or x.shape != y.shape:
            return refused("the maps differ in size before the upsampling, or it is unknown", x, y)
        if not _same_attributes(left, right) or not _same_inputs(left, right):
            return refused("the two upsamplings differ", left, right)
        if left.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
            return refused("the Resize crops", left)
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value, left: ir.Node, right: ir.Node, add: ir.Node) -> ir.Value:
        total = op.Add(x, y, _name=add.name)
        return op.Resize(total, *left.inputs[1:], _name=left.name, **left.attributes)


def _same_attributes(first: ir.Node, second: ir.Node) -> bool:
    ours, theirs = ({name: a.value for name, a in node.attributes.items()} for node in (first, second))
    return ours == theirs


def _same_inputs(first: ir.Node, second: ir.Node) -> bool:
    inputs = list(first.inputs[1:]), list(second.inputs[1:])
    if len(inputs[0]) != len(inputs[1]):
        return False
    for ours, theirs in zip(*inputs, strict=True):
        arrays = constant(ours), constant(theirs)
        same = arrays[0] is not None and arrays[1] is not None and np.array_equal(arrays[0], arrays[1])
        if ours is not theirs and not same:
            return False
    return True


REWRITE = SumBeforeResize()
