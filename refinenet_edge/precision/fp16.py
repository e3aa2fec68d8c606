"""Type a float32 graph as float16: weights, activations, input and output.

An operator input is retyped when its ONNX schema lets it be float16; one that must stay float32 (the scales of a
Resize) does. So no float32 island, with its casts, is left around Resize.

What float16 cannot hold stays float32, and so do the nodes that make or read it, between casts: activations that were
seen near its largest number or below its least normal one, and weights that would lose their bits.
"""

import logging
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass

from refinenet_edge.errors import GraphError
from refinenet_edge.graph import Names, lift_constants, replace_uses

logger = logging.getLogger(__name__)

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
FP16_MAX = 65504.0
HEADROOM = 2.0  # other frames reach further than those that were seen
FP16_NORMAL = 2.0**-14  # below, bits are lost
LOST = 2.0**-7  # of weights' norm: float16's own rounding is 2^-12
FEWEST, SHARE = 8, 4  # so many nodes may stay float32, or one in so many


def to_fp16(model: ir.Model, peaks: Mapping[str, float] | None = None) -> ir.Model:
    """`model` with every float32 tensor float16 that float16 can hold, in place.

    `peaks`: the largest magnitude that was seen of each activation; one that is not among them is taken to fit.
    Raises `GraphError` where the logits do not fit, weights are not finite, or too much would stay float32.
    """
    # the type of a Constant node is inside it
    lift_constants(model)
    graph = model.graph
    wide = _wide(graph, peaks or {})
    typing = _Typing(graph, wide)
    kept = [node for node in graph if node.op_type != "Cast" and typing.keeps(node)]
    _require_few(graph, kept, wide, peaks or {})
    for node in list(graph):
        if node.op_type == "Cast":
            if node.attributes.get_int("to", 0) == FLOAT and node.outputs[0] not in wide:
                node.attributes["to"] = ir.AttrInt64("to", int(HALF))
        elif node not in kept:
            typing.halve_weights(node)
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.dtype == FLOAT and value not in wide:
            value.dtype = HALF
    for node in kept:
        typing.surround(node)
    typing.finish()
    return CheckerPass()(model).model


def stored_in_half(model: ir.Model) -> ir.Model:
    """Another model, in float32, of a float16 one: it rounds where that stores, which no CPU's float16 does."""
    other = ir.from_proto(ir.to_proto(model))
    graph, names = other.graph, Names(other.graph)
    for value in graph.initializers.values():
        if value.dtype == HALF:
            assert value.const_value is not None
            array = np.asarray(value.const_value.numpy()).astype(np.float32)
            value.const_value, value.dtype = ir.tensor(array, name=value.name), FLOAT
    made: list[tuple[ir.Value, ir.Node | None]] = [(value, None) for value in graph.inputs]
    made += [(value, node) for node in graph for value in node.outputs]
    for value, node in made:
        if value.dtype != HALF:
            continue
        value.dtype = FLOAT
        if node is not None and node.op_type == "Cast":
            node.attributes["to"] = ir.AttrInt64("to", int(FLOAT))
        half = names.cast(value, HALF, f"{value.name}/stored")
        back = names.cast(half.outputs[0], FLOAT, f"{value.name}/read")
        if value.is_graph_output():
            value.name, back.outputs[0].name = back.outputs[0].name, value.name
        replace_uses(value, back.outputs[0], but=half)
        graph.extend([half, back])
    graph.sort()
    return other


class _Typing:
    """Which nodes of a graph stay float32, and its weights in both types."""

    def __init__(self, graph: ir.Graph, wide: set[ir.Value]) -> None:
        self._graph, self._wide, self._names = graph, wide, Names(graph)
        self._halves: dict[ir.Value, ir.Value] = {}
        self._casts: dict[ir.Value, ir.Value] = {}

    def keeps(self, node: ir.Node) -> bool:
        """Whether `node` makes or reads what float16 cannot hold."""
        if not self._wide.isdisjoint((*node.inputs, *node.outputs)):
            return True
        return any(value.is_initializer() and not _fits(value) for _, value in self._floats(node))

    def halve_weights(self, node: ir.Node) -> None:
        for index, value in self._floats(node):
            if value.is_initializer():
                if value not in self._halves:
                    assert value.const_value is not None
                    array = np.asarray(value.const_value.numpy()).astype(np.float16)
                    self._halves[value] = self._names.constant(f"{value.name} (float16)", array)
                node.replace_input_with(index, self._halves[value])

    def surround(self, node: ir.Node) -> None:
        """Casts before and after a node that stays float32."""
        for index, value in self._floats(node, HALF):
            if value not in self._casts:
                cast = self._names.cast(value, FLOAT, f"{value.name}/float32")
                self._graph.append(cast)
                self._casts[value] = cast.outputs[0]
            node.replace_input_with(index, self._casts[value])
        for output in node.outputs:
            if output.dtype == HALF:
                name, output.dtype = str(output.name), FLOAT
                output.name = self._names.free(f"{name}/float32")
                cast = self._names.cast(output, HALF, f"{name}/float16")
                cast.outputs[0].name = name
                replace_uses(output, cast.outputs[0], but=cast)
                self._graph.append(cast)

    def finish(self) -> None:
        """Drop the weights that only float16 has readers of, and give those their names."""
        for value in list(self._graph.initializers.values()):
            if not value.uses():
                del self._graph.initializers[str(value.name)]
        for old, new in self._halves.items():
            if old.name not in self._graph.initializers:
                new.name = old.name
        self._graph.sort()

    def _floats(self, node: ir.Node, dtype: ir.DataType = FLOAT) -> list[tuple[int, ir.Value]]:
        """The inputs of a type that may be float16."""
        schema = _schema(node, self._graph.opset_imports.get("", 20))
        return [
            (index, value)
            for index, value in enumerate(node.inputs)
            if value is not None and value.dtype == dtype and _may_be_half(schema, index)
        ]


def _wide(graph: ir.Graph, peaks: Mapping[str, float]) -> set[ir.Value]:
    """The activations that float16 does not hold. What is dequantised is as large as what was quantised."""
    wide: set[ir.Value] = set()
    for node in graph:
        for value in node.outputs:
            source = node.inputs[0] if node.op_type in ("QuantizeLinear", "DequantizeLinear") else None
            quantised = source.producer() if source is not None else None
            if node.op_type == "DequantizeLinear" and quantised is not None and quantised.inputs[0] in wide:
                wide.add(value)
            peak = peaks.get(str(value.name), 0.0)
            if value.dtype == FLOAT and (peak > FP16_MAX / HEADROOM or 0 < peak < FP16_NORMAL):
                wide.add(value)
    return wide


def _fits(value: ir.Value) -> bool:
    """Whether float16 holds weights: none too large, and what is lost of the small ones is little of all."""
    assert value.const_value is not None
    array = np.asarray(value.const_value.numpy(), np.float32)
    if not np.isfinite(array).all():
        raise GraphError(f"{value.name} holds NaN or infinity: its weights cannot be used")
    if np.abs(array).max(initial=0.0) > FP16_MAX:
        return False
    with np.errstate(under="ignore"):
        lost = array.astype(np.float64) - array.astype(np.float16)
    return bool(np.linalg.norm(lost) <= LOST * np.linalg.norm(array.astype(np.float64)))


def _require_few(graph: ir.Graph, kept: list[ir.Node], wide: set[ir.Value], peaks: Mapping[str, float]) -> None:
    """Say which nodes stay float32 and why; raise `GraphError` where they are too many, or the logits among them."""
    if not kept:
        return
    ends = (value for node in kept for value in (*node.outputs, *node.inputs))  # what a Cast makes is only read
    first = next((value for value in ends if value in wide), None)
    if first is not None:
        reason = (
            f"{first.name} reaches {peaks.get(str(first.name), 0.0):.3g}, float16 goes from 6e-05 to {FP16_MAX:.0f}"
        )
    else:
        heavy = next(v for v in kept[0].inputs if v is not None and v.is_initializer() and not _fits(v))
        reason = f"{heavy.name} holds numbers that float16, from 6e-05 to {FP16_MAX:.0f}, does not"
    allowed = max(FEWEST, len(graph) // SHARE)
    if len(kept) > allowed or any(value in wide for value in graph.outputs):
        raise GraphError(f"{reason}: {len(kept)} of {len(graph)} nodes would stay float32; build with --precision fp32")
    logger.warning("%d nodes from %s on stay float32: %s", len(kept), kept[0].name, reason)


def _schema(node: ir.Node, opset: int) -> onnx.defs.OpSchema:
    try:
        return onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError as exc:
        raise GraphError(
            f"{node.name or 'a node'}: no ONNX operator {node.domain}:{node.op_type}, so its types are unknown"
        ) from exc


def _may_be_half(schema: onnx.defs.OpSchema, index: int) -> bool:
    formal = schema.inputs[min(index, len(schema.inputs) - 1)]
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    return "tensor(float16)" in allowed.get(formal.type_str, [formal.type_str])
