from __future__ import annotations

from pathlib import Path

import pytest

from refinenet_edge.bench import bundle_entry, screen
from refinenet_edge.bench.measure import WARM_UPS
from refinenet_edge.errors import InputError
from refinenet_edge.frames import LiveSource
from tests.demo.fakes import given, grey, source, write_video


def test_pictures_have_ages_and_a_rate(mobile_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "SECONDS", 0.5)
    video = str(write_video(tmp_path / "in.avi", range(0, 250, 10), rate=50))
    entry = bundle_entry(mobile_bundle, "openvino")
    measured = screen.measure_screen(entry, video)
    assert (measured.subject, measured.source, measured.size) == (entry.subject.name, video, (48, 64))
    assert min(measured.age_ms) > 0 and measured.drops >= 0
    # a picture a frame of the video at most, in the time that was measured
    assert 0 < measured.frames_per_second < 60
    assert len(measured.age_ms) >= 0.5 * measured.frames_per_second


def test_a_source_has_more_frames_than_the_warm_ups(mobile_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*given_: object, **options: object) -> LiveSource:
        return source(given([grey(0)] * (WARM_UPS + 1)), live=False, lasting=False)

    monkeypatch.setattr(screen, "open_source", short)
    with pytest.raises(InputError, match="gave fewer than 4 frames"):
        screen.measure_screen(bundle_entry(mobile_bundle, "openvino"), "short")
