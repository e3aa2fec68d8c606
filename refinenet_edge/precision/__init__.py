"""Stage 5: the precision goes into the graph, so that a strongly typed network needs no builder flag.

fp32                     as it is
fp16                     every tensor
int8                     Q/DQ where the backend's placement says; float16 around it for TensorRT, float32 for the CPU
"""

import onnx_ir as ir

from refinenet_edge.errors import InputError
from refinenet_edge.precision.fp16 import to_fp16
from refinenet_edge.precision.int8 import to_int8
from refinenet_edge.precision.pad_channels import pad_channels
from refinenet_edge.precision.placement import PLACEMENTS
from refinenet_edge.records import Backend, Ranges

PRECISIONS = ("fp32", "fp16", "int8")

__all__ = ["PRECISIONS", "apply", "pad_channels", "to_fp16", "to_int8"]


def apply(model: ir.Model, precision: str, backend: Backend = "openvino", ranges: Ranges | None = None) -> ir.Model:
    """The fused float32 `model`, in place, in `precision` for `backend`; int8 needs `ranges`."""
    if precision not in PRECISIONS:
        raise InputError(f"no precision {precision!r}; there are {', '.join(PRECISIONS)}")
    if precision == "int8":
        if ranges is None:
            raise InputError("int8 needs calibration: give --calib scenes, a folder of images, a video or ranges")
        to_int8(model, ranges, PLACEMENTS[backend])
    half = precision == "fp16" or (precision == "int8" and backend in ("tensorrt", "tensorrt-rtx"))
    return to_fp16(model) if half else model
