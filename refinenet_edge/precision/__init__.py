"""Stage 5: the precision goes into the graph, so that a strongly typed network needs no builder flag.

fp32                     as it is
fp16                     every tensor
int8                     Q/DQ where the backend's placement says; float16 around it for TensorRT, float32 for the CPU
fp8                      the same in E4M3, for TensorRT on GPUs of compute capability 8.9 and later

placement.py where and on which grid -> qdq.py Q/DQ
switches.py any layers of one session rounded -> sensitivity.py what each layer loses
"""

from collections.abc import Collection

import onnx_ir as ir

from refinenet_edge.errors import InputError
from refinenet_edge.precision.fp16 import to_fp16
from refinenet_edge.precision.pad_channels import pad_channels
from refinenet_edge.precision.placement import Placement, placement_of
from refinenet_edge.precision.qdq import asymmetric, is_quantised, quantise
from refinenet_edge.records import PRECISIONS, Backend, Ranges

QUANTISED = ("int8", "fp8")
ON_GPU: tuple[Backend, ...] = ("tensorrt", "tensorrt-rtx")

__all__ = [
    "ON_GPU",
    "PRECISIONS",
    "QUANTISED",
    "Placement",
    "apply",
    "asymmetric",
    "is_quantised",
    "pad_channels",
    "placement_of",
    "quantise",
    "to_fp16",
    "uncalibrated",
]


def uncalibrated(precision: str) -> str:
    """What an error says where int8 or fp8 has no ranges."""
    return f"{precision} needs calibration: give --calib scenes, a folder of images, a video or ranges"


def apply(
    model: ir.Model,
    precision: str,
    backend: Backend = "openvino",
    ranges: Ranges | None = None,
    keep: Collection[str] = (),
) -> ir.Model:
    """The fused float32 `model`, in place, in `precision` for `backend`.

    int8 and fp8 need `ranges`, unless the model has Q/DQ already, as `backend` takes it; the nodes named in `keep` stay
    float. Raises `InputError` where they lack, or for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise InputError(f"no precision {precision!r}; there are {', '.join(PRECISIONS)}")
    if precision in QUANTISED and is_quantised(model):
        if backend in ON_GPU and (odd := asymmetric(model)):
            raise InputError(
                f"the graph has zero points that are not zero or not INT8 ({', '.join(odd[:3])} ...), {backend} takes "
                "symmetric INT8 only: quantise it with signed, symmetric activations, or build it for openvino"
            )
    elif precision in QUANTISED:
        if ranges is None:
            raise InputError(uncalibrated(precision))
        quantise(model, ranges, placement_of(precision, backend), keep)
    half = precision == "fp16" or (precision in QUANTISED and backend in ON_GPU)
    return to_fp16(model) if half else model
