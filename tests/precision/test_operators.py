"""What a backend does not compute is refused with a sentence, before anything is built of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refinenet_edge.build import build
from refinenet_edge.errors import InputError
from refinenet_edge.precision.operators import UNREAD_BY_TENSORRT
from refinenet_edge.records import Recipe
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.tensorrt.library import logger_of
from tests.conftest import onnx_model, weights

# as onnxruntime.quantization.quantize_dynamic writes a convolution and a matrix product
DYNAMIC = {
    "ConvInteger": """q, s, z = DynamicQuantizeLinear(a)
        i = ConvInteger <pads = [1,1,1,1]> (q, k, z, kz) f = Cast <to = 1> (i) ss = Mul(s, ks) m = Mul(f, ss)""",
    "MatMulInteger": """t = Transpose <perm = [0,2,3,1]> (a) q, s, z = DynamicQuantizeLinear(t)
        i = MatMulInteger(q, k, z, kz) f = Cast <to = 1> (i) ss = Mul(s, ks) u = Mul(f, ss)
        m = Transpose <perm = [0,3,1,2]> (u)""",
}


def recipe(folder: Path, body: str, kernels: dict[str, Any], **options: Any) -> Recipe:
    path = folder / "theirs.onnx"
    ends = "a = Conv <strides = [2,2], pads = [1,1,1,1]> (x, v)", "y = Conv(m, w)"
    kernels = kernels | {"v": weights(8, 3, 3, 3), "w": weights(5, 8, 1, 1)}
    model = onnx_model(f"{ends[0]} {body} {ends[1]}", "float[1,3,32,48] x", "float[1,5,16,24] y", **kernels)
    path.write_bytes(model.SerializeToString())
    return Recipe(str(folder / "b"), onnx=str(path), preprocess="0-1", **options)


def dynamic(folder: Path, operator: str, **options: Any) -> Recipe:
    shape = (8, 8, 3, 3) if operator == "ConvInteger" else (8, 8)
    stored = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    kernels = {"k": stored, "kz": np.uint8(128), "ks": np.float32(0.002)}
    return recipe(folder, DYNAMIC[operator], kernels, **options)


@pytest.mark.parametrize("operator", DYNAMIC)
class TestQuantisedAnewForEachFrame:
    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_a_cpu_computes_it(self, tmp_path: Path, operator: str, backend: str) -> None:
        built = build(dynamic(tmp_path, operator, backend=backend))
        assert all(parity.label_agreement > 0.99 for parity in built.manifest.parity)
        with Segmenter(built.path) as segmenter:
            assert segmenter.segment(np.zeros((32, 48, 3), np.uint8)).labels.shape == (32, 48)

    @pytest.mark.parametrize(
        "options",
        [
            {"backend": "tensorrt", "plan": False},
            {"backend": "tensorrt", "plan": False, "precision": "fp16"},
            {"backend": "tensorrt", "plan": False, "precision": "int8", "calib": "scenes:0:1"},
            {"backend": "tensorrt-rtx"},
            {"backend": "openvino", "precision": "fp16"},
            {"backend": "onnxruntime", "precision": "int8", "calib": "scenes:0:1"},
        ],
    )
    def test_nothing_else_does(self, tmp_path: Path, operator: str, options: dict[str, Any]) -> None:
        with pytest.raises(
            InputError, match=r"anew for each frame \(\w+ .*\), which CPUs .*: build it with --precision"
        ):
            build(dynamic(tmp_path, operator, **options))


def test_what_tensorrt_does_not_read_is_refused_where_it_is_not_here(tmp_path: Path) -> None:
    body = (
        "p, at = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a) "
        "m = MaxUnpool <kernel_shape = [2,2], strides = [2,2]> (p, at)"
    )
    with pytest.raises(InputError, match=r"TensorRT does not read MaxUnpool .*: export it without such operators, or"):
        build(recipe(tmp_path, body, {}, backend="tensorrt", plan=False))
    build(recipe(tmp_path, body, {}, backend="onnxruntime"))


def test_tensorrt_rtx_says_so_too() -> None:
    rtx: Any = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    log = logger_of(rtx)
    builder = rtx.Builder(log)
    parser = rtx.OnnxParser(builder.create_network(0), log)
    assert not any(parser.supports_operator(operator) for operator in UNREAD_BY_TENSORRT)
    assert parser.supports_operator("Conv")
