"""Which nodes DLA would run, on graphs of a few nodes: each rule's refusal and what it lets through."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from refinenet_edge import cli
from refinenet_edge.bundle import MODEL, open_bundle, write_bundle
from refinenet_edge.dla import OLD, Coverage, DlaReport, check
from refinenet_edge.errors import BundleError
from refinenet_edge.graph import to_bytes
from refinenet_edge.onnx_import.bundled import read_graph
from refinenet_edge.precision import apply
from tests.conftest import graph, weights

X = "float16[1,8,16,16] x"


def half(*shape: int) -> Any:
    return weights(*shape).astype(np.float16)


def report(body: str, inputs: str = X, outputs: str = "float16[a,b,c,d] y", **constants: Any) -> DlaReport:
    return check(graph(body, inputs, outputs, **constants))


def reasons(found: DlaReport) -> dict[str, tuple[str, ...]]:
    return {reason.reason: reason.nodes for reason in found.reasons}


def refused(found: DlaReport) -> str:
    """The reasons of a graph of one node, which have a source each."""
    assert all(reason.source for reason in found.reasons)
    return " + ".join(reason.reason for reason in found.reasons)


CONV = "y = Conv <{}> (x, w)"
DECONV = "y = ConvTranspose <{}> (x, w)"
RESIZE = 'y = Resize <mode = "{}", coordinate_transformation_mode = "{}"{}> (x, , s)'
POOL = "y = {} <kernel_shape = [{k},{k}], strides = [{s},{s}], pads = [{p},{p},{p},{p}]> (x)"


class TestRules:
    @pytest.mark.parametrize(
        ("mode", "where", "more", "scales", "said"),
        [
            ("linear", "half_pixel", "", [1, 1, 2, 4], ""),
            ("linear", "pytorch_half_pixel", "", [1, 1, 2, 2], ""),
            ("linear", "align_corners", "", [1, 1, 2, 2], "linear Resize without half-pixel centres (align_corners)"),
            ("linear", "asymmetric", "", [1, 1, 2, 2], "linear Resize without half-pixel centres (align_corners)"),
            ("linear", "half_pixel", "", [1, 1, 5, 2], "Resize by other scales"),
            ("linear", "half_pixel", "", [1, 1, 1.5, 2], "Resize by other scales"),
            ("linear", "half_pixel", "", [1, 2, 1, 1], "Resize by other scales"),
            ("linear", "half_pixel", ", axes = [2,3]", [2, 2], ""),
            ("linear", "half_pixel", ", axes = [1]", [2], "Resize by other scales"),
            ("nearest", "half_pixel", "", [1, 1, 32, 32], ""),
            ("nearest", "half_pixel", "", [1, 1, 33, 32], "Resize by other scales"),
            ("nearest", "half_pixel", ', nearest_mode = "round_prefer_ceil"', [1, 1, 2, 2], ""),
            ("nearest", "asymmetric", ', nearest_mode = "floor"', [1, 1, 2, 2], ""),
            ("nearest", "asymmetric", ', nearest_mode = "ceil"', [1, 1, 2, 2], "nearest Resize in a coordinate"),
            ("cubic", "half_pixel", "", [1, 1, 2, 2], "Resize that is neither nearest nor linear"),
        ],
    )
    def test_resize(self, mode: str, where: str, more: str, scales: list[float], said: str) -> None:
        found = refused(report(RESIZE.format(mode, where, more), s=np.array(scales, np.float32)))
        assert found.startswith(said) if said else not found

    def test_resize_to_sizes(self) -> None:
        found = report('y = Resize <mode = "linear"> (x, , , s)', s=np.array([1, 8, 32, 32], np.int64))
        assert refused(found) == "Resize to sizes: DLA takes scales only"

    @pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
    @pytest.mark.parametrize(
        ("numbers", "said"),
        [
            ({"k": 5, "s": 1, "p": 2}, ""),
            ({"k": 8, "s": 16, "p": 7}, ""),
            ({"k": 9, "s": 1, "p": 4}, "a pooling window above 8"),
            ({"k": 3, "s": 17, "p": 1}, "a pooling stride above 16"),
            ({"k": 9, "s": 1, "p": 8}, "a pooling window above 8 + pooling padding above 7"),
        ],
    )
    def test_pooling(self, operator: str, numbers: dict[str, int], said: str) -> None:
        assert refused(report(POOL.format(operator, **numbers))) == said

    @pytest.mark.parametrize(
        ("attributes", "kernel", "said"),
        [
            ("pads = [1,1,1,1], strides = [2,2]", 3, ""),
            ("group = 8", 1, ""),
            ("pads = [16,16,16,16]", 32, ""),
            ("pads = [17,17,17,17]", 33, "a convolution kernel above 32"),
            ("strides = [9,9]", 3, "a convolution stride above 8"),
            ("pads = [31,31,31,31]", 32, ""),
            ("pads = [3,3,3,3]", 3, "convolution padding not less than the kernel"),
            ("pads = [12,12,12,12], dilations = [12,12]", 3, "padding not less than the kernel; of dilated kernels"),
            ("pads = [2,2,2,2], dilations = [33,33]", 1, "a dilation above 32 + padding not less"),
            ("pads = [32,32,32,32]", 32, "convolution padding above 31 + convolution padding not less"),
        ],
    )
    def test_convolution(self, attributes: str, kernel: int, said: str) -> None:
        width = 1 if "group" in attributes else 8
        found = report(CONV.format(attributes), w=half(8, width, kernel, kernel))
        assert refused(found).startswith(said) if said else not found.reasons

    def test_more_channels_than_dla_has(self) -> None:
        wide = report("y = Conv (x, w)", "float16[1,1,2,2] x", w=half(8193, 1, 1, 1))
        assert refused(wide) == "a batch above 4096 or a side above 8192 + more than 8192 output maps"
        grouped = report("y = Conv <group = 8193> (x, w)", "float16[1,8193,1,1] x", w=half(8193, 1, 1, 1))
        assert "more than 8192 groups" in refused(grouped)

    def test_large_batches(self) -> None:
        assert not report("y = Relu (x)", "float16[4096,1,1,1] x").reasons
        found = report("y = Relu (x)", "float16[4097,1,1,1] x")
        assert refused(found) == "a batch above 4096 or a side above 8192"

    def test_what_is_not_said_is_uncertain(self) -> None:
        dilated = report(CONV.format("pads = [2,2,2,2], dilations = [2,2]"), w=half(8, 8, 2, 2))
        below = report("y = Clip (x, low, high)", low=np.float16(-1), high=np.float16(1))
        least = report("y = Min (x, x)")
        for found in (dilated, below, least):
            assert [reason.certain for reason in found.reasons] == [False]
            assert found.placements[0].on_dla == 0

    @pytest.mark.parametrize(
        ("attributes", "shape", "said"),
        [
            ("strides = [2,2]", (8, 4, 2, 2), ""),
            ("strides = [1,1]", (8, 4, 1, 64), ""),
            ("strides = [2,2]", (8, 4, 1, 33), "a deconvolution kernel above 32"),
            ("strides = [33,33]", (8, 4, 2, 2), "a deconvolution stride above 32"),
            ("pads = [1,1,1,1]", (8, 4, 3, 3), "deconvolution padding"),
            ("group = 2", (8, 4, 2, 2), "a deconvolution in groups"),
            ("dilations = [2,2]", (8, 4, 2, 2), "a dilated deconvolution"),
        ],
    )
    def test_deconvolution(self, attributes: str, shape: tuple[int, ...], said: str) -> None:
        assert refused(report(DECONV.format(attributes), w=half(*shape))) == said

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ("y = Relu (x)", ""),
            ("y = Clip (x, zero, six)", ""),
            ("y = Sum (x, x, x)", ""),
            ("y = Concat <axis = 1> (x, x)", ""),
            ("y = Concat <axis = -3> (x, x)", ""),
            ("y = Concat <axis = 2> (x, x)", "Concat along another axis than channels"),
            ("y = Softmax <axis = 1> (x)", ""),
            ("y = Softmax <axis = 0> (x)", "Softmax over the batch, or over more than 1024 (alone: 8192)"),
            ("y, z = Split <axis = 1, num_outputs = 2> (x)", ""),
            ("y = Slice (x, two, four, two)", ""),
            ("y = Slice (x, two, four, two, two)", "Slice of the batch, with steps, or not fixed"),
            ("y = Slice (x, no, one, no)", "Slice of the batch, with steps, or not fixed"),
            ("y = PRelu (x, zero)", ""),
            ("y = PRelu (x, x)", "a PReLU slope that is no constant"),
            ("y = MatMul (x, x)", "a product of two activations"),
            ("y = LRN <size = 5> (x)", ""),
            ("y = LRN <size = 4> (x)", "an LRN window other than 3, 5, 7 and 9"),
            ("y = HardSwish (x)", "DLA has no such layer"),
            ("y = GlobalAveragePool (x)", "DLA has no such layer"),
        ],
    )
    def test_other_layers(self, body: str, said: str) -> None:
        numbers = {
            name: np.array([value], np.int64) for name, value in (("no", 0), ("one", 1), ("two", 2), ("four", 4))
        }
        found = report(body, zero=np.float16(0), six=np.float16(6), **numbers)
        assert refused(found) == said

    def test_split_of_the_batch(self) -> None:
        found = report("y, z = Split <axis = 0, num_outputs = 2> (x)", "float16[2,8,16,16] x")
        assert refused(found) == "Split of the batch"

    def test_argmax_and_topk(self) -> None:
        body = "v, i = TopK <axis = 1> (x, k) y = ArgMax <axis = 1> (x)"
        found = report(body, outputs="int64[1,1,16,16] y", k=np.array([1], np.int64))
        assert reasons(found) == {"DLA has no such layer": ("TopK 0", "ArgMax 1")}

    def test_float32(self) -> None:
        found = report("y = Relu (x)", "float[1,8,16,16] x", "float[1,8,16,16] y")
        assert refused(found) == "neither float16 nor int8: build with --precision fp16"

    def test_free_shapes(self) -> None:
        found = report("y = Relu (x)", "float16[1,8,h,w] x", "float16[1,8,h,w] y")
        assert refused(found) == "a shape is free: DLA takes fixed shapes only"

    def test_other_ranks_and_large_tensors(self) -> None:
        flat = report("y = Relu (x)", "float16[1,8,16] x", "float16[1,8,16] y")
        assert refused(flat) == "a tensor has not four dimensions: DLA's layers are 2D"
        wide = report("y = Relu (x)", "float16[1,8,16,8193] x", "float16[1,8,16,8193] y")
        assert refused(wide) == "a batch above 4096 or a side above 8192"

    def test_explicit_quantization_is_refused_up_to_10_7(self) -> None:
        body = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) y = Conv (d, w)"
        found = report(body, s=np.float16(0.1), z=np.int8(0), w=half(8, 8, 1, 1))
        (reason,) = found.reasons
        assert (reason.where, reason.nodes) == ((OLD,), ("QuantizeLinear 0", "DequantizeLinear 1"))
        assert [place.on_dla for place in found.placements] == [1, 3]


class TestPlacement:
    def test_what_does_not_depend_on_the_image_is_not_counted(self) -> None:
        body = "q = DequantizeLinear (w, s) n = Sin (k) c = Conv (x, q) y = Mul (c, n)"
        constants = {"w": np.ones((8, 8, 1, 1), np.int8), "s": np.float16(0.5), "k": np.float16(1)}
        found = report(body, **constants)
        assert found.placements[0] == Coverage(OLD, 2, 2, 8 * 8 * 256, 8 * 8 * 256, 0)
        assert not found.reasons

    def test_multiplications_and_changes_of_device(self) -> None:
        body = """
            a = Conv <kernel_shape = [1,1]> (x, w)
            b = HardSwish (a)
            c = Conv <kernel_shape = [1,1]> (b, w)
            d = MaxPool <kernel_shape = [9,9], pads = [4,4,4,4]> (c)
            y = ConvTranspose <strides = [33,33]> (d, w)
        """
        one = 8 * 8 * 256
        found = report(body, w=half(8, 8, 1, 1))
        # Conv | HardSwish | Conv | MaxPool, ConvTranspose
        assert found.placements[0] == Coverage(OLD, 5, 2, 3 * one, 2 * one, 3)
        assert len(found.reasons) == 3

    def test_branches_wait_for_each_other(self) -> None:
        # both HardSwish run in one turn of the GPU, whatever the order in the file
        body = "a = Relu (x) b = HardSwish (a) c = Relu (b) d = HardSwish (a) e = Relu (d) y = Add (c, e)"
        assert report(body).placements[0].switches == 2

    def test_the_gpu_may_begin(self) -> None:
        assert report("a = HardSwish (x) b = Relu (x) y = Add (a, b)").placements[0].switches == 1

    def test_a_product_counts_its_length(self) -> None:
        found = report("y = Gemm <transB = 1> (x, w)", "float16[1,32] x", "float16[1,10] y", w=half(10, 32))
        assert (found.placements[0].macs, found.placements[0].macs_on_dla) == (320, 320)
        across = report("y = Gemm <transA = 1> (x, w)", "float16[32,1] x", "float16[1,10] y", w=half(32, 10))
        assert across.placements[0].macs == 320

    def test_free_sizes_have_no_count(self) -> None:
        found = report("y = Conv (x, w)", "float16[1,8,h,w] x", w=half(8, 8, 1, 1))
        assert (found.placements[0].macs, found.placements[0].on_dla) == (None, 0)

    def test_a_subgraph_may_read_the_image(self) -> None:
        body = """
            y = If (c) <then_branch = t () => (float16[1,8,16,16] u) { u = Relu (x) },
                        else_branch = e () => (float16[1,8,16,16] v) { v = Abs (x) }>
        """
        assert reasons(report(body, c=np.bool_(True))) == {"DLA has no such layer": ("If 0",)}

    def test_rf_lw_mbv2_stays_but_for_its_upsampling(self, mobile_bundle: Path) -> None:
        model = read_graph(open_bundle(mobile_bundle))
        apply(model, "fp16")
        found = check(model)
        upsampling = ("refine3.mrf/Resize", "refine2.mrf/Resize", "refine1.mrf/Resize")
        assert reasons(found) == {
            "linear Resize without half-pixel centres (align_corners)": upsampling,
            "Resize to sizes: DLA takes scales only": upsampling,
        }
        assert found.placements[0].macs == found.placements[0].macs_on_dla
        assert found.placements[0].switches == 6


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """run(bundle): the command, its tables not broken into lines."""
    monkeypatch.setattr("refinenet_edge.cli.screen.out.width", 400)
    return lambda bundle: CliRunner().invoke(cli.main, ["dla-check", str(bundle)])


class TestCommand:
    def test_a_bundle(self, run: Any, mobile_bundle: Path) -> None:
        result = run(mobile_bundle)
        assert result.exit_code == 0, result.output
        assert re.search(r"│ linear Resize without half-pixel .* │ 3 +│ refine3\.mrf/Resize +│ all ", result.stdout)
        assert re.search(r"│ neither float16 nor int8: .* │ \d+ +│ encoder\.layer1\.0/Conv +│ all ", result.stdout)
        assert re.search(r"│ TensorRT 10\.3 to 10\.7 +│ JetPack 6 .*│ 0 of \d+ +│ 0\.00 % +│ 0 or more", result.stdout)
        assert re.search(r"│ +│ +│ \.\.\. +│ +│ +│", result.stdout)
        assert "none in TensorRT 10.8 to 11.3" in result.stdout

    def test_a_bundle_that_takes_any_size(self, run: Any, dynamic_bundle: Path) -> None:
        result = run(dynamic_bundle)
        assert result.exit_code == 0, result.output
        assert "a shape is free" in result.stdout
        assert "sizes are free" in result.stdout

    def test_a_graph_without_a_reason_and_one_in_doubt(self, run: Any, mobile_bundle: Path, tmp_path: Path) -> None:
        manifest = open_bundle(mobile_bundle).manifest
        for name, body, said in (
            ("sure", "y = Relu (x)", "no known reason for a node of"),
            ("perhaps", "y = Min (x, x)", "perhaps: NVIDIA's lists of DLA's layers disagree"),
        ):
            data = to_bytes(graph(body, X, "float16[1,8,16,16] y"))
            write_bundle(tmp_path / name, manifest, {MODEL: data})
            result = run(tmp_path / name)
            assert result.exit_code == 0, result.output
            assert said in result.stdout

    @pytest.mark.parametrize("data", [b"no graph at all", b"", b"\x08\x09"])
    def test_what_is_no_graph_is_one_line(self, run: Any, mobile_bundle: Path, tmp_path: Path, data: bytes) -> None:
        write_bundle(tmp_path / "b", open_bundle(mobile_bundle).manifest, {MODEL: data})
        with pytest.raises(BundleError, match=r"model\.onnx .*; build it again: refinenet-edge build"):
            read_graph(open_bundle(tmp_path / "b"))
        result = run(tmp_path / "b")
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)

    def test_it_needs_onnx_ir_and_no_torch(self, mobile_bundle: Path) -> None:
        root = Path(cli.__file__).parents[2]
        for missing, code in (("torch', 'onnxscript', 'onnxruntime", 0), ("onnx_ir", 3)):
            block = f"import sys; sys.modules.update(dict.fromkeys(['{missing}'])); "
            command = [sys.executable, "-c", block + "from refinenet_edge.cli import main; main()", "dla-check"]
            environment = {**os.environ, "PYTHONPATH": str(root)}
            done = subprocess.run([*command, str(mobile_bundle)], capture_output=True, text=True, env=environment)
            assert done.returncode == code, done.stderr
        assert done.stderr == "error: onnx_ir is not installed: pip install onnx-ir\n"
