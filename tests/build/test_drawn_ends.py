"""Whatever a drawn network takes and gives, its bundle's labels are those of the file, or the build refuses.

`make zoo` draws many more.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from refinenet_edge.build import build
from refinenet_edge.errors import RefineNetEdgeError
from refinenet_edge.records import Recipe
from refinenet_edge.runtime import Segmenter
from tests.conftest import weights

SIZE = (32, 48)
DRAWS = int(os.environ.get("ZOO", "8"))
FRAME = np.random.default_rng(8).integers(0, 256, (*SIZE, 3), np.uint8)
INTEGERS = (TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8, TensorProto.FLOAT)
IMAGES = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16, TensorProto.UINT8: np.uint8}


@dataclass(frozen=True)
class Drawn:
    """A file, how it takes an image, and what its output means: where its classes lie, a border, or labels."""

    file: bytes
    last: bool
    kind: int
    axis: int | None
    border: float | None
    labels: bool  # has to be told how many

    def says(self) -> np.ndarray:
        """The labels of the file, run as it is, on `FRAME`."""
        session = onnxruntime.InferenceSession(self.file, providers=["CPUExecutionProvider"])
        rgb = FRAME[:, :, ::-1] if self.last else FRAME[:, :, ::-1].transpose(2, 0, 1)
        scaled = rgb if self.kind == TensorProto.UINT8 else rgb / np.float32(255)
        (found,) = session.run(None, {"x": np.ascontiguousarray(scaled[None]).astype(IMAGES[self.kind])})
        if self.axis is not None:
            found = found.argmax(self.axis)
        elif self.border is not None:
            found = found > self.border
        return np.asarray(found).reshape(SIZE)


@st.composite
def files(draw: st.DrawFn) -> Drawn:
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    opset = draw(st.integers(11, 22))
    last, kind = draw(st.booleans()), draw(st.sampled_from(list(IMAGES)))
    half = kind == TensorProto.FLOAT16

    def constant(array: np.ndarray) -> str:
        array = array.astype(np.float16) if half and array.dtype == np.float32 else array
        constants.append(numpy_helper.from_array(array, f"k{len(constants)}"))
        return constants[-1].name

    def step(operator: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [f"v{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def without(value: str, axis: int) -> str:
        if opset < 13:
            return step("Squeeze", value, axes=[axis])
        return step("Squeeze", value, constant(np.array([axis], np.int64)))

    value = "x"
    if last:
        value = step("Transpose", value, perm=[0, 3, 1, 2])
    if kind == TensorProto.UINT8:
        value = step("Div", step("Cast", value, to=TensorProto.FLOAT), constant(np.float32(255)))
    one, labelled = draw(st.booleans()), False
    value = step("Relu", step("Conv", value, constant(weights(8, 3, 3, 3)), pads=[1] * 4))
    kernel = weights(1 if one else 5, 8, 1, 1, seed=draw(st.integers(0, 9)))
    value = step("Conv", value, constant(kernel - kernel.mean(1, keepdims=True)))
    axis, border, told, alone = 1, None, False, one  # alone: the channel, which may be squeezed away
    if one:
        border = 0.0
        if draw(st.booleans()):
            value, border = step("Sigmoid", value), 0.5
        if draw(st.booleans()):
            value, axis = step("Transpose", value, perm=[0, 2, 3, 1]), 3
    else:
        if draw(st.booleans()):
            value, axis = step("Transpose", value, perm=[0, 2, 3, 1]), 3
        if (axis == 3 or opset >= 13) and draw(st.booleans()):
            value = step(draw(st.sampled_from(("Softmax", "LogSoftmax"))), value, axis=axis)
        if labelled := draw(st.booleans()):
            alone = draw(st.booleans())
            value = step("ArgMax", value, axis=axis, keepdims=int(alone))
            if told := draw(st.booleans()):
                value = step("Gather", constant(np.array([3, 1, 0, 4, 2], np.int64)), value)
            value = step("Cast", value, to=draw(st.sampled_from(INTEGERS)))
    if alone and draw(st.booleans()):
        value = without(value, axis)
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "drawn",
            [helper.make_tensor_value_info("x", kind, [1, *SIZE, 3] if last else [1, 3, *SIZE])],
            [onnx.ValueInfoProto(name=value)],
            constants,
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )
    given_axis = None if one or labelled else axis
    file = onnx.shape_inference.infer_shapes(model).SerializeToString()
    return Drawn(file, last, kind, given_axis, border, told)


@settings(max_examples=DRAWS, deadline=None, derandomize=DRAWS < 100, suppress_health_check=list(HealthCheck))
@given(drawn=files(), backend=st.sampled_from(("openvino", "onnxruntime")))
def test_labels_are_the_files_own(drawn: Drawn, backend: str) -> None:
    expected = drawn.says()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "given.onnx")
        path.write_bytes(drawn.file)
        Path(name, "five.txt").write_text("a\nb\nc\nd\ne\n")
        said = None if drawn.kind == TensorProto.UINT8 else "0-1"
        options: dict[str, Any] = {"labels": str(Path(name, "five.txt"))} if drawn.labels else {}
        try:
            built = build(Recipe(f"{name}/b", onnx=str(path), backend=backend, preprocess=said, **options))  # type: ignore[arg-type]
        except RefineNetEdgeError as exc:
            if "one channel from 0 to 1" in str(exc):  # by chance it has no other
                return
            raise
        with Segmenter(built.path) as segmenter:
            found = segmenter.segment(FRAME).labels
    assert (found == expected).mean() > (0.99 if drawn.kind == TensorProto.FLOAT16 else 0.999)
