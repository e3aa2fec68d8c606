"""Multiplications and bytes, counted by hand on small graphs."""

from __future__ import annotations

from refinenet_edge.fusion.cost import graph_cost
from refinenet_edge.records import GraphCost
from tests.conftest import graph, weights

W = weights(4, 3, 1, 1)
X = "float[1,3,5,7] x"
IN, OUT, KERNEL = 4 * 3 * 35, 4 * 4 * 35, 4 * 12  # bytes


def test_a_convolution() -> None:
    model = graph("y = Conv(x, w)", X, "float[1,4,5,7] y", w=W)
    assert graph_cost(model) == GraphCost(12 * 35, IN + KERNEL + OUT, 1)


def test_sum_and_activation_ride_along() -> None:
    model = graph("c = Conv(x, w) a = Add(u, c) y = Relu(a)", f"{X}, float[1,4,5,7] u", "float[1,4,5,7] y", w=W)
    assert graph_cost(model) == GraphCost(12 * 35, IN + KERNEL + OUT + OUT, 3)


def test_a_shared_result_is_written_and_read() -> None:
    model = graph("c = Conv(x, w) y = Relu(c) z = Neg(c)", X, "float[1,4,5,7] y, float[1,4,5,7] z", w=W)
    assert graph_cost(model) == GraphCost(12 * 35, IN + KERNEL + 5 * OUT, 3)


def test_of_two_summed_convolutions_the_later_carries() -> None:
    model = graph("c = Conv(x, w) d = Conv(x, w) y = Add(c, d)", X, "float[1,4,5,7] y", w=W)
    assert graph_cost(model) == GraphCost(2 * 12 * 35, 2 * (IN + KERNEL) + 3 * OUT, 3)


def test_free_sizes_have_no_cost() -> None:
    assert graph_cost(graph("y = Conv(x, w)", "float[1,3,h,v] x", "float[1,4,h,v] y", w=W)) is None
