"""The model repository, by Triton's own schema; and served by a real tritonserver."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("tritonclient", reason="tritonclient is in the environment of `make triton`")

from google.protobuf import text_format
from triton_server import Server, binaries, serve
from tritonclient.grpc import model_config_pb2 as schema

from refinenet_edge.bundle import MANIFEST, MODEL, PLAN, Bundle, open_bundle, write_bundle
from refinenet_edge.cli import main
from refinenet_edge.cluster.triton import export, network_config
from refinenet_edge.errors import InputError
from refinenet_edge.records import Frame, TensorSpec
from refinenet_edge.runtime import Segmenter
from refinenet_edge.scenes import scene
from tests.cluster.inputs import contents, tiny_bundle
from tests.runtime.tinynet import CLASSES

pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("default")]


def read(path: Path) -> Any:
    return text_format.Parse(path.read_text(), schema.ModelConfig())


def with_plan(bundle: Bundle, **changes: Any) -> Bundle:
    """As if TensorRT had built it."""
    manifest = dataclasses.replace(bundle.manifest, backend="tensorrt", **changes)
    files = {MODEL: bundle.read(MODEL), PLAN: b"a plan"}
    folder = bundle.path.with_name("plan")
    write_bundle(folder, manifest, files)
    return open_bundle(folder)


class TestRepository:
    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Bundle:
        return open_bundle(tiny_bundle(tmp_path / "tiny"))

    def test_the_folders(self, bundle: Bundle, tmp_path: Path) -> None:
        assert export(bundle, tmp_path / "r") == (tmp_path / "r" / "tiny" / "1", tmp_path / "r" / "tiny_network" / "1")
        found = contents(tmp_path / "r")
        assert sorted(found) == [
            *("tiny/1/bundle/manifest.json", "tiny/1/bundle/model.onnx", "tiny/1/model.py"),
            *("tiny/config.pbtxt", "tiny/labels.txt"),
            *("tiny_network/1/model.onnx", "tiny_network/config.pbtxt", "tiny_network/labels.txt"),
        ]
        assert open_bundle(tmp_path / "r" / "tiny" / "1" / "bundle").manifest == bundle.manifest
        assert found["tiny_network/1/model.onnx"] == bundle.read(MODEL)
        assert found["tiny/labels.txt"].decode().splitlines() == list(bundle.manifest.labels.names)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["r", "tiny"]

    def test_frames_to_labels(self, bundle: Bundle, tmp_path: Path) -> None:
        folder, _ = export(bundle, tmp_path / "r", "street")
        config = read(folder.parent / "config.pbtxt")
        assert (config.name, config.backend, config.max_batch_size) == ("street", "python", 8)
        assert [(i.name, i.data_type, list(i.dims), i.optional) for i in config.input] == [
            ("image", schema.TYPE_UINT8, [-1], True),
            ("frame", schema.TYPE_UINT8, [-1, -1, 3], True),
        ]
        (labels,) = config.output
        assert (labels.name, list(labels.dims), labels.label_filename) == ("labels", [-1, -1], "labels.txt")
        assert config.HasField("dynamic_batching")
        assert config.dynamic_batching.max_queue_delay_microseconds == 0
        assert config.version_policy.latest.num_versions == 1
        assert [(g.count, g.kind, list(g.gpus)) for g in config.instance_group] == [
            (1, schema.ModelInstanceGroup.KIND_CPU, [])
        ]
        assert config.parameters["backend"].string_value == "openvino"

    def test_the_bare_graph(self, bundle: Bundle) -> None:
        config = network_config(bundle, "n")
        assert (config.platform, config.max_batch_size) == ("onnxruntime_onnx", 0)
        assert not config.HasField("dynamic_batching")  # the graph takes one image
        assert config.parameters["preprocessing"].string_value.startswith("imagenet: RGB (x / 255 - (0.485,")
        ends = [(t.name, t.data_type, list(t.dims)) for t in (*config.input, *config.output)]
        assert ends == [("image", schema.TYPE_FP32, [1, 3, 32, 48]), ("logits", schema.TYPE_FP32, [1, CLASSES, -1, -1])]

    def test_a_plan_is_for_the_gpu_and_its_ends_lie_as_they_were_built(self, bundle: Bundle, tmp_path: Path) -> None:
        inputs = (TensorSpec("image", "float16", (1, 8, 32, 48)),)
        outputs = (TensorSpec("logits", "float16", (1, 8, 8, 12)),)
        planned = with_plan(bundle, inputs=inputs, outputs=outputs)
        _, folder = export(planned, tmp_path / "r")
        config = read(folder.parent / "config.pbtxt")
        assert config.platform == "tensorrt_plan"
        assert [(g.kind, list(g.gpus)) for g in config.instance_group] == [(schema.ModelInstanceGroup.KIND_GPU, [0])]
        assert config.input[0].is_non_linear_format_io
        assert config.output[0].is_non_linear_format_io
        assert (folder / PLAN).read_bytes() == b"a plan"
        assert not network_config(with_plan(bundle), "n").input[0].is_non_linear_format_io

    def test_another_export_is_the_next_version_and_keeps_what_was_tuned(self, bundle: Bundle, tmp_path: Path) -> None:
        export(bundle, tmp_path / "r")
        path = tmp_path / "r" / "tiny" / "config.pbtxt"
        config = read(path)
        config.instance_group[0].count = 3
        path.write_text(text_format.MessageToString(config))
        first, second = export(bundle, tmp_path / "r")
        assert (first.name, second.name) == ("2", "2")
        assert read(path).instance_group[0].count == 3

    def test_a_next_version_is_prepared_as_the_one_before(self, bundle: Bundle, tmp_path: Path) -> None:
        export(bundle, tmp_path / "r", "a")
        path = tmp_path / "r" / "a_network" / "config.pbtxt"
        config = read(path)
        del config.parameters["preprocessing"]  # as it was written when there was but one
        path.write_text(text_format.MessageToString(config))
        export(bundle, tmp_path / "r", "a")
        manifest = dataclasses.replace(bundle.manifest, frame=dataclasses.replace(bundle.manifest.frame, order="bgr"))
        folder = tmp_path / "other"
        write_bundle(folder, manifest, {MODEL: bundle.read(MODEL)})
        with pytest.raises(InputError, match="is another model"):
            export(open_bundle(folder), tmp_path / "r", "a")

    @pytest.mark.parametrize("what", ["size", "labels", "config"])
    def test_another_model_of_the_name_is_refused(self, bundle: Bundle, tmp_path: Path, what: str) -> None:
        export(bundle, tmp_path / "r")
        if what == "config":
            (tmp_path / "r" / "tiny" / "config.pbtxt").write_text("not a config")
        elif what == "size":
            bundle = open_bundle(tiny_bundle(tmp_path / "b", (16, 16)))
        else:
            (tmp_path / "r" / "tiny" / "labels.txt").write_text("cat\n")
        before = contents(tmp_path / "r")
        with pytest.raises(InputError, match="is there and is another model"):
            export(bundle, tmp_path / "r", "tiny")
        assert contents(tmp_path / "r") == before

    @pytest.mark.parametrize("name", ["", "..", "a/b", "a b"])
    def test_names_that_are_not(self, bundle: Bundle, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match="is no name for a model"):
            export(bundle, tmp_path / "r", name)
        assert not (tmp_path / "r").exists()

    def test_the_command(self, bundle: Bundle, tmp_path: Path) -> None:
        done = CliRunner().invoke(main, ["export-triton", str(bundle.path), "--repository", str(tmp_path / "r")])
        assert done.exit_code == 0, done.output
        assert "".join(done.output.split()).count("r/tiny") == 2
        assert (tmp_path / "r" / "tiny" / "1" / "bundle" / MANIFEST).is_file()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture(scope="module")
def server(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if binaries() is None:
        pytest.skip("nvidia-pytriton, which carries tritonserver, is not installed: make triton")
    folder = tmp_path_factory.mktemp("triton")
    export(bundle, folder / "repository")
    with serve(folder / "repository", ("tiny",), folder) as started:
        yield started


@pytest.fixture(params=["http", "grpc"])
def asking(request: pytest.FixtureRequest, server: Server) -> Iterator[tuple[Any, Any]]:
    """A client and its module."""
    import tritonclient.grpc
    import tritonclient.http

    module = tritonclient.http if request.param == "http" else tritonclient.grpc
    with module.InferenceServerClient(getattr(server, request.param)) as client:
        yield client, module


def ask(asking: tuple[Any, Any], **tensors: np.ndarray) -> np.ndarray:
    client, module = asking
    inputs = [module.InferInput(name, array.shape, "UINT8") for name, array in tensors.items()]
    for tensor, array in zip(inputs, tensors.values(), strict=True):
        tensor.set_data_from_numpy(array)
    return np.asarray(client.infer("tiny", inputs).as_numpy("labels"))


def encoded(frame: Frame) -> np.ndarray:
    return np.asarray(cv2.imencode(".png", frame)[1])[None]


def as_file(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)[None]


def frames_of(count: int, size: tuple[int, int] = (50, 70)) -> list[Frame]:
    return [scene(3, index, size)[0] for index in range(count)]


@pytest.fixture(scope="module")
def local(bundle: Bundle) -> Iterator[Segmenter]:
    with Segmenter(bundle) as segmenter:
        yield segmenter


def test_answers_are_the_local_runtimes(asking: tuple[Any, Any], local: Segmenter) -> None:
    for size in ((50, 70), (512, 512), (33, 47)):
        (frame,) = frames_of(1, size)
        expected = local.segment(frame).labels[None]
        assert len(np.unique(expected)) > 1
        assert np.array_equal(ask(asking, frame=frame[None]), expected)
        assert np.array_equal(ask(asking, image=encoded(frame)), expected)
    frames = frames_of(3)
    expected = np.stack([local.segment(frame).labels for frame in frames])
    assert np.array_equal(ask(asking, frame=np.stack(frames)), expected)


def test_what_the_server_says_of_the_model(server: Server) -> None:
    import tritonclient.http as http

    with http.InferenceServerClient(server.http) as client:
        metadata = client.get_model_metadata("tiny")
    assert metadata["versions"] == ["1"]
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["image", "frame"]
    assert json.dumps(metadata["outputs"][0]["shape"]) == "[-1, -1, -1]"


MALFORMED = {
    "no image": ({"image": as_file(b"GIF89a")}, "is not a whole PNG"),
    "cut short": ({"image": encoded(*frames_of(1))[:, :200]}, "cannot be decoded"),
    "a bomb": (
        {"image": as_file(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\0\0\0\1\0\0")},
        "65536x65536 pixels, the limit",
    ),
    "two files": ({"image": np.repeat(encoded(*frames_of(1)), 2, axis=0)}, "a request has one image, this has 2"),
    "both": ({"image": encoded(*frames_of(1)), "frame": np.stack(frames_of(1))}, "one of them"),
    "four channels": ({"frame": np.zeros((1, 20, 20, 4), np.uint8)}, "shape"),
    "no pixel": ({"frame": np.zeros((1, 0, 20, 3), np.uint8)}, "pixels a side"),
    "too many": ({"frame": np.zeros((9, 20, 20, 3), np.uint8)}, "batch"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_request_gets_an_error_and_harms_nobody(
    asking: tuple[Any, Any], local: Segmenter, what: str
) -> None:
    from tritonclient.utils import InferenceServerException

    tensors, said = MALFORMED[what]
    (frame,) = frames_of(1)
    expected = local.segment(frame).labels[None]
    with ThreadPoolExecutor(1) as pool:
        beside = [pool.submit(ask, asking, frame=frame[None]) for _ in range(3)] if "grpc" in str(asking[1]) else []
        with pytest.raises(InferenceServerException, match=said):
            ask(asking, **tensors)
        assert all(np.array_equal(one.result(), expected) for one in beside)
    assert np.array_equal(ask(asking, frame=frame[None]), expected)


def test_a_thousand_requests_of_many_clients(server: Server, local: Segmenter) -> None:
    import tritonclient.grpc as grpc
    import tritonclient.http as http

    frames = [*frames_of(3), *frames_of(2, (41, 33))]
    expected = [local.segment(frame).labels[None] for frame in frames]

    def client(number: int) -> int:
        module, address = ((http, server.http), (grpc, server.grpc))[number % 2]
        right = 0
        with module.InferenceServerClient(address) as asking:
            for turn in range(50):
                index = (number + turn) % len(frames)
                tensors = {"image": encoded(frames[index])} if turn % 3 else {"frame": frames[index][None]}
                right += np.array_equal(ask((asking, module), **tensors), expected[index])
        return right

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(client, range(20))) == 1000
