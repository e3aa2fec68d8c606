"""Sixth stage: the files of the bundle, with a plan where the backend is TensorRT."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from refinenet_edge.bundle import MODEL, PLAN
from refinenet_edge.records import Backend, EngineInfo
from refinenet_edge.runtime.tensorrt.builder import EngineOptions, Progress, build_plan


@dataclass(frozen=True)
class Engine:
    """What a bundle for `backend` holds beside its manifest, and how its plan was built."""

    backend: Backend
    files: Mapping[str, bytes]
    info: EngineInfo | None = None


def build_engine(
    onnx: bytes, backend: Backend, options: EngineOptions, step: Callable[[str], None], progress: Progress | None
) -> Engine:
    """The engine of a typed graph; `options` are a plan's. Raises `BuildError`."""
    if backend != "tensorrt" and backend != "tensorrt-rtx":
        return Engine(backend, {MODEL: onnx})
    step(f"build the {backend} engine")
    plan, info = build_plan(onnx, backend, options, progress)
    return Engine(backend, {MODEL: onnx, PLAN: plan}, info)
