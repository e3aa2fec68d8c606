"""Every layer in float or quantised by a switch: one graph in one session, whatever is to be rounded.

    y = If(switch)    then: x -> QuantizeLinear -> DequantizeLinear -> layer with rounded weights    else: x -> layer

Only the branch that is taken is computed. From one choice to the next nothing is copied, serialised or compiled; float
and rounded weights are both in memory.
"""

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from refinenet_edge.graph import Names, new_constant, to_bytes
from refinenet_edge.precision.placement import Placement
from refinenet_edge.precision.qdq import layers, quantise
from refinenet_edge.records import Ranges
from refinenet_edge.runtime.ort import OrtSession
from refinenet_edge.runtime.session import Feeds, Outputs, Session


class Switchboard:
    """The fused float32 `model` with a switch for each of the `layers` that `placement` quantises.

    ONNX Runtime runs it, Q/DQ as written. Raises `CalibrationError` when a tensor to quantise has no range.
    """

    def __init__(self, model: ir.Model, ranges: Ranges, placement: Placement) -> None:
        self._model, self._placement = model, placement
        self.layers = layers(model, placement)
        self._switches = _switches(model, self.layers)
        self._session = OrtSession(to_bytes(switched(model, ranges, placement)), as_written=True, throughput=True)

    def keeping(self, keep: Collection[str]) -> Session:
        """What `quantise` gives for the same `keep`; all such sessions are one, which ends with the last of them."""
        rounded = set(layers(self._model, self._placement, keep))
        return _Setting(self._session, {switch: np.array([name in rounded]) for name, switch in self._switches.items()})


class _Setting(Session):
    """A session with its switches set."""

    def __init__(self, session: OrtSession, switches: Feeds) -> None:
        super().__init__(session.name, session.inputs[:1], session.outputs, session.requests)
        self._session, self._switches = session, switches

    def _run(self, feeds: Feeds) -> Outputs:
        return self._session.run({**feeds, **self._switches})


def switched(model: ir.Model, ranges: Ranges, placement: Placement) -> ir.Model:
    """Another model: the fused float32 `model` with a boolean input (1) for each layer that `placement` quantises."""
    both, rounded = model.clone(), quantise(model.clone(), ranges, placement)
    quantised = {str(node.name): node for node in rounded.graph}
    outside = {
        str(value.name): value for node in both.graph for value in (*node.inputs, *node.outputs) if value is not None
    }
    switches = _switches(model, layers(model, placement))
    names = Names(both.graph)
    for taken in switches.values():
        names.free(taken)  # it is, until now
    for node in list(both.graph):
        name = str(node.name)
        if name not in switches:
            continue
        switch = ir.Value(name=switches[name], shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.BOOL))
        both.graph.inputs.append(switch)
        branches = {
            "then_branch": _branch(quantised[name], outside, names, f"{name}/rounded/"),
            "else_branch": _branch(node, outside, names, f"{name}/float/"),
        }
        choice = ir.Node("", "If", [switch], [ir.AttrGraph(key, body) for key, body in branches.items()], name=name)
        ir.convenience.replace_nodes_and_values(both.graph, node, [node], [choice], node.outputs, choice.outputs)
        outside[str(choice.outputs[0].name)] = choice.outputs[0]
    return RemoveUnusedNodesPass()(both).model


def _branch(layer: ir.Node, outside: Mapping[str, ir.Value], names: Names, prefix: str) -> ir.Graph:
    """`layer` with the Q/DQ before it as the body of an If.

    Its constants are its own, so that ONNX Runtime packs the weights once; activations are those of `outside`.
    """
    made: dict[ir.Value, ir.Value] = {}
    nodes: list[ir.Node] = []
    constants: list[ir.Value] = []

    def inside(value: ir.Value) -> ir.Value:
        producer = value.producer()
        if value in made:
            return made[value]
        if value.const_value is not None:
            made[value] = new_constant(names.free(f"{prefix}{value.name}"), np.asarray(value.const_value.numpy()))
            constants.append(made[value])
            return made[value]
        if producer is not None and (producer is layer or producer.op_type in ("QuantizeLinear", "DequantizeLinear")):
            inputs = [None if source is None else inside(source) for source in producer.inputs]
            name = names.free(f"{prefix}{producer.name}")
            nodes.append(ir.Node("", producer.op_type, inputs, producer.attributes.values(), name=name))
            made[value] = nodes[-1].outputs[0]
            made[value].name = names.free(f"{prefix}{value.name}")
            made[value].shape, made[value].type = value.shape, value.type
            return made[value]
        return outside[str(value.name)]

    output = inside(layer.outputs[0])
    return ir.Graph([], [output], nodes=nodes, initializers=constants, name=prefix)


def _switches(model: ir.Model, layers: Collection[str]) -> dict[str, str]:
    """Layer -> its switch, a name that nothing in the model has."""
    names = Names(model.graph)
    return {layer: names.free(f"{layer}/switch") for layer in layers}
