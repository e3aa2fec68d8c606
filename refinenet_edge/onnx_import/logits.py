"""Logits made in a graph, of what it gives: new nodes at its end, in the opset that it is of."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from refinenet_edge.graph import Array, Names
from refinenet_edge.onnx_import.ends import FLOAT, PLANES_FIRST, Made


def logits_of(model: ir.Model, value: ir.Value, made: Made) -> ir.Value:
    """The logits, 1xCxhxw float32, that are `made` of `value`: computed from now on."""
    kind, layout = made.kind, made.layout
    make = _Maker(model)
    rank = len(value.shape or ())
    if kind in ("scores", "ones"):
        value = value if value.dtype == FLOAT else make("Cast", [value], {"to": int(FLOAT)})
        return make("Transpose", [value], {"perm": PLANES_FIRST}) if layout == "nhwc" else value
    if kind == "labels":
        value = make("Cast", [value], {"to": int(ir.DataType.INT32)}, ir.DataType.INT32)
    elif value.dtype != FLOAT:
        value = make("Cast", [value], {"to": int(FLOAT)})
    if rank < 4:
        value = make.unsqueezed(value, [1] if rank == 3 else [0, 1])
    elif layout == "nhwc":
        value = make("Transpose", [value], {"perm": PLANES_FIRST}, value.dtype or FLOAT)
    if kind == "labels":
        numbers = np.arange(made.classes, dtype=np.int32).reshape(1, -1, 1, 1)
        same = make("Equal", [value, make.constant(numbers)], {}, ir.DataType.BOOL)
        return make("Cast", [same], {"to": int(FLOAT)})
    # (0, score): the second class where the score is above the border, and their softmax is the score's sigmoid. By a
    # convolution, which the rewrites merge with the one before
    border = 0.5 if kind == "probability" else 0.0
    weights = np.array([0, 1], np.float32).reshape(2, 1, 1, 1)
    return make("Conv", [value, make.constant(weights), make.constant(np.array([0, -border], np.float32))], {})


class _Maker:
    """New nodes at the end of a graph, with names that are free."""

    def __init__(self, model: ir.Model) -> None:
        self._graph, self._opset = model.graph, model.opset_imports.get("", 20)
        self._names = Names(model.graph)

    def __call__(
        self, operator: str, inputs: list[ir.Value], attributes: dict[str, Any], dtype: ir.DataType = FLOAT
    ) -> ir.Value:
        node = self._names.node(operator, inputs, f"ends/{operator}", attributes, dtype)
        self._graph.append(node)
        return node.outputs[0]

    def constant(self, array: Array) -> ir.Value:
        return self._names.constant("ends/constant", array)

    def unsqueezed(self, value: ir.Value, axes: list[int]) -> ir.Value:
        if self._opset < 13:
            return self("Unsqueeze", [value], {"axes": axes}, value.dtype or FLOAT)
        return self("Unsqueeze", [value, self.constant(np.array(axes, np.int64))], {}, value.dtype or FLOAT)
