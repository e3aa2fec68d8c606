"""Calibration frames looked at and counted by the workers of a pool: histograms are added up, so no bit changes."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import onnx
import onnx_ir as ir

from refinenet_edge.calibration.calibrate import (
    Counted,
    FrameCheck,
    FrameObserver,
    calibration_frames,
    check_frame,
    counting,
)
from refinenet_edge.calibration.histogram import Histogram
from refinenet_edge.cluster.pool import Pool, Worker, in_pieces
from refinenet_edge.graph import to_bytes
from refinenet_edge.records import FrameSpec

PIECE = 8  # frames, whose histograms a worker adds up

Result = TypeVar("Result")


def distributed(model: ir.Model, spec: FrameSpec, source: str, count: int, pool: Pool) -> FrameObserver:
    """Observes on `pool`; `source` must mean the same `count` frames on every machine."""

    def run(make: Callable[[], Worker[Sequence[int], Result]], first: int) -> Iterator[Result]:
        named = f"frames {{}} to {{}} of {source}".format
        return in_pieces(pool, make, range(first, count), PIECE, named)

    return FrameObserver(
        lambda: itertools.chain.from_iterable(run(functools.partial(_Checker, source), 0)),
        lambda first: run(functools.partial(_Counter, to_bytes(model), spec, source, pool.threads), first),
    )


class _Checker(Worker[Sequence[int], list[FrameCheck]]):
    def __init__(self, source: str) -> None:
        self._frames = calibration_frames(source)

    def __call__(self, piece: Sequence[int]) -> list[FrameCheck]:
        return [check_frame(self._frames.read(index)) for index in piece]


class _Counter(Worker[Sequence[int], Counted]):
    def __init__(self, model: bytes, spec: FrameSpec, source: str, threads: int) -> None:
        graph = ir.from_proto(onnx.load_model_from_string(model))
        self._count = counting(graph, spec, calibration_frames(source), threads)

    def __call__(self, piece: Sequence[int]) -> Counted:
        total: dict[str, Histogram] = {}
        for index in piece:
            for name, counted in self._count(index).items():
                total[name] = total[name] + counted if name in total else counted
        return len(piece), total
