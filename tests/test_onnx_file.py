"""A graph that is not whole in itself is not given to any library; what is, is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from refinenet_edge.bundle import Bundle
from refinenet_edge.errors import BundleError
from refinenet_edge.onnx_file import MAX_DEPTH, require_whole
from refinenet_edge.runtime.backends import open_session
from tests.conftest import onnx_model
from tests.runtime.conftest import make_bundle  # noqa: F401 (a fixture)
from tests.runtime.tinynet import tiny

MakeBundle = Callable[..., Bundle]


def external(name: str = "w") -> TensorProto:
    """Weights that lie in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1, 8, 1, 1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="beside.bin")
    return tensor


def in_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(external())


def in_constant(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["w"], value=external()))


def in_list_of_tensors(model: onnx.ModelProto) -> None:
    node = model.graph.node.add(op_type="Constant")
    node.attribute.add(name="values").tensors.append(external())


def in_sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(external())


def in_sparse_attribute(model: onnx.ModelProto) -> None:
    model.graph.node.add(op_type="Constant").attribute.add(name="v").sparse_tensor.indices.CopyFrom(external())


def in_branch(model: onnx.ModelProto) -> None:
    inner = onnx.GraphProto()
    inner.initializer.append(external())
    model.graph.node.add(op_type="If").attribute.add(name="then_branch").g.CopyFrom(inner)


def in_function(model: onnx.ModelProto) -> None:
    model.functions.add(name="f").node.add(op_type="Constant").attribute.add(name="value").t.CopyFrom(external())


def in_default_of_function(model: onnx.ModelProto) -> None:
    model.functions.add(name="f").attribute_proto.add(name="value").t.CopyFrom(external())


def in_training(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.initializer.append(external())


PLACES = [value for name, value in list(globals().items()) if name.startswith("in_")]


@pytest.mark.parametrize("put", PLACES, ids=lambda put: put.__name__)
def test_weights_in_another_file_are_refused_wherever_they_are(put: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx_model("y = Relu(x)")
    require_whole(model.SerializeToString())
    put(model)
    with pytest.raises(BundleError, match="keeps weights in another file"):
        require_whole(model.SerializeToString())


def test_a_location_alone_is_refused() -> None:
    model = onnx_model("y = Add(x, w)", w=np.ones((1, 8, 1, 1), np.float32))
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(BundleError, match="another file"):
        require_whole(model.SerializeToString())


def test_a_place_in_another_file_alone_is_refused() -> None:
    model = onnx_model("y = Add(x, w)", w=np.ones((1, 8, 1, 1), np.float32))
    model.graph.initializer[0].external_data.add(key="location", value="weights.bin")
    with pytest.raises(BundleError, match="another file"):
        require_whole(model.SerializeToString())


def test_weights_inside_are_taken_however_they_are_written() -> None:
    model = onnx_model("y = Add(x, w)", w=np.ones((1, 8, 1, 1), np.float32))
    model.graph.initializer.append(helper.make_tensor("floats", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0]))
    model.graph.initializer.append(numpy_helper.from_array(np.arange(5), "numbers"))
    model.graph.initializer[0].data_location = TensorProto.DEFAULT
    require_whole(model.SerializeToString())
    require_whole(tiny("float32", None).SerializeToString())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<?xml version='1.0'?><net/>",
        b"\x00\x00\x00\x00TFL3",
        b"\x08\x07",  # a version, and no graph
        b"\x3a\x05ab",  # a graph longer than the file
        b"\x38\x01",  # a graph that is a number
        b"\x3a" + b"\xff" * 11,
        b"\x3b\x3c",  # a group
        b"\x02\x00",  # field 0
    ],
)
def test_what_is_no_onnx(data: bytes) -> None:
    with pytest.raises(BundleError, match="is no ONNX model"):
        require_whole(data)


def test_a_cut_model_is_none() -> None:
    data = onnx_model("y = Relu(x)").SerializeToString()
    whole = 0
    for size in range(len(data)):
        try:
            require_whole(data[:size])
            whole += 1  # cut between two fields of the model
        except BundleError:
            pass
    assert whole <= 2


def test_branches_in_branches_end() -> None:
    data = b""
    for _ in range(2 * MAX_DEPTH):
        node = b"\x0a" + _sized(b"\x2a" + _sized(b"\x32" + _sized(data)))
        data = node
    with pytest.raises(BundleError, match=f"more than {MAX_DEPTH} messages"):
        require_whole(b"\x3a" + _sized(data))


def _sized(data: bytes) -> bytes:
    size, head = len(data), b""
    while size > 0x7F:
        head += bytes([size & 0x7F | 0x80])
        size >>= 7
    return head + bytes([size]) + data


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_bundle_whose_graph_reads_another_file_does_not_run(
    make_bundle: MakeBundle,  # noqa: F811
    backend: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny("float32", (32, 48))
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    for folder in (tmp_path, tmp_path / "tiny"):
        folder.mkdir(exist_ok=True)
        (folder / "beside.bin").write_bytes(weights.raw_data)
    monkeypatch.chdir(tmp_path)
    size = len(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="beside.bin")
    weights.external_data.add(key="length", value=str(size))
    (tmp_path / "tiny").rename(tmp_path / "kept")
    bundle = make_bundle(files={"model.onnx": model.SerializeToString(), "beside.bin": b"x"})
    (bundle.path / "beside.bin").write_bytes((tmp_path / "beside.bin").read_bytes())
    with pytest.raises(BundleError, match=r"model\.onnx keeps weights in another file.*build it again"):
        open_session(bundle, backend)


def test_a_graph_in_openvinos_own_format_does_not_run(make_bundle: MakeBundle, tmp_path: Path) -> None:  # noqa: F811
    import openvino

    openvino.save_model(openvino.Core().read_model(tiny("float32", (32, 48)).SerializeToString()), tmp_path / "ir.xml")
    bundle = make_bundle(files={"model.onnx": (tmp_path / "ir.xml").read_bytes()})
    (bundle.path / "model.bin").write_bytes((tmp_path / "ir.bin").read_bytes())
    with pytest.raises(BundleError, match=r"model\.onnx is no ONNX model"):
        open_session(bundle, "openvino")
