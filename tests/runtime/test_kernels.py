"""The CUDA kernels without a GPU: compiled for every architecture, and the same sources run on the CPU (emulate.h)."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refinenet_edge.errors import MissingExtra, RefineNetEdgeError
from refinenet_edge.labels import numbered
from refinenet_edge.records import Bilinear, Cubic, FrameSpec, Mask, Size
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.head import bilinear_axis, upsample, upsample_argmax
from refinenet_edge.runtime.kernels import device

HERE = Path(__file__).parent
KERNELS = {"head.cu": ("corners", "labels", "overlay"), "frame.cu": ("prepare",)}
HEADS = tuple(("head.cu", (f"LOGIT={kind}",)) for kind in device.LOGITS.values())
FRAMES = tuple(
    ("frame.cu", (f"ELEMENT={element}", f"CHANNELS={channels}"))
    for element in device.ELEMENTS.values()
    for channels in (3, 8)
)
ARCHS = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_110", "sm_120")
REGISTERS = 80  # 65 536 in a multiprocessor: 6 blocks and more


# --- NVRTC


@pytest.fixture(scope="session")
def nvrtc() -> Any:
    """NVRTC's bindings, if the library itself is there too."""
    module = pytest.importorskip("cuda.bindings.nvrtc", exc_type=ImportError)
    try:
        module.nvrtcVersion()
    except RuntimeError as exc:
        pytest.skip(f"no NVRTC: {exc}")
    return module


def check_resources(file: str, defines: tuple[str, ...], arch: str, report: Any) -> None:
    image, log = device.compile_kernels(file, defines, arch)
    assert image.startswith(b"\x7fELF")
    kernels = re.findall(
        r"entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
        r"Used (\d+) registers",
        log,
        re.DOTALL,
    )
    assert {name for name, *_ in kernels} == set(KERNELS[file]), log
    for name, *counts in kernels:
        stack, stores, loads, registers = map(int, counts)
        print(f"{arch:7} {name:8} {' '.join(defines)}: {registers} registers")
        report(f"{arch} {name} {' '.join(defines)} registers", registers)
        assert (stack, stores, loads) == (0, 0, 0), log
        assert registers <= REGISTERS, log


@pytest.mark.parametrize("arch", ARCHS)
def test_the_kernels_compile_without_spills(nvrtc: Any, arch: str, record_property: Any) -> None:
    if int(arch[3:]) not in nvrtc.nvrtcGetSupportedArchs()[1]:
        pytest.skip(f"this NVRTC does not know {arch}")
    for file, defines in (HEADS[1], FRAMES[1]):
        check_resources(file, defines, arch, record_property)


@pytest.mark.parametrize(("file", "defines"), [*HEADS, *FRAMES])
def test_every_kind_compiles_without_spills(
    nvrtc: Any, file: str, defines: tuple[str, ...], record_property: Any
) -> None:
    check_resources(file, defines, "sm_87", record_property)


def test_a_kernel_that_does_not_compile_says_why(nvrtc: Any) -> None:
    with pytest.raises(RefineNetEdgeError, match=r'head\.cu does not compile for sm_87: .*"Int4" is undefined'):
        device.compile_kernels("head.cu", ("LOGIT=Int4",), "sm_87")


def test_channels_of_another_alignment_do_not_compile(nvrtc: Any) -> None:
    with pytest.raises(RefineNetEdgeError, match="CHANNELS is 3 or a multiple of 8"):
        device.compile_kernels("frame.cu", ("ELEMENT=unsigned short", "CHANNELS=4"), "sm_87")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A compiler that takes no time; the calls it got."""
    calls: list[str] = []

    def compile_kernels(file: str, defines: tuple[str, ...], arch: str) -> tuple[bytes, str]:
        calls.append(arch)
        return f"{file} {defines} {arch}".encode(), "log"

    versions = types.SimpleNamespace(nvrtcVersion=lambda: (0, 13, 0))
    monkeypatch.setattr(device, "compile_kernels", compile_kernels)
    monkeypatch.setattr(device, "_bindings", {"nvrtc": versions}.__getitem__)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return calls


def test_compiled_kernels_are_kept(compiled: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = device.cached_kernels("head.cu", ("LOGIT=Half",), "sm_87")
    assert device.cached_kernels("head.cu", ("LOGIT=Half",), "sm_87") == first
    assert compiled == ["sm_87"]
    device.cached_kernels("head.cu", ("LOGIT=Float",), "sm_87")
    device.cached_kernels("head.cu", ("LOGIT=Half",), "sm_90")
    assert compiled == ["sm_87", "sm_87", "sm_90"]
    newer = types.SimpleNamespace(nvrtcVersion=lambda: (0, 13, 1))
    monkeypatch.setattr(device, "_bindings", {"nvrtc": newer}.__getitem__)
    device.cached_kernels("head.cu", ("LOGIT=Half",), "sm_87")
    sources = tmp_path / "kernels"
    shutil.copytree(device.FOLDER, sources)
    monkeypatch.setattr(device, "FOLDER", sources)
    device.cached_kernels("head.cu", ("LOGIT=Half",), "sm_87")
    assert len(compiled) == 4
    with (sources / "pixel.h").open("a") as header:
        header.write("// changed\n")
    device.cached_kernels("head.cu", ("LOGIT=Half",), "sm_87")
    assert len(compiled) == 5
    assert len(list(device.cache_folder().iterdir())) == 5  # and nothing half-written


def test_a_cache_that_cannot_be_written_is_done_without(
    compiled: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        assert device.cached_kernels("head.cu", (), "sm_87") == b"head.cu () sm_87"
    assert len(compiled) == 2


# --- the driver's calls


def test_the_bindings_have_every_call() -> None:
    driver = pytest.importorskip("cuda.bindings.driver", exc_type=ImportError)
    for name in ("cuModuleLoadData", "cuModuleGetFunction", "cuLaunchKernel", "cuModuleUnload"):
        assert callable(getattr(driver, name))


def test_missing_bindings_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda.bindings.nvrtc", "cuda.nvrtc"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"pip install 'refinenet-edge\[device\]'"):
        device.compile_kernels("head.cu", (), "sm_87")


class FakeDriver:
    """cuda.bindings.driver, as far as it is used; `launches` are (function, grid, block, stream, first argument)."""

    def __init__(self, status: int = 0) -> None:
        self.launches: list[tuple[Any, ...]] = []
        self.status = status

    def cuModuleLoadData(self, image: bytes) -> tuple[int, bytes]:  # noqa: N802
        return 0, image

    def cuModuleGetFunction(self, module: bytes, name: bytes) -> tuple[int, bytes]:  # noqa: N802
        return 0, module + name

    def cuLaunchKernel(self, function: bytes, *args: Any) -> tuple[int]:  # noqa: N802
        grid, block, (shared, stream, parameters, extra) = args[:3], args[3:6], args[6:]
        assert (shared, extra) == (0, 0)
        address = ctypes.cast(parameters, ctypes.POINTER(ctypes.c_void_p))[0]
        value = ctypes.cast(address, ctypes.POINTER(ctypes.c_int))[0]
        self.launches.append((function, grid, block, stream, value))
        return (self.status,)

    def cuModuleUnload(self, module: bytes) -> tuple[int]:  # noqa: N802
        return (0,)


def test_a_launch(compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    driver, nvrtc = FakeDriver(), device._bindings("nvrtc")
    monkeypatch.setattr(device, "_bindings", {"driver": driver, "nvrtc": nvrtc}.__getitem__)
    module = device.Module(HostCuda(), "head.cu", ())  # type: ignore[arg-type]
    module.launch("labels", 129, 7, ctypes.c_int(5))
    assert driver.launches == [(b"head.cu () sm_87labels", (2, 7, 1), (128, 1, 1), 42, 5)]
    driver.status = 1
    with pytest.raises(RefineNetEdgeError, match="cuLaunchKernel failed"):
        module.launch("labels", 129, 7, ctypes.c_int(5))
    module.close()


# --- the kernels and what queues them, on the CPU


class HostCuda:
    """`Cuda` over host memory."""

    stream = 42

    def __init__(self) -> None:
        self.held: dict[int, Any] = {}

    def capability(self) -> str:
        return "sm_87"

    def allocate(self, size: int) -> int:
        buffer = np.full(size + 16, 0xAB, np.uint8)
        address = -(-buffer.ctypes.data // 16) * 16
        self.held[address] = buffer
        return address

    def free(self, address: int) -> None:
        del self.held[address]

    def to_device(self, address: int, array: np.ndarray) -> None:
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def synchronize(self) -> None: ...


@cache
def library(folder: Path, file: str, defines: tuple[str, ...]) -> ctypes.CDLL:
    """The kernels of `file`, compiled for the CPU."""
    out = folder / f"{abs(hash((file, defines)))}.so"
    source = "\n".join(['#include "emulate.h"', f'#include "{file}"', *(f"KERNEL({name})" for name in KERNELS[file])])
    flags = ["-O1", "-std=c++17", "-ffp-contract=off", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    flags += ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error", f"-I{HERE}", f"-I{device.FOLDER}"]
    command = ["g++", *flags, *(f"-D{define}" for define in defines), "-x", "c++", "-", "-o", str(out)]
    subprocess.run(command, input=source, text=True, check=True)
    return ctypes.CDLL(str(out))


def read(address: int, shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(ctypes.string_at(address, size), dtype).reshape(shape)


def stored(x: np.ndarray, dtype: str, channels: int | None) -> np.ndarray:
    """`x` (CxHxW float32) as a network leaves it: its dtype, NCHW or NHWC padded to `channels`."""
    bits = (x.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else x.astype(dtype)
    if channels is None:
        return np.ascontiguousarray(bits)
    padded = np.full((*x.shape[1:], channels), 0x7BFF, bits.dtype)  # the padding is large: it must not be looked at
    padded[..., : len(x)] = bits.transpose(1, 2, 0)
    return padded


def value(x: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        return (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return x.astype(dtype).astype(np.float32)


def first_largest(x: np.ndarray, size: Size, how: Bilinear) -> np.ndarray:
    with np.errstate(all="ignore"):
        up = upsample(x, size, how)
    return np.where(np.isnan(up), -np.inf, up).argmax(axis=0)


side = st.integers(1, 12)


@pytest.fixture(scope="class")
def host_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`device.Module` without a device."""
    folder = tmp_path_factory.mktemp("kernels")

    class HostModule:
        def __init__(self, cuda: HostCuda, file: str, defines: tuple[str, ...]) -> None:
            self._library = library(folder, file, defines)

        def launch(self, kernel: str, columns: int, rows: int, *args: Any) -> None:
            pointers = (ctypes.c_void_p * len(args))(*(ctypes.addressof(arg) for arg in args))
            blocks = -(-columns // device.THREADS)
            getattr(self._library, f"run_{kernel}")(blocks, device.THREADS, rows, pointers)

        def close(self) -> None: ...

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "Module", HostModule)
        yield


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.usefixtures("host_module")
class TestOnTheHost:
    @settings(max_examples=80, deadline=None)
    @given(
        st.tuples(st.integers(1, 9), side, side),
        st.tuples(st.integers(1, 40), st.integers(1, 150)),
        st.sampled_from([Bilinear(False), Bilinear(True)]),
        st.sampled_from(list(device.LOGITS)),
        st.sampled_from([None, 16]),
        st.sampled_from(["spread", "ties", "near ties", "not finite"]),
        st.integers(0, 2**32),
    )
    def test_the_head(
        self,
        shape: tuple[int, int, int],
        size: Size,
        how: Bilinear,
        dtype: str,
        channels: int | None,
        kind: str,
        seed: int,
    ) -> None:
        random = np.random.default_rng(seed)
        x = random.standard_normal(shape).astype(np.float32)
        if kind == "ties":
            x = np.round(x)
        elif kind == "near ties":
            near = random.standard_normal(shape[1:]).astype(np.float32).view(np.int32) + random.integers(-9, 9, shape)
            x = near.astype(np.int32).view(np.float32)
        elif kind == "not finite":
            x = random.choice(
                np.array([np.nan, np.inf, -np.inf, 0, 1, 2], np.float32), shape, p=[0.1, 0.1, 0.1, 0.2, 0.3, 0.2]
            )
        logits = stored(x, dtype, channels)
        cuda = HostCuda()
        head = device.DeviceHead(cuda, dtype, shape, size, how, channels=channels)  # type: ignore[arg-type]
        head.label(logits.ctypes.data)
        assert np.array_equal(read(head.labels, size), first_largest(value(x, dtype), size, how))
        head.close()
        head.close()
        assert not cuda.held

    def test_the_head_and_the_cpus(self) -> None:
        x = cv2.resize(np.random.default_rng(0).standard_normal((9, 9, 21)), (60, 34)).transpose(2, 0, 1)
        x = np.ascontiguousarray(x, np.float32)
        head = device.DeviceHead(HostCuda(), "float32", x.shape, (135, 240), Bilinear(True))  # type: ignore[arg-type]
        head.label(x.ctypes.data)
        assert np.array_equal(read(head.labels, (135, 240)), upsample_argmax(x, (135, 240), Bilinear(True)))

    @pytest.mark.parametrize("opacity", [0.0, 0.3, 0.5, 1.0])
    def test_the_overlay(self, opacity: float) -> None:
        random = np.random.default_rng(1)
        x = random.standard_normal((5, 8, 9)).astype(np.float16)
        frame = random.integers(0, 256, (29, 33, 3), np.uint8)
        result = np.zeros_like(frame)
        cuda, how = HostCuda(), Bilinear(True)
        head = device.DeviceHead(cuda, "float16", x.shape, (29, 33), how, numbered(5))  # type: ignore[arg-type]
        head.overlay(x.ctypes.data, frame.ctypes.data, result.ctypes.data, opacity)
        expected = Mask(upsample_argmax(x, (29, 33), how), numbered(5)).overlay(frame, opacity)
        assert np.array_equal(result, expected)
        head.overlay(x.ctypes.data, frame.ctypes.data, frame.ctypes.data, opacity)  # in place
        assert np.array_equal(frame, expected)

    def test_an_overlay_without_a_palette(self) -> None:
        head = device.DeviceHead(HostCuda(), "float32", (2, 3, 3), (4, 4), Bilinear())  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="palette"):
            head.overlay(0, 0, 0)

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    @pytest.mark.parametrize("channels", [None, 8, 16])
    @pytest.mark.parametrize("target", [None, (31, 47), (40, 150), (9, 5), (1, 1)])
    def test_the_frame(self, dtype: str, channels: int | None, target: Size | None) -> None:
        frame = np.random.default_rng(2).integers(0, 256, (31, 47, 3), np.uint8)
        spec = FrameSpec(target)
        size = target or (31, 47)
        cuda = HostCuda()
        step = device.DeviceFrame(cuda, spec, (31, 47), dtype, channels)  # type: ignore[arg-type]
        step.prepare(frame.ctypes.data)
        if channels is None:
            found = read(step.address, (1, 3, *size), dtype)
        else:
            padded = read(step.address, (*size, channels), dtype)
            assert not padded[..., 3:].any()
            found = padded[None, ..., :3].transpose(0, 3, 1, 2)
        resized = np.rint(upsample(frame.transpose(2, 0, 1), size, Bilinear())).astype(np.uint8).transpose(1, 2, 0)
        assert np.array_equal(found, prepare(np.ascontiguousarray(resized), FrameSpec(None), dtype))
        # OpenCV resizes bytes with 11-bit fractions: sometimes the next byte
        step_of_a_byte = np.array([1.001 / 255 / std for std in spec.std])[:, None, None]
        assert (abs(found.astype(float) - prepare(frame, spec, dtype).astype(float)) <= step_of_a_byte + 2e-3).all()
        step.close()
        assert not cuda.held


def test_a_cubic_resize_is_refused() -> None:
    with pytest.raises(ValueError, match="bilinearly"):
        device.DeviceFrame(HostCuda(), FrameSpec((8, 8), resize=Cubic()), (9, 9))  # type: ignore[arg-type]


def test_positions_fit_the_kernels() -> None:
    axis = bilinear_axis(5, 13, Bilinear())
    assert {array.dtype.name for array in (axis.first, axis.starts)} == {"int32"}
    assert axis.t.dtype == np.float32
