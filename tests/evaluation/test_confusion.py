from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from refinenet_edge.evaluation import IGNORE, Confusion


def torchmetrics(truth: np.ndarray, prediction: np.ndarray, classes: int, average: str) -> np.ndarray:
    metric = MulticlassJaccardIndex(classes, average=average, ignore_index=IGNORE)
    metric.update(torch.from_numpy(prediction.astype(np.int64)), torch.from_numpy(truth.astype(np.int64)))
    return np.asarray(metric.compute())


def test_counted_by_hand() -> None:
    truth = np.array([[0, 0, 0, 1], [1, 1, 255, 255]], np.uint8)
    prediction = np.array([[0, 0, 1, 1], [1, 2, 2, 3]], np.uint8)
    confusion = Confusion.of(truth, prediction, 5)
    assert confusion.matrix.tolist() == [
        [2, 1, 0, 0, 0],
        [0, 2, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    assert confusion.matrix.dtype == np.int64
    # class 2 was only predicted and counts as 0; class 3 was predicted on void only, 4 never: neither counts
    np.testing.assert_array_equal(confusion.iou, [2 / 3, 2 / 4, 0, np.nan, np.nan])
    assert confusion.miou == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert confusion.pixel_accuracy == 4 / 6


def test_a_perfect_prediction() -> None:
    truth = np.array([[0, 1, 255]], np.uint8)
    confusion = Confusion.of(truth, np.array([[0, 1, 0]], np.uint8), 3)
    assert (confusion.miou, confusion.pixel_accuracy) == (1, 1)


def test_nothing_counted_is_nan() -> None:
    confusion = Confusion.of(np.full((2, 2), IGNORE, np.uint8), np.zeros((2, 2), np.uint8), 3)
    assert not confusion.matrix.any()
    assert np.isnan([confusion.miou, confusion.pixel_accuracy, *confusion.iou]).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_all_255_classes(dtype: type) -> None:
    truth = np.arange(256, dtype=dtype).reshape(16, 16)
    confusion = Confusion.of(truth, np.minimum(truth, 254).astype(np.uint8), 255)
    assert np.array_equal(confusion.matrix, np.eye(255))


@pytest.mark.parametrize(
    ("truth", "prediction"), [([[3]], [[0]]), ([[0]], [[3]]), ([[0, 1]], [[0], [1]]), ([[256]], [[0]])]
)
def test_what_does_not_fit_is_a_mistake(truth: list[list[int]], prediction: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="truth and prediction are"):
        Confusion.of(np.array(truth, np.uint16), np.array(prediction, np.uint8), 3)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_it_is_torchmetrics(classes: int, pixels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # few pixels: classes that appear in only one of the two, or in neither, are common
    truth = np.where(rng.random((1, pixels)) < 0.2, IGNORE, rng.integers(0, classes, (1, pixels))).astype(np.uint8)
    prediction = rng.integers(0, classes, (1, pixels)).astype(np.uint8)
    confusion = Confusion.of(truth, prediction, classes)
    if classes == 1:  # torchmetrics wants two
        assert confusion.miou == 1 or np.isnan(confusion.miou)
        return
    np.testing.assert_allclose(
        np.nan_to_num(confusion.iou), torchmetrics(truth, prediction, classes, "none"), rtol=1e-6
    )
    np.testing.assert_allclose(confusion.miou, torchmetrics(truth, prediction, classes, "macro"), rtol=1e-6)


def test_pixel_accuracy_is_torchmetrics() -> None:
    rng = np.random.default_rng(1)
    truth, prediction = (rng.integers(0, 4, (9, 9)).astype(np.uint8) for _ in range(2))
    truth[:2] = IGNORE
    metric = MulticlassAccuracy(4, average="micro", ignore_index=IGNORE)
    metric.update(torch.from_numpy(prediction.astype(np.int64)), torch.from_numpy(truth.astype(np.int64)))
    assert Confusion.of(truth, prediction, 4).pixel_accuracy == pytest.approx(float(metric.compute()))


def test_parts_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(2)
    truth = rng.choice([0, 1, 2, 3, IGNORE], (30, 7)).astype(np.uint8)
    prediction = rng.integers(0, 4, (30, 7)).astype(np.uint8)
    whole = Confusion.of(truth, prediction, 4).matrix
    a, b, c = (Confusion.of(truth[at : at + 10], prediction[at : at + 10], 4) for at in (0, 10, 20))
    for merged in ((a + b) + c, a + (b + c), c + a + b, Confusion.zero(4) + a + b + c):
        assert np.array_equal(merged.matrix, whole)


def test_labels_below_0_are_a_mistake() -> None:
    zero, below = np.zeros((2, 2), np.uint8), np.full((2, 2), -1)
    for truth, prediction in ((below, zero), (zero, below)):
        with pytest.raises(ValueError, match="with labels from -1 to 0"):
            Confusion.of(truth, prediction, 3)
