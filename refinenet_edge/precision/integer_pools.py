"""Pool INT8 maps on the CPU as the integers they are, a wide window in two passes.

Q, DQ, MaxPool, Q, DQ -> Q, MaxPool, DQ               where both sides have one scale, as those of a pool do (qdq.py)
MaxPool kxm           -> MaxPool kx1, MaxPool 1xm     k + m values are looked at for each pixel, not k·m

Exact: the order of integers is that of what they stand for, and these come back from a DQ and a Q of one scale as they
were. The largest of a window is the largest of its columns' largest, and the padding of one axis, which is less than
all, is not the other's.

OpenVINO makes a pass over the map of each DQ and Q that stays, and looking takes a pool's time. Maps of float32 are
bound by memory, of which a second pass asks more, and on a GPU it is a kernel more (docs/measurements.md): theirs stay
as they are, as do windows where k·m is less than twice k + m, such as the 3x3 of an encoder.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from refinenet_edge.graph import Names, constant

POOLED = (ir.DataType.INT8, ir.DataType.UINT8)
OPSET = 12  # the first whose MaxPool takes these
LEVELS = 255  # between the least and the largest of them


def pool_integers(model: ir.Model) -> None:
    """Rewrite the pools of `model`, which has Q/DQ, in place."""
    names = Names(model.graph)
    for node in list(model.graph):
        if node.op_type == "MaxPool" and len(node.outputs) == 1:  # else its indices are wanted, too
            if model.graph.opset_imports.get("", 0) >= OPSET:
                _pool_integers(node)
            if _is_quantised(node.inputs[0]) and _is_wide(node):
                pool_in_two_passes(node, names)
    RemoveUnusedNodesPass()(model)


def _pool_integers(pool: ir.Node) -> None:
    """Take the Q/DQ around `pool` away, where they change nothing."""
    (pooled,) = pool.outputs
    back, readers = _maker(pool.inputs[0]), [node for node, _ in pooled.uses()]
    if len(readers) != 1 or pooled.is_graph_output() or back is None or back.op_type != "DequantizeLinear":
        return
    (rounding,) = readers
    if rounding.op_type != "QuantizeLinear" or rounding.outputs[0].is_graph_output() or not _one_scale(back, rounding):
        return
    integers = back.inputs[0]
    # without a zero point Q makes UINT8, whatever DQ reads
    if integers is None or integers.dtype not in POOLED or rounding.outputs[0].dtype != integers.dtype:
        return
    pool.replace_input_with(0, integers)
    pooled.dtype = integers.dtype
    ir.convenience.replace_all_uses_with(rounding.outputs[0], pooled)


def _one_scale(back: ir.Node, rounding: ir.Node) -> bool:
    """Whether what DQ `back` made of integers becomes the same integers by Q `rounding`."""
    if len(back.inputs) != len(rounding.inputs):  # one of them has no zero point
        return False
    pairs = [(constant(a), constant(b)) for a, b in zip(back.inputs[1:], rounding.inputs[1:], strict=True)]
    scale = pairs[0][0]
    # below 0 the largest is the smallest, and zero or infinite no integer comes back
    if scale is None or scale.size != 1 or not 0 < LEVELS * float(scale.item()) < float(np.finfo(np.float32).max):
        return False
    return all(
        a is not None and b is not None and a.size == 1 and a.dtype == b.dtype and np.array_equal(a, b)
        for a, b in pairs
    )


def _is_quantised(value: ir.Value | None) -> bool:
    maker = _maker(value)
    return value is not None and (value.dtype in POOLED or (maker is not None and maker.op_type == "DequantizeLinear"))


def _maker(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _is_wide(pool: ir.Node) -> bool:
    kernel = pool.attributes.get_ints("kernel_shape", ())
    return (
        len(kernel) == 2
        and kernel[0] * kernel[1] >= 2 * sum(kernel)
        and set(pool.attributes.get_ints("strides", (1, 1))) == {1}
        and set(pool.attributes.get_ints("dilations", (1, 1))) == {1}
        and pool.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    )


def pool_in_two_passes(pool: ir.Node, names: Names) -> None:
    """Make `pool` the pass along the rows, of what a new one finds along the columns."""
    source, pooled = pool.inputs[0], pool.outputs[0]
    assert pool.graph is not None and source is not None and pooled.dtype is not None
    height, width = pool.attributes.get_ints("kernel_shape", ())
    top, left, bottom, right = pool.attributes.get_ints("pads", (0, 0, 0, 0))
    shape = None
    if pooled.shape is not None and source.shape is not None:
        shape = ir.Shape([*pooled.shape[:3], source.shape[3]])
    window = {"kernel_shape": (height, 1), "pads": (top, 0, bottom, 0)}
    columns = names.node("MaxPool", [source], f"{pool.name}/columns", window, pooled.dtype, shape)
    pool.graph.insert_before(pool, columns)
    pool.replace_input_with(0, columns.outputs[0])
    pool.attributes.add(ir.AttrInt64s("kernel_shape", (1, width)))
    pool.attributes.add(ir.AttrInt64s("pads", (0, left, 0, right)))
