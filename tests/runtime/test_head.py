from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from refinenet_edge.errors import BundleError
from refinenet_edge.records import Bilinear, Cubic, Interpolation, Size, Span
from refinenet_edge.runtime import head
from refinenet_edge.runtime.head import bilinear_axis, one_frame, upsample_argmax, upsample_softmax

SIZES = [
    ((7, 9), (29, 33)),
    ((29, 33), (7, 9)),
    ((5, 6), (17, 4)),
    ((6, 6), (6, 6)),
    ((6, 5), (6, 11)),
    ((1, 5), (6, 1)),
    ((5, 1), (1, 4)),
    ((2, 3), (1, 1)),
    ((1, 1), (3, 2)),
    ((68, 120), (270, 481)),
]
ALL: list[Interpolation] = [Bilinear(False), Bilinear(True), Cubic()]
CPP = pytest.param("c++", marks=pytest.mark.skipif(head._head is None, reason="installed without a compiler"))


@pytest.fixture(params=[CPP, "numpy"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(head, "_head", None)
    assert head.implementation() == request.param
    return str(request.param)


def logits(size: Size, classes: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((classes, *size)).astype(np.float32)


def upsample(x: np.ndarray, size: Size, how: Interpolation) -> np.ndarray:
    """What numpy takes the argmax of."""
    result = np.empty((len(x), *size), np.float32)
    for rows, block in head._upsampled(np.ascontiguousarray(x, np.float32), size, how):
        result[:, rows] = block.transpose(2, 0, 1)
    return result


# --- the reference: the same arithmetic written once more, on whole arrays


def reference(x: np.ndarray, size: Size, how: Bilinear) -> np.ndarray:
    """The full-size logits, as head.py's docstring says."""
    (top, bottom, ty), (left, right, tx) = (positions(n, m, how) for n, m in zip(x.shape[1:], size, strict=True))
    with np.errstate(all="ignore"):
        upper = (1 - tx) * x[:, top][:, :, left] + tx * x[:, top][:, :, right]
        lower = (1 - tx) * x[:, bottom][:, :, left] + tx * x[:, bottom][:, :, right]
        return np.asarray((1 - ty[:, None]) * upper + ty[:, None] * lower, np.float32)


def positions(n_in: int, n_out: int, how: Bilinear) -> tuple[list[int], list[int], np.ndarray]:
    first, t = [], []
    for i in range(n_out):
        if how.align_corners:
            place = Fraction(i * (n_in - 1), max(n_out - 1, 1))
        else:
            place = min(max((i + Fraction(1, 2)) * n_in / n_out - Fraction(1, 2), Fraction(0)), Fraction(n_in - 1))
        first.append(int(place))
        t.append(round((place - int(place)) * 2**24) / 2**24)
    return first, [min(i + 1, n_in - 1) for i in first], np.array(t, np.float32)


def first_largest(up: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(up), -np.inf, up).argmax(axis=0)


def checked(x: np.ndarray, size: Size, how: Bilinear) -> np.ndarray:
    """The labels, after a look whether they are the reference's, in C++ and in numpy."""
    expected = first_largest(reference(x.astype(np.float32), size, how))
    compiled = head._head
    try:
        results = [upsample_argmax(x, size, how)]
        head._head = None  # type: ignore[assignment]
        results.append(upsample_argmax(x, size, how))
    finally:
        head._head = compiled
    for result in results:
        assert result.dtype == np.uint8
        assert np.array_equal(result, expected)
    return expected


# --- bit for bit

hows = st.sampled_from([Bilinear(False), Bilinear(True)])
sides = st.one_of(st.integers(1, 6), st.integers(1, 40))
FIRST_LARGEST = settings(max_examples=120, deadline=None)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[tuple[int, int, int], Size]:
    classes = draw(st.one_of(st.integers(1, 8), st.integers(1, 255)))
    return (classes, draw(sides), draw(sides)), (draw(sides), draw(sides))


@FIRST_LARGEST
@given(shapes(), hows, st.integers(0, 2**32), st.sampled_from(["float32", "float16"]))
def test_labels_are_the_first_largest(shape: Any, how: Bilinear, seed: int, dtype: str) -> None:
    x = np.random.default_rng(seed).standard_normal(shape[0])
    checked(x.astype(dtype), shape[1], how)


@FIRST_LARGEST
@given(shapes(), hows, st.integers(0, 2**32), st.integers(1, 4))
def test_ties_go_to_the_lowest(shape: Any, how: Bilinear, seed: int, values: int) -> None:
    random = np.random.default_rng(seed)
    levels = random.standard_normal(values).astype(np.float32)
    checked(levels[random.integers(0, values, shape[0])], shape[1], how)


@FIRST_LARGEST
@given(shapes(), hows, st.integers(0, 2**32), st.integers(-149, 127), st.integers(1, 40))
def test_near_ties_are_rounded_alike(shape: Any, how: Bilinear, seed: int, exponent: int, ulps: int) -> None:
    random = np.random.default_rng(seed)
    (classes, height, width), size = shape
    common = np.ldexp(random.uniform(-2, 2, (height, width)), exponent).astype(np.float32)
    x = common.view(np.int32) + random.integers(-ulps, ulps + 1, (classes, height, width), np.int32)
    x = x.view(np.float32)
    checked(np.where(np.isfinite(x), x, np.finfo(np.float32).max), size, how)


@FIRST_LARGEST
@given(shapes(), hows, st.data())
def test_any_finite_logits(shape: Any, how: Bilinear, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=6))
    pick = np.random.default_rng(data.draw(st.integers(0, 2**32))).integers(0, len(values), shape[0])
    checked(np.array(values, np.float32)[pick], shape[1], how)


@pytest.mark.parametrize("scale", [0, -140, 120])
@pytest.mark.parametrize("how", [Bilinear(False), Bilinear(True)])
def test_a_near_tie_that_rounds_to_a_tie_inside_its_cell(how: Bilinear, scale: int) -> None:
    x = np.ldexp(logits((9, 9), 2), scale)  # -140: where numbers have few bits left
    x[1] = np.nextafter(x[0], np.float32(np.inf))  # class 1 is the largest at every corner
    labels = checked(x, (40, 40), how)
    assert {0, 1} == set(labels.ravel().tolist())  # and yet not at every pixel: the short cut may not be taken here


def test_the_largest_numbers_do_not_overflow() -> None:
    largest = np.finfo(np.float32).max
    x = np.full((2, 6, 6), largest, np.float32)
    x[0] = np.nextafter(x[0], np.float32(0))
    checked(x, (37, 37), Bilinear(True))
    t = np.arange(2**24 + 1, dtype=np.int32).astype(np.float32) / np.float32(2**24)  # every one there is
    assert ((1 - t) * largest + t * largest).max() == largest


@pytest.mark.parametrize("classes", [1, 255, 256])
def test_as_many_classes_as_a_byte_has(classes: int) -> None:
    assert checked(logits((5, 5), classes), (19, 19), Bilinear()).max() <= classes - 1
    x = np.zeros((classes, 2, 2), np.float32)
    x[-1] = 1
    assert (checked(x, (5, 5), Bilinear()) == classes - 1).all()
    assert (upsample_argmax(x, (5, 5), Cubic()) == classes - 1).all()


@pytest.mark.parametrize(("small", "large"), SIZES)
@pytest.mark.parametrize("how", [Bilinear(False), Bilinear(True)])
def test_upsample_has_the_references_bits(small: Size, large: Size, how: Bilinear) -> None:
    assert np.array_equal(upsample(logits(small), large, how), reference(logits(small), large, how))
    checked(logits(small, 6), large, how)


@pytest.mark.skipif(head._head is None, reason="installed without a compiler")
def test_threads_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    x = logits((67, 90), 21)
    results = []
    for threads in (1, 2, 7, 0, -1):
        monkeypatch.setattr(head, "THREADS", threads)
        results.append(upsample_argmax(x, (270, 361), Bilinear(True)))
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.skipif(head._head is None, reason="installed without a compiler")
def test_the_extension_refuses_buffers_that_do_not_fit() -> None:
    x, labels = logits((4, 4)), np.zeros((8, 8), np.uint8)
    axis = bilinear_axis(4, 8, Bilinear())
    axes = (axis.starts, axis.t, axis.starts, axis.t)
    assert head._head.fill(x, 3, *axes, labels, 1)
    backwards = axis.starts[::-1].copy()
    for wrong in [
        (x, 4, *axes, labels, 1),
        (x, 0, *axes, labels, 1),
        (x, 257, *axes, labels, 1),
        (x[:, :3], 3, *axes, labels, 1),
        (x, 3, *axes, labels[:7], 1),
        (x, 3, backwards, *axes[1:], labels, 1),
        (x, 3, axis.starts + 1, *axes[1:], labels, 1),
        (x, 3, axis.starts[:0], *axes[1:], labels, 1),
        (x, 3, *axes, labels, 1, labels[:7].copy()),
    ]:
        with pytest.raises((ValueError, BufferError)):
            head._head.fill(*wrong)
    labels.flags.writeable = False
    with pytest.raises((TypeError, ValueError, BufferError)):
        head._head.fill(x, 3, *axes, labels, 1)


# --- torch and OpenCV


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("small", "large"), SIZES)
def test_bilinear_is_torchs(small: Size, large: Size, align_corners: bool) -> None:
    x = torch.from_numpy(logits(small))[None].double()  # in float32 torch's own positions are off by 1e-4
    expected = functional.interpolate(x, large, mode="bilinear", align_corners=align_corners)[0].numpy()
    np.testing.assert_allclose(upsample(logits(small), large, Bilinear(align_corners)), expected, atol=2e-6)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_labels_are_torchs_up_to_near_ties(implementation: str, align_corners: bool, dtype: torch.dtype) -> None:
    x = cv2.resize(logits((12, 16), 19).transpose(1, 2, 0), (120, 68), interpolation=cv2.INTER_CUBIC).transpose(2, 0, 1)
    full = functional.interpolate(
        torch.from_numpy(x)[None].to(dtype), (271, 480), mode="bilinear", align_corners=align_corners
    )[0]
    labels = upsample_argmax(x, (271, 480), Bilinear(align_corners))
    other = labels != full.argmax(0).numpy()
    assert other.mean() < 5e-5
    lost = full.max(0).values - full.gather(0, torch.from_numpy(labels)[None].long())[0]
    assert lost.max() < (2e-6 if dtype == torch.float64 else 2e-4)


@pytest.mark.parametrize(("small", "large"), SIZES)
def test_cubic_is_opencvs(small: Size, large: Size) -> None:
    expected = [cv2.resize(plane, large[::-1], interpolation=cv2.INTER_CUBIC) for plane in logits(small)]
    result = upsample(logits(small), large, Cubic())
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, np.stack(expected).reshape(result.shape), atol=5e-5)


@pytest.mark.parametrize(("small", "large"), SIZES)
def test_cubic_is_torchs(small: Size, large: Size) -> None:
    x = torch.from_numpy(logits(small))[None].double()
    expected = functional.interpolate(x, large, mode="bicubic", align_corners=False)[0].numpy()
    np.testing.assert_allclose(upsample(logits(small), large, Cubic()), expected, atol=2e-6)


@pytest.mark.parametrize(("small", "large"), SIZES)
def test_cubic_labels_are_the_largest_upsampled_logit(small: Size, large: Size) -> None:
    x = logits(small, classes=6)
    up = upsample(x, large, Cubic())
    labels = upsample_argmax(x, large, Cubic())
    np.testing.assert_allclose(np.take_along_axis(up, labels[None].astype(int), 0)[0], up.max(axis=0), atol=1e-6)


def test_a_constant_stays() -> None:
    np.testing.assert_allclose(upsample(np.ones((1, 5, 7)), (13, 4), Cubic()), 1, atol=1e-6)
    for how in (Bilinear(False), Bilinear(True)):
        t = bilinear_axis(5, 13, how).t
        assert np.array_equal((np.float32(1) - t).astype(np.float64) + t, np.ones(13))


@pytest.mark.parametrize("how", ALL)
def test_the_same_size_is_the_identity(how: Interpolation) -> None:
    assert np.array_equal(upsample(logits((6, 5)), (6, 5), how), logits((6, 5)))
    assert np.array_equal(upsample_argmax(logits((6, 5)), (6, 5), how), logits((6, 5)).argmax(axis=0))


# --- blocks, memory, confidence


@pytest.mark.parametrize("how", ALL)
@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch, how: Interpolation, rows: int) -> None:
    monkeypatch.setattr(head, "_head", None)
    whole = upsample_argmax(logits((9, 7), 4), (35, 28), how)
    monkeypatch.setattr(head, "BLOCK", rows * 4 * 28)
    assert np.array_equal(upsample_argmax(logits((9, 7), 4), (35, 28), how), whole)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB there")
def test_the_full_size_logits_are_never_held(implementation: str) -> None:
    code = f"""
import resource
import numpy as np
from refinenet_edge.records import Bilinear, Cubic
from refinenet_edge.runtime import head
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if {implementation == "numpy"}:
    head._head = None
x = np.random.default_rng(0).standard_normal((21, 270, 480), np.float32)
head.upsample_argmax(x[:, :8, :8], (32, 32), Bilinear(True))
before = peak()
head.upsample_argmax(x, (1080, 1920), Bilinear(True))
print(peak() - before)
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(run.stdout) < 40 * 1024  # the full-size logits are 174 MB, the labels 2


@pytest.mark.parametrize("scale", [0.1, 1, 6, 40])
@pytest.mark.parametrize("how", ALL)
def test_confidence_is_the_winners_softmax(implementation: str, how: Interpolation, scale: float) -> None:
    x = logits((7, 9), 5) * np.float32(scale)
    labels, confidence = upsample_softmax(x, (29, 33), how)
    assert np.array_equal(labels, upsample_argmax(x, (29, 33), how))
    assert (confidence.dtype, confidence.shape) == (np.uint8, (29, 33))
    softmax = torch.softmax(torch.from_numpy(upsample(x, (29, 33), how)).double(), 0).max(0).values.numpy()
    np.testing.assert_allclose(confidence, 255 * softmax, atol=0.5 + 255e-4)


@pytest.mark.skipif(head._head is None, reason="installed without a compiler")
@FIRST_LARGEST
@given(shapes(), hows, st.integers(0, 2**32), st.floats(-20, 7))
def test_confidence_has_the_same_bits_everywhere(shape: Any, how: Bilinear, seed: int, exponent: float) -> None:
    x = (np.random.default_rng(seed).standard_normal(shape[0]) * 2**exponent).astype(np.float32)
    labels, confidence = upsample_softmax(x, shape[1], how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "_head", None)
        again = upsample_softmax(x, shape[1], how)
    assert np.array_equal(labels, again[0])
    assert np.array_equal(confidence, again[1])
    assert np.array_equal(labels, upsample_argmax(x, shape[1], how))


def test_one_class_is_certain_and_equal_ones_share(implementation: str) -> None:
    labels, confidence = upsample_softmax(logits((2, 2), 1), (4, 4), Bilinear())
    assert (labels == 0).all() and (confidence == 255).all()
    for classes in (2, 3, 5, 256):
        labels, confidence = upsample_softmax(np.ones((classes, 2, 2), np.float32), (4, 4), Bilinear())
        assert (labels == 0).all() and (confidence == round(255 / classes)).all()
    largest = np.finfo(np.float32).max
    x = np.array([largest, -largest], np.float32).reshape(2, 1, 1)
    assert (upsample_softmax(x, (3, 3), Bilinear())[1] == 255).all()


def test_the_exponential_is_one() -> None:
    x = np.concatenate([np.linspace(-24, 0, 200_001), [-np.inf, -1e30, -25]]).astype(np.float32)
    with np.errstate(over="ignore"):
        found = head._exponential(x)
    np.testing.assert_allclose(found[:-3], np.exp(x[:-3].astype(np.float64)), rtol=1e-4)
    assert (found[-3:] == found[0]).all() and found[-4] == 1
    assert (np.diff(found[:-3]) >= -1e-9).all()


# --- what is refused


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_any_float_in_any_order_is_taken(dtype: str) -> None:
    x = np.round(logits((4, 4)) * 8).astype(dtype)
    expected = upsample_argmax(x.astype(np.float32), (9, 9), Bilinear())
    assert np.array_equal(upsample_argmax(x, (9, 9), Bilinear()), expected)
    assert np.array_equal(upsample_argmax(x.transpose(1, 2, 0).copy().transpose(2, 0, 1), (9, 9), Bilinear()), expected)
    assert np.array_equal(upsample_argmax(one_frame(x[None]), (9, 9), Bilinear()), expected)


@pytest.mark.parametrize("how", ALL)
@pytest.mark.parametrize("size", [(8, 8), (1, 1)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(implementation: str, value: float, size: Size, how: Interpolation) -> None:
    x = np.zeros((3, 14, 15), np.float16)
    x[1, 12, 3] = value
    found = f"not all finite: {value} for class 1 at row 12, column 3 .*build it again"
    with pytest.raises(BundleError, match=found):
        upsample_argmax(x, size, how)
    with pytest.raises(BundleError, match=found):
        upsample_softmax(x, size, how)


def test_a_double_beyond_float32_is_not_finite(implementation: str) -> None:
    with pytest.raises(BundleError, match="not all finite: inf for class 0 at row 0, column 0"):
        upsample_argmax(np.full((1, 1, 1), 1e300), (2, 2), Bilinear())


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 3, 4, 4), (1, 0, 4, 4), (1, 257, 4, 4), (1, 3, 0, 4)])
def test_other_shapes_are_no_logits(shape: tuple[int, ...]) -> None:
    with pytest.raises(BundleError, match="x".join(map(str, shape[1:]))):
        upsample_argmax(one_frame(np.zeros(shape, np.float32)), (8, 8), Bilinear())


SPANS = [
    (Span(5, 20, 30), Span(0, 40, 40)),
    (Span(0, 32, 32), Span(11, 7, 30)),
    (Span(0, 1, 9), Span(8, 1, 9)),
    (Span(0, 16, 16), Span(0, 16, 16)),
]


@pytest.mark.parametrize("spans", SPANS)
@pytest.mark.parametrize("how", [Bilinear(False), Bilinear(True)])
@pytest.mark.parametrize("size", [(61, 47), (7, 90), (1, 1)])
def test_a_letterboxed_frame_is_where_it_lay(
    implementation: str, spans: tuple[Span, Span], how: Bilinear, size: Size
) -> None:
    x = logits((8, 10), 5)
    places = []
    for n_in, n_out, span in zip(x.shape[1:], size, spans, strict=True):
        pixel = span.start + (np.arange(n_out) + 0.5) * span.length / n_out - 0.5  # of what the network was fed
        aligned, centred = pixel * (n_in - 1) / (span.total - 1), (pixel + 0.5) * n_in / span.total - 0.5
        place = aligned if how.align_corners else centred
        places.append(np.clip(place, 0, n_in - 1))
    (ty, top), (tx, left) = (np.modf(place) for place in places)
    rows, columns = (np.stack([i, np.minimum(i + 1, n - 1)]).astype(int) for i, n in ((top, 8), (left, 10)))
    wide = x[:, :, columns[0]] * (1 - tx) + x[:, :, columns[1]] * tx
    large = wide[:, rows[0]] * (1 - ty)[:, None] + wide[:, rows[1]] * ty[:, None]
    best = np.sort(large, axis=0)
    found, confidence = upsample_softmax(x, size, how, spans)
    assert np.array_equal(found, upsample_argmax(x, size, how, spans))
    clear = best[-1] - best[-2] > 1e-5
    assert clear.mean() > 0.9 and (found == large.argmax(0))[clear].all()
    shares = np.exp(large - large.max(0)).sum(0)
    assert (abs(confidence - 255 / shares) <= 0.51).all()


def test_cubic_logits_of_a_letterboxed_frame() -> None:
    x, how = logits((12, 10), 5), Cubic()
    large = np.stack([cv2.resize(plane, (40, 48), interpolation=cv2.INTER_CUBIC) for plane in x])
    inside = large[:, 8:40, 4:36]
    found = upsample_argmax(x, (32, 32), how, (Span(8, 32, 48), Span(4, 32, 40)))
    assert (found == inside.argmax(0)).mean() > 0.999
