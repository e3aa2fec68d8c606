"""How fast a network can be at best on a GPU that nobody has to own: for choosing a board.

    model name -> trace, fuse ─┐
    bundle -> model.onnx ──────┴─ graph.py -> kernels.py ─┐
    device name or file ───────────────────── devices.py ─┴─ bound.py -> Bounds

The bound is a floor; forecast.py says how far above it measurements of other networks lie.
"""

from pathlib import Path

from refinenet_edge.estimate.bound import BlockBound, Bound, Bounds, bound
from refinenet_edge.estimate.devices import Device, devices, find_device, read_devices
from refinenet_edge.estimate.graph import graph_of_bundle, graph_of_name
from refinenet_edge.estimate.kernels import Kernel, frame_size, kernels
from refinenet_edge.records import Size

SIZE = (512, 512)
CLASSES = 21

__all__ = [
    "CLASSES",
    "SIZE",
    "BlockBound",
    "Bound",
    "Bounds",
    "Device",
    "Kernel",
    "bound",
    "devices",
    "estimate",
    "find_device",
    "kernels",
    "read_devices",
]


def estimate(model: str, device: str, size: Size | None = None, classes: int | None = None) -> Bounds:
    """The bounds of `model`, a name of `model.MODELS` or a bundle's folder, on `device`, a name or a TOML file.

    Of a name: `size` is (height, width), `classes` a count, by default `SIZE` and `CLASSES`; the weights do not matter.
    A bundle has its own, and needs no torch. Every precision that the device has is bounded, whatever the bundle is in.
    """
    device_name, specs = find_device(device)
    keep: tuple[str, ...] = ()
    if Path(model).is_dir():
        graph, keep = graph_of_bundle(Path(model), size, classes)
    else:
        graph = graph_of_name(model, size or SIZE, classes or CLASSES)
    bounds = (bound(kernels(graph, precision, keep), precision, specs) for precision in specs.precisions)
    return Bounds(model, frame_size(graph), device_name, specs, tuple(bounds))
