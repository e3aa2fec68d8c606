"""Samples compared by the workers of a pool: confusion matrices are added up, so their number changes no bit."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from refinenet_edge.bundle import Bundle
from refinenet_edge.cluster.bundles import Opening, opening
from refinenet_edge.cluster.pool import Pool
from refinenet_edge.errors import RefineNetEdgeError
from refinenet_edge.evaluation import Sample
from refinenet_edge.evaluation.score import Compared, LocalEvaluator
from refinenet_edge.records import WHOLE, FrameSpec, Inference, Interpolation, Labels
from refinenet_edge.runtime.multi_scale import at_sizes

PIECE = 16  # samples


@dataclass(frozen=True)
class DistributedEvaluator:
    """`evaluation.score.Evaluator` on `pool`, with a bundle that every worker opens for `backend`."""

    bundle: Bundle
    backend: str
    pool: Pool
    upsample: Interpolation | None = None
    allow_host_code: bool = False
    asked: Inference = WHOLE
    beside: tuple[Bundle, ...] = ()

    @property
    def inference(self) -> Inference:
        return at_sizes(self.asked, self.bundle, self.beside)

    @property
    def labels(self) -> Labels:
        return self.bundle.manifest.labels

    @property
    def frame(self) -> FrameSpec:
        spec = self.bundle.manifest.frame
        return dataclasses.replace(spec, upsample=self.upsample) if self.upsample else spec

    def compare(self, samples: Sequence[Sample]) -> Iterator[Compared]:
        pieces = [tuple(samples[start : start + PIECE]) for start in range(0, len(samples), PIECE)]
        job = opening(
            self.bundle,
            self.backend,
            self.pool,
            self.allow_host_code,
            self.upsample,
            inference=self.asked,
            beside=self.beside,
        )
        for piece, results in zip(pieces, self.pool.run(functools.partial(_Comparer, job), pieces), strict=True):
            if results is None:
                raise RefineNetEdgeError(f"a worker died each time it had {piece[0].id} to {piece[-1].id}")
            yield from results


class _Comparer:
    def __init__(self, job: Opening) -> None:
        self._segmenter = job.segmenter()
        self._here = LocalEvaluator(self._segmenter)

    def __call__(self, samples: Sequence[Sample]) -> list[Compared]:
        return list(self._here.compare(samples))

    def close(self) -> None:
        self._segmenter.close()
