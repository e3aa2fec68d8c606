"""Fourth stage: what quantising goes by: ranges, bits, and the layers that an accuracy budget keeps in float."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from refinenet_edge import calibration
from refinenet_edge.build import parity
from refinenet_edge.build.budget import Candidates, LostLabels, MiouDrop, spend
from refinenet_edge.build.fuse import FusedModel
from refinenet_edge.build.load import Step
from refinenet_edge.evaluation import DataSet
from refinenet_edge.frames import Frames
from refinenet_edge.graph import to_bytes
from refinenet_edge.precision import Placement, in_7_bits, quantise
from refinenet_edge.records import Budget, FrameSpec, Labels, Ranges
from refinenet_edge.runtime import first_run
from refinenet_edge.runtime.frame import prepare

SAMPLES = 4  # calibration frames that quantising is proven on
Bits = Literal[7, 8, "judged"]  # of INT8 weights; judged: as many as keep more labels on this processor


@dataclass(frozen=True)
class Quantisation:
    """How to quantise: by ranges, or the frames to take them from; where; and what it may cost."""

    calibration: Ranges | Frames
    placement: Placement
    judge: DataSet | Frames | None  # of an accuracy budget: points of mIoU are lost there, or labels; None: no budget
    allowed: float  # points, or percent
    judged_by: Literal["openvino", "onnxruntime"]  # what runs the candidates


@dataclass(frozen=True)
class Rounding:
    """The ranges of a fused graph, which layers are kept in float, and how many bits INT8 weights have.

    `samples` are prepared frames to prove it on: the first of those that the ranges are of, where they are at hand.
    """

    ranges: Ranges
    budget: Budget | None
    bits: Literal[7, 8] = 8
    samples: parity.Inputs = field(default_factory=dict)


def find_rounding(
    how: Quantisation | None,
    bits: Bits,
    fused: FusedModel,
    labels: Labels,
    step: Step,
) -> Rounding | None:
    """The rounding of the fused float32 graph; None where nothing is quantised here.

    Raises `CalibrationError` for ranges of another network, and as `calibrate` and `spend` do.
    """
    if how is None:
        return None
    ranges = _ranges(how.calibration, fused, step)
    frames = how.calibration if isinstance(how.calibration, Frames) else how.judge
    samples = _samples(frames, fused.spec) if isinstance(frames, Frames) else {}
    if bits == "judged":
        bits = _better_bits(how, fused, ranges, samples, step)
    rounding = Rounding(ranges, None, bits, samples)
    if how.judge is None:
        return rounding
    placement = in_7_bits(how.placement) if bits == 7 else how.placement
    candidates = Candidates(fused.model, ranges, placement, fused.spec, labels, how.judged_by)
    judge = LostLabels(how.judge) if isinstance(how.judge, Frames) else MiouDrop(how.judge)
    return replace(rounding, budget=spend(candidates, judge, how.allowed, step))


def _samples(frames: Frames, spec: FrameSpec) -> parity.Inputs:
    return {frames.names[index]: prepare(frames.read(index), spec) for index in range(min(SAMPLES, len(frames)))}


def _better_bits(
    how: Quantisation, fused: FusedModel, ranges: Ranges, samples: parity.Inputs, step: Step
) -> Literal[7, 8]:
    """Whether weights of 8 bits, whose sums saturate here, lose more labels than those of 7."""
    step("try INT8 weights in 7 and 8 bits")
    images = {**fused.frames, **samples}
    expected = fused.logits_of(images)

    def left(placement: Placement) -> float:
        with first_run.ON_CPU[how.judged_by](to_bytes(quantise(fused.model.clone(), ranges, placement))) as session:
            parities = parity.compare("int8", expected, parity.run(session, images), how.judged_by)
        return sum(found.label_agreement for found in parities)

    return 7 if left(in_7_bits(how.placement)) > left(how.placement) else 8


def _ranges(source: Ranges | Frames, fused: FusedModel, step: Step) -> Ranges:
    if isinstance(source, Ranges):
        calibration.require_measured_on(source, fused.model, fused.spec)
        return source
    return calibration.calibrate(
        fused.model,
        fused.spec,
        source,
        progress=lambda done, count: step(f"calibrate on {source.source}: {done} of {count} frames"),
    )
