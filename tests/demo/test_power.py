from __future__ import annotations

from pathlib import Path

import pytest

from refinenet_edge.demo import figures
from refinenet_edge.demo.figures import RecentWatts
from refinenet_edge.sensors import Meters
from tests.boards import tree
from tests.sensors.test_meters import PACKAGE, RAPL


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "WATTS_SECONDS", 0.0)


def test_watts_are_of_the_time_since_the_last(tmp_path: Path) -> None:
    clock = iter(range(0, 100, 2))
    with Meters(tree(tmp_path, RAPL), period=None, clock=lambda: next(clock)) as meters:
        watts = RecentWatts(meters)
        tree(tmp_path, {PACKAGE: "5000000\n"})
        assert watts() == 2.0  # 4 J in 2 s
        tree(tmp_path, {PACKAGE: "6000000\n"})
        assert watts() == 0.5


def test_where_no_sensor_says(tmp_path: Path) -> None:
    with Meters(tmp_path, period=None) as meters:
        watts = RecentWatts(meters)
        assert watts() is None and watts() is None
