"""Rounded weights keep the sums of kernels and channels, and lie at most a step from what they were."""

from __future__ import annotations

import numpy as np
import pytest

from refinenet_edge.precision.placement import E4M3, INT8
from refinenet_edge.precision.rounding import round_sums
from tests.conftest import weights


def kernels(*values: float) -> np.ndarray:
    """One output channel of one kernel."""
    return np.array(values, np.float32).reshape(1, 1, 1, -1)


class TestRoundSums:
    def test_what_was_nearly_rounded_down_is(self) -> None:
        # to the nearest 1 1 1 0: a sum of 3 for 2.3
        assert round_sums(kernels(0.8, 0.6, 0.9, 0.0)).ravel().tolist() == [1, 0, 1, 0]

    def test_what_was_nearly_rounded_up_is(self) -> None:
        assert round_sums(kernels(0.2, 0.4, -0.7, 0.3, 0.4)).ravel().tolist() == [0, 1, -1, 0, 1]

    def test_a_sum_that_is_kept_to_half_a_step_stays(self) -> None:
        assert round_sums(kernels(0.8, 0.9, 2.1, -3.0)).ravel().tolist() == [1, 1, 2, -3]

    def test_kernels_of_one_weight_keep_the_sum_of_their_channel(self) -> None:
        exact = np.array([[0.7, 0.8, 0.6, 0.9], [-0.7, -0.8, -0.6, -0.9]], np.float32).reshape(2, 4, 1, 1)
        assert round_sums(exact).reshape(2, 4).tolist() == [[1, 1, 0, 1], [-1, -1, 0, -1]]

    @pytest.mark.parametrize("shape", [(24, 16, 3, 3), (16, 40, 1, 1), (32, 1, 3, 3), (8, 8, 5, 5)])
    def test_sums_stay(self, shape: tuple[int, ...]) -> None:
        exact = weights(*shape) * 30
        error = round_sums(exact) - exact
        assert np.abs(error).max() < 1
        assert np.abs(error.sum(axis=(1, 2, 3))).max() <= 0.5001
        assert np.sqrt(np.square(error.sum(axis=(2, 3))).mean()) < 0.31  # to the nearest: .87 of nine
        assert np.sqrt(np.square(error).mean()) < 0.31  # to the nearest: .29

    def test_whole_numbers_stay(self) -> None:
        exact = np.rint(weights(8, 4, 3, 3) * 20)
        np.testing.assert_array_equal(round_sums(exact), exact)


class TestGrids:
    def test_int8_saturates(self) -> None:
        stored = INT8.round(kernels(-300, 127.4, 126.6, 0.2, 0.2))
        assert (stored.dtype, stored.ravel().tolist()) == (np.int8, [-127, 127, 127, 0, 0])

    def test_e4m3_has_its_own_steps(self) -> None:
        assert E4M3.round(kernels(0.3, 17.0, 500)).astype(np.float32).ravel().tolist() == [0.3125, 16, 448]
