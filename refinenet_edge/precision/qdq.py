"""Put explicit Q/DQ into a fused float32 graph: symmetric INT8 as TensorRT and OpenVINO both read it, or FP8.

    x -> QuantizeLinear -> DequantizeLinear -> consumers         per tensor, scale = amax / 127 (FP8: 448), zero point 0
    weights (INT8, stored) -> DequantizeLinear -> Conv           per output channel (axis 0), see rounding.py

One pair serves every consumer of a tensor that is quantised, so what is shared has one scale. Where, and on which
grids, a `Placement` says. A pool has one scale on both sides: its largest value is one of those it saw. On a sum only
the skip side is quantised: a convolution adds it in its epilogue, before anything is rounded. Biases stay float.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass, ShapeInferencePass

from refinenet_edge.errors import CalibrationError, InputError
from refinenet_edge.graph import Names
from refinenet_edge.precision.placement import Grid, Placement
from refinenet_edge.records import Range, Ranges


def quantise(model: ir.Model, ranges: Ranges, placement: Placement, keep: Collection[str] = ()) -> ir.Model:
    """`model` (fused, float32) quantised in place; the nodes named in `keep` stay float.

    Raises `CalibrationError` when a tensor to quantise has no range, `InputError` when `keep` names no node.
    """
    nodes = list(model.graph)
    if unknown := set(keep) - {str(node.name) for node in nodes}:
        raise InputError(f"the graph has no node {', '.join(sorted(unknown))} to keep in float")
    # all is chosen before anything is changed
    wanted = inputs_to_quantise(nodes, placement, keep)
    writer = _Writer(model.graph, ranges, placement)
    for node, inputs in wanted.items():
        for index in inputs:
            writer.put_pair(node, index)
        if node.op_type == "Conv":
            writer.store_weights(node)
    model.graph.sort()
    ShapeInferencePass()(model)
    return CheckerPass()(model).model


def layers(model: ir.Model, placement: Placement, keep: Collection[str] = ()) -> tuple[str, ...]:
    """The nodes of a fused float32 graph that `quantise` changes, in the order of the graph."""
    return tuple(str(node.name) for node in inputs_to_quantise(list(model.graph), placement, keep))


def inputs_to_quantise(
    nodes: list[ir.Node], placement: Placement, keep: Collection[str]
) -> dict[ir.Node, tuple[int, ...]]:
    """Node -> its inputs to quantise, in the order of the graph."""
    found = {node: inputs for node in nodes if node.name not in keep and (inputs := placement.inputs_of(node))}
    for node in reversed(nodes):
        readers = node.outputs[0].uses()
        if node.op_type in ("MaxPool", "Resize") and not any(at in found.get(reader, ()) for reader, at in readers):
            # what goes on in float gains nothing from being rounded first
            found.pop(node, None)
    return found


class _Writer:
    """Writes Q/DQ into a graph: one pair for each tensor, and weights as they are stored."""

    def __init__(self, graph: ir.Graph, ranges: Ranges, placement: Placement) -> None:
        self._graph, self._ranges, self._placement, self._names = graph, ranges, placement, Names(graph)
        self._pairs: dict[ir.Value, ir.Value] = {}

    def put_pair(self, node: ir.Node, index: int) -> None:
        """The pair of an input of `node` before it."""
        value = node.inputs[index]
        assert value is not None
        if value not in self._pairs:
            source = self._pooled(value)
            grid = self._placement.grid_of(source)
            scale = np.array(max(self._range(source).amax / grid.largest, self._placement.smallest), np.float32)
            name = str(value.name)
            constants = self._constants(name, scale, grid)
            made = self._names.node("QuantizeLinear", [value, *constants], f"{name}/q", None, grid.dtype, value.shape)
            inputs = [made.outputs[0], *constants]
            back = self._names.node("DequantizeLinear", inputs, f"{name}/dq", shape=value.shape)
            self._graph.extend([made, back])
            self._pairs[value] = back.outputs[0]
        node.replace_input_with(index, self._pairs[value])

    def store_weights(self, node: ir.Node) -> None:
        """The weights of a Conv, quantised, and their DequantizeLinear."""
        weight, placement = node.inputs[1], self._placement
        assert weight is not None and weight.const_value is not None
        name = f"{node.outputs[0].name}/weight"  # every output has a name, and no other has it
        known = weight.const_value.meta  # clones of a model share its tensors: what candidates need is rounded once
        key = f"{placement.grid.name}, {'per channel' if placement.per_channel else 'per tensor'}, {placement.smallest}"
        if key not in known:
            known[key] = _rounded(np.asarray(weight.const_value.numpy(), np.float32), placement)
        rounded, scale = known[key]
        constants = self._constants(name, scale, placement.grid)
        stored = self._names.constant(f"{name}/{placement.grid.dtype.name.lower()}", rounded)
        axis = {"axis": 0} if placement.per_channel else None
        back = self._names.node("DequantizeLinear", [stored, *constants], f"{name}/dq", axis, shape=weight.shape)
        self._graph.append(back)
        node.replace_input_with(1, back.outputs[0])
        if not weight.uses():
            del self._graph.initializers[str(weight.name)]

    def _constants(self, name: str, scale: npt.NDArray[np.float32], grid: Grid) -> list[ir.Value]:
        """The scale and the zero point of a Q/DQ."""
        zero = np.full(scale.shape, grid.zero).astype(grid.dtype.numpy())
        return [self._names.constant(f"{name}/scale", scale), self._names.constant(f"{name}/zero", zero)]

    def _pooled(self, value: ir.Value) -> ir.Value:
        """A pooled map is quantised as the map is: a shared scale lets the pool run on what is quantised."""
        producer = value.producer()
        if producer is None or producer.op_type != "MaxPool":
            return value
        source = producer.inputs[0]
        assert source is not None
        quantiser = source.producer()
        if quantiser is not None and quantiser.op_type == "DequantizeLinear":
            source = quantiser.inputs[0].producer().inputs[0]  # type: ignore[union-attr]
        return self._pooled(source)  # type: ignore[arg-type]

    def _range(self, value: ir.Value) -> Range:
        try:
            return self._ranges.tensors[str(value.name)]
        except KeyError:
            raise CalibrationError(
                f"the ranges have nothing for {value.name}: they were changed, or another version's; calibrate again"
            ) from None


def _rounded(
    weights: npt.NDArray[np.float32], placement: Placement
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.float32]]:
    """Weights in units of their scale, and the scale."""
    grid, per_channel = placement.grid, placement.per_channel
    largest = np.abs(weights).reshape(len(weights), -1).max(axis=1) if per_channel else np.abs(weights).max()
    scale = np.maximum(largest / grid.largest, placement.smallest).astype(np.float32)
    return grid.round(weights / (scale.reshape(-1, *[1] * (weights.ndim - 1)) if per_channel else scale)), scale
