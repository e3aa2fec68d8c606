"""An nn.Module becomes a float32 graph.

Nodes are named after the module they come from ("refine4.crp.convs.0/Conv"), so that what a builder or a profiler says
of a layer can be read.
"""

from __future__ import annotations

import ast
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from onnxscript import FLOAT, INT64
from onnxscript import opset20 as op
from torch import nn

from refinenet_edge.errors import GraphError
from refinenet_edge.graph import OPSET, tidied
from refinenet_edge.records import INPUT, MAX_SIDE, OUTPUT, SMALLEST_SIDE, Size

Images = npt.NDArray[np.float32]


def trace(module: nn.Module, size: Size, dynamic: bool = False) -> ir.Model:
    """Export `module` (1x3xhxw float32 -> logits) in eval mode at `size`; with `dynamic`, H and W stay free."""
    if min(size) < SMALLEST_SIDE or max(size) > MAX_SIDE:
        raise GraphError(f"size {size[0]}x{size[1]}: each side must be in {SMALLEST_SIDE}..{MAX_SIDE} pixels")
    image = torch.zeros(1, 3, *size)
    free = {2: torch.export.Dim("height", min=SMALLEST_SIDE), 3: torch.export.Dim("width", min=SMALLEST_SIDE)}
    try:
        with quiet():
            program = torch.onnx.export(
                module.eval(),
                (image,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({**free},) if dynamic else None,
                optimize=False,
                verbose=False,
                custom_translation_table=_own_operators(),
            )
    except Exception as exc:  # the exporter raises what it likes
        raise GraphError(f"torch could not export {type(module).__name__} at {size[0]}x{size[1]}: {exc}") from exc
    assert program is not None
    _name_nodes(program.model)
    return tidied(program.model)


def _own_operators() -> dict[Any, Any]:
    """The operators that our networks add to torch, where there is one of these, in ONNX."""

    def resize_cubic(x: FLOAT, size: INT64) -> Any:
        sides: Any = op.Cast(size, to=INT64.dtype)
        sides = op.Concat(op.Shape(x, start=0, end=2), sides, axis=0)
        half = "half_pixel"
        return op.Resize(x, None, None, sides, mode="cubic", cubic_coeff_a=-0.5, coordinate_transformation_mode=half)

    ours = torch.ops.refinenet_edge
    return {ours.resize_cubic.default: resize_cubic} if hasattr(ours, "resize_cubic") else {}


def torch_logits(module: nn.Module, images: Mapping[str, Images]) -> dict[str, Images]:
    """What torch makes of prepared images (1x3xhxw float32): the logits that a trace has to give."""
    with torch.inference_mode():
        return {name: module(torch.from_numpy(image)).numpy() for name, image in images.items()}


def _name_nodes(model: ir.Model) -> None:
    """Name every node after the module it came from."""
    seen: Counter[str] = Counter()
    for node in model.graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "['', '']"))
        name = f"{scopes[-2] if len(scopes) > 1 else ''}/{node.op_type}".lstrip("/")
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name] - 1}"
        if len(node.outputs) == 1 and not node.outputs[0].is_graph_output():
            node.outputs[0].name = f"{node.name}:0"


@contextmanager
def quiet() -> Iterator[None]:
    """The exporter's warnings are about packages that are not installed and about itself."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
