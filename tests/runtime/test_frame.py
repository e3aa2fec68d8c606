import cv2
import numpy as np
import pytest

from refinenet_edge.errors import InputError
from refinenet_edge.records import MAX_SIDE, Bilinear, Cubic, FrameSpec, Interpolation
from refinenet_edge.runtime.frame import prepare

FRAME = np.random.default_rng(0).integers(0, 256, (31, 45, 3), np.uint8)
IMAGENET = FrameSpec(None)


def formula(frame: np.ndarray, spec: FrameSpec) -> np.ndarray:
    values = (frame[:, :, ::-1].astype(np.float64) / 255 - spec.mean) / spec.std
    return values.transpose(2, 0, 1)[None]


@pytest.mark.parametrize(("dtype", "ulp"), [("float32", 2.0**-24), ("float16", 2.0**-11)])
@pytest.mark.parametrize("spec", [IMAGENET, FrameSpec(None, mean=(0.5, 0, 1), std=(1, 0.25, 2))])
def test_every_value_is_the_formula_rounded_once(dtype: str, ulp: float, spec: FrameSpec) -> None:
    batch = prepare(FRAME, spec, dtype)
    assert batch.dtype == dtype
    assert batch.shape == (1, 3, 31, 45)
    assert batch.flags.c_contiguous
    np.testing.assert_allclose(batch, formula(FRAME, spec), rtol=ulp, atol=1e-7)


def test_it_is_rgb() -> None:
    blue = np.zeros((2, 2, 3), np.uint8)
    blue[:, :, 0] = 255
    batch = prepare(blue, FrameSpec(None, mean=(0, 0, 0), std=(1, 1, 1)))
    assert batch[0, :, 0, 0].tolist() == [0, 0, 1]


@pytest.mark.parametrize(("how", "flag"), [(Bilinear(), cv2.INTER_LINEAR), (Cubic(), cv2.INTER_CUBIC)])
@pytest.mark.parametrize("size", [(64, 96), (16, 20), (31, 44)])
def test_it_is_resized(how: Interpolation, flag: int, size: tuple[int, int]) -> None:
    spec = FrameSpec(size, resize=how)
    resized = cv2.resize(FRAME, size[::-1], interpolation=flag)
    np.testing.assert_allclose(prepare(FRAME, spec), formula(resized, spec), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("frame", "size", "place"),
    [
        ((31, 45), (64, 90), (slice(1, 63), slice(0, 90))),
        ((31, 45), (62, 100), (slice(0, 62), slice(5, 95))),
        ((31, 45), (31, 60), (slice(0, 31), slice(7, 52))),
        ((31, 45), (9, 9), (slice(1, 7), slice(0, 9))),
        ((1, 45), (9, 9), (slice(4, 5), slice(0, 9))),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_letterboxed_frame_keeps_its_shape(
    frame: tuple[int, int], size: tuple[int, int], place: tuple[slice, slice], dtype: str
) -> None:
    picture = FRAME[: frame[0]]
    batch = prepare(picture, FrameSpec(size, fit="letterbox"), dtype, 8)
    inside = (place[0].stop - place[0].start, place[1].stop - place[1].start)
    assert np.array_equal(batch[(slice(None), slice(None), *place)], prepare(picture, FrameSpec(inside), dtype, 8))
    batch[(slice(None), slice(None), *place)] = 0
    assert not batch.any() and batch.shape == (1, 8, *size)


def test_its_own_size_is_not_resized() -> None:
    assert np.array_equal(prepare(FRAME, FrameSpec((31, 45))), prepare(FRAME, IMAGENET))


@pytest.mark.parametrize("view", [FRAME[::-1], FRAME[:, ::-1], FRAME[3:9, 5:8], FRAME[:, :, ::-1], FRAME[::2, ::3]])
def test_any_view_is_taken_and_left_alone(view: np.ndarray) -> None:
    before = view.copy()
    np.testing.assert_allclose(prepare(view, IMAGENET), formula(before, IMAGENET), rtol=1e-6, atol=1e-6)
    assert np.array_equal(view, before)


def test_each_batch_is_new() -> None:
    first = prepare(FRAME, IMAGENET)
    kept = first.copy()
    prepare(255 - FRAME, IMAGENET)
    assert np.array_equal(first, kept)


@pytest.mark.parametrize(
    ("frame", "named"),
    [
        (None, "NoneType"),  # what cv2.imread returns for a missing file
        (FRAME.astype(np.float32), "float32"),
        (FRAME[:, :, 0], r"\(31, 45\)"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)"),
        (FRAME[:0], "0x45"),
        (np.zeros((1, MAX_SIDE + 1, 3), np.uint8), "1x16385"),
    ],
)
def test_what_is_not_a_frame(frame: np.ndarray, named: str) -> None:
    with pytest.raises(InputError, match=named):
        prepare(frame, IMAGENET)


def test_another_dtype_is_refused() -> None:
    with pytest.raises(InputError, match="float32 or float16, not int8"):
        prepare(FRAME, IMAGENET, "int8")
