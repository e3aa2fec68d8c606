"""Conv1x1(Resize(x)) -> Resize(Conv1x1(x)), and the same for a factor per channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from refinenet_edge.fusion.move_before_resize import CONV, SCALE
from refinenet_edge.fusion.rewrite import SHARED
from tests.conftest import apply, graph, operators, weights

X = "float[1,3,5,7] x"
SIZES = np.array([1, 3, 10, 13], np.int64)


def enlarged(after: str, outputs: str = "float[1,4,10,13] y", mode: str = "linear", **more: Any) -> Any:
    corners = more.pop("corners", "align_corners")
    body = f'u = Resize <mode="{mode}", coordinate_transformation_mode="{corners}"> (x, , , sizes) {after}'
    constants = {"w": weights(4, 3, 1, 1), "b": weights(4), "sizes": SIZES}
    return graph(body, more.pop("inputs", X), outputs, **(constants | more))


@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest"])
@pytest.mark.parametrize("corners", ["align_corners", "half_pixel", "asymmetric"])
def test_a_pointwise_convolution_moves_to_the_small_side(mode: str, corners: str) -> None:
    model = enlarged("y = Conv(u, w, b)", mode=mode, corners=corners)
    assert apply(CONV, model).fired == 1
    assert operators(model) == ["Conv", "Resize"]
    assert model.graph[0].outputs[0].shape == [1, 4, 5, 7]


def test_scales_stay_as_they_are() -> None:
    body = 'u = Resize <mode="linear"> (x, , s) y = Conv(u, w)'
    scales = np.array([1, 1, 2, 2], np.float32)
    model = graph(body, X, "float[1,4,10,14] y", s=scales, w=weights(4, 3, 1, 1))
    assert apply(CONV, model).fired == 1


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 3, 1, 1), (1,), ()])
def test_a_factor_per_channel_moves_to_the_small_side(shape: tuple[int, ...]) -> None:
    model = enlarged("y = Mul(u, f)", "float[1,3,10,13] y", f=weights(*shape))
    assert apply(SCALE, model).fired == 1
    assert operators(model) == ["Mul", "Resize"]


def test_a_factor_on_the_left_moves_too() -> None:
    model = enlarged("y = Mul(f, u)", "float[1,3,10,13] y", f=weights(3, 1, 1))
    assert apply(SCALE, model).fired == 1


REFUSALS = {
    "a 3x3 convolution sees neighbours": (
        "y = Conv <pads=[1,1,1,1]> (u, w)",
        {"w": weights(4, 3, 3, 3)},
        "neighbouring",
    ),
    "a strided convolution skips pixels": (
        "y = Conv <strides=[2,2]> (u, w)",
        {"outputs": "float[1,4,5,7] y"},
        "neighb",
    ),
    "a shared map stays": ("y = Conv(u, w) z = Relu(u)", {"outputs": "float[1,4,10,13] y, float[1,3,10,13] z"}, SHARED),
    "shrinking would cost more": ("y = Conv(u, w)", {"inputs": "float[1,3,20,26] x"}, "does not enlarge"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused(name: str) -> None:
    after, more, reason = REFUSALS[name]
    model = enlarged(after, **more)
    before = operators(model)
    firing = apply(CONV, model)
    assert firing.fired == 0 and operators(model) == before
    assert reason in next(iter(firing.refused))


def test_a_factor_per_pixel_stays() -> None:
    model = enlarged("y = Mul(u, f)", "float[1,3,10,13] y", f=weights(1, 1, 10, 13))
    firing = apply(SCALE, model)
    assert firing.fired == 0 and "pixel to pixel" in next(iter(firing.refused))
