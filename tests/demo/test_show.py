from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from refinenet_edge.demo import Captured, LiveSource, Model, Recording, Show, stream
from refinenet_edge.demo import figures as figures_module
from refinenet_edge.demo import show as show_module
from refinenet_edge.errors import InputError
from refinenet_edge.frames import CapturedFrames
from refinenet_edge.labels import VOC
from refinenet_edge.overlay import OverlayStyle, blend
from refinenet_edge.records import Frame, Labels, Mask
from tests.demo.fakes import THREE, Audience, Paced, given, grey, read_video, segmenter, source, ticking

PLAIN = OverlayStyle()


def model(labels: Labels = THREE, name: str = "small", seconds: float = 0.0) -> Model:
    return Model(name, "fp32", segmenter(seconds, labels))


def size_of(audience: Audience) -> tuple[int, ...]:
    return audience.pictures[-1].shape[:2] if audience.pictures else ()


@contextlib.contextmanager
def running(show: Show) -> Iterator[None]:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            show.run()
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        show.stop()
        thread.join(5)
        assert not thread.is_alive()
    assert not failures, failures


def show_of(
    *sources: LiveSource, models: list[Model] | None = None, style: OverlayStyle | None = None
) -> tuple[Show, Audience]:
    show, audience = Show(sources or (source(ticking()),), models or [model()], style or OverlayStyle()), Audience()
    show.views.append(audience)
    return show, audience


def test_figures_and_legend_are_in_the_pictures_of_those_who_have_nothing_else(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "out.mp4")
    show = Show([source(given([grey(200, (128, 128))] * 3), live=False, lasting=False)], [model()], PLAIN, recording)
    page, window = Audience(written=False), Audience()
    show.views += [page, window]
    show.run()
    assert len(page.pictures) == len(window.pictures) == 3
    plain = blend(grey(200, (128, 128)), Mask(np.full((128, 128), 2, np.uint8), THREE), PLAIN)
    assert all(np.array_equal(picture, plain) for picture in page.pictures)
    assert not any(np.array_equal(picture, plain) for picture in window.pictures)
    assert np.abs(read_video(tmp_path / "out.mp4")[-1][:40, :60].astype(int) - plain[:40, :60]).mean() > 10


def test_a_file_is_shown_to_its_end() -> None:
    show, audience = show_of(source(given([grey(level) for level in (0, 90, 250)]), live=False, lasting=False))
    show.run()
    assert len(audience.pictures) == 3 and audience.closed
    assert show.summary().frames == 3
    assert audience.figures[0].state == "opening" and audience.figures[-1].state == "live"


def test_it_stops_after_so_many_frames() -> None:
    show, audience = show_of()
    show.run(frames=4)
    assert len(audience.pictures) == show.summary().frames == 4


def test_what_is_shown_is_recorded(tmp_path: Path) -> None:
    frames = [grey(level) for level in (0, 90, 250)]
    recording = Recording(tmp_path / "out.mp4", rate=5)
    Show(
        [source(given(frames), live=False, lasting=False)], [model()], OverlayStyle(0.0, figures=False), recording
    ).run()
    assert [round(frame.mean() / 10) for frame in read_video(tmp_path / "out.mp4")] == [0, 9, 25]


def test_nothing_is_drawn_that_nobody_looks_at() -> None:
    show, audience = show_of()
    audience.looks = False
    show.run(frames=3)
    assert audience.pictures == [] and audience.figures[-1].speed.frames > 0


def test_figures_are_of_what_was_shown() -> None:
    half = grey(0)
    half[:, 32:] = 250
    show, audience = show_of(source(given([half] * 40), live=False, lasting=False), models=[model(seconds=0.03)])
    show.run()
    figures = audience.figures[-1]
    shares = {item.name: item.share for item in figures.classes}
    assert shares["dark"] == pytest.approx(0.5, abs=0.1) and shares["light"] == pytest.approx(0.5, abs=0.1)
    assert audience.pictures[-1].shape == (48, 64, 3)
    assert (figures.playing.precision, figures.playing.backend, figures.playing.models) == (
        "fp32",
        "fake",
        ("small (fp32)",),
    )
    assert figures.speed.p99_ms >= figures.speed.p50_ms >= 30
    assert 0 < figures.speed.fps <= 1000 / 30
    assert figures.speed.age_ms >= 30
    assert set(figures.speed.stages_ms) == {"read", "wait", "segment", "draw", "encode"}
    assert figures.score is None and figures.power_w is None
    assert figures.legend()[0] == ("dark", THREE.palette[0]) and "fp32, fake" in figures.lines()


def test_miou_is_of_the_truth() -> None:
    def frames() -> CapturedFrames:
        for _ in range(60):
            truth = np.zeros((48, 64), np.uint8)
            truth[:24] = 1  # half of it is dark in truth, all of it is found dark
            yield Captured(grey(0), time.monotonic(), truth)
            time.sleep(0.01)

    show, audience = show_of(source(frames, live=False, lasting=False, labels=THREE))
    show.run()
    assert audience.figures[-1].score.miou == pytest.approx((0.5 + 0) / 2)
    assert "mIoU 25.0 %" in audience.figures[-1].lines()
    assert 1 <= audience.figures[-1].score.frames <= 60


def test_the_truth_of_other_classes_is_no_truth() -> None:
    def frames() -> CapturedFrames:
        yield Captured(grey(0), time.monotonic(), np.zeros((48, 64), np.uint8))

    show, audience = show_of(source(frames, live=False, lasting=False, labels=VOC))
    show.run()
    assert audience.figures[-1].score is None


def test_what_cannot_be_changes_nothing() -> None:
    show, _ = show_of()
    before = show.controls
    with pytest.raises(InputError, match="source: expected 0 to 0"):
        show.change({"opacity": 0.1, "source": 1})
    assert show.controls == before


def test_the_look_can_be_changed() -> None:
    show, audience = show_of(source(given([grey(0)] * 10_000), live=False), style=OverlayStyle(0.0, figures=False))
    with running(show):
        audience.wait(lambda: audience.pictures)
        assert not audience.pictures[-1].any()
        show.change({"opacity": 1.0})
        audience.wait(lambda: np.all(audience.pictures[-1] == (30, 20, 10)))
        show.change({"hidden": [0]})
        audience.wait(lambda: not audience.pictures[-1].any() and 0 in audience.figures[-1].controls.style.hidden)
        show.change({"side_by_side": True})
        audience.wait(
            lambda: audience.pictures[-1].shape[1] == 128 and audience.figures[-1].controls.style.side_by_side
        )
        show.change({"figures": True, "hidden": [], "opacity": 0.3})
        audience.wait(lambda: audience.pictures[-1].max() > 150 and audience.figures[-1].controls.style.opacity == 0.3)


def test_a_pause_holds_the_picture_which_can_still_be_changed() -> None:
    show, audience = show_of()
    with running(show):
        audience.wait(lambda: audience.pictures)
        show.change({"paused": True})
        audience.wait(lambda: audience.figures[-1].state == "paused")
        held = audience.figures[-1].speed.frames
        show.change({"opacity": 0.9})
        audience.wait(lambda: audience.figures[-1].controls.style.opacity == 0.9)
        time.sleep(0.3)
        assert audience.figures[-1].speed.frames == held
        resumed = time.monotonic()
        show.change({"paused": False})
        audience.wait(lambda: audience.figures[-1].speed.frames > held + 5 and audience.figures[-1].state == "live")
        # what was segmented before is not shown
        assert audience.figures[-1].speed.age_ms < 1000 * (time.monotonic() - resumed)


def test_models_can_be_changed() -> None:
    show, audience = show_of(models=[model(), model(VOC, "other")], style=OverlayStyle(hidden=frozenset({1})))
    with running(show):
        audience.wait(lambda: audience.pictures)
        show.change({"model": 1})
        audience.wait(lambda: audience.figures[-1].controls.model == 1 and audience.figures[-1].speed.fps > 0)
        # their numbers mean other classes
        assert [item.name for item in audience.figures[-1].classes] == list(VOC.names)
        assert not audience.figures[-1].controls.style.hidden


def test_the_figures_of_a_model_are_its_own() -> None:
    def frames() -> CapturedFrames:
        for item in ticking(0.002)():
            yield Captured(item.frame, item.at, np.zeros((48, 64), np.uint8))

    show, audience = show_of(
        source(frames, labels=THREE), models=[model(seconds=0.02), model(VOC, "other", seconds=0.02)]
    )
    with running(show):
        audience.wait(lambda: audience.figures[-1].score is not None)
        show.change({"model": 1})
        # those that were on their way are of the first, and leave nothing behind
        audience.wait(lambda: audience.figures[-1].controls.model == 1 and audience.figures[-1].score is None)


def test_sources_can_be_changed() -> None:
    show, audience = show_of(source(ticking(size=(20, 30))), source(ticking(size=(40, 50))))
    with running(show):
        audience.wait(lambda: size_of(audience) == (20, 30))
        show.change({"source": 1})
        audience.wait(lambda: size_of(audience) == (40, 50) and audience.figures[-1].state == "live")
        show.change({"paused": True})
        audience.wait(lambda: audience.figures[-1].state == "paused")
        show.change({"source": 0})
        audience.wait(lambda: size_of(audience) == (20, 30) and audience.figures[-1].state == "paused")


def test_a_source_comes_with_the_model_made_for_it_until_a_viewer_chooses_another() -> None:
    sources = (source(ticking()), source(ticking()))
    show = Show(sources, [model(), model(VOC, "other")], OverlayStyle(), model_of_source=[1, 0])
    assert show.controls.model == 1
    show.change({"source": 1})
    assert (show.controls.source, show.controls.model) == (1, 0)
    show.change({"model": 1})
    assert (show.controls.source, show.controls.model) == (1, 1)
    show.change({"source": 0, "model": 0})
    assert (show.controls.source, show.controls.model) == (0, 0)


def missing() -> CapturedFrames:
    raise InputError("no camera there")
    yield


def test_a_source_that_does_not_open_is_a_message() -> None:
    show, audience = show_of(source(ticking()), source(missing))
    with running(show):
        audience.wait(lambda: audience.pictures)
        show.change({"source": 1})
        audience.wait(lambda: audience.figures[-1].message == "no camera there")
        audience.wait(lambda: audience.figures[-1].state == "live" and audience.figures[-1].controls.source == 0)


def test_a_first_source_that_does_not_open_is_an_error() -> None:
    show, audience = show_of(source(missing))
    with pytest.raises(InputError, match="no camera there"):
        show.run()
    assert audience.closed


def test_a_lost_source_is_said_to_have_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "REPEAT_PERIOD", 0.05)
    opened: list[int] = []

    def frames() -> CapturedFrames:
        opened.append(1)
        if len(opened) > 1:
            raise InputError("it is unplugged")
        yield from given([grey(100)] * 3)()

    show, audience = show_of(source(frames), style=OverlayStyle(figures=False))
    with running(show):
        audience.wait(lambda: audience.figures[-1].state == "no signal" and audience.figures[-1].speed.fps == 0)
        audience.wait(lambda: np.ptp(audience.pictures[-1], axis=2).max() == 0)
        age = audience.figures[-1].speed.age_ms
        audience.wait(lambda: audience.figures[-1].speed.age_ms > age + 300)
        assert audience.figures[-1].speed.frames <= 3


# --- several cameras together


@contextlib.contextmanager
def together(*cameras: Paced, also: Sequence[LiveSource] = ()) -> Iterator[tuple[Show, Audience]]:
    """Cameras of these names in a grid, plain; while a frame is segmented each that is there gives its next five."""

    def give_all() -> None:
        for camera in cameras:
            if not camera.unplugged:
                camera.give(5)

    sources = [camera.source(f"camera {number}") for number, camera in enumerate(cameras)]
    small = Model("small", "fp32", segmenter(before=give_all))
    show = Show([*sources, *also], [small], OverlayStyle(0.0, figures=False), together=True)
    audience = Audience()
    show.views.append(audience)
    with running(show):
        try:
            cameras[0].give()
            yield show, audience
        finally:
            for camera in cameras:
                camera.unplug()


def tile(audience: Audience, place: int) -> Frame:
    """The lower middle of a tile of a grid of two columns and rows: its name is above."""
    height, width = (side // 2 for side in audience.pictures[-1].shape[:2])
    row, column = divmod(place, 2)
    top, left = row * height + height // 2, column * width + width // 2
    return audience.pictures[-1][top : top + height // 2, left - 20 : left + 20]


def states(audience: Audience) -> list[str]:
    return [camera.state for camera in audience.figures[-1].cameras]


def test_cameras_together_have_equal_shares_and_figures_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures_module, "FPS_WINDOW", 1e9)  # shares are of all that was shown
    monkeypatch.setattr(show_module, "GRID_PERIOD", 0.0)
    cameras = [Paced(50), Paced(100, (96, 64)), Paced(150, (30, 30))]
    with together(*cameras) as (_, audience):
        audience.wait(lambda: audience.figures[-1].speed.frames > 60)
        figures = audience.figures[-1]
        assert figures.playing.sources == ("all 3 together", "camera 0", "camera 1", "camera 2")
        assert [camera.name for camera in figures.cameras] == ["camera 0", "camera 1", "camera 2"]
        assert figures.columns == 2 and figures.state == "live" and states(audience) == ["live"] * 3
        counts = [camera.frames for camera in figures.cameras]
        assert sum(counts) == figures.speed.frames and max(counts) - min(counts) <= 1
        assert sum(camera.share for camera in figures.cameras) == pytest.approx(1)
        assert all(camera.share == pytest.approx(1 / 3, abs=0.05) for camera in figures.cameras)
        # all but one of the frames that came in each round of three
        assert all(camera.drops >= 14 * (camera.frames - 2) for camera in figures.cameras)
        assert figures.speed.drops == sum(camera.drops for camera in figures.cameras)
        assert figures.speed.age_ms == max(camera.age_ms for camera in figures.cameras) > 0
        assert [int(np.median(tile(audience, place))) for place in range(4)] == [50, 100, 150, 0]


def test_a_camera_that_goes_away_leaves_its_tile_and_comes_back_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "REPEAT_PERIOD", 0.05)
    stays, goes = Paced(50), Paced(200)
    with together(stays, goes) as (_, audience):
        audience.wait(lambda: states(audience) == ["live", "live"])
        goes.unplug()
        audience.wait(lambda: states(audience) == ["live", "no signal"])
        away = audience.figures[-1].cameras[1]
        assert away.why == "it is unplugged" and away.fps == 0
        audience.wait(lambda: np.median(audience.pictures[-1][200:, 640:]) == 80)  # dark
        before = audience.figures[-1].cameras[0].frames
        audience.wait(lambda: audience.figures[-1].cameras[0].frames > before + 20)
        assert np.median(audience.pictures[-1][200:, :640]) == 50
        audience.wait(lambda: audience.figures[-1].cameras[1].age_ms > away.age_ms)
        assert audience.figures[-1].state == "live"
        goes.unplug(False)
        audience.wait(lambda: states(audience) == ["live", "live"] and audience.figures[-1].cameras[1].why == "")
        audience.wait(lambda: np.median(audience.pictures[-1][200:, 640:]) == 200)


def test_a_camera_that_never_opens_has_a_tile_and_a_reason() -> None:
    with together(Paced(50), also=[source(missing)]) as (_, audience):
        audience.wait(lambda: states(audience) == ["live", "no signal"])
        assert audience.figures[-1].cameras[1].why == "no camera there"
        assert np.median(audience.pictures[-1][200:, :640]) == 50
        assert audience.pictures[-1][120:240, 640:].max() == 255  # it is said


def test_one_of_them_can_be_looked_at_alone() -> None:
    sources = [LiveSource(f"camera {number}", ticking(size=(96, 64)), True, True) for number in range(2)]
    show, audience = Show(sources, [model()], PLAIN, together=True), Audience()
    show.views.append(audience)
    with running(show):
        audience.wait(lambda: audience.figures and states(audience) == ["live", "live"])
        show.change({"source": 2})
        audience.wait(lambda: size_of(audience) == (96, 64) and states(audience) == ["live"])
        assert [camera.name for camera in audience.figures[-1].cameras] == ["camera 1"]
        show.change({"source": 0})
        audience.wait(lambda: size_of(audience) == (360, 1280) and states(audience) == ["live", "live"])


def test_a_pause_holds_the_grid_which_can_still_be_changed() -> None:
    with together(Paced(50), Paced(100)) as (show, audience):
        audience.wait(lambda: states(audience) == ["live", "live"])
        show.change({"paused": True})
        audience.wait(lambda: audience.figures[-1].state == "paused")
        held = audience.figures[-1].speed.frames
        show.change({"side_by_side": True, "opacity": 1.0})
        audience.wait(lambda: audience.pictures[-1][180, 500].tolist() == list(THREE.palette[0][::-1]))
        assert audience.figures[-1].speed.frames == held
        show.change({"paused": False})
        audience.wait(lambda: audience.figures[-1].speed.frames > held + 5)


def test_two_cameras_of_one_address_have_names_of_their_own() -> None:
    show = Show([source(ticking()) for _ in range(3)], [model()], PLAIN, together=True)
    audience = Audience()
    show.views.append(audience)
    show.run(frames=6)
    assert [camera.name for camera in audience.figures[-1].cameras] == ["fake", "fake (2)", "fake (3)"]


def test_a_camera_together_with_none_is_shown_as_it_is() -> None:
    show, audience = Show([source(ticking())], [model()], PLAIN, together=True), Audience()
    show.views.append(audience)
    show.run(frames=2)
    assert audience.figures[-1].playing.sources == ("fake",) and size_of(audience) == (48, 64)
    assert len(audience.figures[-1].cameras) == audience.figures[-1].columns == 1


@pytest.mark.parametrize(("period", "pictures"), [(0.0, 20), (1e9, 1)])
def test_a_picture_of_the_grid_is_of_all_that_came_since_the_last(
    period: float, pictures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show_module, "GRID_PERIOD", period)
    show = Show([source(ticking(0.001)), source(ticking(0.001))], [model()], PLAIN, together=True)
    audience = Audience()
    show.views.append(audience)
    show.run(frames=20)
    assert (show.summary().frames, len(audience.pictures)) == (20, pictures)


def test_a_grid_is_recorded_with_its_figures(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "out.webm", rate=5)
    files = [source(given([grey(level)] * 3), live=False, lasting=False) for level in (50, 200)]
    show, page = Show(files, [model()], OverlayStyle(0.0), recording, together=True), Audience(written=False)
    show.views.append(page)
    show.run()
    frames = read_video(tmp_path / "out.webm")
    assert len(frames) == len(page.pictures) == show.summary().frames == 6
    assert frames[-1].shape == (360, 1280, 3)
    corner = np.s_[40:80, 10:300]  # under the name
    assert frames[-1][corner].max() > 150 > page.pictures[-1][corner].max()
