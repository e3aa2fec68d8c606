"""Eighth stage: the manifest, from what every stage handed on."""

from __future__ import annotations

from refinenet_edge import __version__
from refinenet_edge.build.engine import Engine
from refinenet_edge.build.fuse import FusedModel
from refinenet_edge.build.load import LoadedModel
from refinenet_edge.build.quantise import Rounding
from refinenet_edge.build.typed import TypedModel
from refinenet_edge.records import Manifest, Parity, Recipe


def describe(
    loaded: LoadedModel,
    fused: FusedModel,
    rounding: Rounding | None,
    typed: TypedModel,
    proof: tuple[Parity, ...],
    engine: Engine,
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
