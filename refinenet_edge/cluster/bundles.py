"""A bundle as workers open it: from its folder in this process, from its bytes on another machine."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from refinenet_edge.bundle import MANIFEST, Bundle, open_bundle
from refinenet_edge.cluster.pool import Pool
from refinenet_edge.errors import BundleError, InputError
from refinenet_edge.records import WHOLE, Inference, Interpolation
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.backends import choose
from refinenet_edge.runtime.first_run import ON_CPU
from refinenet_edge.runtime.libraries import BACKENDS


@dataclass(frozen=True)
class Opening:
    """Everything a worker needs to open the bundle; picklable. `files` None: it lies where `folder` says."""

    folder: Path
    digest: str  # of the bundle
    files: Mapping[str, bytes] | None
    backend: str
    threads: int
    allow_host_code: bool = False
    upsample: Interpolation | None = None
    confidence: bool = False
    inference: Inference = WHOLE
    beside: tuple[Opening, ...] = ()

    def segmenter(self) -> Segmenter:
        """A new segmenter. Raises as `Segmenter` does."""
        with contextlib.ExitStack() as stack:  # what a session needs of the files is in memory when it is open
            bundle, *beside = (one._opened(stack) for one in (self, *self.beside))
            segmenter = Segmenter(
                bundle,
                self.backend,
                allow_host_code=self.allow_host_code,
                threads=self.threads,
                confidence=self.confidence,
                inference=self.inference,
                beside=beside,
                throughput=True,
            )
        if self.upsample is None:
            return segmenter
        with segmenter:  # the session goes on with the other
            return segmenter.with_upsample(self.upsample)

    def _opened(self, stack: contextlib.ExitStack) -> Bundle:
        folder = self.folder
        if self.files is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for name, data in self.files.items():
                (folder / name).write_bytes(data)
        bundle = open_bundle(folder)
        if bundle.digest != self.digest:
            raise BundleError(f"bundle {folder} was replaced since this run began: start it again")
        return bundle


def common_backend(bundle: Bundle, backend: str, ray: str) -> str:
    """The one backend that all workers use: "auto" is the bundle's own where they may be on other machines."""
    if backend == "auto":
        return choose(bundle) if ray == "off" else bundle.manifest.backend
    if backend not in BACKENDS:
        raise InputError(f"no backend {backend!r}; known: auto, {', '.join(BACKENDS)}")
    return backend


def gpus_of(backend: str) -> int:
    """How many GPUs a worker takes."""
    return 0 if backend in ON_CPU else 1


def opening(
    bundle: Bundle,
    backend: str,
    pool: Pool,
    allow_host_code: bool,
    upsample: Interpolation | None = None,
    confidence: bool = False,
    inference: Inference = WHOLE,
    beside: Sequence[Bundle] = (),
) -> Opening:
    """How the workers of `pool` open `bundle`, and those `beside` it. Raises `BundleError` when one cannot be read."""

    def one(bundle: Bundle) -> Opening:
        names = (MANIFEST, *bundle.manifest.files)
        files = {name: bundle.read(name) for name in names} if pool.remote else None
        return Opening(bundle.path, bundle.digest, files, backend, pool.threads, allow_host_code)

    more = tuple(map(one, beside))
    return replace(one(bundle), upsample=upsample, confidence=confidence, inference=inference, beside=more)
