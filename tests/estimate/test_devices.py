"""The devices that come with the package, and files that describe none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from refinenet_edge.errors import InputError
from refinenet_edge.estimate.devices import Device, devices, find_device, read_devices

GOOD = """
[mine]
title = "A board"
mode = "all of it"
sm = "sm_87"
gpu_mhz = 1000
tensor_tflops = { fp16 = 8, int8 = 16 }
cuda_tflops = { fp32 = 1, fp16 = 2 }
bandwidth_gbs = 100
cache_mib = 2
memory_gb = 8
source = ["its data sheet"]
"""


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "board.toml"
    path.write_text(GOOD)
    return path


def test_the_boards_that_are_asked_for_are_there() -> None:
    assert {"orin-nano", "orin-nx", "agx-orin", "thor", "rtx4090"} <= devices().keys()


@pytest.mark.parametrize("name", devices())
def test_every_device_has_sources_and_dense_rates(name: str) -> None:
    found = devices()[name]
    assert any("nvidia.com" in line for line in found.source)
    assert find_device(name) == (name, found)
    tensor = found.tensor_tflops
    # dense: int8 is twice float16, and TF32 at most half of it; a sparse figure beside a dense one would break this
    assert tensor["int8"] == pytest.approx(2 * tensor["fp16"], rel=0.01)
    assert tensor["tf32"] <= 0.51 * tensor["fp16"]
    assert tensor.get("fp8", tensor["int8"]) == tensor["int8"]
    assert found.link_gbs is None or found.sm == "sm_89"  # a Jetson's GPU shares the memory


@pytest.mark.parametrize(("name", "sms"), [("orin-nano", 8), ("orin-nx", 8), ("orin-nano-super", 8), ("agx-orin", 16)])
def test_orin_is_sms_times_operations_times_clock(name: str, sms: int) -> None:
    found = devices()[name]
    each = sms * found.gpu_mhz / 1e6  # TFLOPS of one operation per clock and SM
    assert found.cuda_tflops == pytest.approx({"fp32": 256 * each, "fp16": 512 * each}, rel=0.01)
    assert found.tensor_tflops == pytest.approx(
        {"tf32": 1024 * each, "fp16": 2048 * each, "int8": 4096 * each}, rel=0.01
    )


def test_precisions_are_those_of_the_tensor_cores() -> None:
    assert devices()["agx-orin"].precisions == ("fp32", "fp16", "int8")  # Orin has no FP8
    assert devices()["thor"].precisions == ("fp32", "fp16", "int8", "fp8")


def test_a_file_of_ones_own(written: Path) -> None:
    name, found = find_device(str(written))
    assert name == "mine"
    assert found == Device(
        title="A board",
        mode="all of it",
        sm="sm_87",
        gpu_mhz=1000,
        tensor_tflops={"fp16": 8, "int8": 16},
        cuda_tflops={"fp32": 1, "fp16": 2},
        bandwidth_gbs=100,
        cache_mib=2,
        memory_gb=8,
        source=("its data sheet",),
    )
    assert dataclasses.replace(found, tensor_tflops={}).precisions == ("fp32", "fp16")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("bandwidth_gbs = 100", "", "device 'mine': bandwidth_gbs: missing"),
        ("bandwidth_gbs = 100", "bandwidth_gbs = -1", "bandwidth_gbs: -1.0 is not a positive number"),
        ("bandwidth_gbs = 100", "bandwidth_gbs = inf", "bandwidth_gbs: inf is not a positive number"),
        ("bandwidth_gbs = 100", 'bandwidth_gbs = "fast"', "bandwidth_gbs: .*'fast'"),
        ("bandwidth_gbs = 100", "bandwidth = 100", "bandwidth: unknown field"),
        ("fp16 = 8", "fp16 = 0", "tensor_tflops.fp16: 0.0 is not a positive number"),
        ("int8 = 16", "int4 = 16", "tensor_tflops: no precision 'int4'; there are tf32, fp16, int8, fp8"),
        ("fp32 = 1, ", "", "cuda_tflops.fp32: missing"),
        ('source = ["its data sheet"]', "source = []", "source: say where the figures are from"),
        ("[mine]", "mine = 3\n[other]", "device 'mine': .*an object expected"),
        ("[mine]", "[mine", "cannot be read"),
    ],
)
def test_what_does_not_fit_is_named(written: Path, old: str, new: str, says: str) -> None:
    assert old in GOOD
    written.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(InputError, match=says):
        find_device(str(written))


def test_a_file_holds_one_device(written: Path) -> None:
    written.write_text(GOOD + GOOD.replace("mine", "other"))
    assert list(read_devices(written)) == ["mine", "other"]
    with pytest.raises(InputError, match=r"holds 2 devices \(mine, other\): expected exactly one"):
        find_device(str(written))


def test_what_is_no_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no device 'orin'; there are orin-nano, "):
        find_device("orin")
    with pytest.raises(InputError, match=r"no file at .*none\.toml"):
        find_device(str(tmp_path / "none.toml"))
    (tmp_path / "large.toml").write_text("# " + "x" * (64 << 10))
    with pytest.raises(InputError, match="is larger than 65536 bytes"):
        find_device(str(tmp_path / "large.toml"))
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    with pytest.raises(InputError, match="cannot be read"):
        find_device(str(tmp_path / "binary"))
