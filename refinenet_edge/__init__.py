"""Take a RefineNet checkpoint to a segmentation engine on Jetson and desktop NVIDIA GPUs.

    checkpoint --model--> nn.Module --trace--> graph --fusion--> graph --precision--> typed graph
                                              frames --calibration--> ranges --^          |
      Mask <--runtime-- frame                              bundle: model.onnx, model.plan <--engine

Each stage is one module that takes a record or a graph and returns one; `build` runs them all and writes the bundle.
`refinenet_edge.runtime` is the device side: it needs numpy and OpenCV, and neither torch nor onnx.

A program needs the names below, and each is imported when it is first used:

    run          Segmenter, Mask, read_image, available                     numpy, OpenCV and a backend
    live         live, open_source, LiveSource, SegmentedFrame
    a bundle     open_bundle, Bundle, FrameSpec, Labels, Bilinear, Cubic
    judge        evaluate, open_dataset, read_mask, MultiScale, Tiles
    build        build_bundle, Recipe                                       pip install 'refinenet-edge[export]'
    train        create, load_checkpoint, save_checkpoint
    errors       RefineNetEdgeError: every error that is raised on purpose
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "Bilinear", "Bundle", "Cubic", "FrameSpec", "Labels", "LiveSource", "Mask", "MultiScale", "Recipe",
    "RefineNetEdgeError", "SegmentedFrame", "Segmenter", "Tiles", "available", "build_bundle", "create", "evaluate",
    "live", "load_checkpoint", "open_bundle", "open_dataset", "open_source", "read_image", "read_mask",
    "save_checkpoint",
]  # fmt: skip

if TYPE_CHECKING:
    from refinenet_edge.build import build as build_bundle
    from refinenet_edge.bundle import Bundle, open_bundle
    from refinenet_edge.demo import LiveSource, SegmentedFrame, live, open_source
    from refinenet_edge.errors import RefineNetEdgeError
    from refinenet_edge.evaluation import evaluate, open_dataset
    from refinenet_edge.evaluation.masks import read_mask
    from refinenet_edge.frames.images import read_image
    from refinenet_edge.model import create, load_checkpoint, save_checkpoint
    from refinenet_edge.records import Bilinear, Cubic, FrameSpec, Labels, Mask, MultiScale, Recipe, Tiles
    from refinenet_edge.runtime import Segmenter, available
else:
    _NAMES = {
        "build": ("build as build_bundle",),  # `refinenet_edge.build` is the package
        "bundle": ("Bundle", "open_bundle"),
        "demo": ("LiveSource", "SegmentedFrame", "live", "open_source"),
        "errors": ("RefineNetEdgeError",),
        "evaluation": ("evaluate", "open_dataset"),
        "evaluation.masks": ("read_mask",),
        "frames.images": ("read_image",),
        "model": ("create", "load_checkpoint", "save_checkpoint"),
        "records": ("Bilinear", "Cubic", "FrameSpec", "Labels", "Mask", "MultiScale", "Recipe", "Tiles"),
        "runtime": ("Segmenter", "available"),
    }
    _HOMES = {name.split()[-1]: (home, name.split()[0]) for home, names in _NAMES.items() for name in names}

    def __getattr__(name: str) -> object:
        # at first use, so that what runs a bundle needs neither torch nor what builds one
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home, there = _HOMES[name]
        return getattr(importlib.import_module(f"{__name__}.{home}"), there)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
