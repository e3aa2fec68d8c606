from __future__ import annotations

from pathlib import Path

import pytest

from refinenet_edge.demo import power
from refinenet_edge.demo.power import Watts
from tests.bench.test_meters import PACKAGE, RAPL

METERS = power.Meters


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "SECONDS", 0.0)
    monkeypatch.setattr(power, "gpu_bus_id", lambda: None)


def test_watts_are_of_the_time_since_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in RAPL.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    clock = iter(range(0, 100, 2))
    monkeypatch.setattr(power, "Meters", lambda *args, **given: METERS(*args, **given, clock=lambda: next(clock)))
    watts = Watts(tmp_path)
    (tmp_path / PACKAGE).write_text("5000000\n")
    assert watts() == 2.0  # 4 J in 2 s
    (tmp_path / PACKAGE).write_text("6000000\n")
    assert watts() == 0.5
    watts.close()
    watts.close()


def test_where_no_sensor_says(tmp_path: Path) -> None:
    watts = Watts(tmp_path)
    assert watts() is None and watts() is None
    watts.close()
