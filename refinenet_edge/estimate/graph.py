"""A model's fused graph: of a name, traced and fused as `build` does it, or of a bundle, as it lies there."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from refinenet_edge.bundle import open_bundle
from refinenet_edge.dla import read_graph
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
    return read_graph(bundle), tuple(name for layers in kept for name in layers)


def graph_of_name(name: str, size: Size, classes: int) -> ir.Model:
    """The fused graph of a network, as `build` makes it."""
    # here, since a bundle needs no torch
    from refinenet_edge.fusion import fuse
    from refinenet_edge.model import open_network
    from refinenet_edge.trace import trace

    model = trace(open_network(name, None, classes), size)
    fuse(model)
    return model
