"""The model repository; Triton's own schema and server read it in test_triton_config.py and test_triton_server.py."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("google.protobuf", reason="protobuf comes with onnx")

from refinenet_edge.bundle import MANIFEST, MODEL, PLAN, Bundle, open_bundle, write_bundle
from refinenet_edge.cli import main
from refinenet_edge.cluster.triton import export, frames_config, network_config
from refinenet_edge.cluster.triton_config import read_config, write_config
from refinenet_edge.errors import InputError
from refinenet_edge.records import Batch, TensorSpec
from tests.cluster.inputs import contents, tiny_bundle
from tests.runtime.tinynet import CLASSES

TYPE_UINT8, TYPE_FP32, KIND_GPU, KIND_CPU = 2, 11, 1, 2  # of Triton's model_config.proto


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
        config = read_config((folder.parent / "config.pbtxt").read_text())
        assert (config.name, config.backend, config.max_batch_size) == ("street", "python", 8)
        assert [(i.name, i.data_type, list(i.dims), i.optional) for i in config.input] == [
            ("image", TYPE_UINT8, [-1], True),
            ("frame", TYPE_UINT8, [-1, -1, 3], True),
        ]
        (labels,) = config.output
        assert (labels.name, list(labels.dims), labels.label_filename) == ("labels", [-1, -1], "labels.txt")
        assert config.HasField("dynamic_batching")
        assert config.dynamic_batching.max_queue_delay_microseconds == 0
        assert config.version_policy.latest.num_versions == 1
        assert [(g.count, g.kind, list(g.gpus)) for g in config.instance_group] == [(1, KIND_CPU, [])]
        assert config.parameters["backend"].string_value == "openvino"

    def test_the_bare_graph(self, bundle: Bundle) -> None:
        config = network_config(bundle, "n")
        assert (config.platform, config.max_batch_size) == ("onnxruntime_onnx", 0)
        assert not config.HasField("dynamic_batching")  # the graph takes one image
        assert config.parameters["preprocessing"].string_value.startswith("imagenet: RGB (x / 255 - (0.485,")
        ends = [(t.name, t.data_type, list(t.dims)) for t in (*config.input, *config.output)]
        assert ends == [("image", TYPE_FP32, [1, 3, 32, 48]), ("logits", TYPE_FP32, [1, CLASSES, -1, -1])]

    @pytest.mark.parametrize(
        ("text", "most", "first"),
        [("1:4:8", 8, []), ("4", 0, [4]), ("2:8", 0, [-1])],
        ids=["range", "fixed", "not one"],
    )
    def test_triton_puts_together_what_the_graph_takes(
        self, bundle: Bundle, text: str, most: int, first: list[int]
    ) -> None:
        """Where it takes one frame and more: Triton may send any number up to the most."""
        batch = Batch.parse(text)
        frames = batch.most if batch.fixed else "batch"
        ends = {
            "inputs": (TensorSpec("image", "float32", (frames, 3, 32, 48)),),
            "outputs": (TensorSpec("labels", "uint8", (frames, 32, 48)),),
        }
        manifest = dataclasses.replace(bundle.manifest, batch=batch, **ends)
        batched = dataclasses.replace(bundle, manifest=manifest)
        config = network_config(batched, "n")
        assert config.max_batch_size == most
        assert [list(t.dims) for t in (*config.input, *config.output)] == [[*first, 3, 32, 48], [*first, 32, 48]]
        assert config.HasField("dynamic_batching") == bool(most)
        assert frames_config(batched, "n").max_batch_size == batch.most

    def test_a_plan_is_for_the_gpu_and_its_ends_lie_as_they_were_built(self, bundle: Bundle, tmp_path: Path) -> None:
        inputs = (TensorSpec("image", "float16", (1, 8, 32, 48)),)
        outputs = (TensorSpec("logits", "float16", (1, 8, 8, 12)),)
        planned = with_plan(bundle, inputs=inputs, outputs=outputs)
        _, folder = export(planned, tmp_path / "r")
        config = read_config((folder.parent / "config.pbtxt").read_text())
        assert config.platform == "tensorrt_plan"
        assert [(g.kind, list(g.gpus)) for g in config.instance_group] == [(KIND_GPU, [0])]
        assert config.input[0].is_non_linear_format_io
        assert config.output[0].is_non_linear_format_io
        assert (folder / PLAN).read_bytes() == b"a plan"
        assert not network_config(with_plan(bundle), "n").input[0].is_non_linear_format_io

    def test_what_was_tuned_by_hand_may_be_what_we_do_not_know(self, bundle: Bundle, tmp_path: Path) -> None:
        export(bundle, tmp_path / "r")
        path = tmp_path / "r" / "tiny" / "config.pbtxt"
        tuned = path.read_text() + "optimization { priority: PRIORITY_MAX }\nresponse_cache { enable: true }\n"
        path.write_text(tuned)
        assert export(bundle, tmp_path / "r")[0].name == "2"
        assert path.read_text() == tuned

    def test_another_input_than_ours_is_another_model(self, bundle: Bundle, tmp_path: Path) -> None:
        export(bundle, tmp_path / "r")
        path = tmp_path / "r" / "tiny_network" / "config.pbtxt"
        ours = 'name: "image"'
        path.write_text(path.read_text().replace(ours, f"{ours} reshape {{ shape: [3, 32, 48] }}", 1))
        with pytest.raises(InputError, match="is another model"):
            export(bundle, tmp_path / "r")

    def test_another_export_is_the_next_version_and_keeps_what_was_tuned(self, bundle: Bundle, tmp_path: Path) -> None:
        export(bundle, tmp_path / "r")
        path = tmp_path / "r" / "tiny" / "config.pbtxt"
        config = read_config(path.read_text())
        config.instance_group[0].count = 3
        path.write_text(write_config(config))
        first, second = export(bundle, tmp_path / "r")
        assert (first.name, second.name) == ("2", "2")
        assert read_config(path.read_text()).instance_group[0].count == 3

    def test_a_next_version_is_prepared_as_the_one_before(self, bundle: Bundle, tmp_path: Path) -> None:
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

    def test_without_protobuf_it_is_named(
        self, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in [n for n in sys.modules if n.startswith("refinenet_edge.cluster.triton")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "google.protobuf", None)
        done = CliRunner().invoke(main, ["export-triton", str(bundle.path), "--out", str(tmp_path / "r")])
        assert done.exit_code == 3
        assert "google.protobuf is not installed: pip install 'refinenet-edge[triton]'" in " ".join(done.stderr.split())

    def test_the_command(self, bundle: Bundle, tmp_path: Path) -> None:
        done = CliRunner().invoke(main, ["export-triton", str(bundle.path), "--repository", str(tmp_path / "r")])
        assert done.exit_code == 0, done.output
        assert "".join(done.output.split()).count("r/tiny") == 2
        assert (tmp_path / "r" / "tiny" / "1" / "bundle" / MANIFEST).is_file()
