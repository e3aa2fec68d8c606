"""Seventh stage: the files of the bundle, with a plan where the backend is TensorRT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from refinenet_edge.build.load import Step
from refinenet_edge.build.typed import TypedModel
from refinenet_edge.bundle import MODEL, PLAN
from refinenet_edge.records import Backend, EngineInfo
from refinenet_edge.runtime.tensorrt.builder import EngineOptions, Progress, build_plan


@dataclass(frozen=True)
class EngineFiles:
    """What a bundle for `backend` holds beside its manifest, and how its plan was built."""

    backend: Backend
    files: Mapping[str, bytes]
    info: EngineInfo | None = None
    reference: EngineFiles | None = None  # of the typed model's reference


def build_engine(
    typed: TypedModel,
    backend: Backend,
    options: EngineOptions | None,
    step: Step,
    progress: Progress | None,
) -> EngineFiles:
    """The engine of a typed graph, and of its reference; `options` are a plan's, None: none is made.

    Raises `BuildError`.
    """
    reference = build_engine(typed.reference, backend, options, step, progress) if typed.reference else None
    if options is None or (backend != "tensorrt" and backend != "tensorrt-rtx"):
        return EngineFiles(backend, {MODEL: typed.onnx}, None, reference)
    step(f"build the {backend} engine")
    plan, info = build_plan(typed.onnx, backend, replace(options, batch=typed.batch), progress)
    return EngineFiles(backend, {MODEL: typed.onnx, PLAN: plan}, info, reference)
