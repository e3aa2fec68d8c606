"""A model's fused graph: of a name, traced and fused as `build` does it, or of a bundle, as it lies there."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from refinenet_edge.bundle import MODEL, open_bundle
from refinenet_edge.errors import InputError
from refinenet_edge.records import Size


def graph_of_bundle(folder: Path, size: Size | None, classes: int | None) -> tuple[ir.Model, tuple[str, ...]]:
    """The graph of a bundle, and the nodes that its budget kept in float."""
    bundle = open_bundle(folder)
    own = bundle.manifest.frame.size
    if own is None:
        raise InputError(f"bundle {folder} takes frames of any size: name its model instead, or build it for one size")
    if size not in (None, own) or classes is not None:
        raise InputError(
            f"bundle {folder} is fixed to {own[0]}x{own[1]} and its classes: leave --size and --classes out"
        )
    budget = bundle.manifest.budget
    kept = (harm.layers for harm in budget.harms if harm.kept) if budget is not None else ()
    return ir.load(bundle.path_of(MODEL)), tuple(name for layers in kept for name in layers)


def graph_of_name(name: str, size: Size, classes: int) -> ir.Model:
    """The fused graph of a network, as `build` makes it."""
    import torch  # a bundle needs none

    from refinenet_edge.fusion import fuse
    from refinenet_edge.model import create
    from refinenet_edge.trace import trace

    # forked: the caller's generator stays as it was
    with torch.random.fork_rng(devices=[]):
        model = trace(create(name, classes), size)
    fuse(model)
    return model
