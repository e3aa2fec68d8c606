"""The reasons for which TensorRT keeps a node off DLA: data, each with where it is documented.

Only what NVIDIA's documents name is a rule. What they say of DLA in NvInfer.h is the same in 10.3 and 11.1. Where one
allows what another does not, or says too little for this graph, a rule is not `certain`. Not judged, as it cannot be
seen in a graph: whether a convolution's weights fit DLA's buffer ("CBUF validation"), and DLA's memory pools.

Rules are asked of the nodes that depend on the image; the rest is folded when the plan is built.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import onnx_ir as ir

from refinenet_edge.graph import input_of, sides

LAYERS = "TensorRT docs, DLA Supported Layers and Restrictions"
OPERATORS = "Deep-Learning-Accelerator-SW, operators/README.md"
FAQ = "Deep-Learning-Accelerator-SW, FAQ"

CONVOLUTIONS = ("Conv", "ConvTranspose")
PRODUCTS = ("Gemm", "MatMul")  # become convolutions
POOLS = ("MaxPool", "AveragePool")
# the other ONNX operators with a layer on DLA
OTHERS: tuple[str, ...] = ("Abs", "Add", "BatchNormalization", "Clip", "Concat", "LRN", "Max", "Mul", "PRelu", "Relu")
OTHERS += ("Reshape", "Sigmoid", "Slice", "Softmax", "Split", "Sub", "Sum", "Tanh", "Transpose")
DISPUTED = ("Div", "Equal", "Greater", "LeakyRelu", "Less", "Min", "Pow")  # in one list, and not in another
IN_4D = (*CONVOLUTIONS, *POOLS, "Resize", *OTHERS, *DISPUTED)
QUANTIZED = ("QuantizeLinear", "DequantizeLinear")
TYPES = (ir.DataType.FLOAT16, ir.DataType.INT8)
NEAREST = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}
MAX_NUMBERS = 4096  # of a tensor that a rule reads: bounds, scales, axes
VARIES = "refinenet_edge.dla.varies"
LONG = (64, 96, 128)  # a deconvolution may be so long on one side where the other is 1


@dataclass(frozen=True)
class Rule:
    """Nodes of these operators (none named: of any) that `refuses` is true of stay on the GPU, for this reason.

    `until_10_7`: TensorRT 11.4.1 no longer does so.
    """

    operators: tuple[str, ...]
    refuses: Callable[[ir.Node], bool]
    reason: str
    source: str
    certain: bool = True
    until_10_7: bool = False


def mark_activations(graph: ir.Graph) -> list[ir.Node]:
    """Mark the values that depend on the image, for `is_known`; the nodes that make them, in order."""
    nodes = []
    for value in graph.inputs:
        if not value.is_initializer():
            value.meta[VARIES] = True
    for node in graph:
        # a subgraph may read what its node does not
        inner = any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values())
        if inner or not all(map(is_known, node.inputs)):
            nodes.append(node)
            for value in node.outputs:
                value.meta[VARIES] = True
    return nodes


def is_known(value: ir.Value | None) -> bool:
    """Whether a value is known when the plan is built."""
    return value is None or VARIES not in value.meta


def activations(node: ir.Node) -> list[ir.Value]:
    """What a node reads and writes when the plan runs."""
    return [value for value in (*node.inputs, *node.outputs) if value is not None and not is_known(value)]


def _numbers(value: ir.Value | None) -> list[float] | None:
    """What a tensor holds; None where it is left out, or not in the graph."""
    held = None if value is None else value.const_value
    return None if held is None or held.size > MAX_NUMBERS else [float(number) for number in held.numpy().ravel()]


def _ints(node: ir.Node, name: str, default: Iterable[int] = ()) -> tuple[int, ...]:
    return tuple(node.attributes.get_ints(name, tuple(default)))


def _outside(low: int, high: int, name: str) -> Callable[[ir.Node], bool]:
    """Whether any number of an attribute is outside low..high."""
    return lambda node: any(not low <= number <= high for number in _ints(node, name))


def _groups(node: ir.Node) -> int:
    return node.attributes.get_int("group", 1)


def _kernel(node: ir.Node) -> tuple[int, ...]:
    weight = sides(input_of(node, 1))
    return _ints(node, "kernel_shape", weight[2:] if weight else ())


def _reads_free_shape(node: ir.Node) -> bool:
    return any(sides(value) is None for value in activations(node))


def _other_type(node: ir.Node) -> bool:
    return any(value.dtype is not None and value.dtype not in TYPES for value in activations(node))


def _not_2d(node: ir.Node) -> bool:
    return any(len(value.shape) != 4 for value in activations(node) if value.shape is not None)


def _too_large(node: ir.Node) -> bool:
    shapes = [shape for value in activations(node) if (shape := sides(value))]
    return any(shape[0] > 4096 or max(shape[1:], default=0) > 8192 for shape in shapes)


def _mode(node: ir.Node) -> str:
    return node.attributes.get_string("mode", "nearest")


def _coordinates(node: ir.Node) -> str:
    return node.attributes.get_string("coordinate_transformation_mode", "half_pixel")


def _linear_unsupported(node: ir.Node) -> bool:
    return _mode(node) == "linear" and _coordinates(node) not in ("half_pixel", "pytorch_half_pixel")


def _nearest_unsupported(node: ir.Node) -> bool:
    rounding = node.attributes.get_string("nearest_mode", "round_prefer_floor")
    return _mode(node) == "nearest" and (_coordinates(node), rounding) not in NEAREST


def _scales_unsupported(node: ir.Node) -> bool:
    """Whether there are scales, and other than whole ones of height and width in DLA's range."""
    scales = input_of(node, 2)
    if scales is None:
        return False
    given = _numbers(scales)
    if given is None:
        return True
    every = zip(_ints(node, "axes", range(len(given))), given, strict=False)
    most = 4 if _mode(node) == "linear" else 32
    return not all(
        scale == 1 or (axis in (2, 3) and scale.is_integer() and 1 <= scale <= most) for axis, scale in every
    )


def _padding_covers_kernel(node: ir.Node) -> bool:
    return any(pad >= side for pad, side in zip(_ints(node, "pads"), _kernel(node) * 2, strict=False))


def _dilated(node: ir.Node) -> bool:
    return any(step > 1 for step in _ints(node, "dilations"))


def _deconvolves_unsupported(lengths: tuple[int, ...]) -> bool:
    """Whether kernel or stride is neither 1 to 32 nor one of the long ones."""
    return not all(1 <= side <= 32 for side in lengths) and not (1 in lengths and set(lengths) <= {1, *LONG})


def _channels_outside(node: ir.Node) -> bool:
    shape = sides(node.outputs[0])
    return shape is not None and len(shape) > 1 and not 1 <= shape[1] <= 8192


def _axis(node: ir.Node, default: int) -> int:
    shape = node.outputs[0].shape
    axis = node.attributes.get_int("axis", default)
    return axis + len(shape) if axis < 0 and shape is not None else axis


def _softmax_too_long(node: ir.Node) -> bool:
    shape, axis = sides(node.outputs[0]), _axis(node, -1)
    if shape is None:
        return False
    others = [side for index, side in enumerate(shape) if index not in (0, axis)]
    return axis == 0 or shape[axis] > (1024 if max(others, default=1) > 1 else 8192)


def _second_varies(node: ir.Node) -> bool:
    return not is_known(input_of(node, 1))


def _slices_unsupported(node: ir.Node) -> bool:
    """Whether a slice is taken of the batch, with steps, or where only the plan's run says."""
    starts, axes = _numbers(input_of(node, 1)), _numbers(input_of(node, 3))
    if not all(map(is_known, node.inputs[1:])) or starts is None or axes is None:
        return True
    steps = _numbers(input_of(node, 4)) if input_of(node, 4) is not None else [1]
    batch = any(axis in (0, -len(node.outputs[0].shape or ())) for axis in axes)
    return batch or steps is None or any(step != 1 for step in steps)


def _always(_: ir.Node) -> bool:
    return True


def _listed(operators: tuple[str, ...], layer: str, *rules: tuple[Callable[[ir.Node], bool], str]) -> Iterable[Rule]:
    """Rules (refuses, reason) that NvInfer.h has at `layer`."""
    return (Rule(operators, refuses, reason, f"NvInfer.h, {layer}") for refuses, reason in rules)


# no layer there: nothing else needs to be asked
UNLISTED = Rule(
    (), lambda node: node.op_type not in (*IN_4D, *PRODUCTS, *QUANTIZED), "DLA has no such layer", OPERATORS
)
NO_QDQ = "DLA takes no explicit Q/DQ up to TensorRT 10.7: scales come from a cache"
DILATED_PADDING = "padding not less than the kernel; of dilated kernels it is not said which size counts"
RULES = (
    Rule(QUANTIZED, _always, NO_QDQ, FAQ, until_10_7=True),
    Rule(DISPUTED, _always, "NVIDIA's lists of DLA's layers disagree", OPERATORS, certain=False),
    Rule((), _reads_free_shape, "a shape is free: DLA takes fixed shapes only", LAYERS),
    Rule((), _other_type, "neither float16 nor int8: build with --precision fp16", LAYERS),
    Rule(IN_4D, _not_2d, "a tensor has not four dimensions: DLA's layers are 2D", LAYERS),
    Rule((), _too_large, "a batch above 4096 or a side above 8192", LAYERS),
    *_listed(
        ("Resize",),
        "IResizeLayer",
        (_linear_unsupported, "linear Resize without half-pixel centres (align_corners)"),
        (_nearest_unsupported, "nearest Resize in a coordinate and rounding mode that DLA lacks"),
        (lambda node: _mode(node) not in ("nearest", "linear"), "Resize that is neither nearest nor linear"),
    ),
    *_listed(
        ("Resize",),
        "IResizeLayer::setOutputDimensions",
        (lambda node: input_of(node, 3) is not None, "Resize to sizes: DLA takes scales only"),
    ),
    *_listed(
        ("Resize",),
        "IResizeLayer::setScales",
        (_scales_unsupported, "Resize by other scales than 1, 1 and whole ones of 1 to 4 (nearest: 32)"),
    ),
    *_listed(
        POOLS,
        "IPoolingLayer",
        (_outside(1, 8, "kernel_shape"), "a pooling window above 8"),
        (_outside(1, 16, "strides"), "a pooling stride above 16"),
        (_outside(0, 7, "pads"), "pooling padding above 7"),
    ),
    *_listed(
        ("Conv",),
        "IConvolutionLayer",
        (lambda node: not all(1 <= side <= 32 for side in _kernel(node)), "a convolution kernel above 32"),
        (_outside(1, 8, "strides"), "a convolution stride above 8"),
        (_outside(0, 31, "pads"), "convolution padding above 31"),
        (_outside(1, 32, "dilations"), "a dilation above 32"),
        (
            lambda node: _padding_covers_kernel(node) and not _dilated(node),
            "convolution padding not less than the kernel",
        ),
        (lambda node: _groups(node) > 8192, "more than 8192 groups"),
    ),
    Rule(
        ("Conv",),
        lambda node: _padding_covers_kernel(node) and _dilated(node),
        DILATED_PADDING,
        "NvInfer.h, IConvolutionLayer",
        certain=False,
    ),
    *_listed(CONVOLUTIONS, "IConvolutionLayer", (_channels_outside, "more than 8192 output maps")),
    *_listed(
        ("ConvTranspose",),
        "IDeconvolutionLayer",
        (lambda node: _groups(node) != 1, "a deconvolution in groups"),
        (_outside(0, 0, "pads"), "deconvolution padding"),
        (lambda node: _deconvolves_unsupported(_kernel(node)), "a deconvolution kernel above 32"),
        (lambda node: _deconvolves_unsupported(_ints(node, "strides")), "a deconvolution stride above 32"),
    ),
    Rule(("ConvTranspose",), _dilated, "a dilated deconvolution", LAYERS),
    *_listed(
        ("Concat",),
        "IConcatenationLayer::setAxis",
        (lambda node: _axis(node, 1) != 1, "Concat along another axis than channels"),
    ),
    *_listed(
        ("Softmax",),
        "ISoftMaxLayer",
        (_softmax_too_long, "Softmax over the batch, or over more than 1024 (alone: 8192)"),
    ),
    *_listed(("Slice",), "ISliceLayer", (_slices_unsupported, "Slice of the batch, with steps, or not fixed")),
    *_listed(("Split",), "ISliceLayer", (lambda node: _axis(node, 0) == 0, "Split of the batch")),
    Rule(
        ("Clip",),
        lambda node: _numbers(input_of(node, 1)) != [0],
        "Clip from other than 0: only clipped ReLU is named",
        LAYERS,
        certain=False,
    ),
    *_listed(("PRelu",), "IParametricReLULayer", (_second_varies, "a PReLU slope that is no constant")),
    Rule(PRODUCTS, _second_varies, "a product of two activations", OPERATORS),
    *_listed(
        ("LRN",),
        "ILRNLayer",
        (lambda node: node.attributes.get_int("size", 0) not in (3, 5, 7, 9), "an LRN window other than 3, 5, 7 and 9"),
    ),
)


def refusals(node: ir.Node, after_11_4: bool) -> list[Rule]:
    """The rules by which `node` falls back, on TensorRT up to 10.7 or from 11.4.1 on."""
    if UNLISTED.refuses(node):
        return [UNLISTED]
    asked = (rule for rule in RULES if not rule.operators or node.op_type in rule.operators)
    return [rule for rule in asked if not (after_11_4 and rule.until_10_7) and rule.refuses(node)]
