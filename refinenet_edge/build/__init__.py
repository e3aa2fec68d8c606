"""All the stages in a row: a recipe becomes a bundle.

    resolve.py    every name looked up, every rule checked, before any work
    load.py       a checkpoint, random weights or an ONNX file -> the traced graph
    fuse.py       -> the fused graph, proven to give the logits of what was handed in
    quantise.py   -> ranges, bits, and by budget.py the layers that stay float
    typed.py      -> the graph in its precision
    proof.py      held to what was handed in, by the bundle's own backend
    engine.py     -> the bundle's files, with a plan for TensorRT
    speed.py      how much faster quantising made it, for the manifest

    parity.py     how far logits are from those that are expected; given.py has those of somebody's file

Nothing is written before everything has succeeded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from refinenet_edge import __version__
from refinenet_edge.build.engine import EngineFiles, build_engine
from refinenet_edge.build.fuse import FusedModel, fuse_and_prove
from refinenet_edge.build.load import LoadedModel, Step, load
from refinenet_edge.build.proof import prove
from refinenet_edge.build.quantise import Rounding, find_rounding
from refinenet_edge.build.resolve import resolve
from refinenet_edge.build.speed import add_speed
from refinenet_edge.build.typed import TypedModel, put_precision
from refinenet_edge.bundle import write_bundle
from refinenet_edge.fusion import Firing
from refinenet_edge.records import Manifest, Parity, Recipe
from refinenet_edge.runtime.tensorrt.builder import Progress


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
    rounding = find_rounding(resolved.quantisation, resolved.typing.bits, fused, loaded.labels, step)
    typed = put_precision(fused, rounding, resolved.typing, step)
    proof = prove(typed, fused, rounding.samples if rounding else {}, resolved.proving, step)
    engine = build_engine(typed, resolved.typing.backend, resolved.engine, step, progress)
    described = _described(loaded, fused, rounding, typed, proof, engine, recipe)
    manifest = add_speed(described, typed, engine, step)
    step("write the bundle")
    return Built(resolved.output, write_bundle(resolved.output, manifest, engine.files), fused.firings)


def _described(
    loaded: LoadedModel,
    fused: FusedModel,
    rounding: Rounding | None,
    typed: TypedModel,
    proof: tuple[Parity, ...],
    engine: EngineFiles,
    recipe: Recipe,
) -> Manifest:
    """What is known of a bundle before it is written: no digests of its files, no speed."""
    return Manifest(
        model=loaded.name,
        checkpoint=loaded.checkpoint,
        checkpoint_sha256=loaded.sha256,
        precision=typed.precision,
        backend=engine.backend,
        inputs=typed.inputs,
        outputs=typed.outputs,
        frame=loaded.spec,
        labels=loaded.labels,
        rewrites={firing.name: firing.fired for firing in fused.firings},
        traced_cost=fused.firings[0].cost if fused.firings else None,
        fused_cost=fused.firings[-1].cost if fused.firings else None,
        parity=fused.proof + proof,
        recipe=recipe,
        toolkit=__version__,
        engine=engine.info,
        calibration=rounding.ranges.key if rounding else None,
        budget=rounding.budget if rounding else None,
        needs_vnni=typed.needs_vnni,
        batch=loaded.batch,
    )
