"""The proof at build time: a wrong rewrite stops the build by its name."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from refinenet_edge.build import parity
from refinenet_edge.errors import GraphError
from refinenet_edge.fusion import Rewrite, fold_batch_norm, fuse, merge_pointwise
from refinenet_edge.fusion.rewrite import GraphRewrite
from refinenet_edge.graph import to_bytes
from tests.conftest import graph, operators, weights

FRAMES = {"random": weights(1, 8, 5, 7), "photo.jpg": weights(1, 8, 5, 7, seed=1)}


def pair() -> ir.Model:
    return graph("[inner] a = Conv(x, w) [outer] y = Conv(a, u)", w=weights(8, 8, 1, 1), u=weights(8, 8, 1, 1, seed=1))


def scaled(by: float) -> Rewrite:
    """A rewrite with a mistake: it multiplies the first weights."""

    def apply(model: ir.Model) -> int:
        value = next(iter(model.graph.initializers.values()))
        value.const_value = ir.tensor(np.asarray(value.const_value.numpy()) * np.float32(by), name=value.name)
        return 1

    return GraphRewrite("scale_weights", apply)


def prove(*rewrites: Rewrite) -> tuple[parity.Parity, ...]:
    model = pair()
    traced = to_bytes(model)
    fuse(model, rewrites)
    return parity.prove(traced, parity.logits(traced, FRAMES), model, rewrites, FRAMES, lambda: 0.0)


def test_right_rewrites_are_proven_on_every_frame() -> None:
    proof = prove(fold_batch_norm.REWRITE, merge_pointwise.REWRITE)
    assert [(p.stage, p.frame) for p in proof] == [("fused", "random"), ("fused", "photo.jpg")]
    assert all(p.relative_error <= 1e-5 and p.label_agreement == 1.0 for p in proof)


@pytest.mark.parametrize("by", [1.001, -1.0, 0.0])
def test_a_wrong_rewrite_stops_with_its_name(by: float) -> None:
    with pytest.raises(GraphError, match=r"the rewrite scale_weights changed the logits: .* --without scale_weights"):
        prove(fold_batch_norm.REWRITE, scaled(by), merge_pointwise.REWRITE)


@pytest.mark.parametrize("by", [np.inf, np.nan])
def test_logits_that_became_infinite_stop_too(by: float) -> None:
    with pytest.raises(GraphError, match="the rewrite scale_weights changed the logits: relative error inf"):
        prove(scaled(by))


def test_a_wrong_rewrite_stops_even_when_a_later_one_hides_its_work() -> None:
    with pytest.raises(GraphError, match="the rewrite scale_weights"):
        prove(scaled(2.0), merge_pointwise.REWRITE)


def test_a_difference_of_rounding_passes() -> None:
    (random, _) = prove(scaled(1.00001))
    assert 0 < random.relative_error < parity.BOUND


def test_a_rewrite_that_changes_the_size_stops_with_its_name() -> None:
    def cut(model: ir.Model) -> int:
        node = model.graph[0]
        node.attributes["strides"] = ir.AttrInt64s("strides", [2, 2])
        for value in (node.outputs[0], model.graph.outputs[0]):
            value.shape = None
        return 1

    with pytest.raises(GraphError, match="the rewrite cut changed the logits"):
        prove(GraphRewrite("cut", cut))


def test_a_rewrite_that_breaks_the_graph_is_an_error_of_ours() -> None:
    def cut(model: ir.Model) -> int:
        model.graph[0].attributes["strides"] = ir.AttrInt64s("strides", [2])
        return 1

    with pytest.raises(GraphError, match="ONNX Runtime cannot run the graph"):
        prove(GraphRewrite("cut", cut))


def test_a_wrong_merge_of_siblings_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from refinenet_edge.fusion import merge_siblings

    class Wrong(merge_siblings.MergeSiblings):
        def rewrite(self, op: Any, x: Any, y: Any, left: Any, right: Any) -> Any:
            return super().rewrite(op, y, x, left, right)

    body = "[two] p = Conv(x, c) [three] q = Conv(x, d) a = Conv(p, w) b = Conv(q, u) y = Add(a, b)"
    kernels = {"c": weights(3, 8, 1, 1), "d": weights(3, 8, 1, 1, seed=1), "w": weights(8, 3, 1, 1)}
    model = graph(body, u=weights(8, 3, 1, 1, seed=1), **kernels)
    traced, rewrites = to_bytes(model), (Wrong(),)
    fuse(model, rewrites)
    assert "Concat" in operators(model)
    with pytest.raises(GraphError, match="the rewrite merge_siblings changed the logits"):
        parity.prove(traced, parity.logits(traced, FRAMES), model, rewrites, FRAMES, lambda: 0.0)


def test_a_model_whose_own_logits_are_not_finite_is_refused() -> None:
    model = graph("y = Div(x, z)", z=np.float32(0))
    traced = to_bytes(model)
    with pytest.raises(GraphError, match="the model's own logits are not finite on the random frame"):
        parity.prove(traced, parity.logits(traced, FRAMES), model, (), FRAMES, lambda: 0.0)


def test_logits_of_zero_are_compared_too() -> None:
    (same,) = parity.compare("fused", {"f": np.zeros((1, 2, 3, 3))}, {"f": np.zeros((1, 2, 3, 3))})
    assert (same.relative_error, same.label_agreement) == (0.0, 1.0)


def test_the_error_and_the_agreement_are_of_known_numbers() -> None:
    expected = np.array([[[[1.0, -4.0]], [[0.5, 2.0]]]])
    found = np.array([[[[1.0, -4.0]], [[1.5, 2.0]]]])
    (measured,) = parity.compare("fp16", {"f": expected}, {"f": found})
    assert measured == parity.Parity("fp16", "f", 0.25, 0.5)


def test_logits_are_fed_in_the_type_of_the_graph() -> None:
    half = graph("y = Mul(x, two)", "float16[1,8,5,7] x", "float16[1,8,5,7] y", two=np.float16(2))
    (found,) = parity.logits(to_bytes(half), {"random": FRAMES["random"]}).values()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, FRAMES["random"].astype(np.float16) * 2)


def test_bytes_that_are_no_model_are_an_error_of_ours() -> None:
    with pytest.raises(GraphError, match="ONNX Runtime cannot run the graph"):
        parity.logits(b"nothing", FRAMES)
