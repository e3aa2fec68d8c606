"""ONNX Runtime's own PTQ: quantize_static after the preprocessing that its documentation asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from int8_peers.terms import Quantiser


class Frames(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, path: Path) -> None:
        with np.load(path) as held:
            feeds = [{name: frame[None]} for name in held.files for frame in held[name]]
        self.feeds: Iterator[dict[str, np.ndarray]] = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def onnxruntime(*, signed: bool) -> Quantiser:
    """Per-channel INT8 weights, min-max; all as TensorRT needs it (`signed` and symmetric, float biases), or unsigned.

    Unsigned activations with zero points and INT32 biases are what ONNX Runtime's own kernels are fastest with.
    """

    def quantiser(plain: Path, frames: Path, target: Path) -> None:
        prepared, partial = target.with_suffix(".prepared"), target.with_suffix(".partial")
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            partial,
            Frames(frames),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": signed, "QuantizeBias": not signed},
        )
        prepared.unlink()
        partial.rename(target)

    return quantiser
