"""The CUDA kernels without a GPU: compiled for every architecture, and the same sources run on the CPU (emulate.h)."""

from __future__ import annotations

import ctypes
import dataclasses
import mmap
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refinenet_edge.errors import CudaError, MissingExtra, RefineNetEdgeError
from refinenet_edge.records import PREPROCESSINGS, Bilinear, Cubic, FrameSpec, Size
from refinenet_edge.runtime import cache
from refinenet_edge.runtime.cuda import Cuda, Scope
from refinenet_edge.runtime.cuda_bindings import Nvrtc
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.head import bilinear_axis, upsample_argmax, upsample_softmax
from refinenet_edge.runtime.kernels import device
from refinenet_edge.runtime.pycuda import NVCC, Nvcc
from tests.bindings.install import ROOT
from tests.runtime.gpu import KERNELS, Gpu
from tests.runtime.test_head import upsample

HEADS = tuple(("head.cu", (f"LOGIT={kind}",)) for kind in device.LOGITS.values())
FRAMES = tuple(
    ("frame.cu", (f"ELEMENT={element}", f"CHANNELS={channels}", f"BGR={bgr}"))
    for element in device.ELEMENTS.values()
    for channels in (3, 8)
    for bgr in (0, 1)
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
    image, log = device.compile_kernels(Nvrtc(), file, defines, arch)
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


NVRTC_12 = ROOT / "cuda" / "nvidia" / "cuda_nvrtc" / "lib" / "libnvrtc.so.12"
COMPILE = f"""
import ctypes
ctypes.CDLL({str(NVRTC_12)!r}, ctypes.RTLD_GLOBAL)  # the bindings take what is loaded
from refinenet_edge.runtime.kernels import device
from refinenet_edge.runtime.cuda_bindings import Nvrtc
assert Nvrtc().version() == "nvrtc 12.6", Nvrtc().version()
for file, defines in {[*HEADS, *FRAMES]!r}:
    image, log = device.compile_kernels(Nvrtc(), file, defines, "sm_87")
    assert image.startswith(b"\\x7fELF")
    assert " 0 bytes spill stores" in log
"""


@pytest.mark.skipif(not NVRTC_12.is_file(), reason="needs NVRTC 12.6: make bindings")
def test_the_nvrtc_of_jetpack_6_compiles_every_kind() -> None:
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def loads(nvrtc: Any, file: str, defines: tuple[str, ...]) -> dict[str, Counter[str]]:
    """How often each load from global memory stands in the PTX of each kernel of `file` for sm_87, by its type."""
    source, header = ((device.FOLDER / name).read_bytes() for name in (file, device.HEADER))
    program = nvrtc.nvrtcCreateProgram(source, file.encode(), 1, [header], [device.HEADER.encode()])[1]
    options = [b"--gpu-architecture=compute_87", b"--std=c++17", b"--fmad=false"]
    options += [f"-D{define}".encode() for define in defines]
    assert not int(nvrtc.nvrtcCompileProgram(program, len(options), options)[0])
    text = bytearray(nvrtc.nvrtcGetPTXSize(program)[1])
    nvrtc.nvrtcGetPTX(program, text)
    nvrtc.nvrtcDestroyProgram(program)
    kernels = re.split(r"^\.visible \.entry (\w+)", text.decode(), flags=re.MULTILINE)[1:]
    return {
        name: Counter(re.findall(r"\bld\.global(?:\.nc)?\.(\w+)", body))
        for name, body in zip(kernels[::2], kernels[1::2], strict=True)
    }


@pytest.mark.parametrize(("file", "defines"), FRAMES)
def test_a_frame_is_read_in_words_of_8_bytes(nvrtc: Any, file: str, defines: tuple[str, ...]) -> None:
    """Two rows, in each a word and, where the pixels reach into it, the next; it was 12 single bytes."""
    found = loads(nvrtc, file, defines)
    described = 2  # where one of several frames lies, and its pitch; what else describes it is read in pairs
    assert {name: types["u64"] for name, types in found.items()} == {"prepare": 4, "prepare_together": 4 + described}
    assert not any(types["u8"] + types["s8"] for types in found.values())


def test_a_kernel_that_does_not_compile_says_why(nvrtc: Any) -> None:
    with pytest.raises(RefineNetEdgeError, match=r'for sm_87: head\.cu does not compile: .*"Int4" is undefined'):
        device.compile_kernels(Nvrtc(), "head.cu", ("LOGIT=Int4",), "sm_87")


def test_channels_of_another_alignment_do_not_compile(nvrtc: Any) -> None:
    with pytest.raises(RefineNetEdgeError, match="CHANNELS is 3 or a multiple of 8"):
        device.compile_kernels(Nvrtc(), "frame.cu", ("ELEMENT=unsigned short", "CHANNELS=4", "BGR=0"), "sm_87")


@pytest.mark.skipif(not any(shutil.which(nvcc) for nvcc in NVCC), reason="needs nvcc")
@pytest.mark.parametrize(("file", "defines"), [HEADS[1], FRAMES[1]])
def test_nvcc_compiles_them_too(file: str, defines: tuple[str, ...]) -> None:
    assert re.fullmatch(r"nvcc \d+\.\d+\.\d+", Nvcc().version())
    image, log = device.compile_kernels(Nvcc(), file, defines, "sm_87")
    assert image.startswith(b"\x7fELF")
    assert "0 bytes spill stores" in log
    with pytest.raises(RefineNetEdgeError, match=rf"for sm_87: {file} does not compile: .*error"):
        device.compile_kernels(Nvcc(), file, ("LOGIT=Int4", "ELEMENT=Int4"), "sm_87")


def test_a_missing_nvcc_says_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refinenet_edge.runtime.pycuda.NVCC", ("no-such-nvcc",))
    with pytest.raises(MissingExtra, match="nvcc: it comes with the CUDA toolkit"):
        Nvcc().version()


@pytest.mark.parametrize("provider", ["cuda-bindings", "pycuda"])
def test_kernels_are_tried_by_compiling_and_loading(make_gpu: Callable[..., Gpu], provider: str) -> None:
    gpu = make_gpu(provider)
    for _ in range(2):  # not from the cache
        gpu.calls.clear()
        assert re.fullmatch(r"(nvrtc|nvcc) \d+\.\d+\S*", device.try_kernels())
        assert [call for call in gpu.calls if "ModuleLoad" in call]
    gpu.fail("cuModuleLoadData" if provider == "cuda-bindings" else "cuModuleLoadDataEx", 209)
    with pytest.raises(CudaError, match="CUDA_ERROR_NO_BINARY_FOR_GPU"):
        device.try_kernels()


class FakeCompiler:
    """A compiler that takes no time; the architectures it was asked for."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.release = "13.0"

    def version(self) -> str:
        return self.release

    def compile(self, name: str, source: str, headers: dict[str, str], options: list[str]) -> tuple[bytes, str]:
        assert list(headers) == ["pixel.h"]
        self.calls.append(options[0])
        return f"{name} {options}".encode(), "log"


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCompiler:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return FakeCompiler()


def test_compiled_kernels_are_kept(compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = device.cached_kernels(compiler, "head.cu", ("LOGIT=Half",), "sm_87")
    assert device.cached_kernels(compiler, "head.cu", ("LOGIT=Half",), "sm_87") == first
    assert compiler.calls == ["--gpu-architecture=sm_87"]
    device.cached_kernels(compiler, "head.cu", ("LOGIT=Float",), "sm_87")
    device.cached_kernels(compiler, "head.cu", ("LOGIT=Half",), "sm_90")
    assert len(compiler.calls) == 3
    compiler.release = "13.1"
    device.cached_kernels(compiler, "head.cu", ("LOGIT=Half",), "sm_87")
    sources = tmp_path / "kernels"
    shutil.copytree(device.FOLDER, sources)
    monkeypatch.setattr(device, "FOLDER", sources)
    device.cached_kernels(compiler, "head.cu", ("LOGIT=Half",), "sm_87")
    assert len(compiler.calls) == 4
    with (sources / "pixel.h").open("a") as header:
        header.write("// changed\n")
    device.cached_kernels(compiler, "head.cu", ("LOGIT=Half",), "sm_87")
    assert len(compiler.calls) == 5
    assert len(list(cache.cache_folder().iterdir())) == 5  # and nothing half-written


def test_a_cache_that_cannot_be_written_is_done_without(
    compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        assert device.cached_kernels(compiler, "head.cu", (), "sm_87").startswith(b"head.cu")
    assert len(compiler.calls) == 2


def test_missing_bindings_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda.bindings.nvrtc", "cuda.nvrtc"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"pip install 'refinenet-edge\[device\]'"):
        device.compile_kernels(Nvrtc(), "head.cu", (), "sm_87")


# --- the kernels and what queues them, on the CPU


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


@pytest.fixture(scope="class", params=["cuda-bindings", "pycuda"])
def work(request: pytest.FixtureRequest, host_kernels: Path) -> Callable[[], Any]:
    """A scope on the GPU on the host, which must hold nothing afterwards: with work() as (gpu, scope)."""

    @contextmanager
    def opened() -> Iterator[tuple[Gpu, Scope]]:
        with pytest.MonkeyPatch.context() as patch:
            gpu = Gpu()
            gpu.install(patch, request.param, host_kernels)
            cuda = Cuda()
            with cuda.use():
                yield gpu, cuda.scope()
            cuda.close()
            assert (gpu.held(), gpu.retained) == ({}, 0)

    return opened


def put(scope: Scope, array: np.ndarray) -> int:
    """Where `array` is on the device; 16-byte aligned, as the kernels want it."""
    return scope.put(np.ascontiguousarray(array))


def read(gpu: Gpu, scope: Scope, address: int, shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
    scope.cuda.provider.synchronize(scope.cuda.stream)
    return gpu.view(address, shape, dtype).copy()


class TestOnTheHost:
    @settings(max_examples=60, deadline=None)
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
        work: Callable[[], Any],
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
        with work() as (gpu, scope):
            head = device.DeviceHead(scope, dtype, shape, size, how, channels=channels)
            labels = scope.memory(size[0] * size[1])
            head.label(put(scope, logits), labels)
            expected = first_largest(value(x, dtype), size, how)
            assert np.array_equal(read(gpu, scope, labels, size), expected)
            confidence = scope.memory(size[0] * size[1])
            head.label(put(scope, logits), labels, confidence)
            assert np.array_equal(read(gpu, scope, labels, size), expected)
            sure = read(gpu, scope, confidence, size)
            if kind != "not finite":
                assert np.array_equal(sure, upsample_softmax(value(x, dtype), size, how)[1])

    def test_the_head_and_the_cpus(self, work: Callable[[], Any]) -> None:
        x = cv2.resize(np.random.default_rng(0).standard_normal((9, 9, 21)), (60, 34)).transpose(2, 0, 1)
        x = np.ascontiguousarray(x, np.float32)
        with work() as (gpu, scope):
            head = device.DeviceHead(scope, "float32", x.shape, (135, 240), Bilinear(True))
            labels = scope.memory(135 * 240)
            head.label(put(scope, x), labels)
            assert np.array_equal(read(gpu, scope, labels, (135, 240)), upsample_argmax(x, (135, 240), Bilinear(True)))
            confidence, logits = scope.memory(135 * 240), put(scope, 9 * x)
            head.label(logits, labels, confidence)
            known = upsample_softmax(9 * x, (135, 240), Bilinear(True))
            assert np.array_equal(read(gpu, scope, labels, (135, 240)), known[0])
            assert np.array_equal(read(gpu, scope, confidence, (135, 240)), known[1])
            assert len(np.unique(known[1])) > 100

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    @pytest.mark.parametrize("channels", [None, 8, 16])
    @pytest.mark.parametrize("target", [None, (31, 47), (40, 150), (9, 5), (1, 1)])
    @pytest.mark.parametrize("gap", [0, 19])
    def test_the_frame(
        self, work: Callable[[], Any], dtype: str, channels: int | None, target: Size | None, gap: int
    ) -> None:
        frame = np.random.default_rng(2).integers(0, 256, (31, 47, 3), np.uint8)
        rows = np.pad(frame.reshape(31, -1), ((0, 0), (0, gap)), constant_values=255)
        spec = FrameSpec(target)
        size = target or (31, 47)
        with work() as (gpu, scope):
            step = device.DeviceFrame(scope, spec, (31, 47), dtype, channels)
            step.prepare(put(scope, rows), rows.shape[1])
            if channels is None:
                found = read(gpu, scope, step.address, (1, 3, *size), dtype)
            else:
                padded = read(gpu, scope, step.address, (*size, channels), dtype)
                assert not padded[..., 3:].any()
                found = padded[None, ..., :3].transpose(0, 3, 1, 2)
        resized = np.rint(upsample(frame.transpose(2, 0, 1), size, Bilinear())).astype(np.uint8).transpose(1, 2, 0)
        assert np.array_equal(found, prepare(np.ascontiguousarray(resized), FrameSpec(None), dtype))
        # OpenCV resizes bytes with 11-bit fractions: sometimes the next byte
        step_of_a_byte = np.array([1.001 / 255 / std for std in spec.std])[:, None, None]
        assert (abs(found.astype(float) - prepare(frame, spec, dtype).astype(float)) <= step_of_a_byte + 2e-3).all()

    @pytest.mark.parametrize("name", PREPROCESSINGS)
    @pytest.mark.parametrize("channels", [None, 8])
    def test_each_preprocessing(self, work: Callable[[], Any], name: str, channels: int | None) -> None:
        frame = np.random.default_rng(4).integers(0, 256, (16, 16, 3), np.uint8)
        spec = PREPROCESSINGS[name]
        with work() as (gpu, scope):
            step = device.DeviceFrame(scope, spec, (16, 16), "float16", channels)
            step.prepare(put(scope, frame), 48)
            if channels is None:
                found = read(gpu, scope, step.address, (3, 16, 16), "float16")
            else:
                found = read(gpu, scope, step.address, (16, 16, channels), "float16")[..., :3].transpose(2, 0, 1)
        assert np.array_equal(found, prepare(frame, spec, "float16")[0])

    @pytest.mark.parametrize("channels", [None, 8])
    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    @pytest.mark.parametrize("size", [(40, 50), (48, 50), (20, 90), (90, 20)])
    def test_a_letterboxed_frame(self, work: Callable[[], Any], size: Size, dtype: str, channels: int | None) -> None:
        frame = np.random.default_rng(2).integers(0, 256, (31, 47, 3), np.uint8)
        spec = FrameSpec(size, fit="letterbox")
        spans = spec.spans((31, 47))
        assert spans is not None
        (top, rows, _), (left, columns, _) = (dataclasses.astuple(span) for span in spans)
        with work() as (gpu, scope):
            step = device.DeviceFrame(scope, spec, (31, 47), dtype, channels)
            for _ in range(2):
                step.prepare(put(scope, frame), 141)
            if channels is None:
                found = read(gpu, scope, step.address, (1, 3, *size), dtype)
            else:
                padded = read(gpu, scope, step.address, (*size, channels), dtype)
                found = padded[None, ..., :3].transpose(0, 3, 1, 2)
        inside = (rows, columns)
        resized = np.rint(upsample(frame.transpose(2, 0, 1), inside, Bilinear())).astype(np.uint8).transpose(1, 2, 0)
        expected = np.zeros((1, 3, *size), dtype)
        image = prepare(np.ascontiguousarray(resized), FrameSpec(None), dtype)
        expected[:, :, top : top + rows, left : left + columns] = image
        assert np.array_equal(found, expected)
        assert ((found == 0) == (prepare(frame, spec, dtype) == 0)).mean() > 0.98  # at the same place as on the CPU

    @pytest.mark.parametrize("channels", [None, 8])
    @pytest.mark.parametrize("size", [(40, 50), (48, 50), (20, 90), (90, 20)])
    def test_a_cropped_frame(self, work: Callable[[], Any], size: Size, channels: int | None) -> None:
        frame = np.random.default_rng(2).integers(0, 256, (31, 47, 3), np.uint8)
        spec = FrameSpec(size, fit="crop")
        spans = spec.spans((31, 47))
        assert spans is not None
        with work() as (gpu, scope):
            step = device.DeviceFrame(scope, spec, (31, 47), "float32", channels)
            step.prepare(put(scope, frame), 141)
            if channels is None:
                found = read(gpu, scope, step.address, (1, 3, *size), "float32")
            else:
                padded = read(gpu, scope, step.address, (*size, channels), "float32")
                found = padded[None, ..., :3].transpose(0, 3, 1, 2)
        large = upsample(frame.transpose(2, 0, 1), (spans[0].length, spans[1].length), Bilinear())
        inside = tuple(slice(-span.start, span.total - span.start) for span in spans)
        bytes_of = np.rint(large).astype(np.uint8).transpose(1, 2, 0)[inside]
        assert bytes_of.shape == (*size, 3)
        assert np.array_equal(found, prepare(np.ascontiguousarray(bytes_of), FrameSpec(None)))

    @pytest.mark.parametrize("fit", ["letterbox", "crop"])
    @pytest.mark.parametrize("how", [Bilinear(False), Bilinear(True)])
    @pytest.mark.parametrize("net", [(40, 50), (90, 20), (64, 64)])
    def test_the_head_of_a_frame_that_keeps_its_shape(
        self, work: Callable[[], Any], net: Size, how: Bilinear, fit: Any
    ) -> None:
        x = np.random.default_rng(5).standard_normal((6, net[0] // 2, net[1] // 2)).astype(np.float32)
        spans = FrameSpec(net, fit=fit).spans((31, 47))
        with work() as (gpu, scope):
            head = device.DeviceHead(scope, "float32", x.shape, (31, 47), how, None, spans)
            labels, confidence = scope.memory(31 * 47), scope.memory(31 * 47)
            head.label(put(scope, x), labels)
            known = upsample_softmax(x, (31, 47), how, spans)
            assert np.array_equal(read(gpu, scope, labels, (31, 47)), known[0])
            head.label(put(scope, x), labels, confidence)
            assert np.array_equal(read(gpu, scope, labels, (31, 47)), known[0])
            assert np.array_equal(read(gpu, scope, confidence, (31, 47)), known[1])

    @pytest.mark.parametrize("size", [(3, 5), (5, 8), (2, 3)])
    def test_a_frame_may_lie_anywhere(self, work: Callable[[], Any], size: Size) -> None:
        """At every address, and up against memory that nobody may read on both sides."""
        page = mmap.PAGESIZE
        area = mmap.mmap(-1, 3 * page)
        room = np.frombuffer(area, np.uint8)
        start = room.ctypes.data
        for side in (start, start + 2 * page):
            assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(side), page, 0) == 0
        frame = np.random.default_rng(3).integers(0, 256, (3, 5, 3), np.uint8)
        resized = np.rint(upsample(frame.transpose(2, 0, 1), size, Bilinear())).astype(np.uint8).transpose(1, 2, 0)
        expected = prepare(np.ascontiguousarray(resized), FrameSpec(None))
        with work() as (gpu, scope):
            step = device.DeviceFrame(scope, FrameSpec(size), (3, 5))
            for place in (*range(page, page + 8), 2 * page - frame.nbytes):
                room[place : place + frame.nbytes] = frame.ravel()
                step.prepare(start + place, 15)
                assert np.array_equal(read(gpu, scope, step.address, expected.shape, np.float32), expected)

    def test_a_cubic_resize_is_refused(self, work: Callable[[], Any]) -> None:
        with work() as (_, scope), pytest.raises(ValueError, match="bilinearly"):
            device.DeviceFrame(scope, FrameSpec((8, 8), resize=Cubic()), (9, 9))


def test_positions_fit_the_kernels() -> None:
    axis = bilinear_axis(5, 13, Bilinear())
    assert {array.dtype.name for array in (axis.first, axis.starts)} == {"int32"}
    assert axis.t.dtype == np.float32
