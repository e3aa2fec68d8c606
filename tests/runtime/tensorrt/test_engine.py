"""What a plan must be to be loaded, how its inputs and outputs lie in memory, and who wrote it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refinenet_edge.bundle import PLAN, Bundle
from refinenet_edge.errors import BundleError, EngineMismatch
from refinenet_edge.records import EngineInfo
from refinenet_edge.runtime.libraries import load_library
from refinenet_edge.runtime.tensorrt.engine import DTYPES, Engine, PlanHeader, check_engine, read_header
from refinenet_edge.runtime.tensorrt.library import logger_of
from tests.runtime.fake_tensorrt import BACKENDS, MODES, WORDS
from tests.runtime.gpu import Gpu
from tests.runtime.tinynet import build_plan, tiny

MakeBundle = Callable[..., Bundle]
Load = Callable[..., Engine]
INFO = EngineInfo("tensorrt", "10.3.0.30", ("sm_87",), 0)
HEADER = bytes(20) + bytes([10, 3, 0, 30]) + b"the rest"  # of a plan, after its tag


@pytest.mark.parametrize(
    ("fields", "backend", "version", "device"),
    [
        ({}, "tensorrt", "10.3.0.26", "sm_87"),
        ({"version_compatible": True}, "tensorrt-lean", "10.16.2", "sm_87"),
        ({"version_compatible": True}, "tensorrt-dispatch", "11.1.0", "sm_87"),
        ({"targets": ("sm_86", "sm_89")}, "tensorrt", "10.3.0", "sm_89"),
        ({"targets": ("default",)}, "tensorrt", "10.3.0", "sm_120"),
        ({"hardware_compatible": True}, "tensorrt", "10.3.0", "sm_120"),
        ({"flavour": "tensorrt-rtx", "version": "1.7.1.116"}, "tensorrt-rtx", "1.7.1.116", "sm_87"),
    ],
)
def test_an_engine_that_fits(
    make_bundle: MakeBundle, fields: dict[str, Any], backend: str, version: str, device: str
) -> None:
    info = replace(INFO, **fields)
    assert check_engine(make_bundle(engine=info), backend, version, device) == info


@pytest.mark.parametrize(
    ("fields", "backend", "version", "device", "said"),
    [
        ({}, "tensorrt", "10.7.0", "sm_87", "was built with tensorrt 10.3.0.30, this machine has 10.7.0"),
        ({"version_compatible": True}, "tensorrt", "10.1.0", "sm_87", "this machine has 10.1.0"),
        ({}, "tensorrt-lean", "10.3.0", "sm_87", "tensorrt-lean runs only version-compatible ones"),
        ({}, "tensorrt", "10.3.0", "sm_110", "was built for sm_87, this GPU is sm_110"),
        ({}, "tensorrt-rtx", "1.7.1", "sm_87", "holds a tensorrt engine, tensorrt-rtx cannot run it"),
        ({"flavour": "tensorrt-rtx"}, "tensorrt", "10.3.0", "sm_87", "holds a tensorrt-rtx engine"),
        ({"flavour": "tensorrt-rtx", "version": "1.6.0"}, "tensorrt-rtx", "1.7.1", "sm_87", "this machine has 1.7.1"),
    ],
)
def test_an_engine_that_does_not_fit(
    make_bundle: MakeBundle, fields: dict[str, Any], backend: str, version: str, device: str, said: str
) -> None:
    with pytest.raises(
        EngineMismatch, match=rf"tiny .*{said}.*; build its plan here: refinenet-edge plan .*tiny --backend tensorrt"
    ):
        check_engine(make_bundle(engine=replace(INFO, **fields)), backend, version, device)


def test_a_bundle_without_an_engine(make_bundle: MakeBundle) -> None:
    with pytest.raises(EngineMismatch, match="holds no engine"):
        check_engine(make_bundle(), "tensorrt", "10.3.0", "sm_87")


@pytest.fixture(params=MODES)
def load(request: pytest.FixtureRequest, make_plan: Callable[..., Bundle]) -> Load:
    """load(fields of the plan): by TensorRT, TensorRT-RTX and the lean runtime."""
    backend = BACKENDS.get(request.param, "tensorrt")
    return lambda **fields: Engine(make_plan(Gpu(), request.param, **fields), backend, "sm_87", allow_host_code=True)


def test_channels_in_eights_lie_last_where_the_engine_has_them_so(load: Load) -> None:
    assert load(channel_last=True).channel_last == {"image", "logits"}
    assert load(channel_last=False).channel_last == set()


OLD_WORDS = "Channel major FP16 format where C % 8 == 0 and H Stride % 32 == 0"  # an example in the headers


@pytest.mark.parametrize(
    ("layout", "channel_last"),
    [
        ("CHW2", True),
        ("CHW2", False),
        ("HWC8", False),  # of 3 channels: there are gaps between them
        pytest.param(OLD_WORDS, True, id="words"),
        pytest.param("", True, id="no words"),
    ],
)
def test_a_layout_that_is_not_ours_is_refused(
    make_plan: Callable[..., Bundle], layout: str, channel_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such memory would be fed and read as something else."""
    for release in MODES if layout in WORDS else ("lean",):
        bundle = make_plan(Gpu(), release, layout=layout or " ", channel_last=channel_last)
        with pytest.raises(BundleError, match=r"'\w+', 1x\d+xdim2xdim3, lies in memory as '.*': only LINEAR, and HWC8"):
            Engine(bundle, BACKENDS.get(release, "tensorrt"), "sm_87", allow_host_code=True)


def test_the_real_library_has_our_names() -> None:
    rtx = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    assert set(DTYPES) <= set(rtx.DataType.__members__)
    assert rtx.DataType.FLOAT.name == "FLOAT"
    assert {"LINEAR", "HWC8"} <= set(rtx.TensorFormat.__members__)


@pytest.mark.parametrize(("dtype", "size"), [("float16", (32, 48)), ("float32", None)])
def test_a_real_plans_header_is_judged_without_a_gpu(dtype: str, size: tuple[int, int] | None) -> None:
    rtx: Any = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    built = build_plan(rtx, tiny(dtype, size))
    runtime = rtx.Runtime(logger_of(rtx))
    validity, diagnostics = runtime.get_engine_validity(built[: runtime.engine_header_size])
    assert validity == rtx.EngineValidity.INVALID  # there is no GPU for it
    assert isinstance(diagnostics, int)


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
