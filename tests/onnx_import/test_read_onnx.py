"""Somebody's ONNX file becomes a float32 graph with our names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from refinenet_edge.build import parity
from refinenet_edge.errors import GraphError
from refinenet_edge.graph import IR_VERSION, OPSET, num_classes, to_bytes
from refinenet_edge.onnx_import import ENDS, read_onnx
from tests.conftest import onnx_model, operators, weights

ANYBODYS = "a = Conv <strides = [2,2]> (pixels, w) scores = Relu(a)"
FREE = "float[N,3,H,W] pixels", "float[N,5,h,w] scores"


def anybodys(body: str = ANYBODYS, inputs: str = FREE[0], outputs: str = FREE[1], **more: Any) -> onnx.ModelProto:
    constants = {"w": weights(5, 3, 1, 1)} if "w)" in body else {}
    return onnx_model(body, inputs, outputs, **(constants | more))


def saved(folder: Path, model: onnx.ModelProto | bytes) -> Path:
    path = folder / "theirs.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def ends(model: ir.Model) -> list[tuple[str | None, str]]:
    return [(value.name, f"{value.dtype} {value.shape}") for value in (*model.graph.inputs, *model.graph.outputs)]


class TestReadOnnx:
    def test_it_gets_our_names_and_its_size(self, tmp_path: Path) -> None:
        model = read_onnx(saved(tmp_path, anybodys()), (64, 96))
        assert ends(model) == [("image", "FLOAT [1,3,64,96]"), ("logits", "FLOAT [1,5,32,48]")]
        assert (model.opset_imports[""], model.ir_version) == (OPSET, IR_VERSION)
        assert num_classes(model) == 5

    def test_sides_stay_free_without_a_size(self, tmp_path: Path) -> None:
        model = read_onnx(saved(tmp_path, anybodys()))
        assert ends(model) == [("image", "FLOAT [1,3,H,W]"), ("logits", "FLOAT [1,5,h,w]")]

    def test_a_fixed_size_is_taken_as_it_is(self, tmp_path: Path) -> None:
        path = saved(tmp_path, anybodys(inputs="float[1,3,64,96] pixels", outputs="float[1,5,32,48] scores"))
        assert ends(read_onnx(path)) == ends(read_onnx(path, (64, 96)))

    @pytest.mark.parametrize("opset", [11, 13, 17, 19, 21, 23])
    def test_older_and_newer_opsets_are_converted(self, tmp_path: Path, opset: int) -> None:
        body = 'a = Conv(pixels, w) b = Relu(a) scores = Resize <mode = "linear"> (b, r, s)'
        resize = {"r": np.empty(0, np.float32), "s": np.array([1, 1, 2, 2], np.float32)}
        theirs = anybodys(body, opset=opset, **resize)
        model = read_onnx(saved(tmp_path, theirs), (8, 12))
        assert model.opset_imports[""] in (19, OPSET)
        assert operators(model)[:2] == ["Conv", "Relu"]
        image = {"image": weights(1, 3, 8, 12)}
        (found,), (expected,) = (
            parity.logits(data, image).values() for data in (to_bytes(model), theirs.SerializeToString())
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("opset", "body"),
        [
            (21, "scores = GroupNormalization <num_groups = 2, epsilon = 1e-5> (a, scale, shift)"),
            (23, "scores = RMSNormalization <axis = 1> (a, all)"),
            (23, "scores = Attention(a, a, a)"),
            (24, "scores = Swish(a)"),
            (23, "m = GlobalMaxPool(a) scores = Add(a, m)"),
        ],
    )
    def test_functions_of_newer_opsets_are_those_of_older_operators(
        self, tmp_path: Path, opset: int, body: str
    ) -> None:
        constants = {"scale": weights(4), "shift": weights(4, seed=1), "all": weights(4, 8, 12)}
        taken = {name: value for name, value in constants.items() if name in body}
        theirs = onnx_model(
            f"a = Conv(pixels, w4) {body}",
            "float[1,3,8,12] pixels",
            "float[1,4,8,12] scores",
            opset=opset,
            w4=weights(4, 3, 1, 1),
            **taken,
        )
        model = read_onnx(saved(tmp_path, theirs), (8, 12))
        assert model.opset_imports[""] == OPSET
        image = {"image": weights(1, 3, 8, 12)}
        (found,), (expected,) = (
            parity.logits(data, image).values() for data in (to_bytes(model), theirs.SerializeToString())
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("axis", [None, 1, 2, 3, -1, -2])
    @pytest.mark.parametrize("opset", [9, 11, 12])
    def test_hardmax_of_older_opsets_takes_all_axes_from_its_own_on(
        self, tmp_path: Path, opset: int, axis: int | None
    ) -> None:
        if axis is not None and axis < 0 and opset < 11:
            return  # there was none
        attribute = "" if axis is None else f"<axis = {axis}>"
        theirs = anybodys(f"a = Conv(pixels, w) scores = Hardmax {attribute}(a)", opset=opset)
        model = read_onnx(saved(tmp_path, theirs), (8, 12))
        image = {"image": weights(1, 3, 8, 12)}
        (found,), (expected,) = (
            parity.logits(data, image).values() for data in (to_bytes(model), theirs.SerializeToString())
        )
        np.testing.assert_array_equal(found, expected)

    def test_functions_of_an_older_model_are_inlined(self, tmp_path: Path) -> None:
        theirs = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["": 17, "mine": 1]>'
            "m (float[1,3,H,W] pixels) => (float[1,3,H,W] scores) { scores = mine.twice(pixels) }"
            '<domain: "mine", opset_import: ["": 17]> twice (a) => (b) { b = Add(a, a) }'
        )
        assert operators(read_onnx(saved(tmp_path, theirs), (8, 12))) == ["Add"]

    def test_inner_values_with_our_names_get_others(self, tmp_path: Path) -> None:
        body = "image = Neg(pixels) logits = Conv(image, w) scores = Relu(logits)"
        model = read_onnx(saved(tmp_path, anybodys(body)), (8, 12))
        assert ends(model) == [("image", "FLOAT [1,3,8,12]"), ("logits", "FLOAT [1,5,8,12]")]
        assert operators(model) == ["Neg", "Conv", "Relu"]

    def test_an_input_named_logits_and_an_output_named_image_change_places(self, tmp_path: Path) -> None:
        theirs = anybodys("image = Conv(logits, w)", "float[1,3,8,12] logits", "float[1,5,8,12] image")
        assert [name for name, _ in ends(read_onnx(saved(tmp_path, theirs)))] == ["image", "logits"]

    def test_weights_named_image_get_another_name(self, tmp_path: Path) -> None:
        theirs = anybodys("scores = Mul(pixels, image)", outputs="float[N,3,h,w] scores", image=weights(3, 1, 1))
        assert ends(read_onnx(saved(tmp_path, theirs), (8, 12)))[0] == ("image", "FLOAT [1,3,8,12]")

    def test_weights_listed_as_inputs_are_none(self, tmp_path: Path) -> None:
        # as ONNX had it before IR version 4
        theirs = anybodys(inputs=f"{FREE[0]}, float[5,3,1,1] w")
        theirs.ir_version = 3
        assert len(read_onnx(saved(tmp_path, theirs), (8, 12)).graph.inputs) == 1

    def test_weights_in_a_file_beside_it_are_read(self, tmp_path: Path) -> None:
        theirs, path = anybodys(), tmp_path / "theirs.onnx"
        onnx.save(theirs, path, save_as_external_data=True, location="theirs.data", size_threshold=0)
        assert (tmp_path / "theirs.data").is_file()
        model = read_onnx(path, (8, 12))
        path.unlink()
        (tmp_path / "theirs.data").unlink()
        np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), weights(5, 3, 1, 1))
        assert onnx.load_model_from_string(to_bytes(model)).graph.initializer[0].data_location == 0

    def test_a_missing_file_beside_it_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "theirs.onnx"
        onnx.save(anybodys(), path, save_as_external_data=True, location="theirs.data", size_threshold=0)
        (tmp_path / "theirs.data").unlink()
        with pytest.raises(GraphError, match=r"theirs\.onnx is no ONNX model that can be read: .*theirs\.data"):
            read_onnx(path)

    @pytest.mark.parametrize(
        ("inputs", "outputs", "body"),
        [
            ("float[3,H,W] pixels", "float[3,H,W] scores", "scores = Relu(pixels)"),
            ("float[N,1,H,W] pixels", "float[N,1,H,W] scores", "scores = Relu(pixels)"),
            ("uint8[N,3,H,W] pixels", "uint8[N,3,H,W] scores", "scores = Max(pixels, pixels)"),
            ("double[N,3,H,W] pixels", "double[N,3,H,W] scores", "scores = Relu(pixels)"),
            (f"{FREE[0]}, float[N,3,H,W] b", "float[N,3,H,W] scores", "scores = Add(pixels, b)"),
            ("", "float[1] scores", "scores = Constant <value = float[1] {1.0}> ()"),
        ],
        ids=["rank 3", "one channel", "uint8", "float64", "two inputs", "no input"],
    )
    def test_what_is_no_image_is_refused(self, tmp_path: Path, inputs: str, outputs: str, body: str) -> None:
        path = saved(tmp_path, anybodys(body, inputs, outputs))
        with pytest.raises(GraphError, match=r"theirs\.onnx takes .*(export it|three channels)"):
            read_onnx(path, (8, 12))

    @pytest.mark.parametrize(
        ("outputs", "body"),
        [
            ("float[N,3,H,W] scores, float[N,3,H,W] b", "scores = Relu(pixels) b = Neg(pixels)"),
            ("float[N,3,H] scores", "scores = ReduceMax <keepdims = 0> (pixels, last)"),
            ("bfloat16[N,3,H,W] scores", "scores = Cast <to = 16> (pixels)"),
        ],
        ids=["two outputs", "rank 3", "bfloat16"],
    )
    def test_what_is_neither_scores_nor_labels_is_refused(self, tmp_path: Path, outputs: str, body: str) -> None:
        more = {"last": np.array([3], np.int64)} if "last" in body else {}
        path = saved(tmp_path, anybodys(body, outputs=outputs, **more))
        with pytest.raises(GraphError, match=r"theirs\.onnx .*scores .*--output-name"):
            read_onnx(path, (8, 12))

    def test_another_fixed_size_is_refused_with_the_right_one(self, tmp_path: Path) -> None:
        path = saved(tmp_path, anybodys(inputs="float[1,3,64,96] pixels", outputs="float[1,5,32,48] scores"))
        with pytest.raises(GraphError, match=r"is fixed to 64x96: build it with --size 64x96"):
            read_onnx(path, (64, 64))

    def test_a_larger_batch_becomes_one_frame(self, tmp_path: Path) -> None:
        path = saved(tmp_path, anybodys(inputs="float[4,3,H,W] pixels", outputs="float[4,5,h,w] scores"))
        model = read_onnx(path, (64, 96))
        assert (model.graph.inputs[0].shape, model.meta[ENDS].taken.frames) == (ir.Shape([1, 3, 64, 96]), 4)
        assert model.graph.outputs[0].shape == ir.Shape([1, 5, 32, 48])

    def test_a_batch_beyond_all_bounds_is_refused(self, tmp_path: Path) -> None:
        path = saved(tmp_path, anybodys(inputs="float[257,3,H,W] pixels", outputs="float[257,5,h,w] scores"))
        with pytest.raises(GraphError, match="is fixed to batches of 257, at most 256 are taken: export it with fewer"):
            read_onnx(path, (64, 96))

    @pytest.mark.parametrize("damage", ["empty", "garbage", "cut", "unknown operator", "missing", "folder", "image"])
    def test_what_cannot_be_read_is_refused_in_one_line(self, tmp_path: Path, damage: str) -> None:
        theirs = anybodys()
        whole = theirs.SerializeToString()
        theirs.graph.node[0].op_type = "Unheard"
        data = {
            "empty": b"",
            "garbage": b"\xff" * 500,
            "cut": whole[: len(whole) // 2],
            "unknown operator": theirs.SerializeToString(),
            "image": b"\x89PNG\r\n\x1a\n",
        }
        path = tmp_path if damage == "folder" else tmp_path / "theirs.onnx"
        if damage in data:
            path.write_bytes(data[damage])
        with pytest.raises(GraphError, match=r"^[^\n]+ is no ONNX model that can be read: \S[^\n]*$"):
            read_onnx(path)

    def test_a_file_larger_than_onnx_allows_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "theirs.onnx"
        with path.open("wb") as file:
            file.truncate((2 << 30) + 1)  # a hole: it takes no space
        with pytest.raises(GraphError, match="larger than 2 GiB"):
            read_onnx(path)

    def test_logits_without_a_number_of_classes_are_refused(self, tmp_path: Path) -> None:
        body = "s = Shape(pixels) scores = Reshape(pixels, s)"
        model = read_onnx(saved(tmp_path, anybodys(body, outputs="float[N,C,h,w] scores")))
        model.graph.outputs[0].shape = ir.Shape([1, "C", "h", "w"])
        with pytest.raises(GraphError, match="expected logits 1xCxhxw with a fixed C"):
            num_classes(model)
