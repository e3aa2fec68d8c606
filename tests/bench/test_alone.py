from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from refinenet_edge import bench
from refinenet_edge.bench import alone, bundle_entry
from refinenet_edge.bench.entry import Runner
from refinenet_edge.bench.measure import WARM_UPS
from refinenet_edge.demo import open_source
from refinenet_edge.errors import InputError
from refinenet_edge.frames import LiveSource
from refinenet_edge.records import Frame
from refinenet_edge.sensors import Meters
from tests.bench.test_run import SMALL, Made
from tests.boards import tree
from tests.demo.fakes import given, grey, source, write_video
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

    monkeypatch.setattr(alone, "POWER_SECONDS", 0.2)
    monkeypatch.setattr(alone, "Meters", lambda gpu: Meters(root, gpu, period=None))
    measured = alone.measure_power(Draws("ours"), SMALL, [np.zeros((64, 96, 3), np.uint8)], None, [])
    assert measured is not None and measured.subject == "ours" and measured.frames > 1
    assert measured.joules_per_frame == pytest.approx(2.0)
    assert measured.watts["package-0"] == pytest.approx(2.0 * measured.frames / measured.seconds)


def test_without_sensors_nothing_is_said_of_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "Meters", lambda gpu: Meters(tmp_path, gpu, period=None))
    notes: list[str] = []
    frames = [np.zeros((64, 96, 3), np.uint8)]
    assert alone.measure_power(Made("ours", breaks=True), SMALL, frames, None, notes) is None  # it did not run
    assert "no sensor" in notes[0]


def test_pictures_have_ages_and_a_rate(mobile_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "SCREEN_SECONDS", 0.5)
    video = str(write_video(tmp_path / "in.avi", range(0, 250, 10), rate=50))
    entry = bundle_entry(mobile_bundle, "openvino")
    measured = alone.measure_screen(entry, video)
    assert (measured.subject, measured.source, measured.size) == (entry.subject.name, video, (48, 64))
    assert min(measured.age_ms) > 0 and measured.drops >= 0
    # a picture a frame of the video at most, in the time that was measured
    assert 0 < measured.frames_per_second < 60
    assert len(measured.age_ms) >= 0.5 * measured.frames_per_second


def test_no_password_of_a_camera_is_kept(mobile_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "SCREEN_SECONDS", 0)
    camera = open_source(str(write_video(tmp_path / "in.avi", range(0, 250, 10), rate=50)), repeat=True)
    monkeypatch.setattr("refinenet_edge.demo.open_source", lambda *_, **__: camera)
    measured = alone.measure_screen(bundle_entry(mobile_bundle, "openvino"), "rtsp://admin:hunter2@cam/a")
    assert measured.source == "rtsp://cam/a"


def test_a_source_has_more_frames_than_the_warm_ups(mobile_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*given_: object, **options: object) -> LiveSource:
        return source(given([grey(0)] * (WARM_UPS + 1)), live=False, lasting=False)

    monkeypatch.setattr("refinenet_edge.demo.open_source", short)
    with pytest.raises(InputError, match=r"^rtsp://cam/a gave fewer than 4 frames"):
        alone.measure_screen(bundle_entry(mobile_bundle, "openvino"), "rtsp://admin:hunter2@cam/a")
