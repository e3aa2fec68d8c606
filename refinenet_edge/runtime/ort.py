"""Run an ONNX graph on the CPU with ONNX Runtime: the reference, and the twin where OpenVINO is not installed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from refinenet_edge.errors import BundleError, RefineNetEdgeError
from refinenet_edge.records import TensorSpec
from refinenet_edge.runtime.session import CheckedSession, Feeds, Outputs

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
ERRORS_ONLY = 3  # log severity: the default prints optimiser warnings that nobody can act on


class OrtSession(CheckedSession):
    """`model` (an ONNX file or its bytes) on the CPU; outputs are new arrays.

    `as_written`: Q/DQ stay nodes of their own and convolutions float, as FP8 must. Raises `BundleError` for an unusable
    model.
    """

    def __init__(self, model: Path | bytes, as_written: bool = False) -> None:
        onnxruntime = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        if as_written:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        source = str(model) if isinstance(model, Path) else model
        try:
            self._session: Any = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # its error classes are private and have no base of their own
            what = model if isinstance(model, Path) else "the model"
            raise BundleError(f"ONNX Runtime cannot load {what}: {exc}") from exc
        super().__init__("onnxruntime", _specs(self._session.get_inputs()), _specs(self._session.get_outputs()))

    def _run(self, feeds: Feeds) -> Outputs:
        try:
            values = self._session.run(None, dict(feeds))
        except Exception as exc:
            shapes = [array.shape for array in feeds.values()]
            raise RefineNetEdgeError(f"ONNX Runtime failed on {shapes}: {exc}") from exc
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}

    def _release(self) -> None:
        self._session = None


def _specs(tensors: Any) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            tensor.name,
            DTYPES.get(tensor.type, tensor.type),
            tuple(f"dim{axis}" if dim is None else dim for axis, dim in enumerate(tensor.shape)),
        )
        for tensor in tensors
    )
