"""The worst layers come first, in few measurements, and a damaged one before all others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from refinenet_edge.precision.placement import OPENVINO
from refinenet_edge.precision.rounding import round_sums
from refinenet_edge.precision.sensitivity import LogitNoise, Ranking
from refinenet_edge.precision.switches import Switchboard
from tests.conftest import graph, weights
from tests.precision.test_qdq import ranges_of

BODY = "[a] p = Conv(image, u) q = Relu(p) [b] r = Conv(q, v) s = Relu(r) [c] logits = Conv(s, w)"


def additive(harms: dict[str, float]) -> Ranking:
    """A ranking of layers whose harms add up."""
    return Ranking(list(harms), lambda group: sum(harms[name] for name in group))


def noise(damaged: str | None = None) -> LogitNoise:
    """Of three convolutions in a row; the range of the tensor `damaged` is a hundredth of what it should be."""
    constants = {name: weights(8, 8, 1, 1, seed=seed) / 3 for seed, name in enumerate("uvw")}
    model = graph(BODY, "float[1,8,6,8] image", "float[1,8,6,8] logits", **constants)
    ranges = ranges_of(model)
    if damaged:
        broken = replace(ranges.tensors[damaged], amax=ranges.tensors[damaged].amax / 100)
        ranges = replace(ranges, tensors={**ranges.tensors, damaged: broken})
    return LogitNoise(Switchboard(model, ranges, OPENVINO), [weights(1, 8, 6, 8, seed=seed) for seed in (7, 8)])


class TestRanking:
    def test_the_worst_come_in_order(self) -> None:
        harms = {f"layer{i}": float(np.random.default_rng(i).random()) for i in range(40)}
        order = sorted(harms, key=harms.__getitem__, reverse=True)
        assert additive(harms).first(7) == order[:7]
        assert additive(harms).first(99) == order

    def test_two_bad_layers_of_a_thousand_are_found_in_few_measurements(self) -> None:
        harms = dict.fromkeys((f"layer{i}" for i in range(1000)), 1e-9) | {"layer17": 3.0, "layer801": 5.0}
        ranking = additive(harms)
        assert ranking.first(2) == ["layer801", "layer17"]
        assert ranking.measured < 45

    def test_groups_hold_every_layer_once(self) -> None:
        harms = {f"layer{i}": float(i) for i in range(21)}
        ranking = additive(harms)
        ranking.first(3)
        groups = ranking.groups()
        assert [group for group, _ in groups[:3]] == [("layer20",), ("layer19",), ("layer18",)]
        assert sorted(name for group, _ in groups for name in group) == sorted(harms)
        rest = [harm for _, harm in groups[3:]]
        assert rest == sorted(rest, reverse=True)
        assert len(ranking) == 21

    def test_asking_again_measures_nothing(self) -> None:
        ranking = additive({f"layer{i}": float(i) for i in range(16)})
        ranking.first(4)
        measured = ranking.measured
        assert ranking.first(4)[:2] == ranking.first(2)
        assert ranking.measured == measured

    def test_equals_keep_the_order_of_the_graph(self) -> None:
        assert additive(dict.fromkeys("abcd", 1.0)).first(4) == list("abcd")

    def test_nothing_to_rank(self) -> None:
        ranking = additive({})
        assert (ranking.first(3), ranking.groups(), len(ranking)) == ([], [], 0)


class TestLogitNoise:
    def test_no_layer_rounded_is_no_harm(self) -> None:
        assert noise()(()) == 0.0

    def test_harm_is_the_error_over_the_variance(self) -> None:
        found = noise()
        scale, image = np.float32(4 / 127), np.concatenate([weights(1, 8, 6, 8, seed=seed) for seed in (7, 8)])
        rounded = np.clip(np.rint(image / scale), -128, 127) * scale

        def logits(x: np.ndarray, first: np.ndarray) -> np.ndarray:
            for index, kernel in enumerate((first, *(weights(8, 8, 1, 1, seed=s) / 3 for s in (1, 2)))):
                x = np.einsum("oc,bchw->bohw", kernel[:, :, 0, 0], np.maximum(x, 0) if index else x)
            return x

        kernel = weights(8, 8, 1, 1, seed=0) / 3
        steps = np.abs(kernel).max(axis=(1, 2, 3), keepdims=True) / 127
        exact, off = logits(image, kernel), logits(rounded, round_sums(kernel / steps) * steps)
        expected = np.square(off - exact).sum() / np.square(exact - exact.mean()).sum()
        assert found(("a",)) == pytest.approx(expected, rel=1e-3)

    @pytest.mark.parametrize(("tensor", "layer"), [("image", "a"), ("q", "b"), ("s", "c")])
    def test_a_damaged_layer_is_the_worst(self, tensor: str, layer: str) -> None:
        found = noise(damaged=tensor)
        assert Ranking("abc", found).first(1) == [layer]
        assert found((layer,)) > 0.5

    def test_its_runs_are_counted(self) -> None:
        found = noise()
        found(("a",))
        assert found.runs == 4  # two frames, exact and rounded
