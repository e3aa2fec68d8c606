"""The procedural scenes: the same at every call, at any size, every class, smooth as a video, not solved by colour."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest

from refinenet_edge.labels import SCENES
from refinenet_edge.scenes import Label, World, render, scene

CLASSES = len(Label)


def digest(frame: np.ndarray, truth: np.ndarray) -> str:
    return hashlib.sha256(frame.tobytes() + truth.tobytes()).hexdigest()


def test_the_labels_are_those_of_the_label_set() -> None:
    assert [label.name.lower() for label in Label] == list(SCENES.names)


@pytest.mark.parametrize("size", [(97, 130), (16, 16), (130, 97), (512, 512), (1080, 1920)])
def test_any_size(size: tuple[int, int]) -> None:
    frame, truth = scene(0, 1, size)
    assert (frame.shape, frame.dtype) == ((*size, 3), np.uint8)
    assert (truth.shape, truth.dtype) == (size, np.uint8)
    assert truth.max() < CLASSES
    assert frame.std() > 5


def test_a_size_below_16_is_refused() -> None:
    with pytest.raises(ValueError, match="16x16"):
        scene(0, 0, (15, 200))


def test_the_same_bytes_whatever_was_drawn_before() -> None:
    alone = [digest(*scene(3, index, (96, 128))) for index in range(3)]
    render(World.draw((3,)), 0.0, (64, 64))
    scene(8, 1, (40, 40))
    assert [digest(*scene(3, index, (96, 128))) for index in (2, 1, 0)] == alone[::-1]


def test_the_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib; from refinenet_edge.scenes import World, render, scene\n"
        "for frame, truth in (scene(5, 7, (120, 160)), render(World.draw((5,)), 4 / 3, (120, 160))):\n"
        "    print(hashlib.sha256(frame.tobytes() + truth.tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert there == [digest(*scene(5, 7, (120, 160))), digest(*render(World.draw((5,)), 4 / 3, (120, 160)))]


def test_torch_is_not_needed() -> None:
    code = "import sys; sys.modules['torch'] = None; from refinenet_edge.scenes import scene; scene(0, 0, (32, 32))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_seeds_and_indices_give_other_scenes() -> None:
    digests = {digest(*scene(seed, index, (64, 64))) for seed in (0, 1, 2) for index in (0, 1, 2)}
    assert len(digests) == 9


def test_every_class_has_its_share() -> None:
    truths = [scene(1, index, (256, 256))[1] for index in range(20)]
    counts = np.stack([np.bincount(truth.ravel(), minlength=CLASSES) for truth in truths])
    shares = counts.sum(0) / counts.sum()
    least = {Label.SKY: 0.08, Label.BUILDING: 0.08, Label.ROAD: 0.15, Label.PAVEMENT: 0.02, Label.VEGETATION: 0.05}
    least |= {Label.VEHICLE: 0.05, Label.PERSON: 0.01, Label.POLE: 0.01}
    assert all(shares[label] >= share for label, share in least.items()), shares
    assert ((counts > 0).mean(0) >= 0.8).all()  # each class is in most scenes


def drive(seed: int, frames: int, size: tuple[int, int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first of a drive, thirty a second."""
    world = World.draw((seed,))
    return [render(world, n / 30, size) for n in range(frames)]


def test_frames_of_a_drive_are_reached_in_any_order() -> None:
    frames = drive(2, 4, (96, 96))
    for n in (3, 0, 2, 1):
        assert digest(*render(World.draw((2,)), n / 30, (96, 96))) == digest(*frames[n])


def test_a_drive_moves_smoothly_and_does_not_stand_still() -> None:
    def changes(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
        steps = list(itertools.pairwise(pairs))
        levels = np.mean([np.abs(a[0].astype(int) - b[0]).mean() for a, b in steps])
        return float(levels), float(np.mean([(a[1] != b[1]).mean() for a, b in steps]))

    drives = [changes(drive(seed, 12, (192, 192))) for seed in range(4)]
    moved, relabelled = np.mean(drives, axis=0)
    cut, other = changes([scene(4, index, (192, 192)) for index in range(12)])
    assert moved < 0.3 * cut
    assert relabelled < 0.06 < 0.3 < other
    first, later = (render(World.draw((0,)), t, (192, 192))[1] for t in (0.0, 3.0))
    assert (first != later).mean() > 0.05


def test_colour_alone_stays_below_030_miou() -> None:
    def bins(frame: np.ndarray) -> np.ndarray:
        b, g, r = (frame[..., channel].astype(np.int64).ravel() >> 4 for channel in range(3))
        return (b * 16 + g) * 16 + r

    votes = np.zeros((4096, CLASSES), np.int64)
    for index in range(60):
        frame, truth = scene(21, index, (128, 128))
        np.add.at(votes, (bins(frame), truth.ravel()), 1)
    best = votes.argmax(1)
    matrix = np.zeros((CLASSES, CLASSES), np.int64)
    for index in range(30):
        frame, truth = scene(22, index, (128, 128))
        np.add.at(matrix, (truth.ravel(), best[bins(frame)]), 1)
    hits = matrix.diagonal()
    ious = hits / (matrix.sum(0) + matrix.sum(1) - hits)
    assert ious.mean() < 0.3, ious
