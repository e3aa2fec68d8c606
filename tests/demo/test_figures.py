from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refinenet_edge.demo import Controls, Figures, LiveSource
from refinenet_edge.demo.figures import ClassShare, LiveSpeed, Playing, Score, Statistics
from refinenet_edge.demo.stream import SegmentedFrame
from refinenet_edge.labels import numbered
from refinenet_edge.overlay import OverlayStyle
from refinenet_edge.records import Mask

SPEED = LiveSpeed(29.96, 8.04, 12.5, 41.4, {"segment": 8.0}, 100, 7)


def figures(shares: Sequence[float] = (), hidden: frozenset[int] = frozenset(), score: Score | None = None) -> Figures:
    playing = Playing(("0",), ("small (int8)",), "int8", "openvino")
    classes = tuple(ClassShare(f"class {i}", (i, i, i), share) for i, share in enumerate(shares))
    return Figures("live", "", Controls(OverlayStyle(hidden=hidden)), playing, SPEED, score, classes, None)


def test_lines_are_the_most_important_figures() -> None:
    lines = ["30.0 fps", "p50 8.0  p99 12.5 ms", "int8, openvino", "age 41 ms, 7 dropped"]
    assert figures().lines() == lines
    assert figures(score=Score(0.7149, 60)).lines() == [*lines, "mIoU 71.5 %"]


def test_the_legend_has_the_largest_classes_that_are_seen_in_their_order() -> None:
    seen = figures([0.3, 0.004, 0.005, 0.6, 0.1], hidden=frozenset({4})).legend()
    assert seen == [("class 0", (0, 0, 0)), ("class 2", (2, 2, 2)), ("class 3", (3, 3, 3))]
    many = figures([0.01, 0.02, *[0.05] * 10, 0.04]).legend()
    assert [name for name, _ in many] == [f"class {i}" for i in range(2, 12)]


def test_a_camera_that_is_back_is_as_old_as_its_new_mask_before_that_is_shown() -> None:
    statistics = Statistics()
    statistics.begin(2)
    mask = Mask(np.zeros((4, 4), np.uint8), numbered(3))
    back = SegmentedFrame(np.zeros((4, 4, 3), np.uint8), mask, None, 0, 100.0, 41.0, {}, 0, camera=1)
    source = LiveSource("camera", lambda: iter(()), live=True, lasting=True)

    def ages() -> list[float]:
        return [camera.age_ms for camera in statistics.cameras([("", "live", "")] * 2, 100.0)]

    statistics.shown(0, 100.0, 52.0, {})
    statistics.no_signal(1, 21046.0)
    assert ages() == [52.0, 21046.0]
    assert statistics.speed().age_ms == 52.0  # of those that give frames
    statistics.add(back, source, 0)
    assert ages() == [52.0, 41.0]
    statistics.shown(1, 100.0, 60.0, {})
    statistics.add(back, source, 0)
    assert ages() == [52.0, 60.0]
