"""The stubs and the fakes say what the real bindings say."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from refinenet_edge.runtime.tensorrt import builder, rtx, session
from tests.bindings.generate import HERE, STUB, USED, stub_of
from tests.bindings.install import RELEASES as INSTALLED
from tests.bindings.install import ROOT
from tests.runtime import fake_pycuda
from tests.runtime import gpu as fake_gpu
from tests.runtime.fake_tensorrt import RELEASES, Limited, surface, tensorrt
from tests.runtime.gpu import Gpu

PROJECT = Path(__file__).parents[2]


# --- TensorRT


def test_the_stub_is_what_tensorrt_rtx_says() -> None:
    module = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    if module.__version__ != RELEASES["rtx"]:
        pytest.skip(f"this is TensorRT-RTX {module.__version__}")
    assert (HERE / "common" / "tensorrt_rtx_stubs.pyi").read_text("utf-8") == stub_of(
        module, f"RTX {module.__version__}"
    )


@pytest.mark.parametrize("release", INSTALLED)
def test_the_stub_is_what_the_bindings_say(release: str) -> None:
    folder = ROOT / release
    if not folder.is_dir():
        pytest.skip("`make bindings` could not install them, or was not run")
    search = {"PYTHONPATH": f"{folder}{os.pathsep}{PROJECT}", "LD_LIBRARY_PATH": str(folder / "libs")}
    _, version, module, *_ = INSTALLED[release]
    says = f"lean {version}" if release == "lean" else version
    command = [sys.executable, "-m", "tests.bindings.generate", module, says]
    done = subprocess.run(command, env={**os.environ, **search}, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert (HERE / release / STUB).read_text("utf-8") == done.stdout


@pytest.mark.parametrize("release", ["10.3", "10.13"])
def test_an_older_release_has_nothing_that_10_16_lacks(release: str) -> None:
    newer = surface("10.16")
    for kind, members in surface(release).items():
        assert set(members) <= set(newer[kind]), kind


def test_the_releases_differ_where_nvidia_says_so() -> None:
    assert "create_runtime_config" not in surface("10.3")["ICudaEngine"]
    assert "create_runtime_config" in surface("10.13")["ICudaEngine"]
    assert "CudaGraphStrategy" in surface("rtx")
    assert all("CudaGraphStrategy" not in surface(release) for release in RELEASES if release != "rtx")


@pytest.mark.parametrize("release", RELEASES)
def test_the_fake_has_the_parameters_of_the_release(release: str) -> None:
    module, has, looked = tensorrt(Gpu(), release), surface(release), 0
    for name, members in has.items():
        kind = getattr(module, name, None)
        if not isinstance(kind, type) or not issubclass(kind, Limited):
            continue
        own = {member for member in vars(kind) if member[0] != "_"}
        assert own <= {member for kinds in map(surface, RELEASES) for member in kinds.get(name, ())}, name
        for member in own & set(members):
            function = vars(kind)[member]
            if inspect.isfunction(function) and "given" not in (
                parameters := [*inspect.signature(function).parameters]
            ):
                assert parameters[1:] in members[member], f"{name}.{member}"
                looked += 1
    assert looked > 15


@pytest.mark.parametrize("release", RELEASES)
def test_what_we_derive_from_has_the_methods_we_define(release: str) -> None:
    module = tensorrt(Gpu(), release)
    ours = {"IErrorRecorder": session._recorder(module), "IProfiler": session._profiler(module)}
    for base, made in ours.items():
        for member, (parameters,) in surface(release)[base].items():
            if member != "__init__":
                own = inspect.signature(getattr(type(made), member)).parameters
                assert [*own][1:] == parameters, f"{base}.{member}"


FINE = "engine.get_tensor_name(0)"
NEWER = "engine.create_runtime_config()"


@pytest.mark.parametrize(
    ("release", "line", "passes"),
    [("10.3", FINE, True), ("10.3", NEWER, False), ("10.13", NEWER, True), ("11.4", "engine.no_such_call()", False)],
)
def test_a_call_that_a_release_lacks_does_not_pass_the_type_check(
    tmp_path: Path, release: str, line: str, passes: bool
) -> None:
    code = f"from tensorrt_stubs import TensorRt\n\ndef call(engine: TensorRt.ICudaEngine) -> None:\n    {line}\n"
    (tmp_path / "called.py").write_text(code)
    search = os.pathsep.join(str(path) for path in (HERE / release, HERE / "common"))
    command = [sys.executable, "-m", "mypy", "--config-file=", "--cache-dir", str(tmp_path / "cache"), "called.py"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "MYPYPATH": search}, capture_output=True, text=True)
    assert (done.returncode == 0) == passes, done.stdout


def test_the_typed_files_name_the_stubs() -> None:
    for module, name in ((builder, "tensorrt_stubs"), (session, "tensorrt_stubs"), (rtx, "tensorrt_rtx_stubs")):
        assert f"from {name} import" in inspect.getsource(module) or f"import {name}" in inspect.getsource(module)
    assert set(surface("rtx")) == set(USED)


# --- CUDA


@pytest.mark.parametrize("name", ["runtime", "driver", "nvrtc"])
def test_the_cuda_bindings_have_the_fakes_calls_and_parameters(name: str, tmp_path: Path) -> None:
    real = pytest.importorskip(f"cuda.bindings.{name}", exc_type=ImportError)
    fake = fake_gpu.bindings(Gpu(), tmp_path)[f"cuda.bindings.{name}"]
    functions = {key: value for key, value in vars(fake).items() if inspect.isfunction(value)}
    assert len(functions) > 3
    for key, function in functions.items():
        function = getattr(function, "__wrapped__", function)
        assert [*inspect.signature(function).parameters] == [*inspect.signature(getattr(real, key)).parameters], key
    for key, value in vars(fake).items():
        if isinstance(value, type):
            for member in value:  # type: ignore[attr-defined]
                assert int(getattr(getattr(real, key), member.name)) == int(member), member
        elif isinstance(value, int):
            assert int(getattr(real, key)) == value, key


def test_pycuda_has_the_fakes_names(tmp_path: Path) -> None:
    real: Any = pytest.importorskip("pycuda.driver", exc_type=ImportError)
    fake = fake_pycuda.driver(Gpu(), tmp_path)
    for key, value in vars(fake).items():
        if key[0] == "_":
            continue
        assert hasattr(real, key), key
        for member in () if inspect.isfunction(value) else vars(value):
            assert member[0] == "_" or hasattr(getattr(real, key), member), f"{key}.{member}"
    assert int(real.host_alloc_flags.PORTABLE) | int(real.host_alloc_flags.DEVICEMAP) == 3
