"""Fifth stage: the fused graph gets its precision, and its ends as the backend's engines want them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from refinenet_edge import calibration, precision
from refinenet_edge.build.fuse import FusedModel
from refinenet_edge.build.load import Step
from refinenet_edge.build.quantise import Bits, Rounding
from refinenet_edge.graph import copy_of, specs_of, to_bytes
from refinenet_edge.graph.batch import set_batch
from refinenet_edge.records import ONE, Backend, Batch, Gives, TensorSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TypedModel:
    """What an engine is built of: the serialised ONNX, and its ends.

    `needs_vnni`: its INT8 sums saturate on an x86 CPU without. `scores` is the graph that ends with logits, where this
    one goes on to labels or to logits at the image's size. `single` is the graph for one frame, where this one takes a
    `batch`.
    """

    precision: str
    onnx: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    needs_vnni: bool = False
    scores: bytes | None = None
    reference: TypedModel | None = None  # the same network as it would be without quantising, to be timed against
    batch: Batch = ONE
    single: bytes | None = None


@dataclass(frozen=True)
class Typing:
    """How a graph is typed: in which `precision`, as `backend` takes it.

    `bits` are those of INT8 weights that were quantised elsewhere. In `timed_against` the network is made, too; None:
    quantising is not timed. Its ends are `plain`, in float32, or as an engine of the backend wants them; it `gives`
    logits or what comes after them.
    """

    precision: str
    backend: Backend
    bits: Bits
    timed_against: str | None
    plain: bool
    gives: Gives


def put_precision(fused: FusedModel, rounding: Rounding | None, how: Typing, step: Step) -> TypedModel:
    """The fused graph typed as `how` says, and its reference. Raises `GraphError` where float16 holds too little of it.

    It takes as many frames at once as its bundle is to take.
    """
    step(f"put {how.precision} into the graph")
    peaks = {}
    on_gpu = how.backend in precision.ON_GPU
    if "fp16" in (how.precision, how.timed_against) or (how.precision in precision.QUANTISED and on_gpu):
        samples = rounding.samples if rounding else {}
        peaks = calibration.peaks(fused.model, [*fused.frames.values(), *samples.values()])
    reference = None
    if how.timed_against:
        reference = _typed(fused, None, dataclasses.replace(how, precision=how.timed_against, bits=8), peaks)
    return dataclasses.replace(_typed(fused, rounding, how, peaks), reference=reference)


def _typed(fused: FusedModel, rounding: Rounding | None, how: Typing, peaks: Mapping[str, float]) -> TypedModel:
    """A copy of the fused float32 graph in the precision of `how`."""
    ranges = rounding.ranges if rounding else None
    kept = rounding.budget.kept if rounding and rounding.budget else ()
    seven_bits = (rounding.bits if rounding else how.bits) == 7
    typed = precision.apply(copy_of(fused.model), how.precision, how.backend, ranges, kept, seven_bits, peaks)
    if how.plain:
        precision.plain_ends(typed)
    elif how.backend in precision.ON_GPU and not precision.pad_channels(typed):
        logger.info("the channels are not padded: the engine converts the layout of its input and output itself")
    needs_vnni = how.precision == "int8" and how.backend not in precision.ON_GPU and precision.needs_vnni(typed)
    scores = to_bytes(typed) if how.gives != "logits" else None
    precision.append_head(typed, how.gives, fused.spec.upsample)
    single = to_bytes(typed) if fused.batch != ONE else None
    typed = set_batch(typed, fused.batch)
    onnx, inputs, outputs = to_bytes(typed), specs_of(typed.graph.inputs), specs_of(typed.graph.outputs)
    return TypedModel(how.precision, onnx, inputs, outputs, needs_vnni, scores, None, fused.batch, single)
