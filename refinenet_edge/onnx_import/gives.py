"""What somebody's ONNX graph gives: scores, one channel or labels, where its classes lie, and what lies before."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from refinenet_edge.errors import GraphError
from refinenet_edge.graph import constant, input_of
from refinenet_edge.onnx_import.ends import (
    AXES,
    EXPECTED,
    FLOAT,
    Ends,
    Layout,
    Made,
    Said,
    Taken,
    known,
    shown,
    sides_of,
)
from refinenet_edge.onnx_import.logits import logits_of
from refinenet_edge.records import Size

MOST_CLASSES = 255  # labels are bytes, and one is for pixels that have none
MOVES = ("Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape", "Transpose")  # the same numbers, elsewhere
SIZES = ("Resize", "Upsample", "AveragePool", "MaxPool", "Slice", "Pad")  # fewer or more of them
ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Clip", "Where", "Gather", "Not", "Mod", "ScatterElements")
SQUASHES = ("Softmax", "LogSoftmax")  # what is largest stays the largest. After a Sigmoid much is 1: it stays
LABELLING = ("ArgMax", "ArgMin", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Round")
FLOATS = (FLOAT, ir.DataType.DOUBLE)
_Source = tuple[ir.Value, Made]


def give_logits(model: ir.Model, name: str, said: Said, taken: Taken) -> Ends:
    """Make `model` give logits, 1xCxhxw, in place; what it took and gave. Raises `GraphError` where it cannot."""
    value, made = _find_source(model.graph.outputs[0], name, said.classes, taken.sides)
    ends = Ends(taken, str(value.name), made)
    model.graph.outputs[:] = [logits_of(model, value, made)]
    RemoveUnusedNodesPass()(model)
    return ends


def _find_source(output: ir.Value, name: str, classes: int | None, sides: Size | None) -> _Source:
    """What the logits can be made of."""
    node = _behind(output, MOVES).producer()
    if node is not None and node.op_type == "ArgMax" and (found := _before_argmax(node)):
        return found
    shape, one, labels = output.shape, _as_one(output, sides), _labels(output)
    if one is not None and labels is not None:
        return _given_labels(output, one, name, labels or classes)
    if one is not None and output.dtype in FLOATS:
        return _one_channel(output, one, sides)
    if output.dtype == ir.DataType.BFLOAT16 or shape is None or len(shape) != 4:
        raise GraphError(f"{name} gives {output.name} ({output.dtype} {shown(shape)}); {EXPECTED}")
    axis = _channel_axis(output, name, classes, sides)
    count = shape[axis]
    if not isinstance(count, int):
        raise GraphError(f"{name} gives {output.name} ({shown(shape)}), without a number of classes; {EXPECTED}")
    if count > MOST_CLASSES:
        raise GraphError(
            f"{name} gives {count} classes ({output.name}, {shown(shape)}): at most {MOST_CLASSES} can be told apart, "
            "labels are bytes"
        )
    value, inner = _before_softmax(output, axis)
    node = _behind(output, MOVES).producer()
    ones = output.dtype not in FLOATS or (node is not None and node.op_type in ("OneHot", "Equal"))
    return value, Made("ones" if ones else "scores", "nchw" if inner == 1 else "nhwc", count, given_axis=axis)


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
    return value, Made("scores", "nchw" if inner == 1 else "nhwc", count)


def _before_softmax(value: ir.Value, axis: int) -> tuple[ir.Value, int]:
    """What lies before the operators that change no label, and the axis of its channels."""
    order, found = [0, 1, 2, 3], (value, axis)  # order: of the axes of `value`, among those that it is made of
    while (node := value.producer()) is not None and (source := input_of(node, 0)) is not None:
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
    integers = value.dtype not in FLOATS
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
        integers |= node.op_type == "Cast" and data.dtype not in FLOATS
        value = data
    return 0 if integers else None


def _data(node: ir.Node) -> ir.Value | None:
    """The input that an operator changes, of those that are computed."""
    inputs = [node.inputs[0]] if node.op_type in (*MOVES, *SIZES) else node.inputs
    return next((value for value in inputs if value is not None and constant(value) is None), None)


def _given_labels(output: ir.Value, one: Layout, name: str, classes: int | None) -> _Source:
    if classes is None:
        said = f"{name} gives labels, {output.name} ({output.dtype} {shown(output.shape)})"
        raise GraphError(f"{said}, but not of how many classes: say them with --labels")
    return output, Made("labels", one, classes)


def _one_channel(output: ir.Value, one: Layout, sides: Size | None) -> _Source:
    """Two classes by one channel: a score, or what a Sigmoid makes of it."""
    before = _behind(output, MOVES).producer()
    if before is not None and before.op_type == "Sigmoid":
        score = before.inputs[0]
        if score is not None and score.producer() is not None and (inner := _as_one(score, sides)) is not None:
            return score, Made("score", inner, 2, threshold=0.5)
    farther = _behind(output, (*MOVES, *SIZES)).producer()
    if farther is not None and (farther.op_type == "Sigmoid" or _is_of_two(farther)):
        return output, Made("probability", one, 2, threshold=0.5)
    return output, Made("score", one, 2, threshold=0.0)


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
        ends = [int(side) if known(side) else None for side in sides_of(tuple(shape), layout)]
        alone = len(shape) == 2 or shape[0 if len(shape) == 3 else AXES[layout]] == 1
        if alone and (sides is None or _in_shape(ends, sides)):
            return layout
    return None


def _channel_axis(output: ir.Value, name: str, classes: int | None, sides: Size | None) -> int:
    """Where the classes lie in a float output of four axes."""
    assert output.shape is not None
    _, *shape = output.shape
    counts = [side if isinstance(side, int) else None for side in shape]
    around = (1, counts[1:]), (3, counts[:2])
    possible = [axis for axis, ends in around if counts[axis - 1] and _in_shape(ends, sides)]
    either = not possible and sides is None and None not in (counts[0], counts[2])
    if len(possible) != 1 and classes is not None:
        possible = [axis for axis in possible or (1, 3) if counts[axis - 1] == classes] or possible
    if len(possible) != 1:
        if (inner := _axis_within(output)) is not None:
            return inner
        if len(possible) == 2 or either:
            raise GraphError(
                f"{name} gives {output.name} ({shown(output.shape)}), whose classes may lie first or last: "
                "say with --labels how many there are, or export it with the classes first"
            )
        return 1 if counts[0] or not counts[2] else 3
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


def _behind(value: ir.Value, operators: Sequence[str]) -> ir.Value:
    """What lies before the `operators` that `value` went through last."""
    while (node := value.producer()) is not None and node.op_type in operators and node.inputs[0] is not None:
        value = node.inputs[0]
    return value
