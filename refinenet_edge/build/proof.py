"""Sixth stage: the typed graph, run by the bundle's own backend, is held to what the user handed in.

Where that backend is not here, ONNX Runtime runs the graph as it is written. In float32 the logits have to agree; in
fewer bits the labels, on images: below `WARNED` the build warns, below `REFUSED` it wants --force.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from refinenet_edge.build.fuse import PHOTO, FusedModel
from refinenet_edge.build.typed import TypedModel
from refinenet_edge.errors import GraphError, RefineNetEdgeError, first_line
from refinenet_edge.fusion import parity
from refinenet_edge.records import Backend, Parity
from refinenet_edge.runtime.openvino import OpenVinoSession
from refinenet_edge.runtime.ort import OrtSession
from refinenet_edge.runtime.session import Session

logger = logging.getLogger(__name__)

BOUND = 1e-3  # of a backend's own float32: it adds in another order, and has approximations of exp and its like
WARNED: Mapping[str, float] = {"fp32": 0.999, "fp16": 0.99, "int8": 0.95, "fp8": 0.95}  # of the labels
REFUSED = 0.5
OPENERS: Mapping[Backend, Callable[[bytes], Session]] = {"openvino": OpenVinoSession, "onnxruntime": OrtSession}


@dataclass(frozen=True)
class Proving:
    """How a typed graph is proven: where the bundle's `backend` `runs_here`, by it; `force` lets anything through."""

    backend: Backend
    runs_here: bool
    force: bool


def prove(typed: TypedModel, fused: FusedModel, how: Proving, step: Callable[[str], None]) -> tuple[Parity, ...]:
    """How far the logits of `typed` are from those of what was handed in.

    Raises `GraphError` where the backend computes something else than float32's, or cannot run the graph, and where too
    few labels are left.
    """
    opener = OPENERS.get(how.backend) if how.runs_here else None
    if opener is None and typed.precision == "fp32":
        return ()  # that graph has been proven
    runner = how.backend if opener else "onnxruntime"
    step(f"hold {typed.precision} to what was handed in, by {runner}")
    found = _run(typed.onnx, how.backend, opener, fused.frames) if opener else parity.logits(typed.onnx, fused.frames)
    classes = {name: found[name][:, : exact.shape[1]] for name, exact in fused.logits.items()}  # without padding
    parities = parity.compare(typed.precision, fused.logits, classes, runner)
    if broken := [p.frame for p in parities if not np.isfinite(p.relative_error)]:
        raise GraphError(
            f"in {typed.precision} the logits overflow on the {broken[0]} frame: build with --precision fp32"
        )
    for found_parity in parities:
        _judge(found_parity, fused, how)
    return parities


def _run(model: bytes, backend: str, opener: Callable[[bytes], Session], frames: parity.Inputs) -> parity.Inputs:
    try:
        with opener(model) as session:
            return parity.run(session, frames)
    except RefineNetEdgeError as exc:
        raise GraphError(f"{backend} cannot run this network ({first_line(exc)}): {_elsewhere(backend)}") from exc


def _judge(found: Parity, fused: FusedModel, how: Proving) -> None:
    """Raise `GraphError`, or warn, where `found` says that it is another network."""
    if found.stage == "fp32":
        if not parity.exact_enough(found, fused.noise, BOUND):
            raise GraphError(
                f"{how.backend} computes something else than the model that was handed in: relative error "
                f"{found.relative_error:.1e} on the {found.frame} frame, {100 * found.label_agreement:.1f} % of the "
                f"labels are the same: {_elsewhere(how.backend)}"
            )
        return
    if found.frame != PHOTO and found.stage != "fp16":
        return  # noise is not what ranges were taken of
    kept = f"in {found.stage} {100 * found.label_agreement:.1f} % of the labels are left on the {found.frame} frame"
    advice = "build with --precision fp32"
    if found.stage != "fp16":
        advice += ", or say with --min-agreement 99 what has to be left, and layers go back to float until it holds"
    if found.label_agreement < REFUSED and not how.force:
        raise GraphError(f"{kept}: {advice}; or build it with --force all the same")
    if found.label_agreement < WARNED[found.stage]:
        logger.warning("%s: %s", kept, advice)


def _elsewhere(backend: str) -> str:
    other = "onnxruntime" if backend != "onnxruntime" else "openvino"
    return f"build it with --backend {other}"
