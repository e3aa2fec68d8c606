"""Our messages of `ModelConfig` are those of Triton's own schema, and it reads what we write."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tritonclient", reason="tritonclient is in the environment of `make triton`")

from google.protobuf import descriptor_pb2, text_format
from tritonclient.grpc import model_config_pb2 as theirs

from refinenet_edge.bundle import open_bundle
from refinenet_edge.cluster.triton import export
from refinenet_edge.cluster.triton_config import MESSAGES, ModelConfig, read_config
from refinenet_edge.records import TensorSpec
from tests.cluster.inputs import tiny_bundle
from tests.cluster.test_triton import with_plan

pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("default")]


def fields(descriptor: Any) -> dict[str, tuple[Any, ...]]:
    """Number, type and label of each field, and the values of an enumeration."""
    proto = descriptor_pb2.DescriptorProto()
    descriptor.CopyToProto(proto)
    enums = {field.name: field.enum_type for field in descriptor.fields if field.enum_type}
    values = {name: [(value.name, value.number) for value in enum.values] for name, enum in enums.items()}
    return {
        field.name: (field.number, field.type, field.label, field.type_name.rpartition(".")[2], values.get(field.name))
        for field in proto.field
    }


def test_fields_and_values_are_tritons() -> None:
    compared = set()

    def compare(own: Any, known: Any) -> None:
        ours, tritons = fields(own), fields(known)
        assert ours == {field: tritons[field] for field in ours}
        if own.name in ("ModelInput", "ModelOutput"):  # clients rely on all of these
            assert ours == tritons
        compared.add(own.name)
        for field in own.fields:
            if field.message_type:
                compare(field.message_type, known.fields_by_name[field.name].message_type)

    compare(ModelConfig.DESCRIPTOR, theirs.ModelConfig.DESCRIPTOR)
    assert compared == set(MESSAGES)


@pytest.mark.parametrize("plan", [False, True])
def test_triton_reads_what_is_written(tmp_path: Path, plan: bool) -> None:
    bundle = open_bundle(tiny_bundle(tmp_path / "tiny"))
    if plan:
        half = (TensorSpec("image", "float16", (1, 8, 32, 48)),)
        bundle = with_plan(bundle, inputs=half, outputs=(dataclasses.replace(half[0], name="logits"),))
    for folder in export(bundle, tmp_path / "r"):
        text = (folder.parent / "config.pbtxt").read_text()
        read, ours = text_format.Parse(text, theirs.ModelConfig()), read_config(text)
        assert read.SerializeToString(deterministic=True) == ours.SerializeToString(deterministic=True)
