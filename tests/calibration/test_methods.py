"""Thresholds worked out by hand on fixed arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest

from refinenet_edge.calibration.histogram import Histogram
from refinenet_edge.calibration.methods import Entropy, Method, MinMax, Mse, Percentile, parse_method
from refinenet_edge.errors import InputError

METHODS: tuple[Method, ...] = (MinMax(), Percentile(), Entropy(), Mse())


def histogram(*values: float, times: int = 1) -> Histogram:
    made = Histogram()
    made.add(np.repeat(np.array(values, np.float32), times))
    return made


def binned(counts: dict[int, int], zeros: int = 0) -> Histogram:
    """A histogram of width 1 with these counts; its largest value lies in the middle of the last bin."""
    made = Histogram(exponent=0, zeros=zeros, low=0.0, high=max(counts) + 0.5)
    for place, count in counts.items():
        made.counts[place] = count
    return made


def test_minmax_is_the_largest_magnitude() -> None:
    assert MinMax().amax(histogram(-3.0, 2.0)) == 3.0


def test_percentile_counts_what_is_not_zero() -> None:
    # 99 in bin 4, 1 in bin 1000: 99 % lie below the end of bin 4
    held = binned({4: 99, 1000: 1}, zeros=100_000)
    assert Percentile(99).amax(held) == 5.0
    assert Percentile(99.5).amax(held) == 1000.5  # the last bin's end is beyond the largest value
    assert Percentile(100).amax(held) == 1000.5
    assert Percentile(50).amax(held) == 5.0  # zeros are in no bin


def test_entropy_keeps_a_uniform_range_whole() -> None:
    # one bin a level: all 128 bins are told apart, nothing is lost
    assert Entropy().amax(binned(dict.fromkeys(range(128), 10))) == 127.5


def test_entropy_gives_up_a_far_outlier() -> None:
    # 128 full bins and one value at 1500: cutting at 136 adds 1 of 1281 to an empty last bin, which no level can say
    # (infinite); so does every cut. Spread over 128 levels up to 1501 bins, the 128 become 11 levels: much is lost, but
    # less than everything. With the outlier inside a full range the cut at 128 adds it to a full bin and wins
    crowd = {place: 10 + 7 * (place % 5) for place in range(128)}
    assert Entropy().amax(binned({**crowd, 1500: 1})) == 128.0


def test_entropy_by_the_formula() -> None:
    counts = {place: 1 + (place * place) % 17 for place in range(0, 160, 2)}
    held = binned(counts)
    total = np.array([counts.get(place, 0) for place in range(159)], float)
    losses = {}
    for bins in (128, 136, 144, 152, 159):
        p = total[:bins].copy()
        p[-1] += total[bins:].sum()
        level = [place * 128 // bins for place in range(bins)]
        q = np.zeros(bins)
        for place in range(bins):
            mates = [other for other in range(bins) if level[other] == level[place] and total[other] > 0]
            if total[place] > 0:
                q[place] = sum(total[other] for other in mates) / len(mates)
        if all(q[place] > 0 for place in range(bins) if p[place] > 0):
            p, q = p / p.sum(), q / q.sum()
            losses[bins] = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
    best = max(bins for bins, loss in losses.items() if loss == min(losses.values()))
    assert Entropy().amax(held) == min(best, held.amax)


def test_mse_by_the_formula() -> None:
    # a crowd of 100 000 below 128 and 3 values at 1000.5: saturating 3 by 872 costs less than a step of 8 for the crowd
    crowd = dict.fromkeys(range(100), 1000)
    held = binned({**crowd, 1000: 3})

    def loss(limit: float) -> float:
        step = limit / 127
        return sum(
            count * (place + 0.5 - min(round((place + 0.5) / step), 127) * step) ** 2
            for place, count in {**crowd, 1000: 3}.items()
        )

    tried = [*range(128, 1001, 8), 1000.5]
    assert Mse().amax(held) == min(tried, key=loss)
    assert Mse().amax(held) < 1000


@pytest.mark.parametrize("method", METHODS, ids=str)
class TestEveryMethod:
    def test_nothing_and_zeros_have_no_range(self, method: Method) -> None:
        assert method.amax(Histogram()) == 0
        assert method.amax(histogram(0.0, times=100)) == 0

    @pytest.mark.parametrize("value", [1.0, -0.3, 1e-6, 40_000.0])
    def test_a_constant_is_kept(self, method: Method, value: float) -> None:
        assert method.amax(histogram(value, times=50)) == pytest.approx(abs(value), rel=1e-3)

    def test_it_is_never_beyond_what_was_seen(self, method: Method) -> None:
        values = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
        held = Histogram()
        held.add(values)
        assert 1.0 < method.amax(held) <= np.abs(values).max()

    def test_its_name_is_read_back(self, method: Method) -> None:
        assert parse_method(str(method)) == method


@pytest.mark.parametrize("percent", [50.0, 99.9, 99.99999, 100.0])
def test_a_percentile_keeps_its_digits(percent: float) -> None:
    assert parse_method(str(Percentile(percent))) == Percentile(percent)


def test_a_percentile_of_numpy_has_the_same_name() -> None:
    assert str(Percentile(np.float64(99.9))) == "percentile:99.9"


@pytest.mark.parametrize("text", ["", "kl", "percentile:x", "percentile:0", "percentile:101", "mse:3"])
def test_no_such_method(text: str) -> None:
    with pytest.raises(InputError, match=r"no method|outside 0 to 100"):
        parse_method(text)
