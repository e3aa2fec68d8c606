from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from refinenet_edge import bench
from refinenet_edge.bench import power
from refinenet_edge.bench.entry import Runner
from refinenet_edge.records import Frame
from refinenet_edge.sensors import Meters
from tests.bench.test_run import SMALL, Made
from tests.boards import tree
from tests.sensors.test_meters import PACKAGE, RAPL


def test_power_is_of_each_frame_of_a_subject_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path, RAPL)

    @dataclass(frozen=True)
    class Draws(Made):
        """2 J a frame."""

        @contextmanager
        def open(self, case: bench.Case) -> Iterator[Runner]:
            def run(frames: Sequence[Frame]) -> bench.Stages:
                tree(root, {PACKAGE: str(int((root / PACKAGE).read_text()) + 2_000_000)})
                return {"engine": 1.0}

            yield run

    monkeypatch.setattr(power, "SECONDS", 0.01)
    monkeypatch.setattr(power, "Meters", lambda gpu: Meters(root, gpu, period=None))
    measured = power.measure_power(Draws("ours"), SMALL, [np.zeros((64, 96, 3), np.uint8)], None, [])
    assert measured is not None and measured.subject == "ours" and measured.frames > 1
    assert measured.joules_per_frame == pytest.approx(2.0)
    assert measured.watts["package-0"] == pytest.approx(2.0 * measured.frames / measured.seconds)


def test_without_sensors_nothing_is_said_of_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "Meters", lambda gpu: Meters(tmp_path, gpu, period=None))
    notes: list[str] = []
    frames = [np.zeros((64, 96, 3), np.uint8)]
    assert power.measure_power(Made("ours", breaks=True), SMALL, frames, None, notes) is None  # it did not run
    assert "no sensor" in notes[0]
