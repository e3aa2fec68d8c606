"""Fifth stage: the fused graph gets its precision, and its ends as the backend's engines want them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from refinenet_edge import calibration, precision
from refinenet_edge.build.fuse import FusedModel
from refinenet_edge.build.quantise import Bits, Rounding
from refinenet_edge.graph import copy_of, specs_of, to_bytes
from refinenet_edge.graph.batch import set_batch
from refinenet_edge.records import ONE, Backend, Batch, Bilinear, Gives, Interpolation, TensorSpec

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
class Ends:
    """How a typed graph begins and ends: `plain` in float32, and with what; `upsample` brings logits to its size.

    It takes a `batch` of frames at once.
    """

    plain: bool = False
    gives: Gives = "logits"
    upsample: Interpolation = field(default_factory=Bilinear)
    batch: Batch = ONE


def put_precision(
    fused: FusedModel,
    name: str,
    backend: Backend,
    rounding: Rounding | None,
    bits: Bits,
    reference: str | None,
    ends: Ends,
    step: Callable[[str], None],
) -> TypedModel:
    """The fused graph in precision `name`, and in that of its `reference`; `bits` are of weights quantised elsewhere.

    It ends as `ends` says.
    Raises `GraphError` where float16 cannot hold too much of it.
    """
    step(f"put {name} into the graph")
    peaks = {}
    if "fp16" in (name, reference) or (name in precision.QUANTISED and backend in precision.ON_GPU):
        samples = rounding.samples if rounding else {}
        peaks = calibration.peaks(fused.model, [*fused.frames.values(), *samples.values()])
    other = _typed(fused.model, reference, backend, None, False, peaks, ends) if reference else None
    typed = _typed(fused.model, name, backend, rounding, (rounding.bits if rounding else bits) == 7, peaks, ends)
    return dataclasses.replace(typed, reference=other)


def _typed(
    model: ir.Model,
    name: str,
    backend: Backend,
    rounding: Rounding | None,
    seven_bits: bool,
    peaks: Mapping[str, float],
    ends: Ends,
) -> TypedModel:
    """A copy of the fused float32 `model` in precision `name`."""
    ranges = rounding.ranges if rounding else None
    kept = rounding.budget.kept if rounding and rounding.budget else ()
    typed = precision.apply(copy_of(model), name, backend, ranges, kept, seven_bits, peaks)
    if ends.plain:
        precision.plain_ends(typed)
    elif backend in precision.ON_GPU and not precision.pad_channels(typed):
        logger.info("the channels are not padded: the engine converts the layout of its input and output itself")
    needs_vnni = name == "int8" and backend not in precision.ON_GPU and precision.needs_vnni(typed)
    scores = to_bytes(typed) if ends.gives != "logits" else None
    precision.give(typed, ends.gives, ends.upsample)
    single = to_bytes(typed) if ends.batch != ONE else None
    typed = set_batch(typed, ends.batch)
    onnx, inputs, outputs = to_bytes(typed), specs_of(typed.graph.inputs), specs_of(typed.graph.outputs)
    return TypedModel(name, onnx, inputs, outputs, needs_vnni, scores, None, ends.batch, single)
