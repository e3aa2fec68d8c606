from __future__ import annotations

from collections.abc import Sequence

from refinenet_edge.demo import Controls, Figures
from refinenet_edge.demo.figures import ClassShare, Playing, Score, Speed
from refinenet_edge.overlay import OverlayStyle

SPEED = Speed(29.96, 8.04, 12.5, 41.4, {"segment": 8.0}, 100, 7)


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
