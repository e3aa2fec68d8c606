"""Pad the channels of a float16 graph's input and output to multiples of eight: what TensorRT reads channel-last.

With 8 channels (3 of colour, 5 of zeros) and, say, 24 logits for 21 classes, the plan's input and output are HWC8, the
layout of its convolutions: no kernel before the first convolution or after the last only moves data. The frame kernel
writes the zeros and the head reads past what was added, both for nothing.

Exact: the weights that meet the zero channels are zero, the logits that are added come from zero weights. It is done
where the input feeds convolutions only, and the output is a convolution or a sum of them; other graphs stay as they
are.

Four channels in plain HWC would read less, but TensorRT has that format for float32 only.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass

from refinenet_edge.graph import Names
from refinenet_edge.records import CHANNEL_MULTIPLE


def pad_channels(model: ir.Model) -> bool:
    """Pad `model` in place; False, and nothing is changed, for a graph that cannot be padded."""
    graph = model.graph
    (image,), (logits,) = graph.inputs, graph.outputs
    readers = [node for node, _ in image.uses()]
    writers = _convolutions(logits)
    if image.dtype != ir.DataType.FLOAT16 or not all(map(_is_plain, readers)) or writers is None:
        return False
    if any(logits_of.inputs[1] in {node.inputs[1] for node in readers} for logits_of in writers):
        return False  # one convolution that is both would be padded twice
    for node in readers:
        _pad(graph, node, 1, axis=1)
    for node in writers:
        for index in range(1, len(node.inputs)):
            _pad(graph, node, index, axis=0)
    for value in _sums(logits):
        _widen(value)
    _widen(image)
    CheckerPass()(model)
    return True


def _is_plain(node: ir.Node) -> bool:
    """A Conv without groups whose weights are its own constants."""
    weights = [value for value in node.inputs[1:] if value is not None]
    return (
        node.op_type == "Conv"
        and node.attributes.get_int("group", 1) == 1
        and all(value.const_value is not None and len(value.uses()) == 1 for value in weights)
    )


def _sums(logits: ir.Value) -> list[ir.Value]:
    """`logits`, and what it is the sum of, down to the convolutions."""
    node = logits.producer()
    parts = [value for value in node.inputs if value is not None] if node and node.op_type == "Add" else []
    return [logits, *(value for part in parts for value in _sums(part))]


def _convolutions(logits: ir.Value) -> list[ir.Node] | None:
    """The convolutions that `logits` is the sum of; None when it is something else."""
    convolutions = []
    for value in _sums(logits):
        node = value.producer()
        if node is None or len(value.uses()) != (value is not logits) or value.shape is None:
            return None
        if node.op_type != "Add":
            if not _is_plain(node):
                return None
            convolutions.append(node)
    return convolutions


def _pad(graph: ir.Graph, node: ir.Node, index: int, axis: int) -> None:
    old = node.inputs[index]
    assert old is not None and old.const_value is not None
    array = old.const_value.numpy()
    widths = [(0, -array.shape[i] % CHANNEL_MULTIPLE if i == axis else 0) for i in range(array.ndim)]
    new = Names(graph).constant(f"{old.name}/padded", np.pad(array, widths))
    node.replace_input_with(index, new)
    del graph.initializers[str(old.name)]


def _widen(value: ir.Value) -> None:
    assert value.shape is not None
    batch, channels, *sides = value.shape
    assert isinstance(channels, int)
    value.shape = ir.Shape([batch, channels + -channels % CHANNEL_MULTIPLE, *sides])
