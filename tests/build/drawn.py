"""Graphs that hypothesis draws: ONNX files of operators that exporters write, in all their modes, of opset 9 to 23.

A graph is a first convolution, steps that keep a map of 1x8xHxW, and a classifier of five. Each step is a function of
`STEPS`, which says since which opset there is one; an operator is written as its own opset has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from hypothesis import strategies as st
from onnx import helper, numpy_helper

SIZES = ((32, 40), (48, 32), (36, 44), (64, 32))
WIDTH, CLASSES = 8, 5
FLOAT, HALF, DOUBLE, INT64 = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.INT64,
)
Array = npt.NDArray[Any]


@dataclass
class Graph:
    """A graph while it is drawn. `rough`: has a jump in it, where float32's rounding may show."""

    draw: st.DrawFn
    opset: int
    as_nodes: bool  # constants are nodes, as some exporters write them
    h: int
    w: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    rough: bool = False
    seed: int = 0

    @property
    def map(self) -> tuple[int, int, int, int]:
        return 1, WIDTH, self.h, self.w

    def op(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """The output of a new node, or all of them where there are several."""
        names = [f"v{len(self.nodes)}_{place}" for place in range(outputs)]
        kept = {name: value for name, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(operator, inputs, names, **kept))
        return names[0] if outputs == 1 else names

    def const(self, array: Any, dtype: Any = None) -> str:
        tensor = numpy_helper.from_array(np.asarray(array, dtype), f"k{len(self.constants)}_{len(self.nodes)}")
        if self.as_nodes:
            return str(self.op("Constant", value=tensor))
        self.constants.append(tensor)
        return str(tensor.name)

    def numbers(self, *shape: int) -> Array:
        self.seed += 1
        return np.random.default_rng([self.seed, *shape]).standard_normal(shape).astype(np.float32)

    def any(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def conv(self, value: str, inside: int, out: int, size: tuple[int, int] = (1, 1), **attributes: Any) -> str:
        groups = attributes.get("group", 1)
        kernel = self.numbers(out, inside // groups, *size) / np.float32((inside // groups * size[0] * size[1]) ** 0.5)
        bias = [self.const(self.numbers(out))] if self.draw(st.booleans()) else []
        return str(self.op("Conv", value, self.const(kernel), *bias, **attributes))

    def axes(self, operator: str, value: str, axes: list[int], since: int, **attributes: Any) -> str:
        """An operator whose axes became an input with opset `since`."""
        if self.opset >= since:
            return str(self.op(operator, value, self.const(axes, np.int64), **attributes))
        return str(self.op(operator, value, axes=axes, **attributes))

    def reshape(self, value: str, *shape: int) -> str:
        return str(self.op("Reshape", value, self.const(shape, np.int64)))

    def positive(self, value: str) -> str:
        return str(self.op("Add", self.op("Abs", value), self.const(np.float32(0.25))))

    def bounded(self, value: str) -> str:
        return str(self.op("Tanh", value))


Step = Callable[[Graph, str, str], str]  # the map, and an earlier one -> the next
STEPS: dict[str, tuple[int, Step]] = {}


def step(since: int = 9) -> Callable[[Step], Step]:
    def keep(function: Step) -> Step:
        STEPS[function.__name__] = since, function
        return function

    return keep


@step()
def convolution(g: Graph, x: str, _: str) -> str:
    size = g.any((1, 1), (3, 3), (1, 3), (3, 1), (5, 5), (1, 7))
    dilation = g.any(1, 2, 3) if max(size) == 3 else 1
    pads = [dilation * (side // 2) for side in size] * 2
    group = g.any(1, 1, 2, 4, WIDTH)
    if dilation == 1 and g.any(True, False, False):
        return g.conv(x, WIDTH, WIDTH, size, group=group, auto_pad=g.any("SAME_UPPER", "SAME_LOWER"))
    return g.conv(x, WIDTH, WIDTH, size, group=group, pads=pads, dilations=[dilation] * 2)


@step()
def separable(g: Graph, x: str, _: str) -> str:
    deep = g.op("Relu", g.conv(x, WIDTH, WIDTH, (3, 3), group=WIDTH, pads=[1] * 4))
    return g.conv(deep, WIDTH, WIDTH)


@step()
def down_and_up(g: Graph, x: str, _: str) -> str:
    down = g.conv(x, WIDTH, WIDTH, (3, 3), strides=[2, 2], pads=[1] * 4)
    kernel = g.const(g.numbers(WIDTH, WIDTH, 2, 2) / 4)
    way = g.any("plain", "odd", "grouped", "auto")
    if way == "odd":
        odd = g.const(g.numbers(WIDTH, WIDTH, 3, 3) / 8)
        return str(g.op("ConvTranspose", down, odd, strides=[2, 2], pads=[1] * 4, output_padding=[1, 1]))
    if way == "grouped":
        each = g.const(g.numbers(WIDTH, 1, 4, 4) / 4)
        return str(g.op("ConvTranspose", down, each, strides=[2, 2], pads=[1] * 4, group=WIDTH))
    if way == "auto":
        odd = g.const(g.numbers(WIDTH, WIDTH, 3, 3) / 8)
        return str(g.op("ConvTranspose", down, odd, strides=[2, 2], auto_pad=g.any("SAME_UPPER", "SAME_LOWER")))
    return str(g.op("ConvTranspose", down, kernel, strides=[2, 2]))


@step()
def residual(g: Graph, x: str, before: str) -> str:
    return str(g.op(g.any("Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean"), x, before))


@step()
def concatenated(g: Graph, x: str, before: str) -> str:
    return g.conv(g.op("Concat", x, before, axis=g.any(1, -3)), 2 * WIDTH, WIDTH)


@step()
def activation(g: Graph, x: str, _: str) -> str:
    kinds = [
        *("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Elu", "Selu", "LeakyRelu", "HardSigmoid", "Abs", "Neg"),
        *("Identity", "Erf", "Sin", "Cos", "Atan", "Shrink", "ThresholdedRelu", "PRelu", "Clip", "Relu6"),
    ]
    newer = {12: ["Celu"], 14: ["HardSwish"], 18: ["Mish"], 20: ["Gelu"]}
    kinds += [kind for since, more in newer.items() if g.opset >= since for kind in more]
    kind = g.any(*kinds)
    if kind == "PRelu":
        return str(g.op(kind, x, g.const(g.numbers(*g.any((WIDTH, 1, 1), (1,), (1, WIDTH, 1, 1))))))
    if kind == "Gelu":
        return str(g.op(kind, x, approximate=g.any("none", "tanh")))
    if kind in ("Clip", "Relu6"):
        low, high = (0.0, 6.0) if kind == "Relu6" else g.any((-1.0, 0.5), (-0.25, 2.0))
        if g.opset < 11:
            return str(g.op("Clip", x, min=low, max=high))
        return str(g.op("Clip", x, g.const(np.float32(low)), g.const(np.float32(high))))
    g.rough |= kind in ("Shrink", "ThresholdedRelu")
    alpha = 0.3 if kind in ("Elu", "LeakyRelu", "ThresholdedRelu", "Celu", "HardSigmoid") else None
    return str(g.op(kind, x, alpha=alpha))


@step()
def arithmetic(g: Graph, x: str, before: str) -> str:
    kind = g.any("Exp", "Log", "Sqrt", "Reciprocal", "Pow", "Div", "scale", "shift", "square", "silu", "gelu")
    if kind == "Exp":
        return str(g.op("Exp", g.bounded(x)))
    if kind in ("Log", "Sqrt", "Reciprocal"):
        return str(g.op(kind, g.positive(x)))
    if kind == "Pow":
        return str(g.op("Pow", g.positive(g.bounded(x)), g.const(np.float32(g.any(0.5, 2.0, 3.0, 1.7)))))
    if kind == "Div":
        return str(g.op("Div", x, g.positive(before)))
    if kind in ("scale", "shift"):
        shape = g.any((), (1,), (WIDTH, 1, 1), (1, WIDTH, 1, 1), (1, 1, g.h, g.w), (g.w,))
        values = [x, g.const(g.numbers(*shape))]
        return str(g.op("Mul" if kind == "scale" else "Add", *(values if g.any(True, False) else values[::-1])))
    if kind == "silu":
        return str(g.op("Mul", x, g.op("Sigmoid", x)))
    if kind == "gelu":
        erf = g.op("Erf", g.op("Div", x, g.const(np.float32(2**0.5))))
        half = g.op("Mul", x, g.const(np.float32(0.5)))
        return str(g.op("Mul", half, g.op("Add", erf, g.const(np.float32(1)))))
    bounded = g.bounded(x)
    return str(g.op("Mul", bounded, bounded))


@step()
def jump(g: Graph, x: str, before: str) -> str:
    g.rough = True
    kind = g.any("Floor", "Ceil", "Sign", "Where", "Round" if g.opset >= 11 else "Floor", "Hardmax", "Not", "Mod")
    if kind in ("Where", "Not"):
        larger = g.op(g.any("Greater", "Less"), x, before)
        return str(g.op("Where", g.op("Not", larger) if kind == "Not" else larger, x, before))
    if kind == "Hardmax":
        return str(g.op("Add", x, g.op(kind, x, axis=g.any(1, 2, 3, None))))
    if kind == "Mod":
        if g.opset < 10:
            return str(g.op("Floor", x))
        return str(g.op("Mod", x, g.const(np.float32(0.75)), fmod=1))
    return str(g.op("Add", g.op("Mul", x, g.const(np.float32(0.5))), g.op(kind, x)))


@step()
def pool(g: Graph, x: str, _: str) -> str:
    kind = g.any("MaxPool", "AveragePool", "MaxPool", "LpPool")
    size = g.any((3, 3), (5, 5), (1, 3), (2, 2))
    if size == (2, 2):
        small = g.op(kind, x, kernel_shape=[2, 2], strides=[2, 2])
        return str(resize_to(g, small))
    more: dict[str, Any] = {"pads": [side // 2 for side in size] * 2}
    if kind == "AveragePool":
        more["count_include_pad"] = g.any(0, 1)
    if kind != "LpPool" and g.opset >= 10:
        more["ceil_mode"] = g.any(0, 1)
    return str(g.op(kind, x, kernel_shape=size, **more))


@step(10)
def pool_up_to_the_edge(g: Graph, x: str, _: str) -> str:
    """As PSPNet's and others' odd sides: a window that reaches over the edge."""
    kind = g.any("MaxPool", "AveragePool")
    size = g.any(3, 5, 7)
    small = g.op(kind, x, kernel_shape=[size] * 2, strides=[size] * 2, ceil_mode=g.any(0, 1))
    return str(resize_to(g, small))


def resize_to(g: Graph, small: str) -> str:
    """`small`, a map of any size, at ours."""
    if g.opset >= 11:
        sides = g.const([1, WIDTH, g.h, g.w], np.int64)
        empty = "" if g.opset >= 13 else g.const([], np.float32)
        none = "" if g.opset >= 13 else g.const([], np.float32)
        ways = ("half_pixel", "align_corners", "pytorch_half_pixel")
        way = g.any(*ways)
        return str(g.op("Resize", small, empty, none, sides, mode="linear", coordinate_transformation_mode=way))
    known = g.op("GlobalAveragePool", small)
    return str(g.op("Expand", known, g.const([1, WIDTH, g.h, g.w], np.int64)))


@step()
def resize(g: Graph, x: str, _: str) -> str:
    if g.opset < 11:
        scales = g.const([1, 1, 2, 2], np.float32)
        up = g.op("Upsample" if g.opset < 10 else "Resize", x, scales, mode=g.any("nearest", "linear"))
        return str(g.op("AveragePool", up, kernel_shape=[2, 2], strides=[2, 2]))
    mode = g.any("nearest", "linear", "cubic")
    ways = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    ways += ["half_pixel_symmetric"] if g.opset >= 19 else []
    more: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": g.any(*ways)}
    if mode == "nearest":
        g.rough = True  # where two pixels are as near
        more["nearest_mode"] = g.any("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    if mode == "cubic":
        more["cubic_coeff_a"] = g.any(-0.75, -0.5)
        more["exclude_outside"] = g.any(0, 1)
    if g.opset >= 18 and mode != "nearest":
        more["antialias"] = g.any(0, 0, 1)
    roi = "" if g.opset >= 13 else g.const([], np.float32)
    height, width = g.any((2.0, 2.0), (0.5, 0.5), (1.5, 1.25), (1.0, 2.0), (0.75, 0.6))
    if g.any(True, False):
        resized = g.op("Resize", x, roi, g.const([1, 1, height, width], np.float32), **more)
    else:
        sides = g.const([1, WIDTH, int(g.h * height), int(g.w * width)], np.int64)
        resized = g.op("Resize", x, roi, "" if g.opset >= 13 else g.const([], np.float32), sides, **more)
    return resize_to(g, resized)


@step()
def squeeze_and_excite(g: Graph, x: str, _: str) -> str:
    mean = g.op("GlobalAveragePool", x) if g.any(True, False) else g.axes("ReduceMean", x, [2, 3], 18, keepdims=1)
    gate = g.conv(g.op("Relu", g.conv(mean, WIDTH, 2)), 2, WIDTH)
    return str(g.op("Mul", x, g.op(g.any("Sigmoid", "HardSigmoid"), gate)))


@step()
def reduced(g: Graph, x: str, _: str) -> str:
    kind = g.any("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSum", "ReduceLogSumExp", "ReduceSumSquare")
    axes = g.any([1], [2], [3], [2, 3], [-1])
    value = g.bounded(x) if kind == "ReduceSumSquare" else x
    return str(g.op("Add", x, g.axes(kind, value, axes, 13 if kind == "ReduceSum" else 18, keepdims=1)))


@step()
def normalised(g: Graph, x: str, _: str) -> str:
    kinds = ["batch", "instance", "layer by hand", "lrn", "lp", "mvn", "group by hand"]
    kinds += ["layer"] if g.opset >= 17 else []
    kinds += ["group"] if g.opset >= 21 else []  # that of opset 18 is deprecated
    kinds += ["rms"] if g.opset >= 23 else []
    kind = g.any(*kinds)
    scale, shift = g.numbers(WIDTH), g.numbers(WIDTH)
    if kind == "batch":
        spread = g.const(np.abs(g.numbers(WIDTH)) + np.float32(0.5))
        given = (g.const(scale), g.const(shift), g.const(g.numbers(WIDTH)), spread)
        return str(g.op("BatchNormalization", x, *given, epsilon=g.any(1e-5, 1e-3)))
    if kind == "instance":
        return str(g.op("InstanceNormalization", x, g.const(scale), g.const(shift), epsilon=1e-5))
    if kind == "group":
        return str(g.op("GroupNormalization", x, g.const(scale), g.const(shift), num_groups=2, epsilon=1e-5))
    if kind == "group by hand":
        two = g.const(np.ones(2, np.float32)), g.const(np.zeros(2, np.float32))
        groups = g.op("InstanceNormalization", g.reshape(x, 1, 2, -1), *two, epsilon=1e-5)
        scaled = g.op("Mul", g.reshape(groups, *g.map), g.const(scale.reshape(-1, 1, 1)))
        return str(g.op("Add", scaled, g.const(shift.reshape(-1, 1, 1))))
    if kind == "lrn":
        return str(g.op("LRN", x, size=g.any(3, 5), alpha=0.01, beta=0.75, bias=1.0))
    if kind == "lp":
        return str(g.op("LpNormalization", x, axis=1, p=2))
    if kind == "mvn":
        return str(g.op("MeanVarianceNormalization", x, axes=[0, 2, 3]))
    last = g.op("Transpose", x, perm=[0, 2, 3, 1])
    if kind == "layer":
        done = g.op("LayerNormalization", last, g.const(scale), g.const(shift), axis=-1, epsilon=1e-5)
    elif kind == "rms":
        done = g.op("RMSNormalization", last, g.const(scale), axis=-1, epsilon=1e-5)
    else:
        centred = g.op("Sub", last, g.axes("ReduceMean", last, [-1], 18, keepdims=1))
        variance = g.axes("ReduceMean", g.op("Mul", centred, centred), [-1], 18, keepdims=1)
        done = g.op("Div", centred, g.op("Sqrt", g.op("Add", variance, g.const(np.float32(1e-5)))))
        done = g.op("Mul", done, g.const(scale))
    return str(g.op("Transpose", done, perm=[0, 3, 1, 2]))


@step()
def softmax(g: Graph, x: str, _: str) -> str:
    kind = g.any("Softmax", "LogSoftmax")
    return str(g.op(kind, g.bounded(x), axis=g.any(1, 2, 3, None, *([-1, -3] if g.opset >= 11 else []))))


@step()
def attention(g: Graph, x: str, _: str) -> str:
    """Over a map of 1/4 of the size, as transformers have it."""
    small = g.op("AveragePool", x, kernel_shape=[4, 4], strides=[4, 4])
    tokens = g.op("Transpose", g.reshape(small, 1, WIDTH, -1), perm=[0, 2, 1])
    query, key, value = (g.op("MatMul", tokens, g.const(g.numbers(WIDTH, WIDTH) / 3)) for _ in range(3))
    if g.opset >= 23 and g.any(True, False):
        done = g.op("Attention", query, key, value, q_num_heads=2, kv_num_heads=2)
    else:
        heads = [g.op("Transpose", g.reshape(each, 1, -1, 2, 4), perm=[0, 2, 1, 3]) for each in (query, key, value)]
        scores = g.op("MatMul", heads[0], g.op("Transpose", heads[1], perm=[0, 1, 3, 2]))
        scores = g.op("Softmax", g.op("Mul", scores, g.const(np.float32(0.5))), axis=3)
        done = g.reshape(g.op("Transpose", g.op("MatMul", scores, heads[2]), perm=[0, 2, 1, 3]), 1, -1, WIDTH)
    back = g.reshape(g.op("Transpose", done, perm=[0, 2, 1]), 1, WIDTH, g.h // 4, g.w // 4)
    return str(g.op("Add", x, resize_to(g, back)))


@step()
def linear(g: Graph, x: str, _: str) -> str:
    last = g.op("Transpose", x, perm=[0, 2, 3, 1])
    kind = g.any("MatMul", "Gemm", "Einsum" if g.opset >= 12 else "MatMul")
    kernel = g.const(g.numbers(WIDTH, WIDTH) / 3)
    if kind == "Gemm":
        rows = g.op("Gemm", g.reshape(last, -1, WIDTH), kernel, g.const(g.numbers(WIDTH)), transB=g.any(0, 1))
        done = g.reshape(rows, 1, g.h, g.w, WIDTH)
    elif kind == "Einsum":
        return str(g.op("Einsum", x, kernel, equation="nchw,cd->ndhw"))
    else:
        done = g.op("MatMul", last, kernel)
    return str(g.op("Transpose", done, perm=[0, 3, 1, 2]))


@step()
def shuffled(g: Graph, x: str, _: str) -> str:
    kind = g.any("pixels", "pixels by hand", "space", "channels", *(["focus"] if g.opset >= 10 else []))
    if kind == "pixels":
        wide = g.conv(g.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), WIDTH, 4 * WIDTH)
        mode = g.any("DCR", "CRD") if g.opset >= 11 else None
        return str(g.op("DepthToSpace", wide, blocksize=2, mode=mode))
    if kind == "pixels by hand":
        wide = g.conv(g.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), WIDTH, 4 * WIDTH)
        six = g.reshape(wide, 1, WIDTH, 2, 2, g.h // 2, g.w // 2)
        return g.reshape(g.op("Transpose", six, perm=[0, 1, 4, 2, 5, 3]), *g.map)
    if kind == "space":
        deep = g.conv(g.op("SpaceToDepth", x, blocksize=2), 4 * WIDTH, 4 * WIDTH, group=4)
        return str(g.op("DepthToSpace", deep, blocksize=2))
    if kind == "channels":
        five = g.op("Transpose", g.reshape(x, 1, 2, WIDTH // 2, g.h, g.w), perm=[0, 2, 1, 3, 4])
        return g.reshape(five, *g.map)
    quarters = [sliced(g, x, [row, column], [g.h, g.w], [2, 3], [2, 2]) for row in (0, 1) for column in (0, 1)]
    return resize_to(g, g.conv(g.op("Concat", *quarters, axis=1), 4 * WIDTH, WIDTH))


def sliced(g: Graph, x: str, starts: list[int], ends: list[int], axes: list[int], steps: list[int]) -> str:
    if g.opset < 10:
        return str(g.op("Slice", x, starts=starts, ends=[min(end, 1 << 30) for end in ends], axes=axes))
    return str(g.op("Slice", x, *(g.const(each, np.int64) for each in (starts, ends, axes, steps))))


@step(10)
def cut(g: Graph, x: str, _: str) -> str:
    kind = g.any("flip", "split", "roll", "gather", "crop")
    if kind == "flip":
        axis = g.any(2, 3)
        return sliced(g, x, [-1], [-(1 << 40)], [axis], [-1])
    if kind == "split":
        half = WIDTH // 2
        if g.opset >= 13:
            one, other = g.op("Split", x, g.const([half, half], np.int64), outputs=2, axis=1)
        else:
            one, other = g.op("Split", x, outputs=2, axis=1, split=[half, half])
        return str(g.op("Concat", other, g.op("Relu", one), axis=1))
    if kind == "roll":  # as shifted windows do
        parts = (sliced(g, x, [3], [1 << 40], [2], [1]), sliced(g, x, [0], [3], [2], [1]))
        return str(g.op("Concat", *parts, axis=2))
    if kind == "gather":
        return str(g.op("Gather", x, g.const([1, 0, 3, 2, -1, -2, 5, 4], np.int64), axis=1))
    return resize_to(g, sliced(g, x, [2, 3], [-2, -3], [2, 3], [1, 1]))


@step(11)
def padded(g: Graph, x: str, _: str) -> str:
    mode = g.any("constant", "reflect", "edge", *(["wrap"] if g.opset >= 19 else []))
    value = [g.const(np.float32(g.any(0.0, 0.5)))] if mode == "constant" else []
    wide = g.op("Pad", x, g.const([0, 0, 1, 2, 0, 0, 1, 2], np.int64), *value, mode=mode)
    return g.conv(wide, WIDTH, WIDTH, (3, 5))


@step(11)
def unpooled(g: Graph, x: str, _: str) -> str:
    g.rough = True  # which of two that are as large
    small, places = g.op("MaxPool", x, outputs=2, kernel_shape=[2, 2], strides=[2, 2])
    given = [g.const([*g.map], np.int64)] if g.any(True, False) else []
    return str(g.op("MaxUnpool", g.op("Relu", small), places, *given, kernel_shape=[2, 2], strides=[2, 2]))


@step(16)
def sampled(g: Graph, x: str, _: str) -> str:
    """Along a flow that is computed, as aligning decoders do."""
    ys, xs = np.meshgrid(np.linspace(-1, 1, g.h), np.linspace(-1, 1, g.w), indexing="ij")
    grid = g.const(np.stack([xs, ys], -1)[None].astype(np.float32))
    flow = g.op("Transpose", g.bounded(g.conv(x, WIDTH, 2)), perm=[0, 2, 3, 1])
    at = g.op("Add", grid, g.op("Mul", flow, g.const(np.float32(0.1))))
    modes = ("bilinear", "nearest", "bicubic") if g.opset < 20 else ("linear", "nearest", "cubic")
    mode = g.any(*modes)
    g.rough |= mode == "nearest"
    padding, corners = g.any("zeros", "border", "reflection"), g.any(0, 1)
    return str(g.op("GridSample", x, at, mode=mode, padding_mode=padding, align_corners=corners))


@step()
def strips(g: Graph, x: str, _: str) -> str:
    rows, columns = (g.axes("ReduceMean", x, [axis], 18, keepdims=1) for axis in (3, 2))
    both = g.op("Add", g.conv(rows, WIDTH, WIDTH), g.conv(columns, WIDTH, WIDTH))
    return str(g.op("Mul", x, g.op("Sigmoid", both)))


@step()
def shapes(g: Graph, x: str, _: str) -> str:
    """The arithmetic on shapes that exporters leave."""
    shape = g.op("Shape", x)
    kind = g.any("reshape", "expand", "tile", "constant of shape", "squeeze", "flatten")
    if kind == "reshape":
        first = g.op("Gather", shape, g.const([0, 1], np.int64), axis=0)
        flat = g.op("Reshape", x, g.op("Concat", first, g.const([-1], np.int64), axis=0))
        return str(g.op("Reshape", g.op("Relu", flat), shape))
    if kind == "expand":
        return str(g.op("Add", x, g.op("Expand", g.op("GlobalAveragePool", x), shape)))
    if kind == "tile":
        return str(g.op("Add", x, g.op("Tile", g.op("GlobalMaxPool", x), g.const([1, 1, g.h, g.w], np.int64))))
    if kind == "constant of shape":
        ones = g.op("ConstantOfShape", shape, value=numpy_helper.from_array(np.array([0.5], np.float32)))
        return str(g.op("Add", x, ones))
    if kind == "squeeze":
        return g.axes("Unsqueeze", g.axes("Squeeze", x, [0], 13), [0], 13)
    return str(g.op("Reshape", g.op("Flatten", x, axis=g.any(1, 2)), shape))


@step()
def chosen(g: Graph, x: str, before: str) -> str:
    """Places and their order: labels back into maps, the largest few, running sums."""
    g.rough = True
    kind = g.any("labels", "top", *(["sum"] if g.opset >= 11 else []))
    if kind == "labels":
        labels = g.op("ArgMax", x, axis=1, keepdims=1)
        return str(g.op("Add", x, g.op("Mul", g.op("Cast", labels, to=FLOAT), g.const(np.float32(0.1)))))
    if kind == "sum":
        g.rough = False
        sums = g.op("CumSum", x, g.const(np.int64(g.any(1, 2, 3))), exclusive=g.any(0, 1), reverse=g.any(0, 1))
        return str(g.op("Mul", sums, g.const(np.float32(0.1))))
    if g.opset < 10:
        return x
    largest, _ = g.op("TopK", x, g.const([4], np.int64), outputs=2, axis=1)
    return str(g.op("Concat", largest, g.op("Relu", largest), axis=1))


@step()
def through_another_type(g: Graph, x: str, _: str) -> str:
    kind = g.any("half", "double", "dropout", "optional")
    if kind == "half":
        g.rough = True  # its rounding is another where a kernel has no halves
        half = g.op("Cast", g.bounded(x), to=HALF)
        return str(g.op("Cast", g.op(g.any("Relu", "Sigmoid", "Neg"), half), to=FLOAT))
    if kind == "double":
        double = g.op("Cast", x, to=DOUBLE)
        return str(g.op("Cast", g.op("Mul", double, g.const(np.float64(0.7))), to=FLOAT))
    if kind == "dropout":
        return str(g.op("Dropout", x) if g.opset >= 12 else g.op("Dropout", x, ratio=0.3))
    return str(g.op("Clip", x, "", g.const(np.float32(1))) if g.opset >= 11 else g.op("Clip", x, max=1.0))


@step(11)
def branch(g: Graph, x: str, before: str) -> str:
    """An If whose way is known, as scripted models have it, or is computed."""
    bodies = []
    for name, operator in (("then", "Relu"), ("else", "Neg")):
        output = f"{name}_{len(g.nodes)}"
        node = helper.make_node(operator, [x], [output])
        bodies.append(helper.make_graph([node], name, [], [helper.make_tensor_value_info(output, FLOAT, list(g.map))]))
    if g.any(True, False):
        way = g.const(np.array(g.any(True, False)))
    else:
        ordered = g.op("Less", g.axes("ReduceSum", x, [0, 1, 2, 3], 13, keepdims=0), g.const(np.float32(1e9)))
        way = g.reshape(ordered, 1)
    return str(g.op("If", way, then_branch=bodies[0], else_branch=bodies[1]))


@dataclass(frozen=True)
class Drawn:
    """A file; whether it has jumps; the steps in it; whether its sides are free."""

    data: bytes
    rough: bool
    steps: tuple[str, ...]
    opset: int
    size: tuple[int, int]
    free: bool

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(f"Drawn(opset {self.opset}, {self.size}: {', '.join(self.steps)})")


@st.composite
def files(draw: st.DrawFn) -> Drawn:
    """An ONNX file of this page's steps."""
    opset = draw(st.integers(9, 23))
    g = Graph(draw, opset, draw(st.booleans()), *draw(st.sampled_from(SIZES)))
    names = draw(st.lists(st.sampled_from([n for n, (since, _) in STEPS.items() if since <= opset]), max_size=5))
    stride = g.any(1, 1, 2)
    value = before = g.conv("x", 3, WIDTH, (3, 3), pads=[1] * 4)
    for name in names:
        value, before = STEPS[name][1](g, value, before), value
    g.conv(value, WIDTH, CLASSES, (3, 3), pads=[1] * 4, strides=[stride] * 2)
    batch, height, width = g.any((1, g.h, g.w), ("N", g.h, g.w), ("N", "H", "W"))
    graph = helper.make_graph(
        g.nodes,
        "drawn",
        [helper.make_tensor_value_info("x", FLOAT, [batch, 3, height, width])],
        [helper.make_tensor_value_info(g.nodes[-1].output[0], FLOAT, [batch, CLASSES, None, None])],
        g.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 20 else 10)
    return Drawn(model.SerializeToString(), g.rough, tuple(names), opset, (g.h, g.w), height == "H")
