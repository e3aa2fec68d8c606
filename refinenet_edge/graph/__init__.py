"""A graph in memory: what is known of its values and nodes, new ones and their names, and its bytes.

As all stages have it input `image` is 1x3xHxW, output `logits` 1xCxhxw, opset 20 and IR version 9: what the parsers of
TensorRT 10.3 to 11 and TensorRT-RTX all read. batch.py lets it take several frames at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import (
    CheckerPass,
    ClearMetadataAndDocStringPass,
    InlinePass,
    LiftConstantsToInitializersPass,
    ShapeInferencePass,
)

from refinenet_edge.errors import GraphError
from refinenet_edge.records import INPUT, OUTPUT, TensorSpec

OPSET = 20
IR_VERSION = 9
Array = npt.NDArray[Any]


def constant(value: ir.Value | None) -> Array | None:
    """The array that `value` always has; None when it is computed or can be fed."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """An input of `node`; None where it is left out."""
    return node.inputs[index] if len(node.inputs) > index else None


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


def tidied(model: ir.Model) -> ir.Model:
    """`model` with our names and nothing of its exporter."""
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version, model.doc_string = "refinenet-edge", None, None
    model.graph.name = "segmentation"
    model = InlinePass()(model).model
    _name_ends(model.graph)
    # the exporter's metadata holds stack traces with the paths of this machine
    model = ClearMetadataAndDocStringPass()(model).model
    nodes = list(model.graph)
    ends = (model.graph.inputs, model.graph.initializers.values(), *(node.outputs for node in nodes))
    for value in itertools.chain(*ends):
        value.metadata_props.clear()
        value.doc_string = None
    declared = model.graph.outputs[0].shape
    model = ShapeInferencePass()(model).model
    if model.graph.outputs[0].shape is None:
        model.graph.outputs[0].shape = declared
    shape = model.graph.outputs[0].shape
    if shape is not None and len(shape) == 4:
        # torch writes free sides as formulas of the input's
        sides = [side if isinstance(side, int) else name for side, name in zip(shape[2:], ("h", "w"), strict=True)]
        model.graph.outputs[0].shape = ir.Shape([*shape[:2], *sides])
    return CheckerPass()(model).model


def _name_ends(graph: ir.Graph) -> None:
    """Name the input and the output; what had these names gets another."""
    image, logits = graph.inputs[0], graph.outputs[0]
    inner = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    for value in inner:
        if value is not logits and value.name in (INPUT, OUTPUT):
            value.name = f"{value.name} (inner)"
    image.name, logits.name = INPUT, OUTPUT


def num_classes(model: ir.Model) -> int:
    """The channels of the logits."""
    shape = model.graph.outputs[0].shape
    if shape is None or len(shape) != 4 or not isinstance(shape[1], int):
        raise GraphError(f"the output has shape {shape}: expected logits 1xCxhxw with a fixed C")
    return int(shape[1])


def specs_of(values: Sequence[ir.Value]) -> tuple[TensorSpec, ...]:
    """Inputs or outputs of a graph as records; a side that varies is a name."""
    return tuple(
        TensorSpec(
            str(value.name),
            value.dtype.numpy().name if value.dtype else "unknown",
            tuple(side if isinstance(side, int) else str(side) for side in value.shape or ()),
        )
        for value in values
    )


def to_bytes(model: ir.Model) -> bytes:
    """The serialised ONNX, weights inside."""
    try:
        return bytes(ir.to_proto(model).SerializeToString(deterministic=True))
    except ValueError as exc:
        raise GraphError(f"the model is larger than ONNX can hold in one file (2 GiB): {exc}") from exc


def copy_of(model: ir.Model) -> ir.Model:
    """Another model of the same. `Model.clone` shares the types of values: typing one would type the other."""
    return ir.from_proto(ir.to_proto(model))
