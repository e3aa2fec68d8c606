"""The ends of somebody's ONNX graph: what it takes becomes an image, what it gives becomes logits.

    takes   1x3xHxW or 1xHxWx3, of float32, float16 or uint8     -> image, float32 1x3xHxW
    gives   scores of classes in either layout, with or without
            a Softmax; one channel, a score or what a Sigmoid
            makes of it; an ArgMax of scores; other labels       -> logits, float32 1xCxhxw

It is done in the graph, in the opset that the file is of, so that all that comes later sees a network like any other.
`Ends` keeps what was found: the proof runs the file as it was given with it, and holds the labels to the file's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import numpy_helper
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from refinenet_edge.errors import GraphError
from refinenet_edge.records import Size

FLOAT, HALF, BYTE = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.UINT8
MOST_CLASSES = 255  # labels are bytes, and one is for pixels that have none
PLANES_FIRST, PLANES_LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # of Transpose
MOVES = ("Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape", "Transpose")  # the same numbers, elsewhere
SIZES = ("Resize", "Upsample", "AveragePool", "MaxPool", "Slice", "Pad")  # fewer or more of them
ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Clip", "Where", "Gather", "Not", "Mod", "ScatterElements")
SQUASHES = ("Softmax", "LogSoftmax")  # what is largest stays the largest. After a Sigmoid much is 1: it stays
LABELLING = ("ArgMax", "ArgMin", "TopK", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Round")
AT_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
BYTES_PASS = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice")  # the same of float32 as of uint8

Array = npt.NDArray[Any]
Layout = Literal["nchw", "nhwc"]
AXES: dict[Layout, int] = {"nchw": 1, "nhwc": 3}  # of the channels


@dataclass(frozen=True)
class Said:
    """What the user says of a file's ends: which output, how its input lies, how many classes there are."""

    output: str | None = None
    layout: Layout | None = None
    classes: int | None = None


NOTHING = Said()


@dataclass(frozen=True)
class Ends:
    """What a file takes and gives, as it was given: `image` and `output` are names, `layout` is of the image.

    `source` is what the logits are made of: the output, or what lies before the ArgMax, Softmax or Sigmoid that ends
    the graph. It holds `kind`, in `source_layout`. `given_axis` is where the output itself has `classes` channels;
    None: it has one, or labels, and what is above `threshold` is the second class (None: they are labels).
    """

    image: str
    layout: Layout
    dtype: str
    output: str
    source: str
    kind: Literal["scores", "score", "probability", "labels"]
    source_layout: Layout
    classes: int
    given_axis: int | None = None
    threshold: float | None = None
    half: bool = False  # it computes in float16

    def fed(self, image: Array) -> Array:
        """`image`, 1x3xhxw float32, as the file takes it."""
        moved = image.transpose(PLANES_LAST) if self.layout == "nhwc" else image
        return np.ascontiguousarray(moved.astype(self.dtype))

    def logits(self, source: Array) -> Array:
        """The logits, 1xCxhxw float32, of what the file computes as `source`."""
        if self.kind == "scores":
            planes = source.transpose(PLANES_FIRST) if self.source_layout == "nhwc" else source
            return np.ascontiguousarray(planes, np.float32)
        one = source.reshape(1, 1, *_sides(source.shape, self.source_layout))
        if self.kind == "labels":
            return np.asarray(one.astype(np.int64) == np.arange(self.classes).reshape(1, -1, 1, 1), np.float32)
        scores = one.astype(np.float32) - np.float32(0.5 if self.kind == "probability" else 0)
        return np.concatenate([np.zeros_like(scores), scores], axis=1)

    def labels(self, given: Array) -> Array:
        """The labels that the output `given` says, in its order."""
        if self.given_axis is not None:
            return np.asarray(given.argmax(self.given_axis)).ravel()
        return given.ravel() if self.threshold is None else (given > self.threshold).ravel()


def in_float32(proto: onnx.ModelProto) -> bool:
    """Make every float16 of a graph float32, in place; whether there was any."""
    return _widen(proto.graph)


def _widen(graph: onnx.GraphProto) -> bool:
    half, single = int(HALF), int(FLOAT)
    found = False
    for tensor in graph.initializer:
        if tensor.data_type == half:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
            found = True
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type, found = single, True
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "output_dtype") and attribute.i == half:
                attribute.i, found = single, True
            if attribute.t.data_type == half:
                wide = numpy_helper.to_array(attribute.t).astype(np.float32)
                attribute.t.CopyFrom(numpy_helper.from_array(wide, attribute.t.name))
                found = True
            for inner in (attribute.g, *attribute.graphs):
                found = _widen(inner) or found
    return found


class Taken(NamedTuple):
    """What a file takes, and the name of the output that is wanted of it; `sides` of its image, None: they are free."""

    image: str
    layout: Layout
    dtype: str
    sides: Size | None
    output: str


def take_image(
    model: ir.Model, name: str, said: Said, size: Size | None, otherwise: Size | None, declared: dict[str, ir.Shape]
) -> Taken:
    """Make `model`, of the file `name` and without a float16, take a float32 image, 1x3xHxW, in place; what it took.

    `size` is what its sides have to be, `otherwise` what they become where they are free; `declared` are the shapes
    that the file has of its outputs. Raises `GraphError` for what cannot be such a network, or does not say what it is.
    """
    graph = model.graph
    output = _choose_output(graph, name, said.output, declared)
    RemoveUnusedNodesPass()(model)
    _refuse_chance(graph, name)
    image = _find_image(graph, name)
    layout = _image_layout(image, name, said.layout)
    sides = _fix_sides(image, layout, name, size, otherwise)
    ShapeInferencePass()(model)
    if output.shape is None:
        output.shape = declared.get(str(output.name))
    taken = Taken(str(image.name), layout, "uint8" if image.dtype == BYTE else "float32", sides, str(output.name))
    if image.dtype == BYTE:
        _bytes_as_floats(image, name)
    _drop_casts(graph)
    _take_planes(graph, image, layout)
    return taken


def give_logits(model: ir.Model, name: str, said: Said, taken: Taken) -> Ends:
    """Make `model` give logits, 1xCxhxw, in place; what it took and gave. Raises `GraphError` where it cannot."""
    source = _find_source(model.graph.outputs[0], name, said.classes, taken.sides)
    ends = Ends(
        taken.image,
        taken.layout,
        taken.dtype,
        taken.output,
        str(source.value.name),
        source.kind,
        source.layout,
        source.classes,
        source.given_axis,
        source.threshold,
    )
    model.graph.outputs[:] = [_logits(model, source)]
    RemoveUnusedNodesPass()(model)
    return ends


def _choose_output(graph: ir.Graph, name: str, wanted: str | None, declared: dict[str, ir.Shape]) -> ir.Value:
    """The output that is wanted, made the only one."""
    outputs = list(graph.outputs)
    named = [value for value in outputs if wanted in (None, value.name)]
    if len(named) != 1:
        each = ", ".join(f"{v.name} ({v.dtype} {_shown(declared.get(str(v.name)))})" for v in outputs)
        said = f"has no output {wanted!r}, but" if wanted else "has several outputs:"
        raise GraphError(f"{name} {said} {each or 'none'}: choose one with --output-name")
    if not isinstance(named[0].type, ir.TensorType):
        raise GraphError(f"{name} gives {named[0].name} ({named[0].type}); {EXPECTED}")
    graph.outputs[:] = named
    return named[0]


def _refuse_chance(graph: ir.Graph, name: str) -> None:
    """Raise `GraphError` for what is another network at each run, or by each frame."""
    for node in graph.all_nodes():
        trains = node.attributes.get_int("training_mode", 0) != 0
        if node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None:
            flag = _constant(node.inputs[2])
            trains = flag is None or bool(flag.any())
        if trains:
            raise GraphError(
                f"{name} is in training mode ({node.op_type} {node.name or ''}): call model.eval() and export it again"
            )
        if node.op_type in AT_RANDOM:
            raise GraphError(f"{name} draws random numbers ({node.op_type} {node.name or ''}): export it without")


def _find_image(graph: ir.Graph, name: str) -> ir.Value:
    """The only input that is read, made the only one. Inputs with a value of their own are constants."""
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    read = [value for value in inputs if value.uses() or value.is_graph_output()]
    rank = len(read[0].shape or ()) if len(read) == 1 else 0
    if rank != 4 or read[0].dtype not in (FLOAT, BYTE):
        each = ", ".join(f"{v.name} ({v.dtype} {_shown(v.shape)})" for v in read or inputs)
        raise GraphError(
            f"{name} takes {each or 'nothing'}; expected one image, 1x3xHxW or 1xHxWx3 of float32, float16 or uint8: "
            "export it so, with what else it takes as constants"
        )
    graph.inputs[:] = read
    return read[0]


def _image_layout(image: ir.Value, name: str, said: Layout | None) -> Layout:
    assert image.shape is not None
    first, last = image.shape[1], image.shape[3]
    possible: list[Layout] = [layout for layout, side in (("nchw", first), ("nhwc", last)) if side == 3]  # type: ignore[misc]
    if not possible and not _known(first):
        possible = ["nchw"] if _known(last) else ["nchw", "nhwc"]
    if said is not None:
        side = first if said == "nchw" else last
        if _known(side) and side != 3:
            raise GraphError(f"{name} takes {_shown(image.shape)}: that is not --layout {said} of three channels")
        return said
    if len(possible) == 2:
        possible = [_layout_within(image)] if _layout_within(image) else possible  # type: ignore[list-item]
    if len(possible) != 1:
        advice = "say which with --layout nchw or nhwc" if possible else "only three channels are taken: export it so"
        raise GraphError(
            f"{name} takes {image.name}, {_shown(image.shape)}, where no side is the three channels: {advice}"
        )
    return possible[0]


def _layout_within(image: ir.Value) -> Layout | None:
    """What the first operator that has a layout says of the image's."""
    value = image
    while len(users := value.consumers()) == 1:
        node = users[0]
        if node.op_type == "Transpose":
            return "nhwc" if tuple(node.attributes.get_ints("perm", ())) == PLANES_FIRST else None
        if node.op_type == "Conv":
            return "nchw"
        value = node.outputs[0]
    return "nchw" if users and all(node.op_type == "Conv" for node in users) else None


def _fix_sides(image: ir.Value, layout: Layout, name: str, size: Size | None, otherwise: Size | None) -> Size | None:
    """Give `image` the sides that are wanted, or those that it has; None: they stay free."""
    assert image.shape is not None
    shape: list[Any] = list(image.shape)
    axes = (2, 3) if layout == "nchw" else (1, 2)
    fixed = [int(shape[axis]) if _known(shape[axis]) else None for axis in axes]
    for place, axis in enumerate(axes):
        wanted = size[place] if size else otherwise[place] if otherwise else None
        if size is not None and fixed[place] not in (None, size[place]):
            known = "x".join(str(side or wanted) for side, wanted in zip(fixed, size, strict=True))
            raise GraphError(f"{name} is fixed to {known}: build it with --size {known}")
        shape[axis] = fixed[place] or wanted or ("H", "W")[place]
    shape[AXES[layout]] = 3
    if _known(shape[0]) and shape[0] != 1:
        raise GraphError(f"{name} is fixed to batches of {shape[0]}: export it with batch 1")
    shape[0] = 1
    image.shape = ir.Shape(shape)
    height, width = (shape[axis] for axis in axes)
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _bytes_as_floats(image: ir.Value, name: str) -> None:
    """Make what is uint8 from `image` on float32, to where it is cast."""
    pending = [image]
    while pending:
        value = pending.pop()
        value.dtype = FLOAT
        for node in value.consumers():
            if node.op_type in BYTES_PASS and node.inputs[0] is value:
                pending += node.outputs
            elif node.op_type != "Cast":
                raise GraphError(
                    f"{name} takes uint8 and computes with it ({node.op_type} {node.name or ''}): "
                    "export it with a Cast to float32 first"
                )


def _drop_casts(graph: ir.Graph) -> None:
    """Drop the casts of float32 to float32."""
    for node in list(graph):
        if node.op_type == "Cast" and node.inputs[0] is not None and node.inputs[0].dtype == FLOAT:
            source, made = node.inputs[0], node.outputs[0]
            if node.attributes.get_int("to", 0) == FLOAT and not (source.is_graph_input() and made.is_graph_output()):
                made.replace_all_uses_with(source, replace_graph_outputs=True)
                graph.remove(node, safe=True)


def _take_planes(graph: ir.Graph, image: ir.Value, layout: Layout) -> None:
    """Let `image` come as 1x3xHxW, whatever the graph takes."""
    if layout == "nchw":
        return
    assert image.shape is not None
    users = image.consumers()
    planes = ir.Value(name=image.name, shape=ir.Shape([image.shape[axis] for axis in PLANES_FIRST]), type=image.type)
    for node in users:
        if node.op_type == "Transpose" and tuple(node.attributes.get_ints("perm", ())) == PLANES_FIRST:
            node.outputs[0].replace_all_uses_with(planes)
            if not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
                graph.remove(node, safe=True)
    if image.uses():
        back = ir.node("Transpose", [planes], {"perm": PLANES_LAST}, name="image/channels_last")
        back.outputs[0].dtype, back.outputs[0].shape, back.outputs[0].name = FLOAT, image.shape, "image/channels_last:0"
        image.replace_all_uses_with(back.outputs[0])
        graph.insert_before(graph[0], back)
    graph.inputs[:] = [planes]


@dataclass(frozen=True)
class _Source:
    """`Ends` without names."""

    value: ir.Value
    kind: Literal["scores", "score", "probability", "labels"]
    layout: Layout
    classes: int
    given_axis: int | None = None
    threshold: float | None = None


def _find_source(output: ir.Value, name: str, classes: int | None, sides: Size | None) -> _Source:
    """What the logits can be made of."""
    node = _behind(output, MOVES).producer()
    if node is not None and node.op_type == "ArgMax" and (found := _before_argmax(node)):
        return found
    if (labels := _labels(output)) is not None:
        return _given_labels(output, name, labels or classes, sides)
    shape, one = output.shape, _as_one(output, sides)
    if output.dtype == FLOAT and one is not None:
        return _one_channel(output, one, sides)
    if output.dtype != FLOAT or shape is None or len(shape) != 4:
        raise GraphError(f"{name} gives {output.name} ({output.dtype} {_shown(shape)}); {EXPECTED}")
    axis = _channel_axis(output, name, classes, sides)
    count = shape[axis]
    if not isinstance(count, int):
        raise GraphError(f"{name} gives {output.name} ({_shown(shape)}), without a number of classes; {EXPECTED}")
    if count > MOST_CLASSES:
        raise GraphError(
            f"{name} gives {count} classes ({output.name}, {_shown(shape)}): at most {MOST_CLASSES} can be told apart, "
            "labels are bytes"
        )
    value, inner = _before_softmax(output, axis)
    return _Source(value, "scores", "nchw" if inner == 1 else "nhwc", count, given_axis=axis)


EXPECTED = (
    "expected scores of classes, 1xCxhxw or 1xhxwxC, or labels: name another output with --output-name, or export it so"
)


def _before_argmax(node: ir.Node) -> _Source | None:
    """The scores that an ArgMax is of; None where they are none of classes."""
    scores = node.inputs[0]
    if scores is None or scores.shape is None or len(scores.shape) != 4 or scores.producer() is None:
        return None
    axis = node.attributes.get_int("axis", 0) % 4
    count = scores.shape[axis]
    if axis not in (1, 3) or not isinstance(count, int) or not 1 < count <= MOST_CLASSES:
        return None
    value, inner = _before_softmax(scores, axis)
    return _Source(value, "scores", "nchw" if inner == 1 else "nhwc", count)


def _before_softmax(value: ir.Value, axis: int) -> tuple[ir.Value, int]:
    """What lies before the operators that change no label, and the axis of its channels."""
    order, found = [0, 1, 2, 3], (value, axis)  # order: of the axes of `value`, among those that it is made of
    while (node := value.producer()) is not None and (source := node.inputs[0] if node.inputs else None) is not None:
        if node.op_type == "Transpose":
            perm = node.attributes.get_ints("perm", (3, 2, 1, 0))
            order = [perm[place] for place in order]
        elif node.op_type in SQUASHES:
            if not _squashes(node, order[axis]):
                break
        elif node.op_type != "Identity":
            break
        value = source
        rest = [place for i, place in enumerate(order) if i != axis]
        if rest == sorted(rest) and order[0] == 0 and order[axis] in (1, 3) and value.producer() is not None:
            found = value, order[axis]
    return found


def _squashes(node: ir.Node, axis: int) -> bool:
    """Whether a Softmax keeps the order of what lies along `axis`."""
    opset = node.graph.opset_imports.get("", 20) if node.graph is not None else 20
    along = node.attributes.get_int("axis", -1 if opset >= 13 else 1) % 4
    return along == axis and (opset >= 13 or axis == 3)  # before, it was over all axes from there on


def _labels(value: ir.Value) -> int | None:
    """How many labels `value` holds, 0 where that is not known; None where it holds none."""
    integers = value.dtype not in (FLOAT, ir.DataType.DOUBLE)
    counted = True
    for _ in range(64):
        node = value.producer()
        if node is None:
            break
        if node.op_type in LABELLING:
            scores, axis = node.inputs[0], node.attributes.get_int("axis", 0)
            if node.op_type not in ("ArgMax", "ArgMin"):
                return 2 if counted else 0
            side = scores.shape[axis] if scores is not None and scores.shape is not None else None
            return side if counted and isinstance(side, int) else 0
        if node.op_type not in (*MOVES, *SIZES, *ARITHMETIC):
            break
        counted &= node.op_type not in ARITHMETIC
        data = _data(node)
        if data is None:
            break
        integers |= node.op_type == "Cast" and data.dtype not in (FLOAT, ir.DataType.DOUBLE)
        value = data
    return 0 if integers else None


def _data(node: ir.Node) -> ir.Value | None:
    """The input that an operator changes, of those that are computed."""
    inputs = [node.inputs[0]] if node.op_type in (*MOVES, *SIZES) else node.inputs
    return next((value for value in inputs if value is not None and _constant(value) is None), None)


def _given_labels(output: ir.Value, name: str, classes: int | None, sides: Size | None) -> _Source:
    said, one = f"{name} gives labels, {output.name} ({output.dtype} {_shown(output.shape)})", _as_one(output, sides)
    if one is None:
        raise GraphError(f"{said}; {EXPECTED}")
    if classes is None:
        raise GraphError(f"{said}, but not of how many classes: say them with --labels")
    return _Source(output, "labels", one, classes)


def _one_channel(output: ir.Value, one: Layout, sides: Size | None) -> _Source:
    """Two classes by one channel: a score, or what a Sigmoid makes of it."""
    before = _behind(output, MOVES).producer()
    if before is not None and before.op_type == "Sigmoid":
        score = before.inputs[0]
        if score is not None and score.producer() is not None and (inner := _as_one(score, sides)) is not None:
            return _Source(score, "score", inner, 2, threshold=0.5)
    farther = _behind(output, (*MOVES, *SIZES)).producer()
    if farther is not None and (farther.op_type == "Sigmoid" or _is_of_two(farther)):
        return _Source(output, "probability", one, 2, threshold=0.5)
    return _Source(output, "score", one, 2, threshold=0.0)


def _is_of_two(node: ir.Node) -> bool:
    """Whether a node is the Softmax of two classes, so that a slice of it has its border at a half."""
    shape = node.outputs[0].shape
    return (
        node.op_type == "Softmax" and shape is not None and _squashes(node, list(shape).index(2) if 2 in shape else -1)
    )


def _as_one(value: ir.Value, sides: Size | None) -> Layout | None:
    """How the only channel of `value` lies, or its height and width alone; None: it has others."""
    shape = value.shape
    if shape is None or not 2 <= len(shape) <= 4:
        return None
    layouts: list[Layout] = ["nchw", "nhwc"] if len(shape) == 4 else ["nchw"]
    for layout in layouts:
        ends = [int(side) if _known(side) else None for side in _sides(tuple(shape), layout)]
        alone = len(shape) == 2 or shape[0 if len(shape) == 3 else AXES[layout]] == 1
        if alone and (sides is None or _in_shape(ends, sides)):
            return layout
    return None


def _channel_axis(output: ir.Value, name: str, classes: int | None, sides: Size | None) -> int:
    """Where the classes lie in a float output of four axes."""
    assert output.shape is not None
    _, *shape = output.shape
    known = [side if isinstance(side, int) else None for side in shape]
    possible = [axis for axis, ends in ((1, known[1:]), (3, known[:2])) if known[axis - 1] and _in_shape(ends, sides)]
    either = not possible and sides is None and None not in (known[0], known[2])
    if len(possible) != 1 and classes is not None:
        possible = [axis for axis in possible or (1, 3) if known[axis - 1] == classes] or possible
    if len(possible) != 1:
        if (inner := _axis_within(output)) is not None:
            return inner
        if len(possible) == 2 or either:
            raise GraphError(
                f"{name} gives {output.name} ({_shown(output.shape)}), whose classes may lie first or last: "
                "say with --labels how many there are, or export it with the classes first"
            )
        return 1 if known[0] or not known[2] else 3
    return possible[0]


def _in_shape(ends: Sequence[int | None], sides: Size | None) -> bool:
    """Whether height and width of an output are those of the image, or of it in fewer pixels."""
    if None in ends or sides is None:
        return None in ends
    (h, w), (height, width) = ends, sides
    assert h is not None and w is not None
    return abs(h * width - w * height) <= max(height, width) and h <= 2 * height


def _axis_within(value: ir.Value) -> int | None:
    """Where the operators that made `value` have their channels; None where they do not say."""
    axis = 1
    while (node := value.producer()) is not None:
        if node.op_type in ("Conv", "ConvTranspose", "BatchNormalization"):
            return axis if axis in (1, 3) else None
        if node.op_type == "Transpose":
            perm = list(node.attributes.get_ints("perm", (3, 2, 1, 0)))
            axis = perm.index(axis)
        elif node.op_type in ("Reshape", "MatMul", "Gemm") or not node.inputs or (data := _data(node)) is None:
            return None
        else:
            value = data
            continue
        following = node.inputs[0]
        if following is None:
            return None
        value = following
    return None


def _logits(model: ir.Model, source: _Source) -> ir.Value:
    """The logits, 1xCxhxw float32, of `source`, which are computed from now on."""
    make = _Maker(model)
    value = source.value
    if source.kind == "scores":
        return make("Transpose", [value], {"perm": PLANES_FIRST}) if source.layout == "nhwc" else value
    if source.kind == "labels":
        value = make("Cast", [value], {"to": int(ir.DataType.INT32)}, ir.DataType.INT32)
    rank = len(source.value.shape or ())
    if rank < 4:
        value = make.unsqueezed(value, [1] if rank == 3 else [0, 1])
    elif source.layout == "nhwc":
        value = make("Transpose", [value], {"perm": PLANES_FIRST}, value.dtype or FLOAT)
    if source.kind == "labels":
        classes = np.arange(source.classes, dtype=np.int32).reshape(1, -1, 1, 1)
        same = make("Equal", [value, make.constant(classes)], {}, ir.DataType.BOOL)
        return make("Cast", [same], {"to": int(FLOAT)})
    # (0, score): the second class where the score is above the border, and their softmax is the score's sigmoid. By a
    # convolution, which the rewrites merge with the one before
    border = 0.5 if source.kind == "probability" else 0.0
    weights = np.array([0, 1], np.float32).reshape(2, 1, 1, 1)
    return make("Conv", [value, make.constant(weights), make.constant(np.array([0, -border], np.float32))], {})


class _Maker:
    """New nodes at the end of a graph, with names that are free."""

    def __init__(self, model: ir.Model) -> None:
        self._graph, self._opset = model.graph, model.opset_imports.get("", 20)
        made = (str(value.name) for node in model.graph for value in node.outputs)
        self._taken = {*made, *map(str, model.graph.initializers), *(str(value.name) for value in model.graph.inputs)}

    def __call__(
        self, operator: str, inputs: list[ir.Value], attributes: dict[str, Any], dtype: ir.DataType = FLOAT
    ) -> ir.Value:
        node = ir.node(operator, inputs, attributes, name=self._name(f"ends/{operator}"))
        self._graph.append(node)
        made = node.outputs[0]
        made.name, made.dtype = self._name(f"{node.name}:0"), dtype
        return made

    def constant(self, array: Array) -> ir.Value:
        name = self._name("ends/constant")
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.dtype, value.shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
        self._graph.register_initializer(value)
        return value

    def unsqueezed(self, value: ir.Value, axes: list[int]) -> ir.Value:
        if self._opset < 13:
            return self("Unsqueeze", [value], {"axes": axes}, value.dtype or FLOAT)
        return self("Unsqueeze", [value, self.constant(np.array(axes, np.int64))], {}, value.dtype or FLOAT)

    def _name(self, wanted: str) -> str:
        free = next(name for n in range(len(self._taken) + 1) if (name := f"{wanted}{n or ''}") not in self._taken)
        self._taken.add(free)
        return free


def _behind(value: ir.Value, operators: Sequence[str]) -> ir.Value:
    """What lies before the `operators` that `value` went through last."""
    while (node := value.producer()) is not None and node.op_type in operators and node.inputs[0] is not None:
        value = node.inputs[0]
    return value


def _constant(value: ir.Value | None) -> Array | None:
    """The number or numbers that `value` always is; None: it is computed."""
    if value is None:
        return None
    found = ir.convenience.get_const_tensor(value)
    return None if found is None else np.asarray(found.numpy())


def _sides(shape: Sequence[Any], layout: Layout) -> tuple[Any, ...]:
    """Height and width in a shape of one channel, or of none."""
    return tuple(shape[1:3] if len(shape) == 4 and layout == "nhwc" else shape[-2:])


def _known(side: Any) -> bool:
    return isinstance(side, int) and side > 0  # some exporters write -1 for what is free


def _shown(shape: ir.Shape | None) -> str:
    return "x".join(str(side) for side in shape) if shape else "of a shape that it does not say"
