"""What a graph costs per frame, counted from its shapes: multiply-accumulates, and bytes moved.

A node moves every tensor it reads and writes once, weights included, in the graph's own types; an activation or a sum
runs in the kernel of the node before it where it can, and then moves only what is not already there. Caches are
ignored. So the figures compare two graphs of one model; they do not predict a time.
"""

import onnx_ir as ir

from refinenet_edge.graph import elements, macs_of
from refinenet_edge.records import GraphCost

FREE = ("Reshape", "Squeeze", "Unsqueeze", "Identity", "Shape", "Constant")
EPILOGUE = ("Relu", "Clip", "Add")  # what a kernel can do with its result before writing it


def graph_cost(model: ir.Model) -> GraphCost | None:
    """The cost of a graph with fixed shapes; None when a shape is free or unknown."""
    macs = moved = nodes = 0
    inside = inside_kernels(model.graph)
    for node in model.graph:
        if node.op_type in FREE:
            continue
        nodes += 1
        for value in (*node.inputs, *node.outputs):
            if value is None or value in inside:
                continue
            size = _bytes(value)
            if size is None:
                return None
            moved += size
        if node.op_type == "Conv":
            count = macs_of(node)
            if count is None:
                return None
            macs += count
    return GraphCost(macs, moved, nodes)


def inside_kernels(graph: ir.Graph) -> set[ir.Value]:
    """The values that a kernel hands on unwritten: to a convolution's epilogue, or along elementwise nodes."""
    inside: set[ir.Value] = set()
    step: dict[ir.Node, int] = {}  # convolutions and elementwise nodes -> place in the order
    for place, node in enumerate(graph):
        if node.op_type == "Conv":
            step[node] = place
        elif node.op_type in EPILOGUE:
            own = [
                (step[producer], value)
                for value in node.inputs
                if value is not None and (producer := value.producer()) in step and has_single_consumer(value)
            ]
            if own:
                # of two convolutions that are summed, the later one carries the sum
                inside.add(max(own, key=lambda item: item[0])[1])
            step[node] = place
    return inside


def has_single_consumer(value: ir.Value) -> bool:
    return len(list(value.uses())) == 1 and not value.is_graph_output()


def _bytes(value: ir.Value) -> int | None:
    count = elements(value)
    return None if count is None or value.dtype is None else int(count * value.dtype.itemsize)
