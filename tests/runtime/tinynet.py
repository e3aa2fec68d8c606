"""A tiny network (one convolution, stride 4) as ONNX, what it computes, and its TensorRT plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
from onnx import numpy_helper

CLASSES = 5


def tiny(dtype: str, size: tuple[int, int] | None) -> onnx.ModelProto:
    """ONNX: image 1x3xHxW -> logits 1x5xH/4xW/4; `size` None: H and W vary."""
    onnx_type = {"float32": "float", "float16": "float16"}[dtype]
    height, width = size or ("height", "width")
    quarter = f"{size[0] // 4},{size[1] // 4}" if size else "h,w"
    model = onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["": 20]>
        tiny ({onnx_type}[1,3,{height},{width}] image) => ({onnx_type}[1,{CLASSES},{quarter}] logits)
        {{ logits = Conv <strides = [4,4], pads = [1,1,1,1]> (image, weight, bias) }}
    """)
    rng = np.random.default_rng(7)
    for name, shape in (("weight", (CLASSES, 3, 3, 3)), ("bias", (CLASSES,))):
        values = (rng.standard_normal(shape) / 3).astype(dtype)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.checker.check_model(model, full_check=True)
    return model


def convolve(model: onnx.ModelProto, image: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """What `tiny` computes, in float64."""
    weight, bias = (numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer)
    padded = np.pad(image.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::4, ::4]
    return np.einsum("bchwij,ocij->bohw", windows, weight) + bias[:, None, None]


def build_plan(trt: Any, model: onnx.ModelProto) -> bytes:
    """A plan of `tiny` by `trt`, the tensorrt or tensorrt_rtx module; frames of 4x4 to 64x64 if its size varies."""
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse(model.SerializeToString()), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    image = network.get_input(0)
    if -1 in tuple(image.shape):
        profile = builder.create_optimization_profile()
        profile.set_shape(image.name, (1, 3, 4, 4), (1, 3, 32, 48), (1, 3, 64, 64))
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    return bytes(plan)
