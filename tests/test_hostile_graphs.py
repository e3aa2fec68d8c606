"""Graphs that no exporter writes: dla-check, estimate and the runtime answer with an error of ours, at once."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from refinenet_edge import dla
from refinenet_edge.bundle import MODEL, open_bundle, write_bundle
from refinenet_edge.errors import BundleError, RefineNetEdgeError
from refinenet_edge.estimate import estimate
from refinenet_edge.estimate.kernels import _readers
from refinenet_edge.onnx_import.bundled import read_graph
from refinenet_edge.records import FrameSpec, TensorSpec
from refinenet_edge.runtime import Segmenter
from tests.conftest import graph, onnx_model
from tests.fuzz_targets import manifest
from tests.runtime.tinynet import CLASSES, tiny


def hostile(change: Callable[[onnx.ModelProto], object]) -> bytes:
    model = tiny("float32", (32, 48))
    change(model)
    return model.SerializeToString()


def cyclic(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]


HOSTILE = {
    "cyclic": cyclic,
    "no outputs": lambda model: model.graph.ClearField("output"),
    "an attribute of another type": lambda model: model.graph.node[0].attribute.add(
        name="group", type=onnx.AttributeProto.STRING, s=b"many"
    ),
    "no weights": lambda model: model.graph.node[0].input.pop(),
    "weights of rank 0": lambda model: model.graph.initializer[0].ClearField("dims"),
    "weights that are too big": lambda model: model.graph.initializer[0].dims.append(1 << 40),
    "a shape without an end": lambda model: model.graph.input[0].type.tensor_type.ClearField("shape"),
    "a name that is no text": lambda model: None,
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_graph_that_cannot_be_is_an_error_of_ours(
    tmp_path: Path, change: Callable[[onnx.ModelProto], object]
) -> None:
    data = hostile(change)
    if data == hostile(lambda model: None):
        data = data.replace(b"image", b"im\xffge")
    write_bundle(tmp_path / "b", manifest(), {MODEL: data})
    bundle = open_bundle(tmp_path / "b")
    for look in (lambda: dla.check(read_graph(bundle)), lambda: estimate(str(bundle.path), "orin-nano")):
        with contextlib.suppress(RefineNetEdgeError):
            look()
    if change is cyclic:
        with pytest.raises(BundleError, match="cannot be read"):
            read_graph(bundle)


@pytest.mark.parametrize("outputs", [0, 2])
def test_a_graph_of_another_number_of_outputs_is_refused(tmp_path: Path, outputs: int) -> None:
    model = tiny("float32", (32, 48))
    (first,) = model.graph.output
    model.graph.node.add(op_type="Relu", input=[first.name], output=["other"])
    model.graph.output.add(name="other", type=first.type)
    del model.graph.output[outputs:]
    write_bundle(tmp_path / "b", manifest(), {MODEL: model.SerializeToString()})
    with pytest.raises(BundleError, match=f"has 1 inputs, {outputs} outputs and"):
        read_graph(open_bundle(tmp_path / "b"))


def test_devices_change_as_often_as_the_longest_way_asks() -> None:
    names = ["x", *(f"a{i}" for i in range(39)), "y"]
    body = " ".join(f"{names[i + 1]} = {('Relu', 'Erf')[i % 2]}({names[i]})" for i in range(40))
    placements = dla.check(graph(body, "float16[1,8,5,7] x", "float16[1,8,5,7] y")).placements
    assert [placement.switches for placement in placements] == [39, 39]


def test_sums_of_sums_end() -> None:
    """Concat of a map with itself, sixty times: read by 2 ** 60 ways."""
    model = onnx_model("c = Concat<axis=2>(x, x) y = Relu(c)", outputs="float[1,8,10,7] y")
    inner = ir.from_proto(model).graph
    value = inner.inputs[0]
    for _ in range(60):
        node = ir.Node("", "Concat", [value, value], [ir.AttrInt64("axis", 2)])
        inner.append(node)
        value = node.outputs[0]
    assert len(list(_readers(inner.inputs[0]))) >= 1


@pytest.mark.parametrize("what", ["frame", "input", "output", "rank"])
def test_a_manifest_of_another_shape_than_its_graph_is_refused_at_opening(tmp_path: Path, what: str) -> None:
    said = manifest()
    large = TensorSpec("image", "float32", (1, 3, 16384, 16384))
    changed = {
        "frame": replace(said, frame=FrameSpec((16384, 16384))),
        "input": replace(said, inputs=(large,)),
        "output": replace(said, outputs=(replace(said.outputs[0], shape=(1, CLASSES, 8000, 12)),)),
        "rank": replace(said, outputs=(replace(said.outputs[0], shape=(1, 8, 12)),)),
    }
    write_bundle(tmp_path / "b", changed[what], {MODEL: tiny("float32", (32, 48)).SerializeToString()})
    with pytest.raises(BundleError, match=r"its manifest says .*: build it again"):
        Segmenter(tmp_path / "b", "onnxruntime")
