"""The proof has no holes: it begins at the file as given, and ends in the bundle's own backend."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.version_converter
import pytest

from refinenet_edge.build import build, parity
from refinenet_edge.bundle import MODEL
from refinenet_edge.errors import GraphError
from refinenet_edge.records import Manifest, Recipe
from tests.conftest import network, onnx_model, weights

LOAD = importlib.import_module("refinenet_edge.build.load")
PROOF = importlib.import_module("refinenet_edge.build.proof")
SIZE = (32, 48)
FRAME = {"frame": weights(1, 3, *SIZE, seed=7)}
Build = Callable[..., Manifest]


@pytest.fixture
def built(tmp_path: Path) -> Build:
    """built(body, constants): the manifest of somebody's file of 5 classes at 32x48, built for ONNX Runtime.

    What the bundle computes is held to what ONNX Runtime makes of that file.
    """

    def build_file(
        body: str, constants: dict[str, Any], output: str = "float[1,5,h,w] y", opset: int = 20, **options: Any
    ) -> Manifest:
        given, folder = tmp_path / "given.onnx", tmp_path / "bundle"
        model = onnx_model(body, "float[1,3,32,48] x", output, opset, **constants)
        given.write_bytes(model.SerializeToString())
        manifest = build(
            Recipe(str(folder), onnx=str(given), **({"size": SIZE, "backend": "onnxruntime"} | options))
        ).manifest
        if manifest.precision == "fp32":
            (expected,), (found,) = (parity.logits(path, FRAME).values() for path in (given, folder / MODEL))
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3 * float(np.abs(expected).max()))
        return manifest

    return build_file


def kernel(out: int = 5, inside: int = 3, size: int = 1, seed: int = 0) -> npt.NDArray[np.float32]:
    return weights(out, inside, size, size, seed=seed)


class TestTheFileAsGiven:
    @pytest.mark.parametrize("scales", [(2, 2), (1.5, 1.5), (0.75, 0.75), (0.5, 0.5)])
    @pytest.mark.parametrize("mode", ["nearest", "linear"])
    def test_an_old_resize_is_asymmetric(self, built: Build, mode: str, scales: tuple[float, float]) -> None:
        body = f'a = Conv(x, w) y = Resize <mode = "{mode}"> (a, s)'
        built(body, {"w": kernel(), "s": np.array([1, 1, *scales], np.float32)}, opset=10)

    def test_so_is_an_older_upsample(self, built: Build) -> None:
        body = 'a = Conv(x, w) y = Upsample <mode = "linear"> (a, s)'
        built(body, {"w": kernel(), "s": np.array([1, 1, 2, 2], np.float32)}, opset=9)

    def test_an_older_hardmax_takes_its_later_axes_as_one(self, built: Build) -> None:
        built("a = Conv(x, w) y = Hardmax(a)", {"w": kernel()}, opset=11)

    def test_what_a_conversion_does_wrong_some_day_is_refused(
        self, built: Build, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        convert = onnx.version_converter.convert_version

        def wrong(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
            converted = convert(model, opset)
            converted.graph.node[-1].op_type = "Sigmoid"
            return converted

        monkeypatch.setattr(onnx.version_converter, "convert_version", wrong)
        with pytest.raises(GraphError, match=r"brought to the opset used here the model computes something else"):
            built("a = Conv(x, w) y = Relu(a)", {"w": kernel()}, opset=17)

    def test_a_checkpoint_is_held_to_what_torch_computes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        trace = LOAD.trace
        monkeypatch.setattr(LOAD, "trace", lambda _, *how: trace(network("rf_lw_mbv2", seed=1), *how))
        with pytest.raises(GraphError, match="the model computes something else"):
            build(Recipe(str(tmp_path / "b"), "rf_lw_mbv2", size=SIZE, backend="onnxruntime"))

    @pytest.mark.parametrize("opset", [17, 20])
    @pytest.mark.parametrize("declared", ["float[1,5,64,64] y", "float[1,7,16,24] y", "float[N,C,h,w] y"])
    def test_a_declared_shape_is_not_believed(self, built: Build, tmp_path: Path, declared: str, opset: int) -> None:
        model = onnx_model(
            "y = Conv <strides = [2,2]> (x, w)", "float[1,3,32,48] x", "float[1,5,h,w] y", opset, w=kernel()
        )
        ends = onnx.parser.parse_graph(f"g (float[1,3,32,48] x) => ({declared}) {{ y = Conv(x, x) }}")
        model.graph.output[0].CopyFrom(ends.output[0])
        (tmp_path / "stale.onnx").write_bytes(model.SerializeToString())
        recipe = Recipe(str(tmp_path / "b"), onnx=str(tmp_path / "stale.onnx"), size=SIZE, backend="onnxruntime")
        assert build(recipe).manifest.outputs[0].shape == (1, 5, 16, 24)


class TestTheBundlesOwnBackend:
    SMOOTH = 'y = Resize <mode = "linear", antialias = 1> (a, , s)'
    HALF = np.array([1, 1, 0.5, 0.5], np.float32)

    def test_what_openvino_computes_otherwise_is_refused(self, built: Build) -> None:
        constants = {"w": kernel(), "s": self.HALF}
        with pytest.raises(GraphError, match=r"openvino .*build it with --backend onnxruntime"):
            built(f"a = Conv(x, w) {self.SMOOTH}", constants, backend="openvino")
        assert {p.backend for p in built(f"a = Conv(x, w) {self.SMOOTH}", constants).parity} == {"onnxruntime"}

    def test_what_openvino_cannot_open_is_refused(self, built: Build) -> None:
        body = (
            "p, at = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x) "
            "u = MaxUnpool <kernel_shape = [2,2], strides = [2,2]> (p, at) y = Conv(u, w)"
        )
        with pytest.raises(GraphError, match=r"openvino .*build it with --backend onnxruntime"):
            built(body, {"w": kernel()}, backend="openvino")
        built(body, {"w": kernel()})

    def test_what_is_not_finite_in_float32_is_the_backends(self, built: Build, monkeypatch: pytest.MonkeyPatch) -> None:
        run = PROOF._run
        monkeypatch.setattr(PROOF, "_run", lambda *how: {name: x * np.inf for name, x in run(*how).items()})
        said = (
            r"in fp32 openvino gives logits that are not finite on the \w+ frame: build it with --backend onnxruntime"
        )
        with pytest.raises(GraphError, match=said):
            built("y = Conv(x, w)", {"w": kernel()}, backend="openvino")

    def test_what_it_computes_rightly_is_in_the_manifest(self, built: Build) -> None:
        proof = built("y = Conv(x, w)", {"w": kernel()}, backend="openvino").parity
        assert [(p.stage, p.backend) for p in proof] == [("fused", "onnxruntime")] * 2 + [("fp32", "openvino")] * 2
        assert all(p.relative_error < 1e-5 for p in proof)


class TestWhatFloat32CanPromise:
    def test_tiny_outputs_of_sums_that_cancel_are_built(self, built: Build) -> None:
        """A sigmoid of about -9, left of sums that are many times larger: its last digits are rounding's own."""
        body = "a = Conv(x, w) n = BatchNormalization(a, one, b, far, one) r = Conv(n, k, c) y = Sigmoid(r)"
        ones, far, b = np.ones(16, np.float32), np.full(16, 100, np.float32), weights(16, seed=1)
        wide = kernel(16, size=3)
        spread = kernel(5, 16) / 50
        offset = (spread[:, :, 0, 0] @ (b - far)).astype(np.float32)
        constants = {"w": wide, "one": ones, "b": b, "far": far, "k": spread, "c": -9 - offset}
        proof = built(body, constants).parity
        assert max(p.relative_error for p in proof) > parity.BOUND  # or there would be nothing to excuse

    def test_the_last_bit_of_an_ordinary_network_moves_little(self) -> None:
        model = onnx_model("a = Conv(x, w) y = Relu(a)", "float[1,3,32,48] x", "float[1,5,32,48] y", w=kernel())
        assert 0 < parity.rounding_noise(model.SerializeToString(), FRAME, parity.LAST_BIT) < 1e-6

    def test_a_wrong_network_is_not_excused_by_rounding(self) -> None:
        found = parity.Parity("fused", "frame", 1e-2, 0.9999)
        assert not parity.exact_enough(found, lambda: 1e-7)
        assert parity.exact_enough(found, lambda: 2e-3)
        assert not parity.exact_enough(parity.Parity("fused", "frame", 1e-2, 0.9), lambda: 2e-3)


CALIB = {"precision": "int8", "calib": "scenes:3:2"}


class TestWhatInt8Loses:
    def test_a_channel_that_reaches_far_is_named(self, built: Build, caplog: pytest.LogCaptureFixture) -> None:
        """One of sixteen channels a thousand times as far, and read by weights as much smaller."""
        first, last = kernel(16, size=3), kernel(5, 16)
        first[3] *= 1000
        last[:, 3] /= 1000
        body = "a = Conv <pads = [1,1,1,1]> (x, w) far = Relu(a) y = Conv(far, k)"
        built(body, {"w": first, "k": last}, force=True, **CALIB)
        assert "far, which has a channel that reaches" in caplog.text or "a, which has a channel" in caplog.text
        assert "times as far as others under one scale, may be why" in caplog.text

    def test_a_concat_of_other_ranges_is_named(self, built: Build, caplog: pytest.LogCaptureFixture) -> None:
        body = "a = Conv(x, u) b = Conv(x, v) c = Concat <axis = 1> (a, b) r = Tanh(c) s = Add(c, r) y = Conv(s, k)"
        last = kernel(5, 16)
        last[:, 8:] /= 300
        constants = {"u": kernel(8), "v": 300 * kernel(8, seed=1), "k": last}
        built(body, constants, force=True, **CALIB)
        assert "joins channels of which one reaches" in caplog.text or "has a channel that reaches" in caplog.text

    def test_nothing_is_said_of_an_even_network(self, built: Build, caplog: pytest.LogCaptureFixture) -> None:
        built("a = Conv(x, w) y = Conv(a, k)", {"w": kernel(16), "k": kernel(5, 16)}, **CALIB)
        assert "may be why" not in caplog.text
