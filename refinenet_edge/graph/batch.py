"""The first axis of a graph: one frame becomes several at once, or several become one.

Most operators take whatever comes along that axis. Those that are told a shape get it without the number of frames:

    Reshape(x, [1, C, S])      -> Reshape(x, [-1, C, S])
    Resize(x, [1, C, H, W])    -> Resize(x, [4, C, H, W]), or with Shape(image)[0] where the number is free
    Expand(x, [1, C, S])       -> Expand(x, [1, C, S]), which keeps what `x` has

Whether every frame's result is then its own is not seen here: the build runs the graph on frames that differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from refinenet_edge.errors import GraphError
from refinenet_edge.graph import Names, constant, infer_anew, input_of
from refinenet_edge.records import Batch

SHAPES = {"Reshape": 1, "Expand": 1, "Resize": 3}  # which input of an operator is the shape of its output
BATCH = "batch"  # the name of a first axis that is free


def set_batch(model: ir.Model, batch: Batch, name: str = "the network") -> ir.Model:
    """`model`, whose image has a fixed number of frames, with that of `batch`, in place; free where it is not fixed.

    The shapes within must be inferred. Raises `GraphError` where what it gives does not follow.
    """
    graph = model.graph
    (image,), (output,) = graph.inputs, graph.outputs
    assert image.shape is not None
    old, given = image.shape[0], output.shape
    frames = batch.most if batch.fixed else BATCH
    if old == frames:
        return model
    _ShapeWriter(graph, old, frames).write()
    image.shape = ir.Shape([frames, *image.shape[1:]])
    RemoveUnusedNodesPass()(model)
    model = infer_anew(model)
    made = model.graph.outputs[0].shape
    stuck = [shape for shape, wanted in ((given, old), (made, frames)) if _begins_otherwise(shape, wanted)]
    if stuck:
        raise GraphError(
            f"{name} cannot take {batch} frames at once instead of {old}: what it gives does not follow; "
            "build it without --batch, or export it with a free batch axis"
        )
    if given is not None:
        model.graph.outputs[0].shape = ir.Shape([frames, *given[1:]])
    return model


def fix_batch(model: ir.Model, frames: int) -> ir.Model:
    """`model`, of whatever batch, with `frames` in place and its shapes inferred."""
    image = model.graph.inputs[0]
    assert image.shape is not None
    if isinstance(image.shape[0], int):
        return set_batch(ShapeInferencePass()(model).model, Batch(frames, frames, frames))
    return _told(model, frames)


def _told(model: ir.Model, frames: int) -> ir.Model:
    """`model`, whose number of frames is free, told that there are `frames`: nothing counts them any more."""
    graph, image = model.graph, model.graph.inputs[0]
    assert image.shape is not None
    image.shape = ir.Shape([frames, *image.shape[1:]])
    writer = _ShapeWriter(graph, frames, frames)
    for node in list(graph):
        counts = node.op_type == "Shape" and node.inputs[0] is image and node.attributes.get_int("end", 0) == 1
        known = [np.array([frames])] if counts else [constant(value) for value in node.inputs]
        if counts or (node.op_type == "Concat" and all(value is not None for value in known)):
            sides = [int(side) for value in known if value is not None for side in value.ravel()]
            node.outputs[0].replace_all_uses_with(writer.constant(node, sides))
            graph.remove(node, safe=True)
    return infer_anew(model)


def _begins_otherwise(shape: ir.Shape | None, frames: object) -> bool:
    return shape is not None and (not len(shape) or (isinstance(shape[0], int) and shape[0] != frames))


class _ShapeWriter:
    """Writes the shapes in `graph` again, of `old` frames, for `frames`."""

    def __init__(self, graph: ir.Graph, old: int | ir.SymbolicDim, frames: int | str) -> None:
        self._graph, self._old, self._frames = graph, old, frames
        self._names = Names(graph)
        self._count: ir.Value | None = None  # how many frames there are, where that is free

    def write(self) -> None:
        """Every shape of what is computed of the image."""
        rules: dict[str, Callable[[ir.Node, ir.Value], ir.Value | None]]
        rules = {"Reshape": self._reshaped, "Expand": self._expanded, "Resize": self._resized}
        moving = set(self._graph.inputs)
        for node in list(self._graph):
            if moving.isdisjoint(node.inputs) or node.op_type in ("Shape", "Size"):
                continue
            moving.update(node.outputs)
            if (place := SHAPES.get(node.op_type)) is None or (shape := input_of(node, place)) is None:
                continue
            if (new := rules[node.op_type](node, shape)) is not None:
                node.replace_input_with(place, new)

    def _reshaped(self, node: ir.Node, shape: ir.Value) -> ir.Value | None:
        """All but the first side as they are, the first is what is left; None: it stays."""
        known = constant(shape)
        if known is None:
            head, rest = self._split(shape)
            return None if head is None or (-1 in head[1:]) else self._joined(node, -1, head[1:], rest)
        made = node.outputs[0].shape
        if known.size < 2 or made is None:
            return None
        if all(isinstance(side, int) for side in made[1:]):
            return self.constant(node, [-1, *map(int, made[1:])])  # type: ignore[arg-type]
        if known[0] != self._old:
            return None
        return self.constant(node, [0 if -1 in known[1:] else -1, *map(int, known[1:])])

    def _expanded(self, node: ir.Node, shape: ir.Value) -> ir.Value | None:
        known = constant(shape)
        if known is not None and known.size and known[0] == self._old:
            return self.constant(node, [1, *map(int, known[1:])])
        head, rest = self._split(shape) if known is None else (None, [])
        return None if head is None else self._joined(node, 1, head[1:], rest)

    def _resized(self, node: ir.Node, shape: ir.Value) -> ir.Value | None:
        axes = list(node.attributes.get_ints("axes", ()))
        if axes and axes[0] != 0:
            return None
        known = constant(shape)
        head, rest = ([int(side) for side in known], []) if known is not None else self._split(shape)
        if not head or head[0] != self._old:
            return None
        return self._joined(node, self._frames, head[1:], rest)

    def _split(self, shape: ir.Value) -> tuple[list[int] | None, list[ir.Value]]:
        """The constants that a computed shape begins with, where the number of frames is among them, and the rest."""
        node = shape.producer()
        parts = [value for value in node.inputs if value is not None] if node and node.op_type == "Concat" else []
        known = constant(parts[0]) if parts else None
        if known is None or not known.size or known[0] != self._old:
            return None, []
        return [int(side) for side in known], parts[1:]

    def _joined(self, node: ir.Node, first: int | str, known: list[int], rest: list[ir.Value]) -> ir.Value:
        """The shape that begins with `first`, or with how many frames there are, goes on with `known`, then `rest`."""
        if isinstance(first, str):
            parts = [self._counted(), *([self.constant(node, known)] if known else []), *rest]
        else:
            parts = [self.constant(node, [first, *known]), *rest]
        if len(parts) == 1:
            return parts[0]
        joined = self._names.node("Concat", parts, f"{node.name}/shape/Concat", {"axis": 0}, ir.DataType.INT64)
        self._graph.insert_before(node, joined)
        return joined.outputs[0]

    def _counted(self) -> ir.Value:
        if self._count is None:
            image, first = self._graph.inputs[0], {"start": 0, "end": 1}
            counting = self._names.node("Shape", [image], "batch/Shape", first, ir.DataType.INT64)
            self._graph.insert_before(self._graph[0], counting)
            self._count = counting.outputs[0]
        return self._count

    def constant(self, node: ir.Node, sides: Sequence[int]) -> ir.Value:
        """`sides` as a shape of `node`'s."""
        return self._names.constant(f"{node.name}/shape", np.array(sides, np.int64))
