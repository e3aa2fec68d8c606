"""Exact rewrites of the traced graph, in the order they run.

Each file is one rewrite: its algebra and when it pays on top, then `pattern`, `check`, `rewrite`. `fuse` runs them in
place and returns what each did; the build holds the result to what was handed in (build/parity.py).

All backends get the same rewrites: leaving one out costs time, kernels or bytes on some and makes no difference on
others (docs/measurements.md).
"""

import dataclasses
import logging
from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass, ShapeInferencePass

from refinenet_edge.fusion import (
    carry_sums,
    fold_batch_norm,
    fold_constants,
    merge_pointwise,
    merge_siblings,
    move_before_resize,
    split_pooling_tail,
    sum_before_resize,
)
from refinenet_edge.fusion.cost import graph_cost
from refinenet_edge.fusion.rewrite import NEW_WEIGHTS, Firing, Rewrite
from refinenet_edge.graph import Names, lift_constants

__all__ = ["REWRITES", "Firing", "Rewrite", "fuse"]

logger = logging.getLogger(__name__)

REWRITES: tuple[Rewrite, ...] = (
    fold_constants.CONSTANTS,
    fold_constants.IDENTITIES,
    fold_batch_norm.REWRITE,
    # before the merges: what leaves the far side of a Resize may meet another convolution
    move_before_resize.CONV,
    move_before_resize.SCALE,
    sum_before_resize.REWRITE,
    # before siblings: a projection that is merged away no longer needs its sum moved
    merge_pointwise.REWRITE,
    merge_siblings.REWRITE,
    carry_sums.REWRITE,
    split_pooling_tail.REWRITE,
)


def fuse(model: ir.Model, rewrites: Sequence[Rewrite] = REWRITES) -> list[Firing]:
    """Apply `rewrites` to `model` in place, in order; what each did, and why it did not elsewhere."""
    firings = []
    for rewrite in rewrites:
        firing = rewrite(model)
        logger.info("%s fired %d times", firing.name, firing.fired)
        for reason, places in firing.refused.items():
            logger.debug("%s refused %d times: %s", firing.name, places, reason)
        if firing.fired:
            ShapeInferencePass()(model)
        firings.append(dataclasses.replace(firing, cost=graph_cost(model)))
    # weights are initializers for all that comes after, whichever rewrites were left out
    lift_constants(model)
    _name_weights(model)
    CheckerPass()(model)
    return firings


def _name_weights(model: ir.Model) -> None:
    """Name new weights after the node that takes them, so that two builds give the same bytes."""
    names = Names(model.graph)
    for node in model.graph:
        for value, role in zip(node.inputs[1:], ("weight", "bias"), strict=False):
            if value is not None and value.is_initializer() and (value.name or "").startswith(NEW_WEIGHTS):
                value.name = names.free(f"{node.name}.{role}")  # the old weights, where another node still takes them
