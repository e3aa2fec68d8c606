"""Spend an accuracy budget: the fewest layers go back to float, the most harmful first, until the loss is allowed.

A candidate, some layers kept in float, is judged by the loss that users name: points of mIoU on labelled samples, or
the share of pixels whose label is no longer float's. How many of the most harmful layers must be kept is found by
doubling and halving; then each that was kept is tried without, so that no layer is kept for nothing.

A bundle for OpenVINO is judged as OpenVINO computes it. Others are judged by ONNX Runtime, which computes Q/DQ as
written, in float32 whatever surrounds it on the device: OpenVINO does not (see precision/placement.py).
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
import onnx_ir as ir

from refinenet_edge.build.load import Step
from refinenet_edge.errors import CalibrationError, InputError
from refinenet_edge.evaluation import DataSet, Unusable, evaluate
from refinenet_edge.frames import Frames
from refinenet_edge.graph import to_bytes
from refinenet_edge.precision.placement import Placement
from refinenet_edge.precision.qdq import layers, quantise
from refinenet_edge.precision.sensitivity import LogitNoise, Ranking
from refinenet_edge.precision.switches import Switchboard
from refinenet_edge.records import Budget, Frame, FrameSpec, Harm, LabelMap, Labels, Ranges
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.openvino import OpenVinoSession
from refinenet_edge.runtime.session import Session

FRAMES = 4  # that harms are measured on
SHOWN = 10  # layers that are told apart whatever the budget


class MiouDrop:
    """A judge of what rounding loses: points of mIoU, on labelled samples."""

    loss: Literal["miou", "labels"] = "miou"

    def __init__(self, dataset: DataSet) -> None:
        self._dataset, self.name = dataset, dataset.name

    def frames(self) -> list[Frame]:
        """The first `FRAMES`."""
        images = []
        for sample in self._dataset.samples:
            try:
                images.append(sample.read()[0])
            except Unusable:
                continue
            if len(images) == FRAMES:
                break
        return images

    def expect(self, exact: Segmenter) -> None:
        """Losses are measured from what `exact` gives; once, before all of them."""
        self._exact = self._miou(exact)

    def measure(self, rounded: Segmenter) -> float:
        """The loss of `rounded`."""
        return 100 * (self._exact - self._miou(rounded))

    def _miou(self, segmenter: Segmenter) -> float:
        miou = evaluate(segmenter, self._dataset).miou
        if miou is None:
            raise InputError(f"no pixel of {self.name} has a label: an mIoU needs labelled samples")
        return miou


class LostLabels:
    """The same in percent of the pixels of `frames` whose label is no longer float's."""

    loss: Literal["miou", "labels"] = "labels"

    def __init__(self, frames: Frames) -> None:
        self._frames, self.name = frames, frames.source

    def frames(self) -> list[Frame]:
        return list(islice(map(self._frames.read, range(len(self._frames))), FRAMES))

    def expect(self, exact: Segmenter) -> None:
        # packed: there may be hundreds of photos
        self._exact = [zlib.compress(labels.tobytes()) for labels in self._labels(exact)]

    def measure(self, rounded: Segmenter) -> float:
        lost = 0.0
        for packed, labels in zip(self._exact, self._labels(rounded), strict=True):
            exact = np.frombuffer(zlib.decompress(packed), np.uint8)
            lost += float((labels.ravel() != exact).mean())
        return 100 * lost / len(self._exact)

    def _labels(self, segmenter: Segmenter) -> Iterator[LabelMap]:
        return (mask.labels for mask in segmenter.segment_stream(map(self._frames.read, range(len(self._frames)))))


@dataclass(frozen=True)
class Candidates:
    """The fused float32 `model` and how it is quantised; `backend` runs what is judged."""

    model: ir.Model
    ranges: Ranges
    placement: Placement
    spec: FrameSpec
    labels: Labels
    backend: Literal["openvino", "onnxruntime"]

    @cached_property
    def board(self) -> Switchboard:
        """Every layer of the model in float or quantised."""
        return Switchboard(self.model, self.ranges, self.placement)

    def exact(self) -> Segmenter:
        return self.keeping(layers(self.model, self.placement))

    def keeping(self, kept: Sequence[str]) -> Segmenter:
        return Segmenter.from_session(self._session(kept), self.spec, self.labels)

    def _session(self, kept: Sequence[str]) -> Session:
        if self.backend == "onnxruntime":
            return self.board.keeping(kept)
        graph = to_bytes(quantise(self.model.clone(), self.ranges, self.placement, kept))
        return OpenVinoSession(graph, throughput=True)


def spend(candidates: Candidates, judge: MiouDrop | LostLabels, allowed: float, step: Step = lambda _: None) -> Budget:
    """Which layers to keep in float so that `judge` finds at most `allowed` lost: those marked in `harms`.

    Raises `CalibrationError` when no layer may be quantised, `InputError` when the judge's frames cannot be used.
    """
    images = [prepare(frame, candidates.spec) for frame in judge.frames()]
    if not images:
        raise InputError(f"{judge.name} has no frame that can be used: judge on another with --judge")
    with candidates.exact() as exact:
        judge.expect(exact)
    names = candidates.board.layers
    losses: dict[tuple[str, ...], float] = {}

    def loss(kept: Sequence[str]) -> float:
        if tuple(kept) not in losses:
            step(f"judge on {judge.name} with {len(kept)} of {len(names)} layers in float")
            with candidates.keeping(kept) as rounded:
                losses[tuple(kept)] = judge.measure(rounded)
        return losses[tuple(kept)]

    if loss([]) <= allowed:  # what each layer harms is not asked, then
        return Budget(judge.loss, allowed, loss([]), loss([]), judge.name, candidates.backend, 1, 0, ())
    step("measure which layers quantising harms")
    noise = LogitNoise(candidates.board, images)
    ranking = Ranking(names, noise)
    ranking.first(SHOWN)
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
