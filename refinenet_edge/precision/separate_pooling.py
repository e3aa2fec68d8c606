"""Make one wide max pooling of INT8 two narrow ones: along the columns, then along the rows.

MaxPool kxm -> MaxPool kx1, MaxPool 1xm: k + m values are looked at for each pixel, not k·m. Exact: the largest of a
window is the largest of its columns' largest, and the padding of one axis, which is less than all, is not the other's.

It pays for INT8 on a CPU, where looking takes the time; maps of float32 are bound by memory, of which a second pass
asks more, and on a GPU it is a kernel more (docs/measurements.md). So it is done there for pools of what was quantised,
where k·m is at least twice k + m: the 5x5 of chained residual pooling, not the 3x3 of an encoder.
"""

import onnx_ir as ir

from refinenet_edge.graph import Names


def separate_pooling(model: ir.Model) -> int:
    """Separate the pools of `model` in place; how many it were."""
    names = Names(model.graph)
    wide = [node for node in model.graph if _pays(node)]
    for node in wide:
        separate(node, names)
    return len(wide)


def _pays(node: ir.Node) -> bool:
    if (
        node.op_type != "MaxPool"
        or len(node.outputs) != 1
        or node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
    ):
        return False
    kernel = node.attributes.get_ints("kernel_shape", ())
    source = node.inputs[0].producer() if node.inputs[0] else None
    return (
        len(kernel) == 2
        and kernel[0] * kernel[1] >= 2 * sum(kernel)
        and set(node.attributes.get_ints("strides", (1, 1))) == {1}
        and set(node.attributes.get_ints("dilations", (1, 1))) == {1}
        and node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
        and source is not None
        and source.op_type == "DequantizeLinear"
    )


def separate(node: ir.Node, names: Names) -> None:
    """Make the pool `node` the pass along the rows, of what a new one finds along the columns."""
    source, pooled = node.inputs[0], node.outputs[0]
    assert node.graph is not None and source is not None
    height, width = node.attributes.get_ints("kernel_shape", ())
    top, left, bottom, right = node.attributes.get_ints("pads", (0, 0, 0, 0))
    columns = ir.node(
        "MaxPool",
        [source],
        {"kernel_shape": (height, 1), "pads": (top, 0, bottom, 0)},
        name=names.free(f"{node.name}/columns"),
    )
    (found,) = columns.outputs
    found.name, found.type = names.free(f"{pooled.name}/columns"), pooled.type
    if pooled.shape is not None and source.shape is not None:
        found.shape = ir.Shape([*pooled.shape[:3], source.shape[3]])
    node.graph.insert_before(node, columns)
    node.replace_input_with(0, found)
    node.attributes.add(ir.AttrInt64s("kernel_shape", (1, width)))
    node.attributes.add(ir.AttrInt64s("pads", (0, left, 0, right)))
