"""Masks that are read as something else than they were made as: said, with the option that settles it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from refinenet_edge.errors import InputError
from refinenet_edge.evaluation import IGNORE, EvaluationResult, evaluate, open_dataset
from refinenet_edge.labels import numbered
from tests.evaluation import data
from tests.evaluation.data import frame, png, predictions, seer, truths, write

CLASSES = 12


def masks(root: Path, change: Callable[[np.ndarray], np.ndarray], classes: int = CLASSES) -> Path:
    """`data.plain`, with the masks changed."""
    data.plain(root, classes)
    for i, truth in enumerate(truths(classes)):
        write(root / "masks" / f"s{i}.png", png(change(truth.astype(int))))
    return root


def from_1(truth: np.ndarray) -> np.ndarray:
    return np.where(truth == IGNORE, 0, truth + 1)


def evaluated(text: str, classes: int = CLASSES, as_stored: bool = False) -> EvaluationResult:
    return evaluate(seer(numbered(classes)), open_dataset(text, masks_as_stored=as_stored))


def right(tmp_path: Path, classes: int = CLASSES) -> float | None:
    """The mIoU of masks that are read as they were made."""
    return evaluated(str(data.plain(tmp_path / "right", classes)), classes).miou


def option(doubt: str, among: str) -> str:
    """The data set that the message names."""
    found = re.search(rf"{among}:\S+?(?=[,;]| takes| is as|$)", doubt)
    assert found, doubt
    return found[0]


def test_masks_from_1_that_leave_out_the_last_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = masks(tmp_path / "data", lambda truth: from_1(np.where(truth == CLASSES - 1, IGNORE, truth)))
    wrong = evaluated(str(root))
    (doubt,) = wrong.doubts
    assert "as if they count from 1" in doubt and doubt in caplog.text
    settled = evaluated(option(doubt, "plain-from1"))
    assert settled.doubts == ()
    assert wrong.miou is not None and settled.miou is not None and settled.miou > 5 * wrong.miou
    assert evaluated(option(doubt, "plain")).doubts == ()


def test_masks_from_1_with_a_number_that_there_is_not_are_no_result(tmp_path: Path) -> None:
    root = masks(tmp_path / "data", from_1)
    write(
        root / "masks" / "s0.png", png(np.where(from_1(truths(CLASSES)[0]) == CLASSES, 0, from_1(truths(CLASSES)[0])))
    )
    with pytest.raises(InputError, match=rf"count from 1: plain-from1:{root} .* the mask has label 12"):
        evaluated(str(root))
    assert evaluated(f"plain-from1:{root}").counted == 4


def test_nyu_masks_of_either_numbering(tmp_path: Path) -> None:
    folders = ("val_images", "val_labels")
    data.nyu40(tmp_path / "from1", folders, from_1=True)
    for path in (tmp_path / "from1" / "val_labels").iterdir():
        numbers = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        write(path, png(np.where(numbers == 40, 0, numbers)))
    data.nyu40(tmp_path / "from0", folders)
    for path in (tmp_path / "from0" / "val_labels").iterdir():
        numbers = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        write(path, png(np.where(numbers == IGNORE, 0, numbers)))
    (doubt,) = evaluated(str(tmp_path / "from1"), 40).doubts
    assert evaluated(option(doubt, "nyu40-from1"), 40).doubts == ()
    named = open_dataset(f"nyu40-from1:{tmp_path / 'from0'}")
    object.__setattr__(named, "named", False)
    (doubt,) = evaluate(seer(numbered(40)), named).doubts
    assert evaluated(option(doubt, "nyu40"), 40).doubts == ()


def test_masks_of_0_and_255_of_two_classes(tmp_path: Path) -> None:
    root = masks(tmp_path / "data", lambda truth: np.where(truth == 1, 255, 0), 2)
    wrong = evaluated(str(root), 2)
    (doubt,) = wrong.doubts
    assert "the masks hold 0 and 255 only" in doubt
    settled = evaluated(option(doubt, "plain-binary"), 2)
    expected = evaluated(str(masks(tmp_path / "right", lambda truth: np.where(truth == 1, 1, 0), 2)), 2)
    assert settled.confusion == expected.confusion != wrong.confusion
    assert settled.doubts == expected.doubts == evaluated(option(doubt, "plain"), 2).doubts == ()


def test_0_that_is_void(tmp_path: Path) -> None:
    def made(truth: np.ndarray) -> np.ndarray:
        return np.where((truth == IGNORE) | (truth == 0), 0, truth)

    root = masks(tmp_path / "data", made)
    for i, (truth, said) in enumerate(zip(truths(CLASSES), predictions(CLASSES), strict=True)):
        # a network that was never shown class 0
        write(root / "images" / f"s{i}.png", frame(np.where(said == 0, 1 + truth % (CLASSES - 1), said)))
    (doubt,) = evaluated(str(root)).doubts
    assert "class 0 is in the masks and hardly ever among the labels" in doubt
    assert evaluated(option(doubt, "plain")).doubts == ()


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_masks_as_they_should_be_are_not_doubted(tmp_path: Path, classes: int) -> None:
    assert evaluated(str(data.plain(tmp_path, classes)), classes).doubts == ()


# --- images that EXIF turns


def exif(orientation: int) -> tuple[bytes, bytes]:
    return b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation]) + bytes(6)


# what a reader does to what is stored
SHOWN = {
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


def turned(root: Path, orientation: int, upright_masks: bool) -> Path:
    for i, (truth, said) in enumerate(zip(truths(7), predictions(7), strict=True)):
        colours = np.random.default_rng(i).integers(0, 256, (*said.shape, 3), np.uint8)
        colours[:, :, 0] = said
        write(root / "images" / f"s{i}.png", png(colours, 2, 8, exif(orientation)))
        write(root / "masks" / f"s{i}.png", png(SHOWN[orientation](truth) if upright_masks else truth))
    return root


@pytest.mark.parametrize("orientation", SHOWN)
def test_masks_that_lie_as_the_image_is_stored(tmp_path: Path, orientation: int) -> None:
    root = turned(tmp_path / "data", orientation, upright_masks=False)
    if orientation >= 5:
        with pytest.raises(InputError, match="its mask 40x60, as the image is before EXIF turns it: --masks-as-stored"):
            evaluated(str(root), 7)
    else:
        (doubt,) = evaluated(str(root), 7).doubts
        assert "images that EXIF turns agree better with their masks when these are turned" in doubt
    settled = evaluated(str(root), 7, as_stored=True)
    assert settled.doubts == ()
    upright = evaluated(str(turned(tmp_path / "upright", orientation, upright_masks=True)), 7)
    assert upright.doubts == ()
    assert settled.confusion == upright.confusion == evaluated(str(data.plain(tmp_path / "plain", 7)), 7).confusion


def test_a_run_that_is_gone_on_with_doubts_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(turned(tmp_path / "data", 3, upright_masks=False))
    whole, out = evaluated(root, 7), tmp_path / "result.json"
    segmenter = seer(numbered(7))
    run, runs = segmenter.session.run, []

    def stopping(feeds: object) -> object:
        runs.append(None)
        if len(runs) == 3:
            raise KeyboardInterrupt
        return run(feeds)  # type: ignore[arg-type]

    monkeypatch.setattr(segmenter.session, "run", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluate(segmenter, open_dataset(root), out=out)
    again = evaluate(segmenter, open_dataset(root), out=out)
    assert (again.confusion, again.doubts) == (whole.confusion, whole.doubts)
    assert len(runs) == 3 + 2
