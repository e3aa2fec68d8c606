"""All the stages in a row: a recipe becomes a bundle.

    resolve.py    every name looked up, every rule checked, before any work
    load.py       a checkpoint, random weights or an ONNX file -> the traced graph
    fuse.py       -> the fused graph, proven to give the logits of what was handed in
    quantise.py   -> ranges, bits, and by budget.py the layers that stay float
    typed.py      -> the graph in its precision
    proof.py      held to what was handed in, by the bundle's own backend
    engine.py     -> the bundle's files, with a plan for TensorRT
    manifest.py   -> what is written beside them
    speed.py      how much faster quantising made it, for the manifest

Nothing is written before everything has succeeded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from refinenet_edge.build.engine import build_engine
from refinenet_edge.build.fuse import fuse_and_prove
from refinenet_edge.build.load import load
from refinenet_edge.build.manifest import describe
from refinenet_edge.build.proof import prove
from refinenet_edge.build.quantise import find_rounding
from refinenet_edge.build.resolve import resolve
from refinenet_edge.build.speed import add_speed
from refinenet_edge.build.typed import put_precision
from refinenet_edge.bundle import write_bundle
from refinenet_edge.fusion import Firing
from refinenet_edge.records import Manifest, Recipe
from refinenet_edge.runtime.tensorrt.builder import Progress

Step = Callable[[str], None]


@dataclass(frozen=True)
class Built:
    """A finished bundle, and what `--explain` prints."""

    path: Path
    manifest: Manifest
    firings: tuple[Firing, ...]


def build(recipe: Recipe, step: Step = lambda _: None, progress: Progress | None = None) -> Built:
    """Build the bundle of `recipe` at `recipe.output`. `step` hears what is done, `progress` the engine builder.

    Raises the `RefineNetEdgeError` of the stage that refuses; a bundle that is there stays as it was.
    """
    resolved = resolve(recipe)
    loaded = load(resolved.network, step)
    fused = fuse_and_prove(loaded, resolved.rewrites, step)
    rounding = find_rounding(resolved.quantisation, resolved.bits, fused, loaded.spec, loaded.labels, step)
    ends = replace(resolved.ends, upsample=loaded.spec.upsample, batch=loaded.batch)
    typed = put_precision(
        fused, resolved.precision, resolved.backend, rounding, resolved.bits, resolved.timed_against, ends, step
    )
    samples = rounding.samples if rounding else {}
    proof = prove(typed, fused, samples, loaded.spec.upsample, resolved.proving, step)
    options = replace(resolved.engine, batch=loaded.batch) if resolved.engine else None
    engine = build_engine(typed, resolved.backend, options, step, progress)
    described = describe(loaded, fused, rounding, typed, proof, engine, recipe)
    manifest = add_speed(described, typed, engine, step)
    step("write the bundle")
    return Built(resolved.output, write_bundle(resolved.output, manifest, engine.files), fused.firings)
