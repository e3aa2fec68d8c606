"""All rewrites in a row: on the traced networks, and on random ones."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refinenet_edge.build import parity
from refinenet_edge.fusion import REWRITES, fuse
from refinenet_edge.fusion.rewrite import NEW_WEIGHTS
from refinenet_edge.graph import to_bytes
from refinenet_edge.records import Bilinear, FrameSpec
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.head import one_frame, upsample_argmax
from refinenet_edge.scenes import VALIDATION, scene
from tests.conftest import ODD, Traced, assert_close, feeds_of, graph, onnx_model, operators, outputs_of, weights

FIRST = ("fold_constants", "remove_identities", "fold_batch_norm", "merge_pointwise", "merge_siblings")
FIVE = [rewrite for rewrite in REWRITES if rewrite.name in FIRST]
COUNTS = {
    "rf_lw_mbv2": {"fold_batch_norm": 52, "merge_pointwise": 1, "merge_siblings": 1},
    "rf_lw_effnet_lite0": {"fold_batch_norm": 48, "merge_pointwise": 1, "merge_siblings": 0},
    "rf_lw50": {"fold_batch_norm": 53, "merge_pointwise": 3, "merge_siblings": 1},
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_rewrites_fire_where_the_algebra_says(traced: Traced, name: str) -> None:
    fired = {firing.name: firing.fired for firing in fuse(traced(name, ODD), FIVE)}
    assert {rewrite: fired[rewrite] for rewrite in COUNTS[name]} == COUNTS[name]
    assert fired["fold_constants"] > 0


@pytest.mark.parametrize("name", COUNTS)
class TestANetworkOfAnOddSize:
    def test_only_what_depends_on_the_frame_is_left(self, traced: Traced, name: str) -> None:
        model = traced(name, ODD)
        fuse(model)
        assert {"BatchNormalization", "Identity", "Dropout", "Constant", "Shape", "Cast"}.isdisjoint(operators(model))
        assert set(operators(model)) <= {"Conv", "Relu", "Clip", "Add", "MaxPool", "Resize", "Concat", "Mul"}

    def test_it_gives_the_same_logits(self, traced: Traced, name: str) -> None:
        model = traced(name, ODD)
        frames = {"random": weights(1, 3, *ODD)}
        before = to_bytes(model)
        fuse(model)
        (proof,) = parity.prove(before, parity.logits(before, frames), model, REWRITES, frames, lambda: 0.0)
        assert proof.relative_error < 1e-5

    def test_it_gives_the_same_labels_of_scenes(self, traced: Traced, name: str) -> None:
        model = traced(name, ODD)
        frames = {str(i): prepare(scene(VALIDATION, i, ODD)[0], FrameSpec(ODD)) for i in range(3)}
        before = parity.logits(to_bytes(model), frames)
        fuse(model)
        after = parity.logits(to_bytes(model), frames)
        for frame in frames:
            labels = [upsample_argmax(one_frame(logits[frame]), ODD, Bilinear(True)) for logits in (before, after)]
            assert (labels[0] == labels[1]).mean() >= 0.999

    def test_nodes_and_weights_are_named_after_the_module_they_come_from(self, traced: Traced, name: str) -> None:
        model = traced(name, ODD)
        fuse(model)
        names = [node.name for node in model.graph]
        assert max(Counter(names).values()) == 1
        modules = ("encoder", "encoders.0", "refine1", "refine2", "refine3", "refine4", "classifier")
        strangers = [n for n in names if not n.split("/")[0].startswith(modules)]
        assert not strangers
        assert any(n.startswith("classifier/Conv") for n in names)
        for node in model.graph:
            if node.op_type == "Conv":
                assert node.inputs[1].name.startswith(node.name.split("/")[0].split(".")[0])
        assert not [value for value in model.graph.initializers if value.startswith(NEW_WEIGHTS)]

    def test_two_runs_give_the_same_bytes(self, traced: Traced, name: str) -> None:
        first, second = traced(name, ODD), traced(name, ODD)
        fuse(first)
        fuse(second)
        assert to_bytes(first) == to_bytes(second)

    def test_the_bytes_hold_nothing_of_this_machine(self, traced: Traced, name: str) -> None:
        model = traced(name, ODD)
        for stage in (lambda _: None, fuse):
            stage(model)
            proto = ir.to_proto(model)
            for weight in proto.graph.initializer:
                weight.raw_data = b""  # random bytes may spell anything
            data = proto.SerializeToString()
            assert not [w for w in (b"/work", b".py", b"pkg.torch", b"site-packages", b"/home", b"/tmp") if w in data]


def test_weights_of_a_node_do_not_take_a_name_that_is_in_use() -> None:
    # n.weight is shared: the folded convolution gets new weights, the other keeps these
    proto = onnx_model(
        "[n] a = Conv(x, w) b = BatchNormalization(a, s, t, t, s) r = Relu(b) [m] c = Conv(r, w) y = Relu(c)",
        w=weights(8, 8, 1, 1),
        s=np.abs(weights(8)) + 1,
        t=weights(8, seed=1),
    )
    proto.graph.initializer[0].name = "n.weight"
    for node in proto.graph.node:
        node.input[:] = ["n.weight" if name == "w" else name for name in node.input]
    model = ir.from_proto(proto)
    feeds = feeds_of(model)
    expected = outputs_of(model, feeds)
    fuse(model)
    assert "BatchNormalization" not in operators(model)
    assert_close(outputs_of(model, feeds), expected)


def test_nodes_without_names_get_weights_with_names() -> None:
    kernels = {name: weights(8, 8, 1, 1, seed=seed) for seed, name in enumerate("uvw")}
    model = graph("a = Conv(x, u) b = Conv(a, v) r = Relu(b) y = Conv(r, w)", **kernels)
    fuse(model)
    assert operators(model) == ["Conv", "Relu", "Conv"]
    assert len(model.graph.initializers) == 2


def test_no_rewrites_leave_the_graph_alone() -> None:
    model = graph("a = Identity(x) y = Conv(a, w)", w=weights(8, 8, 1, 1))
    assert fuse(model, ()) == []
    assert operators(model) == ["Identity", "Conv"]


def test_a_second_round_finds_nothing(traced: Traced) -> None:
    model = traced("rf_lw_mbv2", ODD)
    fuse(model)
    assert [firing.name for firing in fuse(model) if firing.fired] == []


# a network as a list of layers, each on the last map: (kind, output channels, kernel, stride, bias)
KINDS = (
    "conv conv conv pointwise pointwise depthwise norm norm relu sum skip siblings identity dropout upsample pool scale"
)
LAYER = st.tuples(
    st.sampled_from(KINDS.split()),
    st.integers(1, 6),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 1, 2]),
    st.booleans(),
)


class Net:
    """ONNX text and constants of a list of layers."""

    def __init__(self, layers: list[Any]) -> None:
        self.lines: list[str] = []
        self.constants: dict[str, Any] = {}
        self.value, self.channels = "x", 3
        for layer in layers:
            getattr(self, layer[0])(*layer[1:])

    def add(self, text: str) -> str:
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return name

    def constant(self, array: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def convolution(self, source: str, shape: tuple[int, ...], attributes: str, bias: bool) -> str:
        seed = len(self.constants)
        names = [self.constant(weights(*shape, seed=seed) / np.float32(np.sqrt(np.prod(shape[1:]))))]
        if bias:
            names.append(self.constant(weights(shape[0], seed=seed + 1)))
        return self.add(f"Conv <{attributes}> ({source}, {', '.join(names)})")

    def conv(self, out: int, kernel: int, stride: int, bias: bool) -> None:
        shape = (out, self.channels, kernel, kernel)
        attributes = f"strides = [{stride},{stride}], pads = [1,1,1,1]"
        self.value, self.channels = self.convolution(self.value, shape, attributes, bias), out

    def pointwise(self, out: int, _kernel: int, _stride: int, bias: bool) -> None:
        self.value = self.convolution(self.value, (out, self.channels, 1, 1), "group = 1", bias)
        self.channels = out

    def depthwise(self, _out: int, _kernel: int, stride: int, bias: bool) -> None:
        attributes = f"group = {self.channels}, strides = [{stride},{stride}], pads = [1,1,1,1]"
        self.value = self.convolution(self.value, (self.channels, 1, 3, 3), attributes, bias)

    def norm(self, *_: Any) -> None:
        seed = len(self.constants)
        rows = [weights(self.channels, seed=seed + row) for row in range(4)]
        names = [self.constant(row) for row in (*rows[:3], np.abs(rows[3]) + np.float32(0.5))]
        self.value = self.add(f"BatchNormalization ({self.value}, {', '.join(names)})")

    def relu(self, *_: Any) -> None:
        self.value = self.add(f"Relu ({self.value})")

    def sum(self, *_: Any) -> None:
        self.value = self.add(f"Add ({self.value}, {self.value})")

    def skip(self, _out: int, _kernel: int, _stride: int, bias: bool) -> None:
        """A residual connection around a pointwise convolution."""
        branch = self.convolution(self.value, (self.channels, self.channels, 1, 1), "group = 1", bias)
        self.value = self.add(f"Add ({branch}, {self.value})")

    def siblings(self, out: int, _kernel: int, _stride: int, bias: bool) -> None:
        one = self.convolution(self.value, (8, self.channels, 1, 1), "group = 1", bias)
        other = self.convolution(self.add(f"Neg ({self.value})"), (8, self.channels, 1, 1), "group = 1", out > 3)
        self.value, self.channels = self.add(f"Add ({one}, {other})"), 8

    def identity(self, *_: Any) -> None:
        self.value = self.add(f"Identity ({self.value})")

    def dropout(self, *_: Any) -> None:
        self.value = self.add(f"Dropout ({self.value})")

    def upsample(self, out: int, *_: Any) -> None:
        mode = 'mode = "linear", coordinate_transformation_mode = "align_corners"' if out > 3 else 'mode = "nearest"'
        scales = self.constant(np.array([1, 1, 2, 2], np.float32))
        self.value = self.add(f"Resize <{mode}> ({self.value}, , {scales})")

    def scale(self, out: int, *_: Any) -> None:
        shape = {1: (), 2: (1,), 3: (1, 1, 1, 1)}.get(out, (self.channels, 1, 1))
        self.value = self.add(f"Mul ({self.value}, {self.constant(weights(*shape, seed=len(self.constants)))})")

    def pool(self, *_: Any) -> None:
        self.value = self.add(f"MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> ({self.value})")

    def model(self) -> ir.Model:
        self.lines.append(f"y = Abs ({self.value})")
        return graph(" ".join(self.lines), "float[1,3,9,11] x", f"float[1,{self.channels},h,w] y", **self.constants)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    st.lists(LAYER, min_size=1, max_size=7).filter(lambda layers: sum(layer[0] == "upsample" for layer in layers) < 3)
)
def test_any_chain_of_layers_computes_the_same_when_fused(layers: list[Any]) -> None:
    model = Net(layers).model()
    feeds = feeds_of(model)
    expected = outputs_of(model, feeds)
    before = len(operators(model))
    fuse(model)
    assert_close(outputs_of(model, feeds), expected, rtol=2e-5)
    assert {"Identity", "Dropout"}.isdisjoint(operators(model))
    assert len(operators(model)) <= before + 2


def test_weights_of_constant_nodes_are_weights_whichever_rewrites_are_left_out() -> None:
    model = graph(
        "w = Constant <value = float[2,1,1,1] {3.0, 4.0}> () y = Conv(x, w)", "float[1,1,5,7] x", "float[1,2,5,7] y"
    )
    fuse(model, [rewrite for rewrite in REWRITES if rewrite.name != "fold_constants"])
    (conv,) = model.graph
    assert conv.op_type == "Conv" and conv.inputs[1].is_initializer()
    assert conv.inputs[1].const_value.numpy().ravel().tolist() == [3, 4]
