"""What is known of an ONNX graph's values and nodes, and new constants, nodes and names in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, ShapeInferencePass

Array = npt.NDArray[Any]


def constant(value: ir.Value | None) -> Array | None:
    """The array that `value` always has; None when it is computed or can be fed."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def sides(value: ir.Value | None) -> tuple[int, ...] | None:
    """A fixed shape; None when it is free or not known."""
    if value is None or value.shape is None or not all(isinstance(side, int) for side in value.shape):
        return None
    return tuple(map(int, value.shape))  # type: ignore[arg-type]


def elements(value: ir.Value | None) -> int | None:
    """How many numbers are in a tensor of a fixed shape."""
    known = sides(value)
    return None if known is None else prod(known)


def macs_of(node: ir.Node) -> int | None:
    """The multiply-accumulates of a convolution or a matrix product, 0 of others; None when a shape is free."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    taken, weight, given = sides(node.inputs[0]), sides(node.inputs[1]), sides(node.outputs[0])
    if taken is None or weight is None or given is None:
        return None
    if node.op_type == "Conv":
        return prod(weight) * prod(given[2:])
    if node.op_type == "ConvTranspose":
        return prod(weight) * prod(taken[2:])
    return prod(given) * (taken[0] if node.attributes.get_int("transA", 0) else taken[-1])


def replace_uses(value: ir.Value, new: ir.Value, but: ir.Node) -> None:
    """Let all that reads `value`, except the node `but`, read `new`, which is the graph's output where that was."""
    ir.convenience.replace_all_uses_with(value, new, replace_graph_outputs=True)
    but.replace_input_with(0, value)


def lift_constants(model: ir.Model) -> None:
    """Make every constant of `model` an initializer, in place."""
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def infer_anew(model: ir.Model) -> ir.Model:
    """`model` with the shapes of all that it computes forgotten, and inferred again."""
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    return ShapeInferencePass()(model).model


def new_constant(name: str, array: Array) -> ir.Value:
    """A value that holds `array`, not yet among a graph's initializers."""
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)


class Names:
    """The names of a graph's values and nodes, and new ones that nothing in it has."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._taken = {str(value.name) for value in (*graph.inputs, *graph.initializers.values())}
        for node in graph.all_nodes():
            self._taken |= {str(node.name), *(str(value.name) for value in node.outputs)}

    def free(self, name: str) -> str:
        """`name`, or if something has it, the first of name', name'' ... that nothing has. It is taken from now on."""
        while name in self._taken:
            name += "'"
        self._taken.add(name)
        return name

    def constant(self, name: str, array: Array) -> ir.Value:
        """A new initializer of the graph that holds `array`, called `name` if that is free."""
        value = new_constant(self.free(name), array)
        self._graph.initializers.add(value)
        return value

    def node(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        attributes: Mapping[str, Any] | None = None,
        dtype: ir.DataType = ir.DataType.FLOAT,
        shape: ir.Shape | None = None,
    ) -> ir.Node:
        """A new node, not yet in the graph, called NAME, `name` if that is free; its only output is called NAME:0."""
        node = ir.node(operator, inputs, attributes, name=self.free(name))
        made = node.outputs[0]
        made.name, made.dtype, made.shape = self.free(f"{node.name}:0"), dtype, shape
        return node

    def cast(self, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
        """A new Cast of `value`, as `node` makes one."""
        return self.node("Cast", [value], name, {"to": int(dtype)}, dtype, value.shape)
