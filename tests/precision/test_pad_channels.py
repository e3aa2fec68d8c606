"""Channels are padded where that changes no logit, and nowhere else."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from refinenet_edge.build import parity
from refinenet_edge.graph import to_bytes
from refinenet_edge.precision import pad_channels, to_fp16
from tests.conftest import graph, weights

IMAGE, LOGITS = "float[1,3,6,8] image", "float[1,5,6,8] logits"


def half(body: str, **constants: np.ndarray) -> ir.Model:
    return to_fp16(graph(body, IMAGE, LOGITS, **constants))


def padded_as_before(model: ir.Model) -> None:
    """Pad `model`, and hold its first logits to those it had: the same arithmetic, and zeros."""
    frames = {"random": weights(1, 3, 6, 8, seed=9)}
    before = parity.logits(to_bytes(model), frames)["random"]
    assert pad_channels(model)
    after = parity.logits(to_bytes(model), frames)["random"]
    assert after.shape == (1, 8, 6, 8)
    np.testing.assert_allclose(after[:, :5], before, rtol=2e-3, atol=2e-3)  # float16: sums in another order
    assert not after[:, 5:].any()


def shapes(model: ir.Model) -> list[tuple[object, ...]]:
    return [tuple(value.shape or ()) for value in (*model.graph.inputs, *model.graph.outputs)]


def test_input_and_output_are_padded() -> None:
    model = half(
        "a = Conv(image, v, b) r = Relu(a) logits = Conv(r, w, c)",
        v=weights(8, 3, 1, 1),
        b=weights(8),
        w=weights(5, 8, 1, 1),
        c=weights(5),
    )
    padded_as_before(model)
    assert shapes(model) == [(1, 8, 6, 8), (1, 8, 6, 8)]
    assert model.graph.initializers["v/padded"].shape == (8, 8, 1, 1)
    assert set(model.graph.initializers) == {"v/padded", "b", "w/padded", "c/padded"}


def test_a_sum_of_convolutions_is_padded_in_each() -> None:
    model = half(
        "a = Conv(image, v) p = Conv(a, w) q = Conv(a, u) r = Add(p, q) t = Conv(a, s) logits = Add(r, t)",
        v=weights(8, 3, 1, 1),
        w=weights(5, 8, 1, 1, seed=1),
        u=weights(5, 8, 1, 1, seed=2),
        s=weights(5, 8, 1, 1, seed=3),
    )
    padded_as_before(model)


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("a = Relu(image) logits = Conv(a, w)", {"w": weights(5, 3, 1, 1)}),
        ("a = Conv(image, w) logits = Relu(a)", {"w": weights(5, 3, 1, 1)}),
        ("logits = Conv(image, w)", {"w": weights(5, 3, 1, 1)}),
        ("a = Conv(image, w) r = Relu(a) p = Conv(r, u) logits = Add(p, a)",
         {"w": weights(5, 3, 1, 1), "u": weights(5, 5, 1, 1)}),
        ("a = Conv<group = 3>(image, w) logits = Conv(a, u)", {"w": weights(3, 1, 1, 1), "u": weights(5, 3, 1, 1)}),
        ("a = Conv(image, w) p = Conv(a, u) q = Conv(a, u) logits = Add(p, q)",
         {"w": weights(8, 3, 1, 1), "u": weights(5, 8, 1, 1)}),
    ],
    ids=["another-reader", "another-writer", "one-convolution", "a-sum-with-another-use", "groups", "shared-weights"],
)  # fmt: skip
def test_other_graphs_stay_as_they_are(body: str, constants: dict[str, np.ndarray]) -> None:
    model = half(body, **constants)
    before = to_bytes(model)
    assert not pad_channels(model)
    assert to_bytes(model) == before


def test_float32_graphs_stay_as_they_are() -> None:
    model = graph("a = Conv(image, v) logits = Conv(a, w)", IMAGE, LOGITS, v=weights(8, 3, 1, 1), w=weights(5, 8, 1, 1))
    assert not pad_channels(model)
