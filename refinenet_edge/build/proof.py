"""Sixth stage: the typed graph, run by the bundle's own backend, is held to what the user handed in.

Where that backend is not here, ONNX Runtime runs the graph as it is written. In float32 the logits have to agree; in
fewer bits the labels, on images: below `WARNED` the build warns, below `REFUSED` it wants --force.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from refinenet_edge import calibration
from refinenet_edge.build import parity
from refinenet_edge.build.fuse import FusedModel
from refinenet_edge.build.load import Step
from refinenet_edge.build.typed import TypedModel
from refinenet_edge.errors import GraphError, RefineNetEdgeError, first_line
from refinenet_edge.graph import to_bytes
from refinenet_edge.precision import stored_in_half
from refinenet_edge.records import LESSER, NOISE, Backend, Parity, label_agreement
from refinenet_edge.runtime import first_run
from refinenet_edge.runtime.head import upsample_argmax
from refinenet_edge.runtime.processor import processor
from refinenet_edge.runtime.without_vnni import run_without_vnni

logger = logging.getLogger(__name__)

BOUND = 1e-3  # of a backend's own float32: it adds in another order, and has approximations of exp and its like
WARNED: Mapping[str, float] = {"fp32": 0.999, "fp16": 0.99, "int8": 0.95, "fp8": 0.95}  # of the labels
REFUSED = 0.5
CALIBRATED = "calibration frames"


@dataclass(frozen=True)
class Proving:
    """How a typed graph is proven: where the bundle's `backend` `runs_here`, by it; `force` lets anything through.

    `ours`: the network is one of ours, at which no backend crashes. `beside`: where there is no temporary folder.
    """

    backend: Backend
    runs_here: bool
    force: bool
    ours: bool = True
    beside: Path = Path()


def prove(
    typed: TypedModel,
    fused: FusedModel,
    samples: parity.Inputs,
    how: Proving,
    step: Step,
) -> tuple[Parity, ...]:
    """How far the logits of `typed` are from those of what was handed in, and on `samples` from the fused graph's.

    Where the graph goes on to labels or to logits at its size, these are held to the head's. INT8 for OpenVINO is also
    run as a processor without VNNI does.
    Raises `GraphError` where the backend computes something else than float32's, or cannot run the graph, and where too
    few labels are left.
    """
    here = how.runs_here and how.backend in first_run.ON_CPU
    backend: Backend = how.backend if here else "onnxruntime"
    single = typed.single or typed.onnx
    if here:
        reference = typed.reference.onnx if typed.reference else None
        for model in filter(None, (typed.onnx, reference, typed.single, typed.scores)):
            _run_first(model, how)
    ends = _prove_ends(typed.scores, single, fused, backend, step) if typed.scores else ()
    proof = _prove_logits(typed.scores or single, typed, fused, samples, how, backend if here else None, step)
    together = _prove_together(typed, typed.single, fused, backend, step) if typed.single else ()
    return proof + ends + together


def _prove_logits(
    model: bytes,
    typed: TypedModel,
    fused: FusedModel,
    samples: parity.Inputs,
    how: Proving,
    backend: Backend | None,
    step: Step,
) -> tuple[Parity, ...]:
    """The logits of `model`, which `typed` ends with or goes on from; `backend` None: its own is not here."""
    if backend is None and typed.precision == "fp32":
        return ()  # that graph has been proven
    frames, expected = {**fused.frames, **samples}, dict(fused.logits)
    if samples:
        expected |= fused.logits_of(samples)
    runners = _runners(model, typed.precision, backend, frames, how.beside)
    proof: list[Parity] = []
    for runner, run in runners.items():
        step(f"hold {typed.precision} to what was handed in, by {runner}")
        classes = {name: found[:, : expected[name].shape[1]] for name, found in run().items()}  # without padding
        parities = parity.compare(typed.precision, expected, classes, runner)
        if broken := [p.frame for p in parities if not np.isfinite(p.relative_error)]:
            said = "the logits overflow" if typed.precision != "fp32" else f"{runner} gives logits that are not finite"
            advice = "build with --precision fp32" if typed.precision != "fp32" else _elsewhere(how.backend)
            raise GraphError(f"in {typed.precision} {said} on the {broken[0]} frame: {advice}")
        parities = _in_one(parities, samples)
        if runner != LESSER or not typed.needs_vnni:  # what it then loses is said where it runs
            for found in parities:
                _judge(found, fused, how, lambda: _uneven(fused, frames))
        proof += parities
    return tuple(proof)


def _prove_together(
    typed: TypedModel, single: bytes, fused: FusedModel, runner: Backend, step: Step
) -> tuple[Parity, ...]:
    """What the graph of `typed` gives for several frames at once, beside what `single` gives for each alone."""
    step(f"hold it to that with {typed.batch} frames at once, by {runner}")
    alone = _run(single, runner, fused.frames)
    stage = f"{typed.precision}, batch {typed.batch}"
    try:
        with first_run.ON_CPU[runner](typed.onnx) as session:
            parities = parity.compare_together(stage, session, typed.batch, alone, fused.frames, runner)
    except RefineNetEdgeError as exc:
        raise GraphError(
            f"{runner} cannot run {typed.batch} frames at once ({first_line(exc)}): {parity.ALONE}"
        ) from exc
    worst = tuple(min(each, key=lambda found: found.label_agreement) for each in parities)
    for each in worst:
        if each.label_agreement < WARNED[typed.precision]:
            raise GraphError(
                f"with {typed.batch} frames at once {100 * each.label_agreement:.1f} % of the labels of the "
                f"{each.frame} frame are those that it has alone, by {runner}: {parity.ALONE}"
            )
    return worst


def _prove_ends(logits: bytes, ended: bytes, fused: FusedModel, runner: Backend, step: Step) -> tuple[Parity, ...]:
    """What the graph `ended` gives, beside the labels that the head makes of its `logits` at the same size."""
    step(f"hold what the graph ends with to the head's labels, by {runner}")
    scores, given = (_run(model, runner, fused.frames) for model in (logits, ended))
    parities = []
    for name, image in fused.frames.items():
        size = image.shape[2], image.shape[3]
        expected = upsample_argmax(scores[name][0], size, fused.spec.upsample)
        found = given[name][0] if given[name].ndim == 3 else given[name][0].argmax(0)
        same = label_agreement(expected, found)
        if same < WARNED["fp32"]:
            raise GraphError(
                f"the labels in the graph are not the head's: {100 * same:.1f} % are the same on the {name} frame: "
                "build it without --gives"
            )
        parities.append(Parity("labels", name, 0.0, same, runner))
    return tuple(parities)


def _runners(
    model: bytes, precision: str, backend: Backend | None, frames: parity.Inputs, beside: Path
) -> dict[str, Callable[[], parity.Inputs]]:
    """What is to run the graph -> the call that does; `backend` None: its own is not here."""
    if backend is None:
        # a CPU computes float16 in float32: there it neither overflows nor loses bits
        stored = to_bytes(stored_in_half(ir.from_proto(onnx.load_model_from_string(model))))
        return {"onnxruntime": lambda: parity.logits(stored, frames)}
    runners: dict[str, Callable[[], parity.Inputs]] = {backend: lambda: _run(model, backend, frames)}
    if backend == "openvino" and precision == "int8" and processor() == "vnni":
        runners[LESSER] = lambda: run_without_vnni(model, frames, beside)
    return runners


def _run_first(model: bytes, how: Proving) -> None:
    digest = hashlib.sha256(model).hexdigest()
    if how.ours:
        first_run.remember(digest, how.backend)
    else:
        first_run.require_runs(model, digest, how.backend, GraphError, "the network", f", or {_elsewhere(how.backend)}")


def _run(model: bytes, backend: Backend, frames: parity.Inputs) -> parity.Inputs:
    try:
        with first_run.ON_CPU[backend](model) as session:
            return parity.run(session, frames)
    except RefineNetEdgeError as exc:
        raise GraphError(f"{backend} cannot run this network ({first_line(exc)}): {_elsewhere(backend)}") from exc


def _in_one(parities: tuple[Parity, ...], samples: parity.Inputs) -> tuple[Parity, ...]:
    """`parities` with those of `samples` in one: the worst error, the mean of the labels."""
    each = [found for found in parities if found.frame in samples]
    others = tuple(found for found in parities if found.frame not in samples)
    if not each:
        return others
    worst = max(each, key=lambda found: found.relative_error)
    mean = sum(found.label_agreement for found in each) / len(each)
    return (*others, dataclasses.replace(worst, frame=CALIBRATED, label_agreement=mean))


def _uneven(fused: FusedModel, frames: parity.Inputs) -> str:
    """What no scale holds well, as a likely reason."""
    makers = {str(value.name): node.op_type for node in fused.model.graph for value in node.outputs}
    for name, ratio in calibration.uneven(fused.model, frames.values()).items():
        what = "joins channels of which one" if makers.get(name) == "Concat" else "has a channel that"
        return f"; {name}, which {what} reaches {ratio:.0f} times as far as others under one scale, may be why"
    return ""


def _judge(found: Parity, fused: FusedModel, how: Proving, why: Callable[[], str]) -> None:
    """Raise `GraphError`, or warn, where `found` says that it is another network; `why` it may have lost labels."""
    if found.stage == "fp32":
        if not parity.exact_enough(found, fused.noise, BOUND):
            raise GraphError(
                f"{how.backend} computes something else than the model that was handed in: relative error "
                f"{found.relative_error:.1e} on the {found.frame} frame, {100 * found.label_agreement:.1f} % of the "
                f"labels are the same: {_elsewhere(how.backend)}"
            )
        return
    if found.frame == NOISE and found.stage != "fp16":
        return  # it is not what ranges were taken of
    left = f"{100 * found.label_agreement:.1f} % of the labels are left"
    kept = f"in {found.stage} {left} on {found.frame}, by {found.backend}"
    advice = "build with --precision fp32"
    if found.stage != "fp16":
        advice += ", or say with --min-agreement 99 what has to be left, and layers go back to float until it holds"
    if found.label_agreement < REFUSED and not how.force:
        raise GraphError(f"{kept}{_reason(found, why)}: {advice}; or build it with --force all the same")
    if found.label_agreement < WARNED[found.stage]:
        logger.warning("%s%s: %s", kept, _reason(found, why), advice)


def _reason(found: Parity, why: Callable[[], str]) -> str:
    return why() if found.stage in ("int8", "fp8") else ""


def _elsewhere(backend: str) -> str:
    other = "onnxruntime" if backend != "onnxruntime" else "openvino"
    return f"build it with --backend {other}"
