"""Whatever graph comes, its bundle computes what ONNX Runtime makes of the file, or the build refuses with a sentence.

`make zoo` draws many more.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from refinenet_edge.build import build
from refinenet_edge.bundle import open_bundle
from refinenet_edge.errors import RefineNetEdgeError
from refinenet_edge.fusion import parity
from refinenet_edge.records import Recipe
from refinenet_edge.runtime import open_session
from tests.conftest import weights

SIZE = (32, 48)
DRAWS = int(os.environ.get("ZOO", "12"))
WIDTH = 8  # channels within
SIMPLE = ("Relu", "Sigmoid", "Tanh", "Softplus", "Elu", "LeakyRelu", "HardSigmoid", "Abs", "Neg", "Identity")
POOLS = ("MaxPool", "AveragePool")
STEPS = (*SIMPLE, *POOLS, "Conv", "Add", "Concat", "BatchNormalization", "Resize", "Softmax", "GlobalAveragePool")


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """An ONNX file: a convolution, steps of eight channels, a classifier of five."""
    opset = draw(st.integers(9, 20))
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(array: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(array, f"k{len(constants)}"))
        return constants[-1].name

    def step(operator: str, *inputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(operator, inputs, [f"v{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def conv(value: str, inside: int, out: int, size: int) -> str:
        kernel = weights(out, inside, size, size, seed=len(nodes)) / np.float32((inside * size * size) ** 0.5)
        return step("Conv", value, constant(kernel), constant(weights(out, seed=len(nodes))), pads=[size // 2] * 4)

    def more(value: str, before: str, operator: str) -> str:
        if operator == "Conv":
            return conv(value, WIDTH, WIDTH, draw(st.sampled_from((1, 3))))
        if operator == "Add":
            return step("Add", value, before)
        if operator == "Concat":
            return conv(step("Concat", value, before, axis=1), 2 * WIDTH, WIDTH, 1)
        if operator in POOLS:
            return step(operator, value, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        if operator == "GlobalAveragePool":
            return step("Add", value, step(operator, value))
        if operator == "Softmax":
            return step(operator, value, axis=draw(st.sampled_from((1, 3))))
        if operator == "BatchNormalization":
            shifts = [weights(WIDTH, seed=len(nodes) + place) for place in range(3)]
            return step(operator, value, *map(constant, shifts), constant(np.abs(weights(WIDTH)) + np.float32(0.5)))
        if operator == "Resize":
            scales = constant(np.array([1, 1, 2, 2], np.float32))
            modes = {"mode": draw(st.sampled_from(("nearest", "linear")))}
            if opset < 11:
                up = step("Upsample" if opset < 10 else "Resize", value, scales, **modes)
            else:
                ways = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
                modes |= {"coordinate_transformation_mode": draw(st.sampled_from(ways))}
                up = step("Resize", value, constant(np.zeros(0, np.float32)), scales, **modes)
            return step("AveragePool", up, kernel_shape=[2, 2], strides=[2, 2])
        return step(operator, value)

    value = before = conv("x", 3, WIDTH, 3)
    for operator in draw(st.lists(st.sampled_from(STEPS), max_size=6)):
        value, before = more(value, before, operator), value
    conv(value, WIDTH, 5, 1)
    graph = helper.make_graph(
        nodes,
        "drawn",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, *SIZE])],
        [helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, [1, 5, *SIZE])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()


@settings(max_examples=DRAWS, deadline=None, derandomize=DRAWS < 100, suppress_health_check=list(HealthCheck))
@given(file=files(), backend=st.sampled_from(("openvino", "onnxruntime")))
def test_a_bundle_computes_what_the_file_does_or_is_refused(file: bytes, backend: str) -> None:
    frame = {"frame": weights(1, 3, *SIZE, seed=7)}
    with tempfile.TemporaryDirectory() as name:
        given_file, folder = Path(name, "given.onnx"), Path(name, "bundle")
        given_file.write_bytes(file)
        try:
            build(Recipe(str(folder), onnx=str(given_file), size=SIZE, backend=backend))  # type: ignore[arg-type]
        except RefineNetEdgeError as exc:
            refusal = str(exc)
        else:
            refusal = ""
        if refusal:
            assert "build" in refusal or "export" in refusal  # it says what next
            return
        with open_session(open_bundle(folder)) as session:
            (found,) = parity.compare("drawn", parity.logits(given_file, frame), parity.run(session, frame))
        assert found.relative_error < 1e-3
        assert found.label_agreement > 0.998
