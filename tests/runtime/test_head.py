import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from refinenet_edge.errors import BundleError
from refinenet_edge.records import Bilinear, Cubic, Interpolation, Size
from refinenet_edge.runtime import head
from refinenet_edge.runtime.head import interpolation, labels_of, upsample

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


def logits(size: Size, classes: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((classes, *size)).astype(np.float32)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("small", "large"), SIZES)
def test_bilinear_is_torchs(small: Size, large: Size, align_corners: bool) -> None:
    x = torch.from_numpy(logits(small))[None].double()  # in float32 torch's own positions are off by 1e-4
    expected = functional.interpolate(x, large, mode="bilinear", align_corners=align_corners)[0].numpy()
    np.testing.assert_allclose(upsample(logits(small), large, Bilinear(align_corners)), expected, atol=2e-6)


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


@pytest.mark.parametrize("how", ALL)
def test_a_constant_stays(how: Interpolation) -> None:
    np.testing.assert_allclose(interpolation(5, 13, how).sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("how", ALL)
def test_the_same_size_is_the_identity(how: Interpolation) -> None:
    assert np.array_equal(interpolation(6, 6, how), np.eye(6))
    assert np.array_equal(upsample(logits((6, 5)), (6, 5), how), logits((6, 5)))


@pytest.mark.parametrize("how", ALL)
@pytest.mark.parametrize(("small", "large"), SIZES)
def test_labels_are_the_largest_upsampled_logit(small: Size, large: Size, how: Interpolation) -> None:
    x = logits(small, classes=6)
    labels = labels_of(x[None], large, how)
    assert labels.dtype == np.uint8
    up = upsample(x, large, how)
    np.testing.assert_allclose(np.take_along_axis(up, labels[None].astype(int), 0)[0], up.max(axis=0), atol=1e-6)


@pytest.mark.parametrize("how", ALL)
@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch, how: Interpolation, rows: int) -> None:
    whole = labels_of(logits((9, 7), 4)[None], (35, 28), how)
    monkeypatch.setattr(head, "BLOCK", rows * 4 * 28)
    assert np.array_equal(labels_of(logits((9, 7), 4)[None], (35, 28), how), whole)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_any_float_is_taken(dtype: str) -> None:
    x = np.round(logits((4, 4))[None] * 8).astype(dtype)
    assert np.array_equal(labels_of(x, (9, 9), Bilinear()), labels_of(x.astype(np.float32), (9, 9), Bilinear()))


def test_the_lowest_class_wins_a_tie() -> None:
    x = np.zeros((1, 4, 2, 2), np.float32)
    x[:, 2:] = 1
    assert np.array_equal(labels_of(x, (5, 5), Bilinear()), np.full((5, 5), 2))


def test_256_classes_fit() -> None:
    x = np.zeros((1, 256, 1, 1), np.float32)
    x[0, 255] = 1
    assert labels_of(x, (2, 2), Cubic()).tolist() == [[255, 255], [255, 255]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value: float) -> None:
    x = np.zeros((1, 3, 4, 4), np.float16)
    x[0, 1, 2, 3] = value
    with pytest.raises(BundleError, match=r"not all finite.*build it again"):
        labels_of(x, (8, 8), Bilinear())


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 3, 4, 4), (1, 0, 4, 4), (1, 257, 4, 4), (1, 3, 0, 4)])
def test_other_shapes_are_no_logits(shape: tuple[int, ...]) -> None:
    with pytest.raises(BundleError, match="x".join(map(str, shape))):
        labels_of(np.zeros(shape, np.float32), (8, 8), Bilinear())
