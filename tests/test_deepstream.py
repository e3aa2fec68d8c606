"""nvinfer, by its documented arithmetic and keys, makes of what is exported the labels that the bundle has."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

from refinenet_edge import cli
from refinenet_edge.build import build
from refinenet_edge.bundle import open_bundle
from refinenet_edge.deepstream import export
from refinenet_edge.errors import BuildError, InputError
from refinenet_edge.records import PREPROCESSINGS, Batch, Recipe
from refinenet_edge.runtime import Segmenter
from tests.conftest import onnx_model, weights

SIZE = (32, 48)
FRAME = np.random.default_rng(6).integers(0, 256, (*SIZE, 3), np.uint8)
# the macros of gstnvinfer_property_parser.h, DeepStream 6.4 to 9.1, that such a network may have
DOCUMENTED = {
    "gie-unique-id",
    "process-mode",
    "interval",
    "labelfile-path",
    "gpu-id",
    "output-tensor-meta",
    "enable-dla",
    "use-dla-core",
    "batch-size",
    "network-mode",
    "model-engine-file",
    "int8-calib-file",
    "workspace-size",
    "output-blob-names",
    "network-type",
    "infer-dims",
    "output-io-formats",
    "layer-device-precision",
    "model-color-format",
    "net-scale-factor",
    "offsets",
    "mean-file",
    "maintain-aspect-ratio",
    "symmetric-padding",
    "scaling-filter",
    "scaling-compute-hw",
    "network-input-order",
    "onnx-file",
    "num-detected-classes",
    "segmentation-threshold",
    "segmentation-output-order",
}


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    path = tmp_path / "theirs.onnx"
    body = "a = Conv <strides = [2,2], pads = [1,1,1,1]> (x, u) b = Relu(a) y = Conv(b, w)"
    kernels = {"u": weights(16, 3, 3, 3), "w": weights(5, 16, 1, 1)}
    path.write_bytes(onnx_model(body, "float[1,3,H,W] x", "float[1,5,h,w] y", **kernels).SerializeToString())
    return path


def built(theirs: Path, **options: Any) -> Path:
    named = {"output": str(theirs.parent / "b"), "onnx": str(theirs), "size": SIZE, "preprocess": "imagenet"}
    return build(Recipe(**(named | {"backend": "tensorrt", "plan": False, "io": "plain"} | options))).path


def exported(theirs: Path, **options: Any) -> tuple[dict[str, str], Path, Path]:
    """The [property] group, its folder and the bundle."""
    bundle = built(theirs, **options)
    said = CliRunner().invoke(cli.main, ["export-deepstream", str(bundle), "-o", str(theirs.parent / "ds")])
    assert said.exit_code == 0, said.output
    parser = configparser.ConfigParser()
    parser.read(theirs.parent / "ds" / "config_infer.txt")
    assert parser.sections() == ["property"]
    return dict(parser["property"]), theirs.parent / "ds", bundle


def by_nvinfer(group: dict[str, str], folder: Path, frame: np.ndarray) -> np.ndarray:
    """y = net-scale-factor * (x - offsets[c]), then the class of the largest value above the threshold, else -1."""
    channels, height, width = map(int, group["infer-dims"].split(";"))
    assert (channels, height, width) == (3, *frame.shape[:2]) and group["network-input-order"] == "0"
    pixels = frame[:, :, ::-1] if group["model-color-format"] == "0" else frame
    offsets = np.array([float(value) for value in group["offsets"].split(";")], np.float32)
    fed = np.float32(group["net-scale-factor"]) * (pixels.astype(np.float32) - offsets)
    session = onnxruntime.InferenceSession(folder / group["onnx-file"], providers=["CPUExecutionProvider"])
    (name,) = (tensor.name for tensor in session.get_inputs())
    (values,) = session.run([group["output-blob-names"]], {name: np.ascontiguousarray(fed.transpose(2, 0, 1)[None])})
    assert values.dtype == np.float32 and len(values[0]) == int(group["num-detected-classes"])
    largest = values[0].max(0)
    assert np.allclose(values[0].sum(0), 1, atol=1e-3)
    labels: np.ndarray = np.where(largest > max(-1, float(group["segmentation-threshold"])), values[0].argmax(0), -1)
    return labels


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_its_labels_are_the_bundles(theirs: Path, name: str, precision: str) -> None:
    group, folder, bundle = exported(theirs, preprocess=name, precision=precision)
    with Segmenter(bundle, "onnxruntime") as segmenter:
        expected = segmenter.logits(FRAME)[0].argmax(0)
    found = by_nvinfer(group, folder, FRAME)
    assert len(np.unique(expected)) > 1
    assert (found == expected).mean() > (0.999 if precision == "fp32" else 0.99)
    onnx.checker.check_model(folder / "model.onnx", full_check=True)


def test_a_map_of_the_networks_own_size_in_bgr_with_means_and_deviations_of_its_own(theirs: Path) -> None:
    """nvinferserver reads a map of the network's size; nvinfer one of the output's."""
    said = {"order": "bgr", "mean": (10.0, 20.0, 30.0), "std": (2.0, 3.0, 4.0), "scale": 4.0, "preprocess": None}
    group, folder, bundle = exported(theirs, gives="full-logits", **said)
    with Segmenter(bundle, "onnxruntime") as segmenter:
        expected = segmenter.segment(FRAME).labels
    found = by_nvinfer(group, folder, FRAME)
    assert found.shape == SIZE and len(np.unique(expected)) > 1
    assert (found == expected).mean() > 0.999


def test_the_keys_are_documented_and_say_what_the_manifest_does(theirs: Path) -> None:
    group, folder, bundle = exported(theirs, preprocess="caffe", labels=None)
    assert set(group) <= DOCUMENTED
    expected = {"network-type": "2", "network-mode": "0", "infer-dims": "3;32;48", "model-color-format": "1"}
    assert {key: group[key] for key in expected} == expected
    assert (group["net-scale-factor"], group["offsets"]) == ("1.0", "103.939;116.779;123.68")
    assert {path.name for path in folder.iterdir()} == {"config_infer.txt", "model.onnx", "labels.txt", "colours.csv"}
    labels = open_bundle(bundle).manifest.labels
    assert (folder / "labels.txt").read_text().splitlines() == list(labels.names)
    rows = (folder / "colours.csv").read_text().splitlines()
    assert rows[1:] == [f"{i},{r},{g},{b}" for i, (r, g, b) in enumerate(labels.palette)]


def test_one_scale_for_all_needs_nothing_in_the_graph(theirs: Path) -> None:
    _, folder, _ = exported(theirs, preprocess="tf")
    assert [node.op_type for node in onnx.load(folder / "model.onnx").graph.node] == ["Conv", "Relu", "Conv", "Softmax"]


def test_standard_deviations_that_differ_are_in_the_graph(theirs: Path) -> None:
    group, folder, _ = exported(theirs)
    assert onnx.load(folder / "model.onnx").graph.node[0].op_type == "Div"
    assert float(group["net-scale-factor"]) == pytest.approx(1 / 255)


def test_frames_go_in_together(theirs: Path) -> None:
    group, folder, _ = exported(theirs, batch=Batch(1, 4, 8))
    assert group["batch-size"] == "8"
    said = (folder / "config_infer.txt").read_text()
    assert "--minShapes=image:1x3x32x48 --optShapes=image:4x3x32x48 --maxShapes=image:8x3x32x48\n" in said
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    shapes = [session.run(None, {"image": np.zeros((n, 3, *SIZE), np.float32)})[0].shape for n in (1, 3)]
    assert shapes == [(1, 5, 16, 24), (3, 5, 16, 24)]


def test_int8_is_left_to_trtexec(theirs: Path, tmp_path: Path) -> None:
    path = tmp_path / "wide.onnx"
    kernels = {"u": weights(16, 3, 3, 3), "v": weights(16, 16, 1, 1), "w": weights(5, 16, 1, 1)}
    body = "a = Conv <pads = [1,1,1,1]> (x, u) b = Relu(a) c = Conv(b, v) d = Relu(c) y = Conv(d, w)"
    path.write_bytes(onnx_model(body, "float[1,3,H,W] x", "float[1,5,h,w] y", **kernels).SerializeToString())
    group, folder, _ = exported(path, precision="int8", calib="scenes:0:2")
    assert "onnx-file" not in group and group["network-mode"] == "1"
    assert (
        "trtexec --onnx=model.onnx --saveEngine=model.plan --stronglyTyped" in (folder / "config_infer.txt").read_text()
    )


def test_black_around_a_frame_is_zero_without_a_mean(theirs: Path) -> None:
    group, _, _ = exported(theirs, preprocess="0-1", resize="letterbox")
    assert (group["maintain-aspect-ratio"], group["symmetric-padding"]) == ("1", "1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gives": "labels"}, "this bundle gives labels: build it with --backend tensorrt --no-plan --io plain"),
        ({"io": "padded", "precision": "fp16"}, "takes float16 with padded channels: build it with"),
        ({"resize": "letterbox"}, "nvinfer pads a frame with black before it subtracts the mean"),
        ({"batch": Batch(4, 4, 4)}, r"as many frames at once as have come, this bundle takes 4: .*, with --batch 1:4"),
        ({"dynamic": True}, "networks of one size, this one takes any"),
    ],
)
def test_what_it_would_run_otherwise_is_refused(theirs: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        export(open_bundle(built(theirs, **options)), theirs.parent / "ds")


def test_a_folder_that_is_there_stays(theirs: Path) -> None:
    bundle = open_bundle(built(theirs))
    (theirs.parent / "ds").mkdir()
    with pytest.raises(InputError, match="is there already"):
        export(bundle, theirs.parent / "ds")
    (theirs.parent / "file").write_text("")
    with pytest.raises(BuildError, match="cannot be written"):
        export(bundle, theirs.parent / "file" / "ds")
