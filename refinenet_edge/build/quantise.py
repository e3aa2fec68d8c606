"""Fourth stage: what quantising goes by, the ranges and the layers that an accuracy budget keeps in float."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from refinenet_edge import calibration
from refinenet_edge.build.budget import Candidates, LostLabels, MiouDrop, spend
from refinenet_edge.evaluation import DataSet
from refinenet_edge.frames import Frames
from refinenet_edge.precision import Placement
from refinenet_edge.records import Budget, FrameSpec, Labels, Ranges


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
    """The ranges of a fused graph, and which layers are kept in float."""

    ranges: Ranges
    budget: Budget | None

    @property
    def kept(self) -> list[str]:
        harms = self.budget.harms if self.budget else ()
        return [name for harm in harms if harm.kept for name in harm.layers]


def find_rounding(
    how: Quantisation | None, model: ir.Model, spec: FrameSpec, labels: Labels, step: Callable[[str], None]
) -> Rounding | None:
    """The rounding of the fused float32 `model`; None where nothing is quantised here.

    Raises `CalibrationError` for ranges of another network, and as `calibrate` and `spend` do.
    """
    if how is None:
        return None
    ranges = _ranges(how.calibration, model, spec, step)
    if how.judge is None:
        return Rounding(ranges, None)
    candidates = Candidates(model, ranges, how.placement, spec, labels, how.judged_by)
    judge = LostLabels(how.judge) if isinstance(how.judge, Frames) else MiouDrop(how.judge)
    return Rounding(ranges, spend(candidates, judge, how.allowed, step))


def _ranges(source: Ranges | Frames, model: ir.Model, spec: FrameSpec, step: Callable[[str], None]) -> Ranges:
    if isinstance(source, Ranges):
        calibration.require(source, model, spec)
        return source
    return calibration.calibrate(
        model,
        spec,
        source,
        progress=lambda done, count: step(f"calibrate on {source.source}: {done} of {count} frames"),
    )
