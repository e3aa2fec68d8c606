"""Calibration frames looked at and counted by the workers of a pool: histograms are added up, so no bit changes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import onnx
import onnx_ir as ir

from refinenet_edge.calibration.calibrate import Counted, Here, Look, look
from refinenet_edge.calibration.frames import open_frames
from refinenet_edge.calibration.histogram import Histogram
from refinenet_edge.cluster.pool import Pool, Worker
from refinenet_edge.errors import RefineNetEdgeError
from refinenet_edge.records import FrameSpec
from refinenet_edge.trace import to_bytes

PIECE = 8  # frames, whose histograms a worker adds up

Found = TypeVar("Found")


@dataclass(frozen=True)
class Spread:
    """`calibration.calibrate.Observing` on `pool`; `source` must mean the same frames on every machine."""

    model: ir.Model
    spec: FrameSpec
    source: str
    count: int
    pool: Pool

    def looks(self) -> Iterator[Look]:
        for looks in self._run(functools.partial(_Looker, self.source), 0):
            yield from looks

    def counts(self, first: int) -> Iterator[Counted]:
        yield from self._run(functools.partial(_Counter, to_bytes(self.model), self.spec, self.source), first)

    def _run(self, make: Callable[[], Worker[Sequence[int], Found]], first: int) -> Iterator[Found]:
        pieces: list[Sequence[int]] = [
            range(start, min(start + PIECE, self.count)) for start in range(first, self.count, PIECE)
        ]
        for piece, found in zip(pieces, self.pool.run(make, pieces), strict=True):
            if found is None:
                raise RefineNetEdgeError(
                    f"a worker died each time it had frames {piece[0]} to {piece[-1]} of {self.source}"
                )
            yield found


class _Looker:
    def __init__(self, source: str) -> None:
        self._frames = open_frames(source)

    def __call__(self, piece: Sequence[int]) -> list[Look]:
        return [look(self._frames.read(index)) for index in piece]

    def close(self) -> None:
        pass


class _Counter:
    def __init__(self, model: bytes, spec: FrameSpec, source: str) -> None:
        self._frames = open_frames(source)
        self._here = Here(ir.from_proto(onnx.load_model_from_string(model)), spec, self._frames)

    def __call__(self, piece: Sequence[int]) -> Counted:
        total: dict[str, Histogram] = {}
        for index in piece:
            for name, counted in self._here.count(index).items():
                total[name] = total[name] + counted if name in total else counted
        return len(piece), total

    def close(self) -> None:
        pass
