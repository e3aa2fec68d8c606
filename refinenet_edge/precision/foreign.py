"""Q/DQ that another quantiser put into a graph, rewritten as a backend takes it: the same numbers.

    INT32 bias -> DequantizeLinear                  a float bias, exactly
    on the CPU, signed Q -> DQ of an activation     UINT8 with 128 more for a zero point, exactly (see placement.py)
    INT8 weights, where products may not saturate   7 bits, rounded again

What it does not know, other types or Q and DQ with something between, stays: the proof speaks of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass, RemoveUnusedNodesPass

from refinenet_edge.graph import Names, constant, input_of, lift_constants
from refinenet_edge.precision.placement import INT7

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
SIGNED = (ir.DataType.INT8, ir.DataType.FLOAT8E4M3FN)
SHIFT = 128  # from INT8 to UINT8


def is_quantised(model: ir.Model) -> bool:
    """Whether the graph has Q/DQ, ours or another quantiser's."""
    return any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in model.graph)


def asymmetric(model: ir.Model) -> list[str]:
    """The tensors whose zero point is not a zero of a signed type: what TensorRT does not take."""
    return [
        str(node.outputs[0].name)
        for node in model.graph
        if node.op_type in (QUANTIZE, DEQUANTIZE) and not _is_symmetric(node)
    ]


def _is_symmetric(node: ir.Node) -> bool:
    zero = input_of(node, 2)
    if zero is None:  # the type of the zero point is that of the numbers, UINT8 unless said
        stored = node.outputs[0] if node.op_type == QUANTIZE else node.inputs[0]
        return stored is not None and stored.dtype in SIGNED
    return zero.dtype in SIGNED and zero.const_value is not None and not np.asarray(zero.const_value.numpy()).any()


def needs_vnni(model: ir.Model) -> bool:
    """Whether two products of UINT8 and a weight may saturate 16 bits, which processors without VNNI add them in."""
    weights = (constant(node.inputs[0]) for node in model.graph if node.op_type == DEQUANTIZE)
    return any(
        stored is not None
        and stored.dtype in (np.int8, np.uint8)
        and np.abs(stored.astype(int)).max(initial=0) > INT7.largest
        for stored in weights
    )


def adapt(model: ir.Model, on_cpu: bool, in_7_bits: bool = False) -> ir.Model:
    """`model`, quantised by somebody else, in place, as the backends `on_cpu` take it, or those on a GPU."""
    lift_constants(model)
    names = Names(model.graph)
    for node in list(model.graph):
        if node.op_type == DEQUANTIZE:
            _adapt_stored(node, names, in_7_bits)
        elif node.op_type == QUANTIZE and on_cpu:
            _adapt_activation(node, names)
    RemoveUnusedNodesPass()(model)
    return CheckerPass()(model).model


def _adapt_stored(node: ir.Node, names: Names, in_7_bits: bool) -> None:
    """The DequantizeLinear of a constant: a bias becomes float, INT8 weights 7 bits where asked."""
    known = [constant(value) for value in node.inputs]
    stored = known[0]
    if stored is None or any(array is None for array in known[1:]) or node.attributes.get_int("block_size", 0):  # type: ignore[arg-type]
        return
    scale, zero = known[1], known[2] if len(known) > 2 else np.zeros((), np.int32)
    assert scale is not None and zero is not None
    axis = node.attributes.get_int("axis", 1) % max(stored.ndim, 1)
    wide = stored.astype(np.int64) - _along(zero, stored.ndim, axis).astype(np.int64)
    values = (wide * _along(scale, stored.ndim, axis).astype(np.float64)).astype(np.float32)
    output = node.outputs[0]
    if stored.dtype == np.int32:
        ir.convenience.replace_all_uses_with(output, names.constant(str(output.name), values))
    elif in_7_bits and stored.dtype == np.int8 and stored.ndim >= 2 and np.abs(wide).max(initial=0) > INT7.largest:
        kept = {axis} if scale.size > 1 else set()
        largest = np.abs(values).max(axis=tuple(set(range(stored.ndim)) - kept))
        steps = np.maximum(largest / INT7.largest, np.finfo(np.float32).tiny).astype(np.float32)
        rounded = INT7.round(np.asarray(values / _along(steps, stored.ndim, axis), np.float32))
        node.replace_input_with(0, names.constant(f"{output.name}/int7", rounded))
        node.replace_input_with(1, names.constant(f"{output.name}/scale", steps.reshape(scale.shape)))
        if len(node.inputs) > 2:
            node.replace_input_with(2, names.constant(f"{output.name}/zero", np.zeros(scale.shape, np.int8)))


def _adapt_activation(node: ir.Node, names: Names) -> None:
    """A signed QuantizeLinear of an activation that only DequantizeLinears read: unsigned."""
    readers = [reader for reader, _ in node.outputs[0].uses()]
    if node.inputs[0] is not None and node.inputs[0].const_value is not None:
        return  # weights
    if not readers or any(reader.op_type != DEQUANTIZE for reader in readers):
        return
    zeros = {each: _zero_of(each) for each in (node, *readers) if constant(each.inputs[1]) is not None}
    if len(zeros) != 1 + len(readers) or any(zero is None or zero.dtype != np.int8 for zero in zeros.values()):
        return
    for each, zero in zeros.items():
        assert zero is not None
        each.resize_inputs(3)
        shifted = (zero.astype(np.int16) + SHIFT).astype(np.uint8)
        each.replace_input_with(2, names.constant(f"{each.outputs[0].name}/zero", shifted))
    node.outputs[0].dtype = ir.DataType.UINT8


def _zero_of(node: ir.Node) -> npt.NDArray[Any] | None:
    """The zero point of a Q or DQ; None: it is computed, or a Q has none and makes UINT8."""
    given = input_of(node, 2)
    return np.zeros((), np.int8) if given is None and node.op_type == DEQUANTIZE else constant(given)


def _along(array: npt.NDArray[Any], rank: int, axis: int) -> npt.NDArray[Any]:
    """`array`, one number or one for each place along `axis`, as it meets a tensor of `rank` axes."""
    return array.reshape([-1 if place == axis else 1 for place in range(rank)]) if array.size > 1 else array.reshape(())
