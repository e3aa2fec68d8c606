"""Move what treats all pixels alike from after an upsampling to before it.

Conv1x1(Resize(x); W, b) -> Resize(Conv1x1(x; W, b));  Mul(Resize(x), s) -> Resize(Mul(x, s)), s one factor per channel

Exact because interpolation weights are the same for every channel and sum to one, whatever the mode and the corners;
not for 3x3 convolutions, which see neighbours, nor for a Resize that crops (tf_crop_and_resize). Pays when the Resize
enlarges: fewer pixels are convolved, by the square of the scale. Refused where the enlarged map has another user.
"""

from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from refinenet_edge.fusion.rewrite import PatternRewrite, crops, initializer, is_pointwise, refused
from refinenet_edge.graph import constant, input_of


class MoveBeforeResize(PatternRewrite):
    name = "move_before_resize"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Conv(
            op.Resize(x, _allow_other_inputs=True, _outputs=["resize"]), _allow_other_inputs=True, _outputs=["conv"]
        )

    def check(self, x: ir.Value, resize: ir.Node, conv: ir.Node) -> MatchResult:
        if not is_pointwise(conv):
            return refused("the convolution sees neighbouring pixels", conv)
        return _movable(x, resize, conv)

    def rewrite(self, op: Any, x: ir.Value, resize: ir.Node, conv: ir.Node) -> ir.Value:
        small = op.Conv(x, *conv.inputs[1:], _name=conv.name, **conv.attributes)
        return _resized(op, small, resize, conv)


class MoveScaleBeforeResize(PatternRewrite):
    name = "move_scale_before_resize"

    def pattern(self, op: Any, x: Any, scale: Any) -> Any:
        return op.Mul(op.Resize(x, _allow_other_inputs=True, _outputs=["resize"]), scale, _outputs=["mul"])

    def check(self, x: ir.Value, scale: ir.Value, resize: ir.Node, mul: ir.Node) -> MatchResult:
        factors = constant(scale)
        if factors is None:
            return refused("the factor is computed", scale)
        if (
            factors.ndim > 4
            or (factors.ndim >= 2 and factors.shape[-2:] != (1, 1))
            or factors.shape[-1:] not in ((), (1,))
        ):
            return refused("the factor differs from pixel to pixel", scale)
        return _movable(x, resize, mul)

    def rewrite(self, op: Any, x: ir.Value, scale: ir.Value, resize: ir.Node, mul: ir.Node) -> ir.Value:
        return _resized(op, op.Mul(x, scale, _name=mul.name), resize, mul)


def _movable(x: ir.Value, resize: ir.Node, moved: ir.Node) -> MatchResult:
    if crops(resize):
        return refused("the Resize crops", resize)
    pixels = [_pixels(value) for value in (x, resize.outputs[0])]
    if pixels[0] is None or pixels[1] is None:
        shapes = x.shape, moved.outputs[0].shape
        # free sizes stay right when the number of channels does
        if shapes[0] is None or shapes[1] is None or shapes[0][1] != shapes[1][1]:
            return refused("the sizes are free and name other channels", resize)
    elif pixels[1] <= pixels[0]:
        return refused("the Resize does not enlarge", resize)
    return MatchResult()


def _pixels(value: ir.Value) -> int | None:
    sides = [] if value.shape is None else [side for side in value.shape[2:] if isinstance(side, int)]
    return prod(sides) if len(sides) == 2 else None


def _resized(op: Any, small: ir.Value, resize: ir.Node, moved: ir.Node) -> ir.Value:
    """`resize` on `small` instead, which has the channels of `moved`; constant sizes name them, so they are new."""
    others, sizes = list(resize.inputs[1:]), constant(input_of(resize, 3))
    shape = moved.outputs[0].shape
    channels = shape[1] if shape is not None else None
    if sizes is not None and len(sizes) == 4 and isinstance(channels, int):
        others[2] = initializer(op, np.array([sizes[0], channels, *sizes[2:]], np.int64))
    return op.Resize(small, *others, _name=resize.name, **resize.attributes)


CONV, SCALE = MoveBeforeResize(), MoveScaleBeforeResize()
