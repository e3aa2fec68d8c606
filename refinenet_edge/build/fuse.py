"""Third stage: the traced graph is fused, and the fused one proven to give the logits of what was handed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

import numpy as np
import onnx_ir as ir

from refinenet_edge.build import parity
from refinenet_edge.build.load import LoadedModel, Step
from refinenet_edge.errors import GraphError
from refinenet_edge.frames.images import read_image
from refinenet_edge.fusion import Firing, Rewrite, fuse
from refinenet_edge.graph import copy_of, num_classes, to_bytes
from refinenet_edge.graph.batch import set_batch
from refinenet_edge.records import NOISE, ONE, Batch, FrameSpec, Parity, Size
from refinenet_edge.runtime.frame import prepare

PHOTO = "astronaut.jpg"  # the real frame of the proof


@dataclass(frozen=True)
class FusedModel:
    """A fused float32 graph, what each rewrite did, and the proof: the `logits` of what was handed in on `frames`.

    Frames become its input, and its logits labels, by `spec`; a `batch` of them is what its bundle is to take at once.
    `noise`: how far float32's rounding alone moves the logits, relative (`parity.rounding_noise`); it costs a run.
    """

    model: ir.Model
    spec: FrameSpec
    batch: Batch
    firings: tuple[Firing, ...]
    frames: parity.Inputs
    logits: parity.Inputs
    proof: tuple[Parity, ...]
    noise: Callable[[], float]

    def logits_of(self, frames: parity.Inputs) -> parity.Inputs:
        """The logits of the fused graph on other frames."""
        return parity.logits(to_bytes(self.model), frames)


def fuse_and_prove(loaded: LoadedModel, rewrites: Sequence[Rewrite], step: Step) -> FusedModel:
    """The graph of `loaded`, changed in place, fused and held to its reference at its usual size.

    It is, frame by frame, and with as many at once as its bundle is to take.
    Raises `GraphError` naming the rewrite that is not exact, or saying that the import is not.
    """
    step("fuse the graph")
    model, batch, last_bit = loaded.model, loaded.batch, loaded.last_bit
    frames = _proof_frames(loaded.spec, loaded.size)
    traced = to_bytes(model)
    firings = fuse(model, rewrites)
    step("hold the fused graph to what was handed in")
    logits = loaded.reference(frames)
    given, classes = next(iter(logits.values())).shape, num_classes(model)
    if len(given) != 4 or given[1] != classes:
        raise GraphError(f"the model gives {'x'.join(map(str, given))}, it says that it gives {classes} classes")
    noise = cache(lambda: 1.0 if last_bit is None else parity.rounding_noise(traced, frames, last_bit))
    proof = parity.prove(traced, logits, model, rewrites, frames, noise)
    if batch != ONE:
        step(f"hold it to that with {batch} frames at once")
        proof += parity.prove_together(to_bytes(set_batch(copy_of(model), batch)), batch, logits, frames, noise)
    return FusedModel(model, loaded.spec, batch, tuple(firings), frames, logits, proof, noise)


def _proof_frames(spec: FrameSpec, size: Size) -> parity.Inputs:
    """A random frame and a real one, as the network takes them at `size`."""
    spec, noise = replace(spec, size=size), np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    with resources.as_file(resources.files("refinenet_edge") / "photos" / "people" / PHOTO) as path:
        photo = read_image(path)
    return {name: prepare(frame, spec) for name, frame in ((NOISE, noise), (PHOTO, photo))}
