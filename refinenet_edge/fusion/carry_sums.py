"""Order a sum so that convolutions carry it: every other summand first, then the convolutions one by one.

(c + u) + v -> (u + v) + c,  c a convolution whose result goes nowhere else

A convolution adds one map to its result before writing it, and applies the activation after that. So a chain that ends
in a convolution needs no kernel for that sum nor for the activation. A sum of n maps, k of them such convolutions,
needs at least n - 1 - k sums of its own. Pays, and is done, when there are fewer of those than before. Floating-point
addition is reordered: exact up to rounding. Refused where a partial sum has another user or the sizes differ.
"""

import onnx_ir as ir

from refinenet_edge.fusion.cost import has_single_consumer
from refinenet_edge.fusion.rewrite import GraphRewrite


def _carry_sums(model: ir.Model) -> int:
    roots = [node for node in model.graph if node.op_type == "Add" and not _is_inner(node)]
    return sum(_reorder(model.graph, root) for root in roots)


def _reorder(graph: ir.Graph, root: ir.Node) -> bool:
    adds = _adds(root)
    leaves = [value for add in adds for value in add.inputs if value is not None and value.producer() not in adds]
    carriers = [value for value in leaves if _is_carrier(value)]
    if not carriers or any(value.shape is None or value.shape != root.outputs[0].shape for value in leaves):
        return False
    others = [value for value in leaves if value not in carriers]
    # the first convolution of a sum without others has nothing to add: it is one of the summands
    needed = max(len(others) - 1, 0)
    if sum(not any(_is_carrier(value) for value in add.inputs if value is not None) for add in adds) <= needed:
        return False
    total, *rest = [*others, *carriers]
    for add, value in zip(adds, rest, strict=True):
        add.replace_input_with(0, total)
        add.replace_input_with(1, value)
        total = add.outputs[0]
    graph.sort()
    return True


def _adds(root: ir.Node) -> list[ir.Node]:
    """The additions of the sum that ends in `root`, in the order of the graph; `root` is the last."""
    adds: list[ir.Node] = []
    for value in root.inputs:
        producer = value.producer() if value is not None else None
        if producer is not None and producer.op_type == "Add" and _is_inner(producer):
            adds += _adds(producer)
    return [*adds, root]


def _is_inner(add: ir.Node) -> bool:
    """An addition whose result goes into one other addition only."""
    result = add.outputs[0]
    return has_single_consumer(result) and all(use.node.op_type == "Add" for use in result.uses())


def _is_carrier(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "Conv" and has_single_consumer(value)


REWRITE = GraphRewrite("carry_sums", _carry_sums)
