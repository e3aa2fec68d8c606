"""What a file takes and gives, whatever it is, ends as an image and labels: those of the file, run as it was given."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

from refinenet_edge import cli
from refinenet_edge.build import build
from refinenet_edge.errors import GraphError, InputError
from refinenet_edge.records import Bilinear, Nearest, Recipe
from refinenet_edge.runtime import Segmenter
from tests.conftest import onnx_model, weights

SIZE = (32, 48)
IMAGE, LAST = "float[1,3,32,48] x", "float[1,32,48,3] x"
SCORES = "s = Conv <pads = [1,1,1,1]> (x, w)"
ONE = "s = Conv <pads = [1,1,1,1]> (x, one)"
FRAME = np.random.default_rng(3).integers(0, 256, (*SIZE, 3), np.uint8)
KNOWN: dict[str, Any] = {
    "w": weights(5, 3, 3, 3),
    "one": weights(1, 3, 3, 3),
    "axes": np.array([1], np.int64),
    "first": np.array([0], np.int64),
    "empty": np.zeros(0, np.float32),
    "twice": np.array([1, 1, 2, 2], np.float32),
    "nought": np.float32(0),
    "three": np.int64(3),
    "five": np.int64(5),
    "ends": np.array([0, 1], np.int64),
    "two": np.array([2], np.int64),
    "minus": np.int64(-1),
    "scale": weights(3, seed=1),
    "bias": weights(3, seed=2),
    "row": weights(48),
    "wide": weights(16, 3, 3, 3),
    "deep": weights(16, 16, 1, 1),
    "narrow": weights(5, 16, 1, 1),
    "steps": np.float32(0.01),
    "byte": np.uint8(99),
    "table": np.array([4, 3, 2, 1, 0], np.int64),
}

Made = Callable[..., Recipe]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """made(body, inputs, outputs, opset): the recipe of such a file."""

    def recipe(body: str, outputs: str, inputs: str = IMAGE, opset: int = 17, **options: Any) -> Recipe:
        words = set(body.replace(",", " ").replace(")", " ").replace("(", " ").split())
        used = {name: array for name, array in KNOWN.items() if name in words}
        path = tmp_path / "theirs.onnx"
        path.write_bytes(onnx_model(body, inputs, outputs, opset, **used).SerializeToString())
        named = {"output": str(tmp_path / "b"), "onnx": str(path), "preprocess": "none", "backend": "onnxruntime"}
        return Recipe(**(named | options))

    return recipe


def theirs(recipe: Recipe, frame: np.ndarray = FRAME, output: int = 0, last: bool = False) -> np.ndarray:
    """What ONNX Runtime makes of the file, fed as its input says."""
    session = onnxruntime.InferenceSession(str(recipe.onnx), providers=["CPUExecutionProvider"])
    (image, *others) = session.get_inputs()
    rgb = frame[:, :, ::-1]
    laid = rgb if last else rgb.transpose(2, 0, 1)
    kinds = {"tensor(uint8)": np.uint8, "tensor(float16)": np.float16, "tensor(float)": np.float32}
    feeds = {image.name: np.ascontiguousarray(laid[None]).astype(kinds[image.type])}
    feeds |= {other.name: np.zeros(other.shape, np.float32) for other in others}
    found: np.ndarray = session.run(None, feeds)[output]
    return found


def labels_of(recipe: Recipe, frame: np.ndarray = FRAME) -> np.ndarray:
    with Segmenter(build(recipe).path) as segmenter:
        return segmenter.segment(frame).labels


def assert_same(recipe: Recipe, expected: np.ndarray) -> None:
    assert len(np.unique(expected)) > 1  # else the test shows nothing
    assert (labels_of(recipe) == expected.reshape(SIZE)).mean() > 0.999


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
class TestLabels:
    """The file gives labels itself."""

    @pytest.mark.parametrize(
        ("body", "outputs"),
        [
            ("y = ArgMax <axis = 1> (s)", "int64[1,1,32,48] y"),
            ("y = ArgMax <axis = 1, keepdims = 0> (s)", "int64[1,32,48] y"),
            ("a = ArgMax <axis = -3> (s) y = Cast <to = 6> (a)", "int32[1,1,32,48] y"),
            ("a = ArgMax <axis = 1, keepdims = 0> (s) y = Cast <to = 2> (a)", "uint8[1,32,48] y"),
            ("a = ArgMax <axis = 1> (s) b = Cast <to = 1> (a) y = Squeeze(b, axes)", "float[1,32,48] y"),
            ("p = Softmax <axis = 1> (s) y = ArgMax <axis = 1> (p)", "int64[1,1,32,48] y"),
            ("t = Transpose <perm = [0,2,3,1]> (s) y = ArgMax <axis = 3> (t)", "int64[1,32,48,1] y"),
            ("a = ArgMax <axis = 1, keepdims = 0> (s) y = Squeeze(a, first)", "int64[32,48] y"),
            (
                "a = ArgMax <axis = 1> (s) n = Shape <start = 1, end = 2> (a) c = Equal(n, axes) d = Squeeze(c)"
                " y = If(d) <then_branch = t () => (int64[1,32,48] o) { o = Squeeze(a, axes) },"
                " else_branch = e () => (int64[1,1,32,48] p) { p = Identity(a) }>",
                "int64[a,b,c] y",
            ),
        ],
    )
    def test_an_argmax_at_the_end_is_taken_off(self, made: Made, backend: str, body: str, outputs: str) -> None:
        recipe = made(f"{SCORES} {body}", outputs, backend=backend)
        assert_same(recipe, theirs(recipe))
        built = build(recipe)
        assert built.manifest.frame.upsample == Bilinear(False)  # of scores
        assert len(built.manifest.labels.names) == 5
        assert all(parity.relative_error < 1e-4 for parity in built.manifest.parity)

    @pytest.mark.parametrize(
        ("body", "outputs", "classes"),
        [
            (f"{SCORES} a = ArgMax <axis = 1> (s) y = Gather(table, a)", "int64[1,1,32,48] y", "cityscapes"),
            (
                f"{SCORES} a = ArgMax <axis = 1> (s) b = Cast <to = 1> (a)"
                ' c = Resize <mode = "nearest"> (b, empty, twice)'
                " y = MaxPool <kernel_shape = [2,2], strides = [2,2]> (c)",
                "float[1,1,32,48] y",
                None,
            ),
            (f"{ONE} y = Greater(s, nought)", "bool[1,1,32,48] y", None),
            (f"{ONE} a = Squeeze(s, axes) g = Less(a, nought) y = Cast <to = 2> (g)", "uint8[1,32,48] y", None),
        ],
        ids=["a table", "resized", "above a border", "below one, bytes"],
    )
    def test_others_are_taken_as_they_are(
        self, made: Made, backend: str, body: str, outputs: str, classes: str | None
    ) -> None:
        recipe = made(body, outputs, backend=backend, labels=classes, mean=(128, 128, 128))
        assert_same(recipe, theirs(recipe, FRAME.astype(np.float32) - 128))
        assert build(recipe).manifest.frame.upsample == Nearest()

    def test_between_them_there_is_nothing(self, made: Made, backend: str) -> None:
        recipe = made(
            f"{SCORES} a = ArgMax <axis = 1> (s) y = Gather(table, a)", "int64[1,1,32,48] y", labels="cityscapes"
        )
        with Segmenter(build(recipe).path, backend) as segmenter:
            found = segmenter.segment(np.repeat(np.repeat(FRAME, 3, 0), 3, 1)).labels
        assert np.array_equal(found, np.repeat(np.repeat(found[1::3, 1::3], 3, 0), 3, 1))

    @pytest.mark.parametrize("factor", ["three", "minus"])
    def test_what_is_beyond_the_classes_is_refused(self, made: Made, backend: str, factor: str, tmp_path: Path) -> None:
        (tmp_path / "few.txt").write_text("a\nb\nc\nd\ne\n")
        body = f"{SCORES} a = ArgMax <axis = 1> (s) y = Mul(a, {factor})"
        with pytest.raises(GraphError, match=r"gives labels that are not those of 'y', .* of 5 classes: \d"):
            build(made(body, "int64[1,1,32,48] y", labels=str(tmp_path / "few.txt")))

    def test_a_pixel_that_rounding_moves_moves_wholly(
        self, made: Made, backend: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One of a thousand labels is another: the build holds them by their share, not by their size."""
        given_module = importlib.import_module("refinenet_edge.build.given")
        run = given_module._run

        def moved(*args: Any) -> tuple[np.ndarray, np.ndarray]:
            given, source = (np.array(array) for array in run(*args))
            for array in (given, source):
                array.flat[:1] = (array.flat[:1] + 1) % 5
            return given, source

        monkeypatch.setattr(given_module, "_run", moved)
        body = f"{SCORES} a = ArgMax <axis = 1> (s) y = Gather(table, a)"
        built = build(made(body, "int64[1,1,32,48] y", backend=backend, labels="cityscapes"))
        assert {parity.relative_error for parity in built.manifest.parity} == {1.0}
        assert min(parity.label_agreement for parity in built.manifest.parity) == 1 - 1 / (32 * 48)

    def test_it_has_to_be_said_how_many_there_are(self, made: Made, backend: str) -> None:
        with pytest.raises(GraphError, match=r"gives labels, y \(INT64 1x1x32x48\), but not of how many .*--labels"):
            build(made(f"{SCORES} a = ArgMax <axis = 1> (s) y = Gather(table, a)", "int64[1,1,32,48] y"))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
class TestOneChannel:
    """Two classes by one number."""

    @pytest.mark.parametrize(
        ("body", "outputs", "border"),
        [
            ("y = Identity(s)", "float[1,1,32,48] y", 0),
            ("y = Squeeze(s, axes)", "float[1,32,48] y", 0),
            ("y = Sigmoid(s)", "float[1,1,32,48] y", 0.5),
            ("p = Sigmoid(s) y = Squeeze(p, axes)", "float[1,32,48] y", 0.5),
            ("p = Sigmoid(s) y = Transpose <perm = [0,2,3,1]> (p)", "float[1,32,48,1] y", 0.5),
            (
                'p = Sigmoid(s) r = Resize <mode = "linear"> (p, empty, twice)'
                " y = AveragePool <kernel_shape = [2,2], strides = [2,2]> (r)",
                "float[1,1,32,48] y",
                0.5,
            ),
            (
                "n = Neg(s) b = Concat <axis = 1> (n, s) p = Softmax <axis = 1> (b) y = Slice(p, axes, two, axes)",
                "float[1,1,32,48] y",
                0.5,
            ),
            ("p = Sigmoid(s) y = Round(p)", "float[1,1,32,48] y", 0.5),
            ("y = Cast <to = 11> (s)", "double[1,1,32,48] y", 0),
            ("p = Sigmoid(s) d = Cast <to = 11> (p) y = Squeeze(d, axes)", "double[1,32,48] y", 0.5),
        ],
    )
    def test_its_border_is_what_its_end_says(
        self, made: Made, backend: str, body: str, outputs: str, border: float
    ) -> None:
        recipe = made(f"{ONE} {body}", outputs, backend=backend, mean=(128, 128, 128))
        expected = theirs(recipe, (FRAME.astype(np.float32) - 128)) > border
        assert_same(recipe, expected)

    def test_how_sure_it_is_is_the_sigmoid(self, made: Made, backend: str) -> None:
        recipe = made(
            f"{ONE} y = Sigmoid(s)", "float[1,1,32,48] y", backend=backend, mean=(128, 128, 128), std=(99, 99, 99)
        )
        chance = theirs(recipe, (FRAME.astype(np.float32) - 128) / 99)[0, 0]
        with Segmenter(build(recipe).path, confidence=True) as segmenter:
            sure = segmenter.segment(FRAME).confidence
        assert sure is not None
        np.testing.assert_allclose(sure / 255, np.maximum(chance, 1 - chance), atol=0.003)

    def test_from_0_to_1_without_a_sigmoid_it_is_not_known_what_it_is(self, made: Made, backend: str) -> None:
        body = f"{ONE} y = HardSigmoid(s)"
        with pytest.raises(GraphError, match="one channel from 0 to 1 and ends in no Sigmoid"):
            build(made(body, "float[1,1,32,48] y", backend=backend))


@pytest.mark.parametrize(("backend", "opset"), [("onnxruntime", 11), ("openvino", 17)])
class TestScores:
    @pytest.mark.parametrize(
        ("body", "outputs", "axis"),
        [
            ("y = Softmax <axis = 1> (s)", "float[1,5,32,48] y", 1),
            ("y = LogSoftmax <axis = 1> (s)", "float[1,5,32,48] y", 1),
            ("y = Transpose <perm = [0,2,3,1]> (s)", "float[1,32,48,5] y", 3),
            ("t = Transpose <perm = [0,2,3,1]> (s) y = Softmax <axis = 3> (t)", "float[1,32,48,5] y", 3),
            ("p = Softmax <axis = 1> (s) y = Transpose <perm = [0,2,3,1]> (p)", "float[1,32,48,5] y", 3),
            ("t = Transpose <perm = [0,2,3,1]> (s) y = Mul(t, t)", "float[1,32,48,5] y", 3),
            ("y = Cast <to = 11> (s)", "double[1,5,32,48] y", 1),
            ("d = Cast <to = 11> (s) y = Transpose <perm = [0,2,3,1]> (d)", "double[1,32,48,5] y", 3),
        ],
    )
    def test_in_either_layout_with_or_without_a_softmax(
        self, made: Made, backend: str, opset: int, body: str, outputs: str, axis: int
    ) -> None:
        recipe = made(f"{SCORES} {body}", outputs, opset=opset, backend=backend, scale=99.0)
        assert_same(recipe, theirs(recipe, FRAME / np.float32(99)).argmax(axis))

    def test_ones_for_the_class_are_labels(self, made: Made, backend: str, opset: int) -> None:
        body = f"{SCORES} a = ArgMax <axis = 1, keepdims = 0> (s) y = OneHot <axis = 1> (a, five, ends)"
        recipe = made(body, "int64[1,5,32,48] y", opset=opset, backend=backend)
        assert_same(recipe, theirs(recipe).argmax(1))
        assert build(recipe).manifest.frame.upsample == Nearest()

    def test_a_softmax_costs_nothing(self, made: Made, backend: str, opset: int) -> None:
        body = f"{SCORES} t = Transpose <perm = [0,2,3,1]> (s) p = Softmax <axis = 3> (t)"
        body += " y = Transpose <perm = [0,3,1,2]> (p)"  # as torch has it in older opsets
        build(recipe := made(body, "float[1,5,32,48] y", opset=opset, backend=backend))
        proto = onnx.load(Path(recipe.output, "model.onnx"))
        assert [node.op_type for node in proto.graph.node] == ["Conv"]


class TestOutputs:
    BODY = f"{SCORES} y = Neg(s) z = Relu(s)"
    GIVES = "float[1,5,32,48] y, float[1,5,32,48] z"

    def test_of_several_one_has_to_be_chosen(self, made: Made) -> None:
        listed = r"y \(FLOAT 1x5x32x48\), z \(FLOAT 1x5x32x48\): choose one with --output-name"
        with pytest.raises(GraphError, match=f"has several outputs: {listed}"):
            build(made(self.BODY, self.GIVES))
        with pytest.raises(GraphError, match=f"has no output 'a', but {listed}"):
            build(made(self.BODY, self.GIVES, output_name="a"))

    def test_they_are_listed_with_shapes_that_the_file_does_not_say(self, made: Made) -> None:
        recipe = made(f"{SCORES} y = Neg(s) z = GlobalAveragePool(s)", "float[1,5,32,48] y, float[1,5,1,1] z")
        proto = onnx.load(str(recipe.onnx))
        for output in proto.graph.output:
            output.type.tensor_type.ClearField("shape")
        Path(str(recipe.onnx)).write_bytes(proto.SerializeToString())
        with pytest.raises(GraphError, match=r"y \(FLOAT 1x5x32x48\), z \(FLOAT 1x5x1x1\): choose one"):
            build(recipe)

    def test_bfloat16_is_not_computed_in(self, made: Made) -> None:
        stored = onnx.helper.make_tensor("w", onnx.TensorProto.BFLOAT16, [5, 3, 3, 3], range(135))
        recipe = made("y = Conv <pads = [1,1,1,1]> (x, w)", "float[1,5,32,48] y", opset=22)
        proto = onnx.load(str(recipe.onnx))
        proto.graph.initializer[0].CopyFrom(stored)
        Path(str(recipe.onnx)).write_bytes(proto.SerializeToString())
        with pytest.raises(GraphError, match=r"computes in bfloat16, .*: export it in float32"):
            build(recipe)

    def test_bfloat16_is_no_type_of_scores(self, made: Made) -> None:
        with pytest.raises(GraphError, match=r"gives y \(BFLOAT16 1x5x32x48\); expected scores"):
            build(made(f"{SCORES} y = Cast <to = 16> (s)", "bfloat16[1,5,32,48] y"))

    @pytest.mark.parametrize(("name", "place"), [("y", 0), ("z", 1)])
    def test_the_one_that_is_chosen_is_built(self, made: Made, name: str, place: int) -> None:
        recipe = made(self.BODY, self.GIVES, output_name=name)
        assert_same(recipe, theirs(recipe, output=place).argmax(1))

    def test_it_is_in_the_recipe(self, made: Made) -> None:
        assert "--output-name z" in build(made(self.BODY, self.GIVES, output_name="z")).manifest.command

    def test_classes_that_contradict_the_labels_are_refused(self, made: Made) -> None:
        with pytest.raises(InputError, match="the model has 5 classes, labels 'voc' has 21"):
            build(made(f"{SCORES} y = Neg(s)", "float[1,5,32,48] y", labels="voc"))

    def test_more_than_255_classes_are_refused(self, made: Made) -> None:
        body = "y = Concat <axis = 1> (" + ", ".join(["x"] * 86) + ")"
        with pytest.raises(GraphError, match=r"gives 258 classes \(y, 1x258x32x48\): at most 255"):
            build(made(body, "float[1,258,32,48] y"))

    def test_where_the_classes_lie_has_to_be_known(self, made: Made, tmp_path: Path) -> None:
        outputs, inputs = "float[1,32,32,32] y", "float[1,3,32,32] x"
        body = (
            "m = ReduceMean <axes = [1]> (x) a = Concat <axis = 1> ("
            + ", ".join(["m"] * 32)
            + ') y = Einsum <equation = "abcd->adbc"> (a)'
        )
        with pytest.raises(GraphError, match="whose classes may lie first or last"):
            build(made(body, outputs, inputs))


class TestInputs:
    @pytest.mark.parametrize(
        ("inputs", "body"),
        [
            (LAST, "t = Transpose <perm = [0,3,1,2]> (x)"),
            (LAST, "a = Mul(x, x) t = Transpose <perm = [0,3,1,2]> (a)"),
            ("uint8[1,32,48,3] x", "a = Cast <to = 1> (x) t = Transpose <perm = [0,3,1,2]> (a)"),
            ("uint8[1,32,48,3] x", "a = Transpose <perm = [0,3,1,2]> (x) t = Cast <to = 1> (a)"),
            ("uint8[1,3,32,48] x", "t = Cast <to = 1> (x)"),
            ("uint8[1,3,32,48] x", "t = DequantizeLinear(x, steps, byte)"),
            ("uint8[1,32,48,3] x", "a = DequantizeLinear(x, steps) t = Transpose <perm = [0,3,1,2]> (a)"),
            ("float[N,H,W,3] x", "t = Transpose <perm = [0,3,1,2]> (x)"),
            ("float[a,b,c,d] x", "t = Transpose <perm = [0,3,1,2]> (x)"),
            ("float[a,b,c,d] x", "t = Identity(x)"),
            (f"{IMAGE}, float[2,2] unread", "t = Identity(x)"),
        ],
    )
    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_an_image_in_any_layout_and_type(self, made: Made, inputs: str, body: str, backend: str) -> None:
        body = f"{body} s = Conv <pads = [1,1,1,1]> (t, w) y = Relu(s)"
        recipe = made(body, "float[N,5,h,w] y", inputs, backend=backend, size=SIZE)
        if "uint8" in inputs:
            recipe = Recipe(**{**vars(recipe), "preprocess": None})
        assert_same(recipe, theirs(recipe, last="3]" in inputs or "0,3,1,2" in body).argmax(1))

    def test_a_transpose_from_last_to_first_is_gone(self, made: Made) -> None:
        build(
            recipe := made(
                "t = Transpose <perm = [0,3,1,2]> (x) y = Conv <pads = [1,1,1,1]> (t, w)", "float[1,5,32,48] y", LAST
            )
        )
        proto = onnx.load(Path(recipe.output, "model.onnx"))
        assert [node.op_type for node in proto.graph.node] == ["Conv"]

    def test_a_layout_that_cannot_be_seen_has_to_be_said(self, made: Made) -> None:
        body = "a = Transpose <perm = [0,1,3,2]> (x) y = Transpose <perm = [0,1,3,2]> (a)"
        with pytest.raises(
            GraphError, match="where no side is the three channels: say which with --layout nchw or nhwc"
        ):
            build(made(body, "float[a,b,c,d] y", "float[a,b,c,d] x", size=SIZE))
        recipe = made(body, "float[a,b,c,d] y", "float[a,b,c,d] x", size=SIZE, layout="nchw")
        assert_same(recipe, theirs(recipe).argmax(1))

    def test_a_layout_that_it_has_not_is_refused(self, made: Made) -> None:
        with pytest.raises(GraphError, match="that is not --layout nhwc of three channels"):
            build(made(f"{SCORES} y = Relu(s)", "float[1,5,32,48] y", layout="nhwc"))

    def test_two_that_are_read_are_refused(self, made: Made) -> None:
        with pytest.raises(GraphError, match=r"takes x \(FLOAT 1x3x32x48\), z \(FLOAT 1x3x32x48\); expected one image"):
            build(made("y = Add(x, z)", "float[1,3,32,48] y", f"{IMAGE}, float[1,3,32,48] z"))

    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_float16_is_computed_in_float32(self, made: Made, backend: str, tmp_path: Path) -> None:
        body = "h = Cast <to = 10> (w) s = Conv <pads = [1,1,1,1]> (x, h) y = Relu(s)"
        recipe = made(body, "float16[1,5,32,48] y", "float16[1,3,32,48] x", backend=backend, preprocess="0-1")
        built = build(recipe)
        assert (built.manifest.inputs[0].dtype, built.manifest.outputs[0].dtype) == ("float32", "float32")
        expected = theirs(recipe, FRAME / np.float32(255)).argmax(1)
        assert (labels_of(recipe) == expected[0]).mean() > 0.99

    @pytest.mark.parametrize("sides", ["1,3,64,96", "1,3,H,W", "1,3,64,W"])
    def test_a_file_has_its_own_size(self, made: Made, sides: str) -> None:
        recipe = made("y = Relu(x)", "float[1,3,h,w] y", f"float[{sides}] x")
        built = build(recipe)
        expected = {"1,3,64,96": (64, 96), "1,3,H,W": (512, 512), "1,3,64,W": (64, 512)}[sides]
        assert built.manifest.frame.size == expected

    def test_sides_of_minus_one_are_free(self, made: Made) -> None:
        recipe = made(f"{SCORES} y = Relu(s)", "float[1,5,h,w] y", "float[1,3,H,W] x", size=SIZE)
        proto = onnx.load(str(recipe.onnx))
        for side in proto.graph.input[0].type.tensor_type.shape.dim[2:]:
            side.dim_value = -1
        onnx.save(proto, str(recipe.onnx))
        assert labels_of(recipe).shape == SIZE

    @pytest.mark.parametrize("what", ["wrong", "none"])
    def test_shapes_that_are_declared_wrong_or_not_at_all_do_no_harm(self, made: Made, what: str) -> None:
        recipe = made(f"{SCORES} y = Relu(s)", "float[1,5,32,48] y")
        proto = onnx.load(str(recipe.onnx))
        shape = proto.graph.output[0].type.tensor_type
        if what == "none":
            shape.ClearField("shape")
        else:
            shape.shape.dim[1].dim_value, shape.shape.dim[2].dim_value = 7, 99
        onnx.save(proto, str(recipe.onnx))
        assert_same(recipe, theirs(recipe).argmax(1))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("a, b = Dropout(x, half, yes) y = Relu(a)", "is in training mode \\(Dropout .*model.eval"),
        ("n = RandomNormalLike(x) y = Add(x, n)", "draws random numbers"),
    ],
)
def test_what_is_another_network_each_time_is_refused(made: Made, body: str, message: str) -> None:
    KNOWN.update(half=np.float32(0.5), yes=np.bool_(True))
    with pytest.raises(GraphError, match=message):
        build(made(body, "float[1,3,32,48] y"))


@pytest.mark.parametrize(
    ("body", "opset"),
    [
        ("a = GroupNormalization <num_groups = 1> (x, scale, bias)", 21),
        ("a = RMSNormalization(x, row)", 23),
        ("a = Swish(x)", 24),
        ("a = Attention(x, x, x)", 23),
        ("c = Constant <value = bool {1}> () a = If(c) <then_branch = t () => (float[1,3,32,48] o) { o = Relu(x) }, "
         "else_branch = e () => (float[1,3,32,48] p) { p = Neg(x) }>", 17),
        ("n = Shape(x) k = ConstantOfShape <value = float[1] {0.5}> (n) a = Add(x, k)", 17),
    ],
)  # fmt: skip
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_operators_that_our_opset_has_not_are_written_out(made: Made, backend: str, body: str, opset: int) -> None:
    recipe = made(
        f"{body} y = Conv <pads = [1,1,1,1]> (a, w)",
        "float[1,5,32,48] y",
        opset=opset,
        backend=backend,
        preprocess="0-1",
    )
    assert_same(recipe, theirs(recipe, FRAME / np.float32(255)).argmax(1))


class TestFilesThatCannotBe:
    @pytest.fixture
    def file(self, made: Made) -> Callable[[Callable[[onnx.ModelProto], object]], Recipe]:
        """file(change): the recipe of a file with that change."""

        def changed(change: Callable[[onnx.ModelProto], object]) -> Recipe:
            recipe = made(f"{SCORES} y = Relu(s)", "float[1,5,32,48] y")
            proto = onnx.load(str(recipe.onnx))
            change(proto)
            Path(str(recipe.onnx)).write_bytes(proto.SerializeToString())
            return recipe

        return changed

    def test_an_operator_of_somebodys_own_is_named(self, file: Any) -> None:
        def own(proto: onnx.ModelProto) -> None:
            proto.graph.node[1].domain, proto.graph.node[1].op_type = "mine", "Thing"

        with pytest.raises(
            GraphError, match=r"an operator that is not ONNX's, mine\.Thing \(y\), .* export it without"
        ):
            build(file(own))

    @pytest.mark.parametrize("end", ["y = Relu(s)", "y = ArgMax <axis = 1> (s)"])
    def test_nodes_may_have_one_name(self, made: Made, end: str) -> None:
        recipe = made(f"{SCORES} {end}", "float[1,5,32,48] y" if "Relu" in end else "int64[1,1,32,48] y")
        found = theirs(recipe)
        proto = onnx.load(str(recipe.onnx))
        for node in proto.graph.node:
            node.name = "same"
        Path(str(recipe.onnx)).write_bytes(proto.SerializeToString())
        assert_same(recipe, found.argmax(1) if "Relu" in end else found)

    def test_an_output_without_a_type_gets_one(self, file: Any) -> None:
        recipe = file(lambda proto: proto.graph.output[0].ClearField("type"))
        assert_same(recipe, theirs(recipe).argmax(1))

    def test_an_image_without_a_shape_is_refused(self, file: Any) -> None:
        with pytest.raises(GraphError, match=r"takes x \(FLOAT of a shape that it does not say\); expected one image"):
            build(file(lambda proto: proto.graph.input[0].type.tensor_type.ClearField("shape")))

    def test_a_sequence_is_no_output(self, made: Made) -> None:
        with pytest.raises(GraphError, match=r"gives y \(Sequence.*expected scores of classes"):
            build(made(f"{SCORES} y = SequenceConstruct(s)", "seq(float[1,5,32,48]) y"))

    def test_weights_beside_it_of_more_than_2_gib_are_refused_unread(self, file: Any, tmp_path: Path) -> None:
        def large(proto: onnx.ModelProto) -> None:
            tensor = proto.graph.initializer[0]
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.dims[0] = 1 << 27
            tensor.external_data.add(key="location", value="weights.bin")

        with pytest.raises(GraphError, match="larger than 2 GiB, weights and all"):
            build(file(large))

    def test_what_cannot_be_brought_to_our_opset_says_so_in_words(self, made: Made) -> None:
        recipe = made(f"{SCORES} y = TensorScatter(s, s)", "float[1,5,32,48] y", opset=24)
        with pytest.raises(
            GraphError, match=r"is of opset 24 and cannot be brought to 20 \(No Previous .*TensorScatter[^/]*: export"
        ):
            build(recipe)


class TestFurther:
    """What comes after sees a network like any other."""

    @pytest.mark.parametrize("end", ["y = ArgMax <axis = 1> (s)", "a = ArgMax <axis = 1> (s) y = Gather(table, a)"])
    @pytest.mark.parametrize(
        "options", [{"precision": "fp16"}, {"precision": "int8", "calib": "scenes:0:2", "force": True}]
    )
    def test_tensorrt_builds_it(self, made: Made, end: str, options: dict[str, Any]) -> None:
        body = (
            f"c = Conv <pads = [1,1,1,1]> (x, wide) r = Relu(c) d = Conv(r, deep) e = Relu(d) s = Conv(e, narrow) {end}"
        )
        recipe = made(
            body, "int64[1,1,32,48] y", backend="tensorrt-rtx", preprocess="0-1", labels=self.five(made), **options
        )
        assert (labels_of(recipe) == theirs(recipe, FRAME / np.float32(255))[0, 0]).mean() > 0.95

    @pytest.mark.parametrize(
        ("body", "outputs"),
        [
            (f"{SCORES} y = ArgMax <axis = 1> (s)", "int64[1,1,H,W] y"),
            (f"{SCORES} a = ArgMax <axis = 1> (s) y = Gather(table, a)", "int64[1,1,H,W] y"),
            (f"{SCORES} y = Transpose <perm = [0,2,3,1]> (s)", "float[1,H,W,5] y"),
            (f"{ONE} y = Sigmoid(s)", "float[1,1,H,W] y"),
        ],
    )
    def test_sides_stay_free(self, made: Made, body: str, outputs: str) -> None:
        recipe = made(
            body, outputs, "float[1,3,H,W] x", dynamic=True, labels=self.five(made) if "table" in body else None
        )
        frame = FRAME[:, :40].copy()
        expected = theirs(recipe, frame)
        expected = expected > 0.5 if "Sigmoid" in body else expected.argmax(3) if "Transpose" in body else expected
        assert (labels_of(recipe, frame) == expected.reshape(frame.shape[:2])).mean() > 0.999

    @pytest.mark.parametrize("end", ["y = ArgMax <axis = 1> (s)", "a = ArgMax <axis = 1> (s) y = Gather(table, a)"])
    def test_it_is_calibrated_by_itself(self, made: Made, end: str, tmp_path: Path) -> None:
        body = (
            f"c = Conv <pads = [1,1,1,1]> (x, wide) r = Relu(c) d = Conv(r, deep) e = Relu(d) s = Conv(e, narrow) {end}"
        )
        recipe = made(body, "int64[1,1,32,48] y", preprocess="0-1", labels=self.five(made), backend="openvino")
        ranges = str(tmp_path / "r.json")
        command = ["calibrate", str(build(recipe).path), "--frames", "scenes:0:2", "--out", ranges]
        said = CliRunner().invoke(cli.main, command)
        assert said.exit_code == 0, said.output
        quantised = dataclasses.replace(recipe, precision="int8", calib=ranges, output=str(tmp_path / "q"), force=True)
        assert (labels_of(quantised) == theirs(recipe, FRAME / np.float32(255))[0, 0]).mean() > 0.9

    def five(self, made: Made) -> str:
        folder = Path(str(made("y = Relu(x)", "float[1,3,32,48] y").onnx)).parent
        (folder / "five.txt").write_text("a\nb\nc\nd\ne\n")
        return str(folder / "five.txt")
