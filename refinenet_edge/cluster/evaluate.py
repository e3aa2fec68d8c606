"""Samples compared by the workers of a pool: confusion matrices are added up, so their number changes no bit."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from refinenet_edge.bundle import Bundle
from refinenet_edge.cluster.bundles import Opening, opening
from refinenet_edge.cluster.pool import Pool, Worker, as_one, in_pieces
from refinenet_edge.evaluation import Sample
from refinenet_edge.evaluation.score import Compared, Evaluator, compare_each
from refinenet_edge.records import WHOLE, Inference, Interpolation
from refinenet_edge.runtime.multi_scale import at_sizes

PIECE = 16  # samples


def distributed(
    bundle: Bundle,
    backend: str,
    pool: Pool,
    *,
    upsample: Interpolation | None = None,
    allow_host_code: bool = False,
    inference: Inference = WHOLE,
    beside: Sequence[Bundle] = (),
) -> Evaluator:
    """Evaluates on `pool`, with a bundle that every worker opens for `backend`."""
    manifest = bundle.manifest
    spec = replace(manifest.frame, upsample=upsample) if upsample else manifest.frame
    at = at_sizes(inference, bundle, beside)
    job = opening(bundle, backend, pool, allow_host_code, upsample, inference=inference, beside=beside)

    def compare(samples: Sequence[Sample]) -> Iterator[Compared]:
        make, named = partial(_Comparer, job), lambda first, last: f"{first.id} to {last.id}"
        return itertools.chain.from_iterable(in_pieces(pool, make, samples, PIECE, named))

    return Evaluator(manifest.labels, spec, backend, at, compare)


class _Comparer(Worker[Sequence[Sample], list[Compared]]):
    def __init__(self, job: Opening) -> None:
        self._segmenter = job.segmenter()
        self._compare = partial(compare_each, self._segmenter, self._segmenter.labels, self._segmenter.frame_spec)

    def each(self, pieces: Iterable[Sequence[Sample]]) -> Iterator[list[Compared]]:
        return (compared for _, compared in as_one(pieces, self._compare))

    def close(self) -> None:
        self._segmenter.close()
