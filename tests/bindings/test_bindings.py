"""The stubs and the fakes say what the real bindings say."""

from __future__ import annotations

import importlib.util
import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from refinenet_edge.runtime.tensorrt import builder, engine, library, rtx, session
from tests.bindings.generate import (
    LEAN_LACKS,
    RTX_STUB,
    STUB,
    STUBS,
    USED,
    USED_OF_RTX,
    Members,
    describe,
    describe_installed,
    lean,
    read_stub,
)
from tests.bindings.install import RELEASES as INSTALLED
from tests.bindings.install import ROOT
from tests.runtime import gpu as fake_gpu
from tests.runtime.fake_tensorrt import MODES, RELEASES, WORDS, Limited, surface, tensorrt
from tests.runtime.gpu import Gpu

# --- TensorRT


def assert_has(release: Members, stub: Members) -> None:
    """That `release` has every overload of `stub`; it may let write what the stub only reads."""
    for name, own in stub.items():
        for member, texts in own.items():
            theirs = release.get(name, {}).get(member, [])
            assert set(texts) <= set(theirs) or (theirs and texts[0].startswith("@property")), f"{name}.{member}"


def test_the_stubs_are_what_tensorrt_rtx_says() -> None:
    module = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    if module.__version__ != RELEASES["rtx"]:
        pytest.skip(f"this is TensorRT-RTX {module.__version__}")
    assert_has(describe(module), read_stub(STUB))
    assert_has(describe(module), read_stub(RTX_STUB))


@pytest.mark.parametrize("release", INSTALLED)
def test_the_stub_is_what_the_bindings_say(release: str) -> None:
    if not (ROOT / release).is_dir():
        pytest.skip("`make bindings` could not install them, or was not run")
    common, found = read_stub(STUB), describe_installed(release)
    if release == "lean":
        for lacks in LEAN_LACKS:
            name, _, member = lacks.partition(".")
            assert member not in found[name] if member else not any(found.get(name, {}).values()), lacks
        common = lean(common)
    assert_has(found, common)


def test_the_stub_has_what_we_say_we_use() -> None:
    for used, stub in ((USED, STUB), (USED_OF_RTX, RTX_STUB)):
        members = read_stub(stub)
        assert {name: set(own) - {"name", "__int__"} for name, own in members.items()} == {
            name: set(own) for name, own in used.items()
        }


def libraries() -> Iterator[Path]:
    """NVIDIA's libraries that describe layouts: the lean runtime's of `make bindings`, TensorRT-RTX's of the wheel."""
    yield from (ROOT / "lean" / "tensorrt_lean_libs").glob("libnvinfer_lean.so*")
    wheel = importlib.util.find_spec("tensorrt_rtx_libs")
    for folder in (wheel.submodule_search_locations or ()) if wheel else ():
        yield from Path(folder).glob("libtensorrt_rtx.so*")


def test_the_fake_describes_layouts_in_nvidias_words() -> None:
    """And what the lean runtime says of them, where it is all there is, is understood."""
    found = list(libraries())
    if not found:
        pytest.skip("neither TensorRT-RTX nor the lean runtime is here")
    for file in found:
        data = file.read_bytes()
        for words in WORDS.values():
            assert b"\0" + words.encode() + b"\0" in data, f"{file.name}: {words}"


@pytest.mark.parametrize("release", MODES)
def test_the_fake_has_the_parameters_of_the_release(release: str) -> None:
    module, has, looked = tensorrt(Gpu(), release), surface(release), 0
    for name, members in has.items():
        kind = getattr(module, name, None)
        if not isinstance(kind, type) or not issubclass(kind, Limited):
            continue
        own = {member for member in vars(kind) if member[0] != "_"}
        assert own <= {member for kinds in map(surface, MODES) for member in kinds.get(name, ())}, name
        for member in own & set(members):
            function = vars(kind)[member]
            if inspect.isfunction(function) and "given" not in (
                parameters := [*inspect.signature(function).parameters]
            ):
                assert parameters[1:] in members[member], f"{name}.{member}"
                looked += 1
    assert looked > 10


@pytest.mark.parametrize("release", MODES)
def test_what_we_derive_from_has_the_methods_we_define(release: str) -> None:
    module = tensorrt(Gpu(), release)
    ours = {
        "ILogger": library._make_logger(module),
        "IErrorRecorder": library.make_recorder(module),
        "IProfiler": session._make_profiler(module),
    }
    if release != "lean":
        ours["IProgressMonitor"] = builder._monitor(module, threading.Event(), None)
    for base, made in ours.items():
        for member, overloads in surface(release)[base].items():
            if member not in ("__init__", "Severity"):
                own = inspect.signature(getattr(type(made), member)).parameters
                assert [*own][1:] == overloads[0], f"{base}.{member}"


@pytest.mark.parametrize(
    ("line", "passes"),
    [
        ("engine.get_tensor_name(0)", True),
        ("engine.create_runtime_config()", False),  # 10.13 has it, 10.3 has not
        ("engine.no_such_call()", False),
    ],
)
def test_a_call_that_a_release_lacks_does_not_pass_the_type_check(tmp_path: Path, line: str, passes: bool) -> None:
    code = f"from tensorrt_stubs import TensorRt\n\ndef call(engine: TensorRt.ICudaEngine) -> None:\n    {line}\n"
    (tmp_path / "called.py").write_text(code)
    command = [sys.executable, "-m", "mypy", "--config-file=", "--cache-dir", str(tmp_path / "cache"), "called.py"]
    search = {**os.environ, "MYPYPATH": str(STUBS)}
    done = subprocess.run(command, cwd=tmp_path, env=search, capture_output=True, text=True)
    assert (done.returncode == 0) == passes, done.stdout


def test_the_typed_files_name_the_stubs() -> None:
    for module in (builder, engine, session):
        assert "from tensorrt_stubs import" in inspect.getsource(module)
    for module in (builder, rtx):
        assert "tensorrt_rtx_stubs" in inspect.getsource(module)


# --- CUDA


@pytest.mark.parametrize("name", ["driver", "nvrtc"])
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
