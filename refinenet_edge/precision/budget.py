"""Spend an accuracy budget: the fewest layers go back to float, the most harmful first, until the loss is allowed.

A candidate, some layers kept in float, is judged by the loss that users name: points of mIoU on labelled samples, or
the share of pixels whose label is no longer float's. How many of the most harmful layers must be kept is found by
doubling and halving; then each that was kept is tried without, so that no layer is kept for nothing.

A bundle for OpenVINO is judged as OpenVINO computes it. Others are judged by ONNX Runtime, which computes Q/DQ as
written, in float32 whatever surrounds it on the device: OpenVINO does not (see placement.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

import onnx_ir as ir

from refinenet_edge.calibration.frames import Frames
from refinenet_edge.errors import CalibrationError, InputError
from refinenet_edge.evaluation import DataSet, Unusable, evaluate
from refinenet_edge.precision.placement import Placement
from refinenet_edge.precision.qdq import quantise
from refinenet_edge.precision.sensitivity import LogitNoise, Ranking
from refinenet_edge.records import Budget, Frame, FrameSpec, Harm, Labels, Ranges
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.openvino import OpenVinoSession
from refinenet_edge.runtime.ort import OrtSession
from refinenet_edge.trace import copy_of, to_bytes

FRAMES = 4  # that harms are measured on
SHOWN = 10  # layers that are told apart whatever the budget

Step = Callable[[str], None]


class Judge(Protocol):
    """What a loss is measured on."""

    loss: Literal["miou", "labels"]
    name: str

    def frames(self) -> list[Frame]:
        """The first `FRAMES`."""

    def measure(self, exact: Segmenter, rounded: Segmenter) -> float:
        """The loss of `rounded` to `exact`."""


class MiouDrop:
    """Points of mIoU that are lost on labelled samples."""

    loss: Literal["miou", "labels"] = "miou"

    def __init__(self, dataset: DataSet) -> None:
        self._dataset, self.name = dataset, dataset.name
        self._exact: float | None = None

    def frames(self) -> list[Frame]:
        found = []
        for sample in self._dataset.samples:
            try:
                found.append(sample.read()[0])
            except Unusable:
                continue
            if len(found) == FRAMES:
                break
        return found

    def measure(self, exact: Segmenter, rounded: Segmenter) -> float:
        if self._exact is None:  # of every candidate the same
            self._exact = self._miou(exact)
        return 100 * (self._exact - self._miou(rounded))

    def _miou(self, segmenter: Segmenter) -> float:
        found = evaluate(segmenter, self._dataset).miou
        if found is None:
            raise InputError(f"no pixel of {self.name} has a label: an mIoU needs labelled samples")
        return found


class LostLabels:
    """Percent of the pixels of `frames` whose label is no longer float's."""

    loss: Literal["miou", "labels"] = "labels"

    def __init__(self, frames: Frames) -> None:
        self._frames, self.name = frames, frames.source

    def frames(self) -> list[Frame]:
        return list(islice(map(self._frames.read, range(len(self._frames))), FRAMES))

    def measure(self, exact: Segmenter, rounded: Segmenter) -> float:
        lost = 0.0
        for index in range(len(self._frames)):
            frame = self._frames.read(index)
            lost += float((exact.segment(frame).labels != rounded.segment(frame).labels).mean())
        return 100 * lost / len(self._frames)


@dataclass(frozen=True)
class Candidates:
    """The fused float32 `model` and how it is quantised; `backend` runs what is judged."""

    model: ir.Model
    ranges: Ranges
    placement: Placement
    spec: FrameSpec
    labels: Labels
    backend: Literal["openvino", "onnxruntime"]

    def exact(self) -> Segmenter:
        return self._segmenter(self.model)

    def keeping(self, layers: Sequence[str]) -> Segmenter:
        rounded = copy_of(self.model)
        quantise(rounded, self.ranges, self.placement, keep=layers)
        return self._segmenter(rounded)

    def _segmenter(self, model: ir.Model) -> Segmenter:
        data = to_bytes(model)
        session = OpenVinoSession(data) if self.backend == "openvino" else OrtSession(data, as_written=True)
        return Segmenter.from_session(session, self.spec, self.labels)


def spend(candidates: Candidates, judge: Judge, allowed: float, step: Step = lambda _: None) -> Budget:
    """Which layers to keep in float so that `judge` finds at most `allowed` lost: those marked in `harms`.

    Raises `CalibrationError` when no layer may be quantised, `InputError` when the judge's frames cannot be used.
    """
    images = [prepare(frame, candidates.spec) for frame in judge.frames()]
    if not images:
        raise InputError(f"{judge.name} has no frame that can be used: judge on another with --judge")
    noise = LogitNoise(candidates.model, candidates.ranges, candidates.placement, images)
    step("measure which layers quantising harms")
    ranking = Ranking(noise.layers, noise)
    ranking.first(SHOWN)
    losses: dict[tuple[str, ...], float] = {}

    def loss(kept: Sequence[str]) -> float:
        if tuple(kept) not in losses:
            step(f"judge on {judge.name} with {len(kept)} of {len(ranking)} layers in float")
            with candidates.exact() as exact, candidates.keeping(kept) as rounded:
                losses[tuple(kept)] = judge.measure(exact, rounded)
        return losses[tuple(kept)]

    kept = fewest(ranking, lambda layers: loss(layers) <= allowed)
    if kept and len(kept) == len(ranking):
        raise CalibrationError(
            f"no layer can be quantised within the budget ({loss([]):.3f} lost with all of them, {allowed:g} allowed): "
            "build with --precision fp16, or allow more"
        )
    groups = ranking.groups()
    return Budget(
        judge.loss,
        allowed,
        loss([]),
        loss(kept),
        judge.name,
        candidates.backend,
        len(losses),
        noise.runs,
        tuple(Harm(group, harm, group[0] in kept) for group, harm in groups),
    )


def fewest(ranking: Ranking, holds: Callable[[Sequence[str]], bool]) -> list[str]:
    """The fewest of the worst layers, in order, that must be kept so that the budget `holds`; else all of them."""
    if holds([]):
        return []
    low, high = 0, 1
    while not holds(ranking.first(high)):
        if high >= len(ranking):
            return ranking.first(high)
        low, high = high, min(2 * high, len(ranking))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(ranking.first(middle)) else (middle, high)
    kept = ranking.first(high)
    for layer in kept[-2::-1]:  # without the last it does not hold
        without = [other for other in kept if other != layer]
        if holds(without):
            kept = without
    return kept
