"""With its switches set, the one session computes what the placed graph computes, bit for bit where sums are exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, combinations

import numpy as np
import onnx_ir as ir
import pytest

from refinenet_edge.errors import CalibrationError, InputError
from refinenet_edge.graph import copy_of, to_bytes
from refinenet_edge.precision import quantise
from refinenet_edge.precision.placement import FP8, OPENVINO, RTX, Placement
from refinenet_edge.precision.switches import Switchboard, switched
from refinenet_edge.records import Range, Ranges
from refinenet_edge.runtime.ort import OrtSession
from tests.conftest import graph, operators, weights
from tests.precision.test_qdq import ranges_of

# a residual sum, a pool and a resize that are read by a convolution and a sum, and one tensor with three readers
BODY = """
[first] a = Conv<pads = [1,1,1,1]>(x, u)
r = Relu(a)
[second] b = Conv(r, v)
[skip] c = Add(b, r)
[pool] p = MaxPool<kernel_shape = [3,3], pads = [1,1,1,1]>(c)
[third] d = Conv<group = 16, pads = [1,1,1,1]>(p, w)
[both] e = Add(d, c)
[resize] f = Resize<mode = "nearest">(e, , sides)
[fourth] g = Conv(f, z, bias)
[last] y = Add(g, f)
"""
ENDS = "float[1,16,6,8] x", "float[1,16,12,16] y"
IMAGE = np.rint(weights(1, 16, 6, 8, seed=9) * 256) / 256


def dyadic(*shape: int, seed: int) -> np.ndarray:
    """Multiples of 1/512, the largest of each output channel 127/64: float32 sums of them are exact in any order."""
    kernel = np.clip(np.rint(weights(*shape, seed=seed) * 512) / 512, -1.5, 1.5)
    kernel[:, 0, 0, 0] = 127 / 64
    return kernel.astype(np.float32)


def small() -> tuple[ir.Model, Ranges]:
    constants = {
        "u": dyadic(16, 16, 3, 3, seed=1),
        "v": dyadic(16, 16, 1, 1, seed=2),
        "w": dyadic(16, 1, 3, 3, seed=3),
        "z": dyadic(16, 16, 1, 1, seed=4),
        "bias": np.arange(16, dtype=np.float32),
        "sides": np.array([1, 1, 2, 2], np.float32),
    }
    model = graph(BODY, *ENDS, **constants)
    ranges = ranges_of(model, amax=127 / 16)
    relu = Range(255 / 16, 0, 20, "test")  # never negative
    return model, replace(ranges, tensors={**ranges.tensors, "r": relu})


def placed(model: ir.Model, ranges: Ranges, placement: Placement, keep: Sequence[str]) -> np.ndarray:
    """The logits of the graph that a build would write."""
    with OrtSession(to_bytes(quantise(copy_of(model), ranges, placement, keep)), as_written=True) as session:
        return session.run({"x": IMAGE})["y"]


LAYERS = ("first", "second", "skip", "pool", "third", "both", "resize", "fourth", "last")


class TestSwitchboard:
    def test_layers_are_those_that_are_quantised(self) -> None:
        model, ranges = small()
        assert Switchboard(model, ranges, OPENVINO).layers == LAYERS
        assert Switchboard(model, ranges, replace(OPENVINO, sums=False)).layers == tuple(
            name for name in LAYERS if name not in ("skip", "both", "last")
        )

    def test_it_computes_what_the_placed_graph_does(self) -> None:
        model, ranges = small()
        board = Switchboard(model, ranges, OPENVINO)
        seen = set()
        for keep in chain.from_iterable(combinations(LAYERS, count) for count in (0, 1, 2, 7, 8, 9)):
            expected = placed(model, ranges, OPENVINO, keep)
            np.testing.assert_array_equal(board.keeping(keep).run({"x": IMAGE})["y"], expected, err_msg=str(keep))
            seen.add(expected.tobytes())
        assert len(seen) > 50

    def test_a_pool_follows_its_readers(self) -> None:
        model, ranges = small()
        board = Switchboard(model, ranges, OPENVINO)
        (alone, with_pool) = (board.keeping(keep).run({"x": IMAGE})["y"] for keep in (["third"], ["third", "pool"]))
        np.testing.assert_array_equal(alone, with_pool)

    @pytest.mark.parametrize("placement", [replace(RTX, classifier=True), replace(FP8, classifier=True)])
    def test_other_placements_too(self, placement: Placement) -> None:
        model, ranges = small()
        board = Switchboard(model, ranges, placement)
        found = board.keeping(()).run({"x": IMAGE})["y"]
        np.testing.assert_allclose(found, placed(model, ranges, placement, ()), rtol=1e-5, atol=1e-5)

    def test_nothing_rounded_is_the_float_graph(self) -> None:
        model, ranges = small()
        with OrtSession(to_bytes(model)) as session:
            expected = session.run({"x": IMAGE})["y"]
        board = Switchboard(model, ranges, OPENVINO)
        np.testing.assert_array_equal(board.keeping(LAYERS).run({"x": IMAGE})["y"], expected)

    def test_a_session_of_it_takes_an_image_alone(self) -> None:
        session = Switchboard(*small(), OPENVINO).keeping(())
        assert [spec.name for spec in session.inputs] == ["x"]
        session.close()
        with pytest.raises(InputError, match="closed"):
            session.run({"x": IMAGE})

    def test_closing_one_leaves_the_others_open(self) -> None:
        board = Switchboard(*small(), OPENVINO)
        board.keeping(()).close()
        assert board.keeping(LAYERS).run({"x": IMAGE})["y"].shape == (1, 16, 12, 16)

    def test_a_tensor_without_a_range_is_refused(self) -> None:
        model, ranges = small()
        tensors = {name: seen for name, seen in ranges.tensors.items() if name != "r"}
        with pytest.raises(CalibrationError, match="nothing for r"):
            Switchboard(model, replace(ranges, tensors=tensors), OPENVINO)

    def test_names_that_the_model_has_are_not_taken(self) -> None:
        model, ranges = small()
        renamed = {"r": "first/switch", "p": "second/rounded/b", "e": "second/float/v", "f": "second/rounded/second"}
        for node in model.graph:
            for value in node.outputs:
                value.name = renamed.get(str(value.name), value.name)
        tensors = {renamed.get(name, name): seen for name, seen in ranges.tensors.items()}
        found = Switchboard(model, replace(ranges, tensors=tensors), OPENVINO)
        expected = Switchboard(*small(), OPENVINO)
        for keep in ([], ["second"], LAYERS):
            one, other = (board.keeping(keep).run({"x": IMAGE})["y"] for board in (found, expected))
            np.testing.assert_array_equal(one, other)


class TestSwitched:
    def test_the_model_stays_as_it_was(self) -> None:
        model, ranges = small()
        before = to_bytes(model)
        both = switched(model, ranges, OPENVINO)
        assert to_bytes(model) == before
        assert operators(both) == ["If", "Relu", *["If"] * 8]

    def test_weights_are_where_they_are_read(self) -> None:
        both = switched(*small(), OPENVINO)
        assert list(both.graph.initializers) == []
        (first, *_) = both.graph
        stored = {
            key: [
                value.dtype
                for value in first.attributes[key].as_graph().initializers.values()
                if value.shape == (16, 16, 3, 3)
            ]
            for key in ("then_branch", "else_branch")
        }
        assert stored == {"then_branch": [ir.DataType.INT8], "else_branch": [ir.DataType.FLOAT]}
