from __future__ import annotations

import logging
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refinenet_edge.bundle import Bundle
from refinenet_edge.errors import BundleError, EngineMismatch, InputError, MissingExtra
from refinenet_edge.records import LESSER, NOISE, EngineInfo, Parity
from refinenet_edge.runtime import available, backends, cuda, open_session

MakeBundle = Callable[..., Bundle]
INFO = EngineInfo("tensorrt", "10.3.0", ("sm_87",), 0)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "gpu_problem", lambda: "no NVIDIA driver")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "gpu_problem", lambda: "")
    monkeypatch.setattr(backends, "load_cuda", lambda: None)


def hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def test_every_backend_is_listed() -> None:
    found = available()
    assert tuple(found) == backends.BACKENDS
    assert found["openvino"] == ""
    assert found["onnxruntime"] == ""


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_tensorrt_says_so() -> None:
    assert "needs an NVIDIA GPU: no NVIDIA driver; use --backend openvino" in available()["tensorrt-rtx"]


def test_what_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "openvino")
    assert available()["openvino"] == "openvino is not installed: pip install 'refinenet-edge[cpu]'"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    "line",
    ["raise OSError('libnvinfer_lean.so.10: cannot open')", "import no_such_part", "raise SystemExit(1)", "1 / 0"],
)
def test_a_broken_installation_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    (tmp_path / "tensorrt_lean.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    assert available()["tensorrt-lean"].startswith("tensorrt_lean does not import (")


def test_missing_cuda_bindings_are_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "gpu_problem", lambda: "")
    monkeypatch.setitem(sys.modules, "tensorrt_lean", types.ModuleType("tensorrt_lean"))
    hide(monkeypatch, "cuda.bindings.driver", "cuda.cuda", "pycuda.driver")
    assert "pip install 'refinenet-edge[device]'" in available()["tensorrt-lean"]


def test_a_provider_that_is_not_known_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "gpu_problem", lambda: "")
    monkeypatch.setitem(sys.modules, "tensorrt_lean", types.ModuleType("tensorrt_lean"))
    monkeypatch.setenv("REFINENET_EDGE_CUDA", "cupy")
    assert "known are cuda-bindings and pycuda" in available()["tensorrt-lean"]


def test_the_driver_is_asked_without_crashing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(cuda.gpu_problem(), str)

    def no_driver(_: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(cuda.ctypes, "CDLL", no_driver)
    assert cuda.gpu_problem() == "no NVIDIA driver (libcuda.so.1: cannot open shared object file)"


def test_the_driver_names_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        status = 0

        def cuInit(self, flags: int) -> int:  # noqa: N802 - the driver's names
            return 0

        def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
            count._obj.value = 1
            return 0

        def cuDeviceGetName(self, text: Any, size: int, device: int) -> int:  # noqa: N802
            text.value = b"NVIDIA H100 80GB HBM3"
            return self.status

        def cuGetErrorName(self, code: int, text: Any) -> int:  # noqa: N802
            return 1

        cuGetErrorString = cuGetErrorName  # noqa: N815

        def cuDeviceGetPCIBusId(self, text: Any, size: int, device: int) -> int:  # noqa: N802
            text.value = b"0000:65:00.0"
            return self.status

    driver = Driver()
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda _: driver)
    assert (cuda.gpu_name(), cuda.gpu_bus_id()) == ("NVIDIA H100 80GB HBM3", "0000:65:00.0")
    driver.status = 1
    assert cuda.gpu_name() is None and cuda.gpu_bus_id() is None
    driver.cuInit = lambda flags: 100  # type: ignore[method-assign]
    assert cuda.gpu_name() is None and cuda.gpu_bus_id() is None


def test_a_driver_that_does_not_start_says_why_in_cudas_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        status = 803

        def cuInit(self, flags: int) -> int:  # noqa: N802 - the driver's names
            return self.status

        def cuGetErrorName(self, code: int, text: Any) -> int:  # noqa: N802
            text._obj.value = {803: b"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"}.get(code)
            return 0 if text._obj.value else 1

        def cuGetErrorString(self, code: int, text: Any) -> int:  # noqa: N802
            text._obj.value = {803: b"system has unsupported display driver / cuda driver combination"}.get(code)
            return 0 if text._obj.value else 1

    driver = Driver()
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda _: driver)
    assert cuda.gpu_problem() == (
        "the NVIDIA driver reports no usable device: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, "
        "system has unsupported display driver / cuda driver combination"
    )
    driver.status = 12345
    assert cuda.gpu_problem() == "the NVIDIA driver reports no usable device: CUDA error 12345"


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_named_backend_is_used(make_bundle: MakeBundle, caplog: pytest.LogCaptureFixture, backend: str) -> None:
    with open_session(make_bundle(), backend) as session:
        assert session.name == backend
    assert not caplog.records


def test_auto_is_the_bundles_own_backend(make_bundle: MakeBundle, caplog: pytest.LogCaptureFixture) -> None:
    with open_session(make_bundle(backend="onnxruntime")) as session:
        assert session.name == "onnxruntime"
    assert not caplog.records


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(("hidden", "used"), [((), "openvino"), (("openvino",), "onnxruntime")])
def test_auto_without_a_gpu_warns_and_takes_the_cpu(
    make_bundle: MakeBundle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hidden: tuple[str, ...],
    used: str,
) -> None:
    hide(monkeypatch, *hidden)
    with open_session(make_bundle(backend="tensorrt", engine=INFO)) as session:
        assert session.name == used
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "is for tensorrt (tensorrt needs an NVIDIA GPU" in record.message
    assert record.message.endswith(f"{used} runs it instead")


@pytest.mark.usefixtures("no_gpu")
def test_auto_with_nothing_installed(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "openvino", "onnxruntime")
    for backend, engine in (("tensorrt", INFO), ("openvino", None)):
        with pytest.raises(MissingExtra, match=r"pip install 'refinenet-edge\[cpu\]'"):
            open_session(make_bundle(backend=backend, engine=engine))


@pytest.mark.usefixtures("gpu")
def test_auto_on_a_gpu_does_not_fall_back_to_the_cpu(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "tensorrt", "tensorrt_lean")
    with pytest.raises(MissingExtra, match="tensorrt is not installed: on Jetson it comes with JetPack"):
        open_session(make_bundle(backend="tensorrt", engine=INFO))


@pytest.mark.usefixtures("gpu")
def test_auto_gives_a_version_compatible_plan_to_the_lean_runtime(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hide(monkeypatch, "tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt_lean", types.ModuleType("tensorrt_lean"))
    used = []
    monkeypatch.setattr(backends.TrtSession, "open", lambda _, backend, **more: used.append((backend, more)))
    info = EngineInfo("tensorrt", "10.3.0", ("sm_87",), 0, version_compatible=True)
    open_session(make_bundle(backend="tensorrt", engine=info), allow_host_code=True)
    assert used == [("tensorrt-lean", {"allow_host_code": True})]
    assert "tensorrt-lean runs it instead" in caplog.text


def test_an_unknown_backend_lists_the_known(make_bundle: MakeBundle) -> None:
    with pytest.raises(InputError, match=r"'caffe'; known: auto, tensorrt, .*onnxruntime"):
        open_session(make_bundle(), "caffe")


@pytest.mark.usefixtures("no_gpu")
def test_a_named_backend_that_cannot_run_is_not_replaced(make_bundle: MakeBundle) -> None:
    with pytest.raises(InputError, match="tensorrt needs an NVIDIA GPU"):
        open_session(make_bundle(backend="tensorrt", engine=INFO), "tensorrt")


def test_a_named_backend_that_is_not_installed(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "onnxruntime")
    with pytest.raises(MissingExtra, match="onnxruntime is not installed"):
        open_session(make_bundle(), "onnxruntime")


def test_errors_of_a_bundle_are_bundle_errors() -> None:
    assert issubclass(EngineMismatch, BundleError)


class TestSigned:
    """INT8 that was built for a GPU: OpenVINO computes signed Q/DQ otherwise than is written."""

    def test_onnxruntime_runs_it_in_place_of_the_gpu(
        self, make_bundle: MakeBundle, caplog: pytest.LogCaptureFixture
    ) -> None:
        bundle = make_bundle(precision="int8", backend="tensorrt")
        assert backends.choose(bundle) == "onnxruntime"
        assert "onnxruntime runs it instead" in caplog.text
        assert backends.choose(make_bundle(precision="fp16", backend="tensorrt")) == "openvino"
        assert backends.choose(make_bundle(precision="int8", backend="openvino")) == "openvino"

    def test_openvino_is_refused(self, make_bundle: MakeBundle) -> None:
        with pytest.raises(
            InputError, match=r"INT8 as tensorrt takes it, signed.* use --backend onnxruntime, or build"
        ):
            open_session(make_bundle(precision="int8", backend="tensorrt"), "openvino")

    def test_without_onnxruntime_it_says_how_to_install_it(
        self, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(MissingExtra, match=r"to run it on the CPU: .*cpu"):
            backends.choose(make_bundle(precision="int8", backend="tensorrt"))


class TestWithoutVnni:
    """A bundle whose INT8 sums saturate on some processors."""

    @staticmethod
    def left(share: float) -> dict[str, Any]:
        proof = [Parity("int8", frame, 0.1, at, LESSER) for frame, at in ((NOISE, 0.1), ("photo", share))]
        return {
            "precision": "int8",
            "needs_vnni": True,
            "parity": (*proof, Parity("int8", "photo", 0.1, 0.99, "openvino")),
        }

    @pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
    def test_it_says_what_is_left_there(
        self, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, backend: str
    ) -> None:
        monkeypatch.setattr(backends, "saturates", lambda: True)
        open_session(make_bundle(**self.left(0.93)), backend).close()
        (said,) = [record.getMessage() for record in caplog.records]
        assert "is for processors with VNNI" in said and "93.0 % of the labels are left" in said and "--cpu any" in said

    def test_where_little_is_left_it_is_refused(self, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backends, "saturates", lambda: True)
        with pytest.raises(InputError, match=r"25\.0 % of the labels are left; build it here"):
            open_session(make_bundle(**self.left(0.25)), "openvino")

    def test_nothing_is_said_where_it_is_right(
        self, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(backends, "saturates", lambda: False)
        open_session(make_bundle(**self.left(0.25)), "openvino").close()
        monkeypatch.setattr(backends, "saturates", lambda: True)
        open_session(make_bundle(), "openvino").close()
        assert not caplog.records


@pytest.mark.parametrize(
    ("capability", "runs"), [("sm_75", True), ("sm_89", True), ("sm_87", False), ("sm_90", False), ("sm_130", True)]
)
def test_rtx_runs_on_the_gpus_it_names(gpu: None, monkeypatch: pytest.MonkeyPatch, capability: str, runs: bool) -> None:
    """As the library itself says; on sm_90 it refused every plan (benchmarks/results/nvidia-h100-80gb-hbm3)."""
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(backends, "gpu_capability", lambda: capability)
    assert available()["tensorrt-rtx"] == (
        ""
        if runs
        else "tensorrt-rtx is made for sm_75, sm_80, sm_86, sm_89, sm_120, sm_121 and newer, "
        f"this GPU is {capability}: build with --backend tensorrt"
    )
