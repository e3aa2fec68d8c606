"""What a fused graph has to do at least, kernel by kernel: multiplications, and bytes read and written.

Kernels are as fusion/cost.py sees them: a convolution with the sums and activations that ride in it, a chain of sums, a
pool, a resize. A Concat is none, its inputs can be written where they belong. Each map is written once, at the width
that serves its readers, and read once by every kernel that takes it.

In int8 and fp8 a convolution multiplies, and a map is one byte wide, where the placement for TensorRT quantises it
(precision/placement.py); all else is float16, as `build` does. Q/DQ of a graph that is quantised already are taken out
first: what a bundle was quantised for need not be the board that is asked for. What its budget kept in float stays so.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from refinenet_edge.bench.blocks import FRAME, HEAD, block_of
from refinenet_edge.errors import GraphError
from refinenet_edge.fusion.cost import FREE, inside_kernels
from refinenet_edge.graph import elements, input_of, macs_of, sides
from refinenet_edge.precision import QUANTISED, placement_of
from refinenet_edge.precision.qdq import inputs_to_quantise
from refinenet_edge.records import Size

QDQ = ("QuantizeLinear", "DequantizeLinear")
ALIASES = (*FREE, *QDQ, "Concat", "Cast")  # what stays of Q/DQ rounds the logits, in the kernel that makes them
FLOATS = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
WIDTH = {"fp32": 4, "fp16": 2, "int8": 1, "fp8": 1}  # bytes

Use = tuple[ir.Node, int]  # a reader and which of its inputs


@dataclass(frozen=True)
class Kernel:
    """One launch. `arithmetic` is the precision that its convolution multiplies in.

    Bytes: `maps` are activations read and written, `link` crosses to or from the host's memory.
    """

    block: str
    macs: int = 0
    arithmetic: str = "fp16"
    tensor_cores: bool = True  # False of a depthwise convolution: one channel is no matrix to multiply
    winograd: bool = False  # a 3x3 convolution that has a form with fewer multiplications
    maps: int = 0
    weights: int = 0
    link: int = 0


def kernels(model: ir.Model, precision: str, keep: Collection[str] = ()) -> list[Kernel]:
    """The kernels of frame, network and head; `model` is fused, with fixed sizes, and loses its Q/DQ.

    `keep` names the nodes that stay float in int8 and fp8. Raises `GraphError` where a size is free.
    """
    graph = model.graph
    _to_float(graph)
    (image,), (logits,) = graph.inputs, graph.outputs
    pixels = prod(frame_size(model))
    wide = WIDTH["fp32" if precision == "fp32" else "fp16"]
    return [
        Kernel(FRAME, maps=3 * pixels + wide * _count(image), link=3 * pixels),
        *_network(graph, precision, keep),
        Kernel(HEAD, maps=wide * _count(logits) + pixels, link=pixels),
    ]


def frame_size(model: ir.Model) -> Size:
    """(height, width) that the network takes. Raises `GraphError` where they are free."""
    image = model.graph.inputs[0]
    _count(image)
    shape = sides(image)
    if shape is None or len(shape) != 4:
        raise GraphError(f"the input has shape {image.shape}: expected an image 1xCxHxW")
    return shape[2], shape[3]


def _to_float(graph: ir.Graph) -> None:
    """Take Q/DQ out, and call every map float32: widths come from the precision that is asked for."""
    for node in list(graph):
        result, source = node.outputs[0], input_of(node, 0)
        if node.op_type == "DequantizeLinear" and source is not None and not result.is_graph_output():
            quantiser = source.producer()
            value = quantiser.inputs[0] if quantiser and quantiser.op_type == "QuantizeLinear" else source
            assert value is not None
            result.replace_all_uses_with(value)
    for node in reversed(list(graph)):
        if node.op_type in QDQ and not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            graph.remove(node, safe=True)
        for value in node.outputs:
            if value.dtype in FLOATS:
                value.dtype = ir.DataType.FLOAT


def _network(graph: ir.Graph, precision: str, keep: Collection[str]) -> list[Kernel]:
    quantised: dict[ir.Node, tuple[int, ...]] = {}
    if precision in QUANTISED:
        quantised = inputs_to_quantise(list(graph), placement_of(precision, "tensorrt"), keep)
    narrow = {(node, index) for node, inputs in quantised.items() for index in inputs}
    narrow |= {(node, 1) for node in quantised if node.op_type == "Conv"}  # the weights
    inside = inside_kernels(graph)
    groups: dict[ir.Node, list[ir.Node]] = {}  # a node -> the nodes of its kernel
    for node in graph:
        if node.op_type not in ALIASES:
            carried = next((value.producer() for value in node.inputs if value in inside), None)
            groups[node] = groups[carried] if carried is not None else []
            groups[node].append(node)
    return [_kernel(nodes, precision, narrow, inside) for first, nodes in groups.items() if nodes[0] is first]


def _kernel(nodes: list[ir.Node], precision: str, narrow: set[Use], inside: set[ir.Value]) -> Kernel:
    first = nodes[0]
    wide = "fp32" if precision == "fp32" else "fp16"
    weights = written = 0
    read: dict[ir.Value, int] = {}
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value is None or value in inside:
                continue
            size = _count(value) * WIDTH[precision if (node, index) in narrow else wide]
            if ir.convenience.get_const_tensor(value) is not None:
                weights += size
            else:
                read[value] = min(size, read.get(value, size))
        for value in node.outputs:
            readers = [] if value in inside else list(_readers(value))
            if readers:
                written += _count(value) * WIDTH[precision if narrow.issuperset(readers) else wide]
    if first.op_type != "Conv":
        return Kernel(block_of(str(first.name)), arithmetic=wide, maps=sum(read.values()) + written, weights=weights)
    weight = first.inputs[1]
    assert weight is not None and weight.shape is not None
    _, inputs, *window = map(int, weight.shape)  # type: ignore[arg-type]
    groups = first.attributes.get_int("group", 1)
    return Kernel(
        block_of(str(first.name)),
        macs_of(first) or 0,
        precision if (first, 0) in narrow else wide,
        tensor_cores=groups == 1 or inputs > 1,
        winograd=window == [3, 3] and groups == 1 and _is_plain(first),
        maps=sum(read.values()) + written,
        weights=weights,
    )


def _is_plain(conv: ir.Node) -> bool:
    """Neither strides nor dilations."""
    return all(step == 1 for name in ("strides", "dilations") for step in conv.attributes.get_ints(name, ()))


def _readers(value: ir.Value) -> Iterator[Use | None]:
    """Who reads `value`, through what is no kernel; None for what reads the graph's output."""
    seen, pending = {value}, [value]
    while pending:
        value = pending.pop()
        if value.is_graph_output():
            yield None
        for node, index in value.uses():
            if node.op_type in ALIASES:
                aliases = [alias for alias in node.outputs if alias not in seen]
                seen.update(aliases)
                pending += aliases
            else:
                yield node, index


def _count(value: ir.Value) -> int:
    """The elements of a tensor."""
    count = elements(value)
    if count is None:
        raise GraphError(f"{value.name} has no fixed size: estimate a bundle of one frame size, or a model by its name")
    return count
