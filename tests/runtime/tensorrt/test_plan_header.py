"""Who wrote a plan, told from its first bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from refinenet_edge.bundle import PLAN
from refinenet_edge.errors import BundleError
from refinenet_edge.runtime.libraries import load_library
from refinenet_edge.runtime.tensorrt.plan_header import PlanHeader, read_header

HEADER = bytes(20) + bytes([10, 3, 0, 30]) + b"the rest"


def test_a_plan_of_tensorrt_names_its_version(tmp_path: Path) -> None:
    (tmp_path / "model.plan").write_bytes(b"ftrt" + HEADER)
    assert read_header(tmp_path / "model.plan") == PlanHeader("tensorrt", "10.3.0.30")


def test_a_plan_of_tensorrt_rtx_names_its_version(tmp_path: Path) -> None:
    (tmp_path / "model.plan").write_bytes(b"vtrt" + HEADER)
    assert read_header(tmp_path / "model.plan") == PlanHeader("tensorrt-rtx", "10.3.0.30")


def test_a_real_plan_names_the_library_that_built_it(dynamic_bundle: Path) -> None:
    version = load_library("tensorrt-rtx").__version__
    assert read_header(dynamic_bundle / PLAN) == PlanHeader("tensorrt-rtx", version)


@pytest.mark.parametrize(
    "data", [b"", b"ftrt", b"ftrt" + HEADER[:23], b"\x08\x09onnx" + HEADER, b"\x7fELF" + HEADER], ids=range(5)
)
def test_what_is_no_plan_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.plan").write_bytes(data)
    with pytest.raises(BundleError, match=r"model\.plan is no TensorRT plan: it starts with b'"):
        read_header(tmp_path / "model.plan")


@pytest.mark.parametrize("name", ["", "missing.plan"])
def test_what_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="cannot be read: "):
        read_header(tmp_path / name)
