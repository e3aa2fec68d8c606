"""Bundles of the tiny network; the GPU on the host."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refinenet_edge.bundle import MODEL, PLAN, Bundle, open_bundle, write_bundle
from refinenet_edge.labels import numbered
from refinenet_edge.records import ONE, Batch, EngineInfo, FrameSpec, Manifest, Recipe, TensorSpec
from refinenet_edge.runtime.tensorrt import library
from tests.runtime.fake_tensorrt import MODES, plan, tensorrt
from tests.runtime.gpu import THEIRS, Gpu
from tests.runtime.tinynet import CLASSES, tiny

MakeBundle = Callable[..., Bundle]


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Writes and opens a bundle of `tiny`: make_bundle(dtype, size, more files, fields of the manifest)."""

    def make(
        dtype: str = "float32",
        size: tuple[int, int] | None = (32, 48),
        files: dict[str, bytes] | None = None,
        **fields: Any,
    ) -> Bundle:
        height, width = size or ("height", "width")
        standard: dict[str, Any] = {
            "model": "tiny",
            "checkpoint": "random",
            "checkpoint_sha256": None,
            "precision": dtype,
            "backend": "openvino",
            "inputs": (TensorSpec("image", dtype, (1, 3, height, width)),),
            "outputs": (TensorSpec("logits", dtype, (1, CLASSES, "h", "w")),),
            "frame": FrameSpec(size),
            "labels": numbered(CLASSES),
            "rewrites": {},
            "parity": (),
            "recipe": Recipe("engines/tiny", onnx="tiny.onnx"),
            "toolkit": "0",
        }
        folder = tmp_path / "tiny"
        write_bundle(
            folder, Manifest(**(standard | fields)), {MODEL: tiny(dtype, size).SerializeToString(), **(files or {})}
        )
        return open_bundle(folder)

    return make


@pytest.fixture(scope="session")
def host_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the kernels that were compiled for the CPU are."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++: the kernels run on the CPU")
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def make_gpu(monkeypatch: pytest.MonkeyPatch, host_kernels: Path) -> Iterator[Callable[..., Gpu]]:
    """Puts a GPU under the CUDA bindings: make_gpu(provider, fields of `Gpu`). In the end it must hold nothing."""
    made: list[Gpu] = []

    def make(provider: str = "cuda-bindings", **fields: Any) -> Gpu:
        gpu = Gpu(**fields)
        gpu.install(monkeypatch, provider, host_kernels)
        made.append(gpu)
        return gpu

    yield make
    for gpu in made:
        assert not gpu.held()
        assert (gpu.retained, gpu.contexts()) == (0, [THEIRS])


@pytest.fixture
def make_tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Installs a TensorRT on a GPU: make_tensorrt(gpu, release)."""
    made = []

    def make(gpu: Gpu, release: str = "10.3") -> Any:
        module = tensorrt(gpu, release)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        made.append(module)
        return module

    yield make
    for module in made:
        library._loggers.pop(module, None)


@pytest.fixture
def make_plan(make_bundle: MakeBundle, make_tensorrt: Callable[..., Any]) -> Callable[..., Bundle]:
    """Installs a TensorRT on a GPU, and writes a bundle for it: make_plan(gpu, release, fields of plan())."""

    def make(gpu: Gpu, release: str = "10.3", info: dict[str, Any] | None = None, **fields: Any) -> Bundle:
        make_tensorrt(gpu, release)
        backend = "tensorrt-rtx" if release == "rtx" else "tensorrt"
        lean = {"version_compatible": True} if release == "lean" else {}
        engine = replace(EngineInfo(backend, MODES[release], ("sm_87",), 0), **(lean | (info or {})))
        size = fields.get("size")
        batch = Batch(*fields.get("batch", (1, 1, 1)))
        frames = batch.most if batch.fixed else "batch"
        inputs = (TensorSpec("image", "float32", (frames, 3, *(size or ("height", "width")))),)
        outputs = (TensorSpec("logits", "float32", (frames, CLASSES, "h", "w")),)
        batched = {} if batch == ONE else {"batch": batch, "inputs": inputs, "outputs": outputs}
        return make_bundle(size=size, files={PLAN: plan(**fields)}, backend=backend, engine=engine, **batched)

    return make
