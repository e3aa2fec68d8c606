"""What a build refuses: before it begins, and once it has seen the graph."""

from __future__ import annotations

import onnx_ir as ir

from refinenet_edge import precision
from refinenet_edge.errors import InputError
from refinenet_edge.records import Backend, Recipe
from refinenet_edge.runtime.cuda import gpu_capability

IN_RTX = {  # measured: benchmarks/rtx_int8.py
    "int8": "hardly fewer bytes, or more (rf_lw_mbv2 430 against 440 MB, rf_lw50 688 against 638)",
    "fp8": "more bytes (rf_lw_mbv2 636 against 440 MB, rf_lw50 1288 against 638)",
}


def refuse(recipe: Recipe, backend: Backend) -> None:
    """Raise `InputError` for a recipe that would only fail, or disappoint, after minutes."""
    if recipe.precision not in precision.QUANTISED:
        for asked, option in ((recipe.calib is not None, "--calib"), (recipe.budgeted, "an accuracy budget")):
            if asked:
                raise InputError(f"{option} is for --precision int8 or fp8, this is {recipe.precision}")
        return
    if recipe.calib is None and recipe.onnx is None:
        raise InputError(precision.uncalibrated(recipe.precision))
    if recipe.budgeted and recipe.judge is None and (recipe.calib or ".json").endswith(".json"):
        raise InputError("a budget is judged on frames: give --judge scenes:SEED:COUNT, a folder or a data set")
    if recipe.max_miou_drop is not None and recipe.judge is None and not str(recipe.calib).startswith("scenes"):
        raise InputError("points of mIoU need labelled samples: give --judge scenes:SEED:COUNT or a data set")
    if recipe.precision == "fp8":
        _refuse_fp8(recipe, backend)
    if backend == "tensorrt-rtx" and not recipe.force:
        raise InputError(
            f"in TensorRT-RTX's plans {recipe.precision} has more kernels than fp16 and {IN_RTX[recipe.precision]}: "
            "build with --precision fp16, or with --force all the same"
        )


def _refuse_fp8(recipe: Recipe, backend: Backend) -> None:
    if backend not in precision.ON_GPU:
        raise InputError(f"{backend} has no FP8: build with --precision int8, or for tensorrt or tensorrt-rtx")
    here = gpu_capability() if backend == "tensorrt" else None
    old = [target for target in (*recipe.target, *([here] if here else [])) if int(target.partition("_")[2] or 0) < 89]
    if old:
        raise InputError(f"{', '.join(old)} has no FP8, sm_89 and later have: build with --precision int8")


def refuse_graph(recipe: Recipe, backend: Backend, model: ir.Model) -> None:
    """Raise `InputError` unless the graph has Q/DQ where the recipe says so, as the backend takes it."""
    if not precision.is_quantised(model):
        if recipe.precision in precision.QUANTISED and recipe.calib is None:
            raise InputError(f"{recipe.onnx} has no Q/DQ, and {precision.uncalibrated(recipe.precision)}")
        return
    if recipe.precision not in precision.QUANTISED:
        raise InputError(f"{recipe.onnx} is quantised (it has Q/DQ): build it with --precision int8")
    if recipe.calib is not None or recipe.budgeted:
        raise InputError(f"{recipe.onnx} is quantised already (it has Q/DQ): leave --calib and budgets out")
    if backend in precision.ON_GPU and (odd := precision.asymmetric(model)):
        raise InputError(
            f"{recipe.onnx} has zero points that are not zero or not INT8 ({', '.join(odd[:3])} ...), {backend} takes "
            "symmetric INT8 only: quantise it with signed, symmetric activations, or build it for openvino"
        )
