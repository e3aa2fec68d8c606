"""Third stage: the traced graph is fused, and the fused one proven to give the same logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import onnx_ir as ir

from refinenet_edge.frames.images import read_image
from refinenet_edge.fusion import Firing, Rewrite, fuse, parity
from refinenet_edge.records import FrameSpec, Parity, Size
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.trace import to_bytes

PHOTO = "astronaut.jpg"  # the real frame of the proof


@dataclass(frozen=True)
class FusedModel:
    """A fused float32 graph, what each rewrite did, and the proof: the traced graph's `logits` on prepared `frames`."""

    model: ir.Model
    firings: tuple[Firing, ...]
    frames: parity.Inputs
    logits: parity.Inputs
    proof: tuple[Parity, ...]


def fuse_and_prove(model: ir.Model, rewrites: Sequence[Rewrite], size: Size, step: Callable[[str], None]) -> FusedModel:
    """`model`, which is changed in place, fused. Raises `GraphError` naming the rewrite that is not exact."""
    step("fuse the graph")
    frames = _proof_frames(size)
    traced = to_bytes(model)
    firings = fuse(model, rewrites)
    step("hold the fused graph to the traced one")
    logits = parity.logits(traced, frames)
    return FusedModel(model, tuple(firings), frames, logits, parity.prove(traced, logits, model, rewrites, frames))


def _proof_frames(size: Size) -> parity.Inputs:
    """A random frame and a real one, as the network takes them."""
    random = np.random.default_rng(0).standard_normal((1, 3, *size)).astype(np.float32)
    with resources.as_file(resources.files("refinenet_edge") / "photos" / PHOTO) as path:
        photo = prepare(read_image(path), FrameSpec(size))
    return {"random": random, PHOTO: photo}
