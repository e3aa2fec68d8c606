"""The precision goes into the graph, so that a strongly typed network needs no builder flag.

fp32                     as it is
fp16                     every tensor that float16 can hold
int8                     Q/DQ where the backend's placement says; float16 around it for TensorRT, float32 for the CPU
fp8                      the same in E4M3, for TensorRT on GPUs of compute capability 8.9 and later

placement.py where and on which grid -> qdq.py Q/DQ         foreign.py Q/DQ of others, as a backend takes it
integer_pools.py pools of INT8 on the CPU     operators.py what a backend does not compute
ends.py plain ends and labels in the graph, for other tools
switches.py any layers of one session rounded -> sensitivity.py what each layer loses
"""

from collections.abc import Collection, Mapping

import onnx_ir as ir

from refinenet_edge.errors import InputError
from refinenet_edge.precision.ends import append_head, plain_ends
from refinenet_edge.precision.foreign import adapt, asymmetric, is_quantised, needs_vnni
from refinenet_edge.precision.fp16 import stored_in_half, to_fp16
from refinenet_edge.precision.integer_pools import pool_integers
from refinenet_edge.precision.operators import require_computed
from refinenet_edge.precision.pad_channels import pad_channels
from refinenet_edge.precision.placement import Placement, in_7_bits, placement_of
from refinenet_edge.precision.qdq import quantise
from refinenet_edge.records import PRECISIONS, Backend, Ranges

QUANTISED = ("int8", "fp8")
ON_GPU: tuple[Backend, ...] = ("tensorrt", "tensorrt-rtx")

__all__ = [
    "ON_GPU", "QUANTISED", "Placement", "append_head", "apply", "in_7_bits", "is_quantised", "needs_vnni",
    "pad_channels", "placement_of", "plain_ends", "quantise", "stored_in_half", "uncalibrated",
]  # fmt: skip


def uncalibrated(precision: str) -> str:
    """What an error says where int8 or fp8 has no ranges."""
    return f"{precision} needs calibration: give --calib scenes, a folder of images, a video or ranges"


def apply(
    model: ir.Model,
    precision: str,
    backend: Backend = "openvino",
    ranges: Ranges | None = None,
    keep: Collection[str] = (),
    seven_bits: bool = False,
    peaks: Mapping[str, float] | None = None,
) -> ir.Model:
    """The fused float32 `model`, in place, in `precision` for `backend`.

    int8 and fp8 need `ranges`, unless the model has Q/DQ already, which is rewritten as `backend` takes it; the nodes
    named in `keep` stay float. `seven_bits`: of INT8 weights, so that no processor saturates their products.
    `peaks`: the largest magnitude seen of each activation, by which float16 is judged.
    Raises `InputError` where ranges lack, where nothing is quantised, for an operator that `backend` does not compute,
    or for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise InputError(f"no precision {precision!r}; there are {', '.join(PRECISIONS)}")
    require_computed(model, precision, on_gpu=backend in ON_GPU)
    if precision in QUANTISED:
        if is_quantised(model):
            adapt(model, on_cpu=backend not in ON_GPU, in_7_bits=seven_bits)
        elif ranges is None:
            raise InputError(uncalibrated(precision))
        else:
            placement = placement_of(precision, backend)
            quantise(model, ranges, in_7_bits(placement) if seven_bits else placement, keep)
        _require_quantised(model, precision, backend)
        if backend not in ON_GPU:
            pool_integers(model)
    half = precision == "fp16" or (precision in QUANTISED and backend in ON_GPU)
    return to_fp16(model, peaks) if half else model


def _require_quantised(model: ir.Model, precision: str, backend: Backend) -> None:
    """Raise `InputError` where nothing is computed in the precision asked for, or not as `backend` takes it."""
    if not is_quantised(model):
        plain = "fp16" if backend in ON_GPU else "fp32"
        raise InputError(
            f"no layer of this network would be computed in {precision} by {backend} (too narrow, or no convolutions): "
            f"build with --precision {plain}"
        )
    if backend in ON_GPU and (odd := asymmetric(model)):
        raise InputError(
            f"the graph has zero points that are not zero or not INT8 ({', '.join(odd[:3])} ...), {backend} takes "
            "symmetric INT8 only: quantise it with signed, symmetric activations, or build it for openvino"
        )
