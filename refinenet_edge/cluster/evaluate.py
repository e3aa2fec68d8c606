"""Samples compared by the workers of a pool: confusion matrices are added up, so their number changes no bit."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from refinenet_edge.bundle import Bundle
from refinenet_edge.cluster.bundles import Opening, opening
from refinenet_edge.cluster.pool import Pool
from refinenet_edge.errors import RefineNetEdgeError
from refinenet_edge.evaluation import Confusion, Sample, Unusable
from refinenet_edge.evaluation.samples import Kind
from refinenet_edge.evaluation.score import Compared, Here
from refinenet_edge.records import FrameSpec, Interpolation, Labels

PIECE = 16  # samples

Found = tuple[str, npt.NDArray[np.int64] | tuple[Kind, str]]  # the stamp; the matrix, or why there is none


@dataclass(frozen=True)
class Spread:
    """`evaluation.score.Comparing` on `pool`, with a bundle that every worker opens for `backend`."""

    bundle: Bundle
    backend: str
    pool: Pool
    upsample: Interpolation | None = None
    allow_host_code: bool = False

    @property
    def labels(self) -> Labels:
        return self.bundle.manifest.labels

    @property
    def frame(self) -> FrameSpec:
        spec = self.bundle.manifest.frame
        return dataclasses.replace(spec, upsample=self.upsample) if self.upsample else spec

    def compare(self, samples: Sequence[Sample]) -> Iterator[Compared]:
        order = iter(samples)
        pieces = []
        while piece := tuple(itertools.islice(order, PIECE)):
            pieces.append(piece)
        job = opening(self.bundle, self.backend, self.pool, self.allow_host_code, self.upsample)
        for piece, found in zip(pieces, self.pool.run(functools.partial(_Comparer, job), pieces), strict=True):
            if found is None:
                raise RefineNetEdgeError(f"a worker died each time it had {piece[0].id} to {piece[-1].id}")
            for sample, (stamp, one) in zip(piece, found, strict=True):
                yield sample, stamp, Unusable(*one) if isinstance(one, tuple) else Confusion(one)


class _Comparer:
    def __init__(self, job: Opening) -> None:
        self._segmenter = job.segmenter()
        self._here = Here(self._segmenter)

    def __call__(self, samples: Sequence[Sample]) -> list[Found]:
        return [
            (stamp, (found.kind, str(found)) if isinstance(found, Unusable) else found.matrix)
            for _, stamp, found in self._here.compare(samples)
        ]

    def close(self) -> None:
        self._segmenter.close()
