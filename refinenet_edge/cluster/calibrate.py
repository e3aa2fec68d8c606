"""Calibration frames looked at and counted by the workers of a pool: histograms are added up, so no bit changes."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import onnx
import onnx_ir as ir

from refinenet_edge.calibration.calibrate import (
    Counted,
    FrameCheck,
    LocalFrameObserver,
    calibration_frames,
    check_frame,
)
from refinenet_edge.calibration.histogram import Histogram
from refinenet_edge.cluster.pool import Pool, Worker
from refinenet_edge.errors import RefineNetEdgeError
from refinenet_edge.records import FrameSpec
from refinenet_edge.trace import to_bytes

PIECE = 8  # frames, whose histograms a worker adds up

Result = TypeVar("Result")


@dataclass(frozen=True)
class DistributedFrameObserver:
    """`calibration.calibrate.FrameObserver` on `pool`; `source` must mean the same frames on every machine."""

    model: ir.Model
    spec: FrameSpec
    source: str
    count: int
    pool: Pool

    def checks(self) -> Iterator[FrameCheck]:
        for checks in self._run(functools.partial(_Checker, self.source), 0):
            yield from checks

    def counts(self, first: int) -> Iterator[Counted]:
        yield from self._run(functools.partial(_Counter, to_bytes(self.model), self.spec, self.source), first)

    def _run(self, make: Callable[[], Worker[Sequence[int], Result]], first: int) -> Iterator[Result]:
        left: Sequence[int] = range(first, self.count)
        pieces = [left[start : start + PIECE] for start in range(0, len(left), PIECE)]
        for piece, result in zip(pieces, self.pool.run(make, pieces), strict=True):
            if result is None:
                raise RefineNetEdgeError(
                    f"a worker died each time it had frames {piece[0]} to {piece[-1]} of {self.source}"
                )
            yield result


class _Checker(Worker[Sequence[int], list[FrameCheck]]):
    def __init__(self, source: str) -> None:
        self._frames = calibration_frames(source)

    def __call__(self, piece: Sequence[int]) -> list[FrameCheck]:
        return [check_frame(self._frames.read(index)) for index in piece]


class _Counter(Worker[Sequence[int], Counted]):
    def __init__(self, model: bytes, spec: FrameSpec, source: str) -> None:
        self._frames = calibration_frames(source)
        self._observer = LocalFrameObserver(ir.from_proto(onnx.load_model_from_string(model)), spec, self._frames)

    def __call__(self, piece: Sequence[int]) -> Counted:
        total: dict[str, Histogram] = {}
        for index in piece:
            for name, counted in self._observer.count(index).items():
                total[name] = total[name] + counted if name in total else counted
        return len(piece), total
