"""How fast a network can be at best on a GPU that nobody has to own: for choosing a board.

    model name -> trace, fuse ─┐
    bundle -> model.onnx ──────┴─ kernels.py ─┐
    device name or file ───────── devices.py ─┴─ bound.py -> Bounds

The bound is a floor; forecast.py says how far above it measurements of other networks lie.
"""

from pathlib import Path

import onnx_ir as ir

from refinenet_edge.bundle import open_bundle
from refinenet_edge.errors import InputError
from refinenet_edge.estimate.bound import Bounds, bound
from refinenet_edge.estimate.devices import find_device
from refinenet_edge.estimate.kernels import frame_size, kernels
from refinenet_edge.onnx_import.bundled import impossible_nodes, read_graph
from refinenet_edge.records import DEFAULT_SIZE, Batch, Size

CLASSES = 21  # of a name, where nobody says

__all__ = ["Bounds", "estimate"]


def estimate(
    model: str, device: str, size: Size | None = None, classes: int | None = None, batch: int | None = None
) -> Bounds:
    """The bounds of `model`, a name of `model.MODELS` or a bundle's folder, on `device`, a name or a TOML file.

    Of a name: `size` is (height, width), `classes` a count, by default `DEFAULT_SIZE` and `CLASSES`.
    A bundle has its own, and needs no torch. `batch` frames go in at once, by default one, or as many as are best for
    the bundle: what comes out is of one of them. Every precision of the device is bounded, whatever the bundle is in.
    Raises `InputError` for a device that is not known and a `size` that is not the bundle's, `GraphError` as `kernels`.
    """
    device_name, specs = find_device(device)
    keep: tuple[str, ...] = ()
    if Path(model).is_dir():
        graph, keep, own = _graph_of_bundle(Path(model), size, classes)
        batch = batch or own.best
        if not own.takes(batch):
            raise InputError(f"bundle {model} takes {own} frames at once: --batch {batch} is none of them")
    else:
        graph = _graph_of_name(model, size or DEFAULT_SIZE, classes or CLASSES)
    with impossible_nodes():
        frames = batch or 1
        bounds = [bound(kernels(graph, precision, keep), precision, specs, frames) for precision in specs.precisions]
        return Bounds(model, frame_size(graph), device_name, specs, tuple(bounds), frames)


def _graph_of_bundle(folder: Path, size: Size | None, classes: int | None) -> tuple[ir.Model, tuple[str, ...], Batch]:
    """The graph of a bundle for one frame, the nodes that its budget kept in float, and how many frames it takes."""
    bundle = open_bundle(folder)
    own = bundle.manifest.frame.size
    if own is None:
        raise InputError(f"bundle {folder} takes frames of any size: name its model instead, or build it for one size")
    if size not in (None, own) or classes is not None:
        fixed = f"bundle {folder} is fixed to {own[0]}x{own[1]} and its classes"
        raise InputError(f"{fixed}: leave --size and --classes out")
    budget = bundle.manifest.budget
    return read_graph(bundle), budget.kept if budget is not None else (), bundle.manifest.batch


def _graph_of_name(name: str, size: Size, classes: int) -> ir.Model:
    """The fused graph of a network, as `build` makes it."""
    # here, since a bundle needs no torch
    from refinenet_edge.fusion import fuse
    from refinenet_edge.model import create
    from refinenet_edge.trace import trace

    model = trace(create(name, classes), size)
    fuse(model)
    return model
