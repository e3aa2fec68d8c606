"""Small graphs in ONNX text, and what is built once for all tests: traces, bundles, a folder of images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import ShapeInferencePass

from refinenet_edge.build import build
from refinenet_edge.frames.images import write_image
from refinenet_edge.fusion import Firing, Rewrite
from refinenet_edge.graph import to_bytes
from refinenet_edge.model import create
from refinenet_edge.records import Recipe
from refinenet_edge.runtime.processor import processor
from refinenet_edge.trace import trace

Arrays = dict[str, npt.NDArray[Any]]
Traced = Callable[..., ir.Model]
SIZE = (64, 96)
ODD = (97, 130)


def pytest_report_header() -> str:
    return f"processor: {processor()}"


def weights(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Normal numbers, the same for the same shape and seed."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def onnx_model(
    body: str, inputs: str = "float[1,8,5,7] x", outputs: str = "float[1,8,5,7] y", opset: int = 20, **constants: Any
) -> onnx.ModelProto:
    """`body` in ONNX text as a checked model; `constants` are its initializers."""
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": {opset}]> small ({inputs}) => ({outputs}) {{ {body} }}'
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def graph(*args: Any, **kwargs: Any) -> ir.Model:
    """`onnx_model` as IR, with its shapes inferred."""
    model = ir.from_proto(onnx_model(*args, **kwargs))
    ShapeInferencePass()(model)
    return model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def outputs_of(model: ir.Model, feeds: Arrays) -> list[npt.NDArray[Any]]:
    """What the graph computes, by ONNX's own reference; the model is checked with its types and shapes."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return [np.asarray(output) for output in ReferenceEvaluator(proto).run(None, feeds)]


def feeds_of(model: ir.Model) -> Arrays:
    """A number for every pixel of every input; sides that vary are 7."""
    return {
        str(value.name): weights(*(side if isinstance(side, int) else 7 for side in value.shape or ()), seed=99)
        for value in model.graph.inputs
    }


def assert_close(found: list[npt.NDArray[Any]], expected: list[npt.NDArray[Any]], rtol: float = 1e-5) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * float(np.abs(other).max(initial=0.0)))


def apply(rewrite: Rewrite, model: ir.Model) -> Firing:
    """`rewrite` on `model`, in place, and the proof that the graph still computes the same."""
    feeds = feeds_of(model)
    expected = outputs_of(model, feeds)
    firing = rewrite(model)
    assert_close(outputs_of(model, feeds), expected)
    return firing


@cache
def network(name: str, classes: int = 21, seed: int = 0, **options: Any) -> Any:
    """A network with random weights in eval mode: shared, so not to be changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create(name, classes, **options).eval()


@pytest.fixture(scope="session")
def traced() -> Traced:
    """traced(name, size): a new copy of the traced graph of a network, which is traced once."""

    @cache
    def trace_once(name: str, size: tuple[int, int]) -> bytes:
        return to_bytes(trace(network(name), size))

    def copy(name: str, size: tuple[int, int]) -> ir.Model:
        return ir.from_proto(onnx.load_model_from_string(trace_once(name, size)))

    return copy


@pytest.fixture(scope="session")
def mobile_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of rf_lw_mbv2 at 64x96 for OpenVINO: read it, never write into it."""
    folder = tmp_path_factory.mktemp("bundles") / "mobile"
    return build(Recipe(str(folder), "rf_lw_mbv2", size=SIZE, backend="openvino")).path


@pytest.fixture(scope="session")
def dynamic_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of rf_lw_mbv2 around 64x96 for TensorRT-RTX, its sides free: read it, never write into it."""
    folder = tmp_path_factory.mktemp("bundles") / "dynamic"
    return build(Recipe(str(folder), "rf_lw_mbv2", size=SIZE, dynamic=True, backend="tensorrt-rtx")).path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images: a.png of 50x70 pixels (height x width), b.png of 96x64."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(5)
    for name, size in (("a", (50, 70)), ("b", (96, 64))):
        # smooth, as photos are: a pixel's label then does not hang on its last bit
        y, x = np.mgrid[: size[0], : size[1]]
        waves = [np.sin(y / rng.uniform(4, 9) + x / rng.uniform(4, 9)) for _ in range(3)]
        write_image(folder / f"{name}.png", np.uint8(127 + 120 * np.stack(waves, axis=-1)))
    return folder


@pytest.fixture(autouse=True)
def _no_handler_stays() -> Iterator[None]:
    """A command sets the log up for its own stderr: that one is closed when its test ends."""
    package = logging.getLogger("refinenet_edge")
    handlers, level = list(package.handlers), package.level
    yield
    package.handlers[:] = handlers
    package.setLevel(level)
