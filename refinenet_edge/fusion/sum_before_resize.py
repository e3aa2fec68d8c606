"""Sum maps of one resolution before they are upsampled, not after.

Resize(x) + Resize(y) -> Resize(x + y),  for two Resizes that do the same

Exact because interpolation is linear. Pays always: one upsampling less, and the sum at the small size. Refused where an
upsampled map has another user, or the two differ in size, mode or corners.
"""

from itertools import zip_longest
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from refinenet_edge.fusion.rewrite import PatternRewrite, Weights, crops, refused
from refinenet_edge.graph import constant


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
        if not _do_the_same(left, right):
            return refused("the two upsamplings differ", left, right)
        if crops(left):
            return refused("the Resize crops", left)
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value, left: ir.Node, right: ir.Node, add: ir.Node) -> ir.Value:
        total = op.Add(x, y, _name=add.name)
        return op.Resize(total, *left.inputs[1:], _name=left.name, **left.attributes)


def _do_the_same(first: ir.Node, second: ir.Node) -> bool:
    """Whether two nodes have the same attributes and, but for the first, the same inputs."""
    ours, theirs = ({name: a.value for name, a in node.attributes.items()} for node in (first, second))
    pairs = zip_longest(first.inputs[1:], second.inputs[1:])
    return ours == theirs and all(a is b or _equal(constant(a), constant(b)) for a, b in pairs)


def _equal(a: Weights | None, b: Weights | None) -> bool:
    return a is not None and b is not None and np.array_equal(a, b)


REWRITE = SumBeforeResize()
