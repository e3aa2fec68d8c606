"""Where INT8 pays, per target: the rules as data. The figures behind them are in docs/measurements.md.

OpenVINO       Everything pays. Activations are UINT8, with zero point 128 unless the graph guarantees that they are
               never negative: signed ones, after a ReLU or a Concat, OpenVINO computes otherwise than is written. It
               does so without Q/DQ after a pool, too, so a pooled map has the scale of the map. A processor without
               VNNI adds products in 16 bits, which saturate: 7-bit weights do not (`in_7_bits`).
TensorRT       NVIDIA's rules: tensor cores want channels in eights, depthwise convolutions stay float16.
TensorRT-RTX   A kernel of its own quantises a map, three bytes an element, and each INT8 reader saves one: what has one
               reader does not pay, nor does a scale for each output channel. Kernels and bytes say so, not times.
FP8            The same in E4M3, where sums and pools do not pay either.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from refinenet_edge.graph import input_of
from refinenet_edge.precision.rounding import round_sums
from refinenet_edge.records import INT8_LEVELS, Backend

POSITIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Softplus", "Sqrt")
KEEP_SIGN = (  # of their first input
    *("QuantizeLinear", "DequantizeLinear", "Resize", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"),
    *("ReduceMean", "ReduceMax", "Identity", "Dropout"),
    *("Reshape", "Transpose", "Flatten", "Slice", "Split", "Squeeze", "Unsqueeze", "DepthToSpace", "SpaceToDepth"),
)
KEEP_SIGNS = ("Add", "Mul", "Concat", "Sum", "Max")  # of all inputs


@dataclass(frozen=True)
class Grid:
    """The numbers that are left of a tensor: multiples of its scale, of which `largest` over `zero` stands for amax."""

    name: str
    dtype: ir.DataType
    largest: float
    zero: int = 0

    def round(self, weights: npt.NDArray[np.float32]) -> npt.NDArray[np.generic]:
        """`weights` (out x in x ..., in units of the scale) on the grid, saturated; integers keep the sums."""
        held = np.clip(weights, -self.largest, self.largest)
        return (round_sums(held) if self.dtype.is_integer() else held).astype(self.dtype.numpy())


INT8 = Grid("int8", ir.DataType.INT8, INT8_LEVELS)
INT7 = Grid("int7", ir.DataType.INT8, 63)  # 255 * 63 twice is less than 2^15
UINT8 = Grid("uint8", ir.DataType.UINT8, 255)
UINT8_SIGNED = Grid("uint8_signed", ir.DataType.UINT8, INT8_LEVELS, 128)  # the numbers of INT8
E4M3 = Grid("e4m3", ir.DataType.FLOAT8E4M3FN, 448)


@dataclass(frozen=True)
class Placement:
    """Which inputs are quantised. A convolution's weights are, where its input is."""

    name: str
    grid: Grid = INT8
    activations: Grid | None = None  # None: `grid`, which then is not that of the weights only
    positive: Grid | None = None  # of activations that are never negative; None: as the others
    smallest: float = 2.0**-14  # scale: where scales are float16, its least normal number
    per_channel: bool = True  # weights: a scale for each output channel
    depthwise: bool = False
    after_depthwise: bool = True  # a convolution that reads a depthwise one
    classifier: bool = True  # the convolutions that give the logits
    sums: bool = True  # the skip side of an Add
    epilogues: bool = True  # that of an Add in a convolution's epilogue
    pools: bool = True  # a pool or resize whose readers all stay float does, too
    resizes: bool = True
    multiple: int = 8  # a convolution with other channel counts has no INT8 kernel worth having
    fewest: int = 16  # channels in or out

    def grid_of(self, value: ir.Value) -> Grid:
        """What an activation is rounded to. What was seen of it says nothing of frames that are brighter or darker."""
        return self.positive if self.positive and never_negative(value) else self.activations or self.grid

    def quantises(self, node: ir.Node) -> bool:
        """Whether this Conv is computed in INT8."""
        weight = node.inputs[1] if node.op_type == "Conv" else None
        if weight is None or weight.const_value is None or weight.shape is None:
            return False
        groups = node.attributes.get_int("group", 1)
        out, inside = weight.const_value.shape.numpy()[:2]
        if not self.classifier and _gives_logits(node.outputs[0]):
            return False
        if groups > 1:
            return self.depthwise and inside == 1
        if not self.after_depthwise and _reads_depthwise(node):
            return False
        return min(out, inside) >= self.fewest and not out % self.multiple and not inside % self.multiple

    def inputs_of(self, node: ir.Node) -> tuple[int, ...]:
        """The inputs of `node` that are quantised, in a graph that is still float throughout."""
        if node.outputs[0].dtype != ir.DataType.FLOAT:  # arithmetic on shapes
            return ()
        if node.op_type == "Conv":
            return (0,) if self.quantises(node) else ()
        if node.op_type == "Add" and self.sums:
            if not self.epilogues and any(_is_alone(value, "Conv") for value in node.inputs):
                return ()
            return tuple(index for index, value in enumerate(node.inputs) if _is_skip(value))
        if (node.op_type == "MaxPool" and self.pools) or (node.op_type == "Resize" and self.resizes):
            return (0,)
        return ()


def never_negative(value: ir.Value | None, known: dict[ir.Value, bool] | None = None) -> bool:
    """Whether the graph guarantees it, whatever the frame; `known` is what was found on the way."""
    if value is None:
        return False
    known = {} if known is None else known
    if value not in known:
        known[value] = _never_negative(value, known)
    return known[value]


def _never_negative(value: ir.Value, known: dict[ir.Value, bool]) -> bool:
    node = value.producer()
    if node is None:
        return value.const_value is not None and bool((value.const_value.numpy() >= 0).all())
    inputs, operator = node.inputs, node.op_type
    if operator == "Clip":
        return never_negative(input_of(node, 1), known)
    if operator == "Resize" and node.attributes.get_string("mode", "nearest") == "cubic":
        return False
    if operator in KEEP_SIGN:
        return never_negative(inputs[0], known)
    return operator in POSITIVE or (operator in KEEP_SIGNS and all(never_negative(each, known) for each in inputs))


def _is_skip(value: ir.Value | None) -> bool:
    """Not what a convolution or an earlier sum gives to this sum alone: that is never rounded in between."""
    return value is not None and value.const_value is None and not _is_alone(value, "Conv", "Add")


def _is_alone(value: ir.Value | None, *operators: str) -> bool:
    """Whether one of `operators` makes `value`, for one reader."""
    producer = None if value is None else value.producer()
    return value is not None and producer is not None and producer.op_type in operators and len(value.uses()) == 1


def _gives_logits(value: ir.Value) -> bool:
    """Whether `value` is the graph's output, or a summand of it and nothing else."""
    if value.is_graph_output():
        return True
    readers = [reader for reader, _ in value.uses()]
    return bool(readers) and all(reader.op_type == "Add" and _gives_logits(reader.outputs[0]) for reader in readers)


def _reads_depthwise(node: ir.Node) -> bool:
    producer = node.inputs[0].producer() if node.inputs[0] is not None else None
    while producer is not None and producer.op_type in ("Relu", "Clip") and producer.inputs[0] is not None:
        producer = producer.inputs[0].producer()
    return producer is not None and producer.op_type == "Conv" and producer.attributes.get_int("group", 1) > 1


# a quantised classifier keeps `pad_channels` from giving the engine channel-last ends
TENSORRT = Placement("tensorrt", classifier=False)
RTX = Placement("tensorrt-rtx", per_channel=False, after_depthwise=False, classifier=False, epilogues=False)
OPENVINO = Placement(
    "openvino", activations=UINT8_SIGNED, positive=UINT8, smallest=2.0**-60, depthwise=True, multiple=1, fewest=1
)
FP8 = Placement("fp8", E4M3, per_channel=False, after_depthwise=False, classifier=False, sums=False, pools=False)
PLACEMENTS: dict[Backend, Placement] = {
    "tensorrt": TENSORRT,
    "tensorrt-rtx": RTX,
    "openvino": OPENVINO,
    "onnxruntime": OPENVINO,  # the reference runs what OpenVINO runs
}


def placement_of(precision: str, backend: Backend) -> Placement:
    """The rules of int8 or fp8 for a backend."""
    return FP8 if precision == "fp8" else PLACEMENTS[backend]


def in_7_bits(placement: Placement) -> Placement:
    """The same with weights whose products no processor saturates."""
    return replace(placement, name=f"{placement.name}, 7-bit weights", grid=INT7)
