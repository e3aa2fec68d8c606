"""What is found on a machine, and the fix for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from refinenet_edge import doctor
from refinenet_edge.doctor import Finding, examine
from refinenet_edge.errors import MissingExtra, RefineNetEdgeError
from refinenet_edge.runtime.cuda import failed

Version = Callable[[str], str | None]


def find(subject: str) -> list[Finding]:
    return [finding for finding in examine() if finding.subject == subject]


def test_this_machine_is_in_order() -> None:
    findings = list(examine())
    assert not [finding for finding in findings if finding.state == "wrong"]
    found = {finding.subject: finding.state for finding in findings}
    assert found["machine"] == found["run on openvino"] == found["run on onnxruntime"] == "ok"
    assert found["build for tensorrt-rtx"] == "ok"
    assert all(finding.fix or finding.state != "wrong" for finding in findings)


def test_a_machine_without_any_backend_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    why = "is not installed: pip install x"
    reasons = {"openvino": f"openvino {why}", "onnxruntime": f"onnxruntime {why}", "tensorrt": "no GPU: buy one"}
    monkeypatch.setattr(doctor, "available", lambda: reasons)
    monkeypatch.setattr(doctor, "gpu_problem", lambda: "")
    assert find("run on openvino") == [
        Finding("run on openvino", "absent", "openvino is not installed", "pip install x")
    ]
    (verdict,) = find("run a bundle")
    assert (verdict.state, verdict.fix) == ("wrong", "pip install 'refinenet-edge[cpu]'")


def test_a_machine_with_one_backend_is_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available", lambda: {"openvino": "", "onnxruntime": "absent: install it"})
    assert find("run a bundle") == []


def test_a_machine_without_a_gpu_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "gpu_problem", lambda: "no NVIDIA driver")
    assert find("NVIDIA GPU") == [Finding("NVIDIA GPU", "absent", "no NVIDIA driver")]
    assert find("run on tensorrt") == [Finding("run on tensorrt", "absent", "needs an NVIDIA GPU")]


def test_a_gpu_is_named_by_its_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "gpu_problem", lambda: "")
    monkeypatch.setattr(doctor, "gpu_capability", lambda: "sm_87")
    monkeypatch.setattr(doctor, "driver_cuda", lambda: (12, 6))
    assert find("NVIDIA GPU") == [Finding("NVIDIA GPU", "ok", "sm_87, driver for CUDA 12.6")]


def test_a_head_that_was_not_built_is_said_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find("labels from logits") == [Finding("labels from logits", "ok", "by C++")]
    monkeypatch.setattr(doctor, "implementation", lambda: "numpy")
    (finding,) = find("labels from logits")
    assert finding.state == "limited"
    assert "not built" in finding.detail
    assert finding.fix.startswith("sudo apt install python3-dev g++; pip install ")


@pytest.mark.parametrize(
    ("error", "state", "detail", "fix"),
    [
        (None, "ok", "nvrtc 13.5 compiles them and they load", ""),
        (
            MissingExtra("NVRTC 13.5 needs an NVIDIA driver for CUDA 13: pip install x"),
            "limited",
            "frames and labels are prepared on the CPU: NVRTC 13.5 needs an NVIDIA driver for CUDA 13",
            "pip install x",
        ),
        (
            failed("cuModuleLoadData of 9 bytes", "CUDA_ERROR_NO_BINARY_FOR_GPU"),
            "wrong",
            "cuModuleLoadData of 9 bytes failed: CUDA_ERROR_NO_BINARY_FOR_GPU",
            "update the NVIDIA driver, or install the NVRTC of its CUDA",
        ),
    ],
)
def test_kernels_are_compiled_and_loaded(
    monkeypatch: pytest.MonkeyPatch, error: RefineNetEdgeError | None, state: Any, detail: str, fix: str
) -> None:
    def try_kernels() -> str:
        if error:
            raise error
        return "nvrtc 13.5"

    monkeypatch.setattr(doctor, "gpu_problem", lambda: "")
    monkeypatch.setattr(doctor, "try_kernels", try_kernels)
    assert find("kernels on the GPU") == [Finding("kernels on the GPU", state, detail, fix)]


def test_a_builder_that_is_not_installed_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    (finding,) = find("build for tensorrt-rtx")
    assert (finding.state, finding.fix) == ("absent", "pip install 'refinenet-edge[rtx]'")


def test_a_builder_that_does_not_load_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    original = doctor.importlib.import_module

    def load(name: str) -> Any:
        if name == "tensorrt":
            raise OSError("libnvinfer.so.10 is missing")
        return original(name)

    monkeypatch.setattr(doctor.importlib, "import_module", load)
    (finding,) = find("build for tensorrt")
    assert finding.state == "wrong"
    assert "libnvinfer.so.10 is missing" in finding.detail


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ("2.9", "ok"),
        ("2.9.0", "ok"),
        ("2.13.0+cu130", "ok"),
        ("3.0", "ok"),
        ("2.9.0rc1", "ok"),
        ("2.8.9", "wrong"),
        ("1.99", "wrong"),
        (None, "absent"),
    ],
)
def test_the_age_of_a_package_is_judged_by_numbers(
    monkeypatch: pytest.MonkeyPatch, version: str | None, state: str
) -> None:
    installed: Version = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: version if name == "torch" else installed(name))
    (finding,) = (f for f in examine() if f.subject == "load checkpoints, trace")
    assert finding.state == state
    assert bool(finding.fix) == (state != "ok")


@pytest.mark.parametrize("rivals", [("opencv-python", "opencv-python-headless"), ("onnxruntime", "onnxruntime-gpu")])
def test_packages_that_overwrite_each_other_are_wrong(monkeypatch: pytest.MonkeyPatch, rivals: tuple[str, str]) -> None:
    known = {name for group in doctor.RIVALS for name in group}
    installed: Version = doctor.version_of
    monkeypatch.setattr(
        doctor,
        "version_of",
        lambda name: ("1.0" if name in rivals else None) if name in known - {"onnxruntime"} else installed(name),
    )
    (finding,) = (f for f in examine() if "overwrite" in f.detail)
    assert finding.state == "wrong"
    assert finding.detail == f"{rivals[0]} and {rivals[1]} overwrite each other"
    assert finding.fix == f"pip uninstall {rivals[0]} {rivals[1]}, then pip install {rivals[1]}"


@pytest.mark.parametrize(("saturates", "state"), [(True, "limited"), (False, "ok")])
def test_a_processor_whose_int8_saturates_is_told_with_the_fix(
    monkeypatch: pytest.MonkeyPatch, saturates: bool, state: str
) -> None:
    monkeypatch.setattr(doctor, "saturates", lambda: saturates)
    (finding,) = find("INT8 on the CPU")
    assert finding.state == state
    assert ("--cpu any" in finding.fix) == saturates
