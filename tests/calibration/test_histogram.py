"""Histograms keep what was seen, whatever the order, and parts add up to the whole bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from refinenet_edge.calibration import histogram as module
from refinenet_edge.calibration.histogram import BINS, BLOCK, Histogram, is_compiled

COMPILED = module._histogram
FLOATS = arrays.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))


needs_compiler = pytest.mark.skipif(not is_compiled(), reason="installed without a compiler")


@pytest.fixture(params=[pytest.param("c++", marks=needs_compiler), "numpy"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numpy":
        monkeypatch.setattr(module, "_histogram", None)


def histogram(*parts: np.ndarray) -> Histogram:
    made = Histogram()
    for part in parts:
        made.add(part)
    return made


def same(a: Histogram, b: Histogram) -> bool:
    fields = ("exponent", "zeros", "low", "high", "not_finite")
    return np.array_equal(a.counts, b.counts) and all(getattr(a, name) == getattr(b, name) for name in fields)


def test_a_fixed_array() -> None:
    found = histogram(np.array([[0.0, -0.5, 1.5], [2.25, 0.0, 1023.9]], np.float32))
    assert (found.exponent, found.width, found.zeros) == (-1, 0.5, 2)
    assert {int(i): int(n) for i, n in enumerate(found.counts) if n} == {1: 1, 3: 1, 4: 1, 2047: 1}
    assert (found.low, found.high, found.amax) == (-0.5, np.float32(1023.9), np.float32(1023.9))


def test_a_larger_value_doubles_the_width() -> None:
    found = histogram(np.array([1.0, 3.0], np.float32), np.array([4100.0], np.float32))
    assert found.width == 4
    assert {int(i): int(n) for i, n in enumerate(found.counts) if n} == {0: 2, 1025: 1}


def test_a_power_of_two_has_a_bin() -> None:
    found = histogram(np.array([2.0], np.float32))
    assert found.counts.sum() == 1
    assert found.amax < BINS * found.width


def test_only_zeros_and_nothing() -> None:
    assert histogram(np.zeros((3, 4), np.float32)).zeros == 12
    assert histogram(np.zeros(3, np.float32)).amax == 0
    assert histogram().amax == 0
    assert histogram(np.empty(0, np.float32)).amax == 0


def test_what_is_not_finite_is_counted_apart() -> None:
    found = histogram(np.array([np.nan, 1.0, np.inf, -np.inf], np.float32), np.full(3, np.nan, np.float32))
    assert (found.not_finite, found.counts.sum(), found.amax) == (6, 1, 1)


def test_half_precision_counts_as_its_values() -> None:
    half = np.random.default_rng(0).standard_normal(1000).astype(np.float16)
    assert same(histogram(half), histogram(half.astype(np.float32)))


def test_large_arrays_go_block_by_block() -> None:
    values = np.random.default_rng(1).standard_normal(2 * BLOCK + 5).astype(np.float32)
    values[-1] = 1e6
    found = histogram(values)
    assert found.counts.sum() == values.size
    assert np.array_equal(found.counts, np.bincount((np.abs(values) / found.width).astype(int), minlength=BINS))


@settings(max_examples=200, deadline=None)
@given(st.lists(FLOATS, max_size=5), st.randoms())
def test_the_order_does_not_matter(parts: list[np.ndarray], random: object) -> None:
    everything = histogram(np.concatenate(parts) if parts else np.empty(0, np.float32))
    shuffled = list(parts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert same(histogram(*shuffled), everything)


@settings(max_examples=200, deadline=None)
@given(FLOATS, FLOATS, FLOATS)
def test_parts_add_up_to_the_whole(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    whole = histogram(a, b, c)
    assert same((histogram(a) + histogram(b)) + histogram(c), whole)
    assert same(histogram(a) + (histogram(b) + histogram(c)), whole)
    assert same(histogram(c) + histogram(b) + histogram(a), whole)


def test_the_sign_of_zero_is_not_kept() -> None:
    minus, plus = histogram(np.array([-0.0], np.float32)), histogram(np.array([0.0], np.float32))
    assert str((minus + plus).low) == str((plus + minus).low) == str(minus.high) == "0.0"


def test_adding_changes_neither() -> None:
    a, b = histogram(np.ones(3, np.float32)), histogram(np.full(2, 1e5, np.float32))
    before = a.counts.copy(), b.counts.copy()
    assert (a + b).counts.sum() == pytest.approx(5)
    assert np.array_equal(a.counts, before[0])
    assert np.array_equal(b.counts, before[1])


@needs_compiler
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FLOATS, st.integers(0, 70), st.sampled_from([1e-30, 1.0, 1e30]))
def test_c_and_numpy_count_the_same(values: np.ndarray, zeros: int, scale: float) -> None:
    """Whatever there is: not finite, -0.0, denormal, and in any number."""
    with np.errstate(over="ignore"):
        values = np.concatenate([values * np.float32(scale), np.zeros(zeros, np.float32), values])
    found = []
    for compiled in (COMPILED, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_histogram", compiled)
            found.append(histogram(values))
    assert same(*found)


@needs_compiler
def test_what_is_beyond_the_bins_is_no_write_beyond_them() -> None:
    counts = np.zeros(4, np.int64)
    COMPILED.count(np.array([0.5, 3.9, 4.0, 1e30, np.inf, np.nan, -2.0], np.float32), 1.0, counts)
    assert counts.tolist() == [1, 0, 1, 1]
