"""Stage 5: the precision goes into the graph, so that a strongly typed network needs no builder flag."""

import onnx_ir as ir

from refinenet_edge.errors import InputError
from refinenet_edge.precision.fp16 import to_fp16
from refinenet_edge.precision.pad_channels import pad_channels

PRECISIONS = ("fp32", "fp16")

__all__ = ["PRECISIONS", "apply", "pad_channels", "to_fp16"]


def apply(model: ir.Model, precision: str) -> ir.Model:
    """The float32 `model`, in place, in `precision`."""
    if precision not in PRECISIONS:
        raise InputError(f"no precision {precision!r}; there are {', '.join(PRECISIONS)}")
    return to_fp16(model) if precision == "fp16" else model
