from __future__ import annotations

import collections
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from refinenet_edge.demo import Captured, SegmentedFrame, live, stream
from refinenet_edge.demo.stream import Cameras, Ended, Slot
from refinenet_edge.errors import InputError
from refinenet_edge.frames import CapturedFrames
from tests.demo.fakes import Paced, given, grey, segmenter, several, source, ticking
from tests.patience import promises_a_time, within


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "REPEAT_PERIOD", 0.05)
    monkeypatch.setattr(stream, "FIRST_WAIT", 0.05)
    monkeypatch.setattr(stream, "FRAME_TIMEOUT", 0.5)


def threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name in ("reader", "inference"))


def all_end() -> bool:
    """Whether the threads end soon."""
    until = time.monotonic() + 5
    while threads() and time.monotonic() < until:
        time.sleep(0.01)
    return not threads()


def first(results: CapturedFrames | object, count: int) -> list[SegmentedFrame]:
    """The first results; then the stream is closed."""
    with contextlib.closing(results) as open_:  # type: ignore[type-var]
        return list(itertools.islice(open_, count))  # type: ignore[call-overload]


def test_every_frame_of_what_can_wait_comes_in_order() -> None:
    frames = [grey(level) for level in range(0, 200, 20)]
    results = list(live(source(given(frames), live=False, lasting=False), segmenter(0.01)))
    assert [int(result.frame[0, 0, 0]) for result in results] == list(range(0, 200, 20))
    assert [result.index for result in results] == list(range(10))
    assert {result.drops for result in results} == {0}
    # 0 to 84 is dark, then grey, then light
    assert [int(result.mask.labels[0, 0]) for result in results] == [0, 0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert all_end()


def test_what_can_wait_is_not_read_before_its_time() -> None:
    read: list[int] = []

    def frames() -> CapturedFrames:
        for level in range(100):
            read.append(level)
            yield Captured(grey(level), time.monotonic())

    with contextlib.closing(live(source(frames, live=False), segmenter(0.02))) as results:
        for number in range(5):
            next(results)
            # one is segmented and one waits; the result after this one may be there already
            assert len(read) <= number + 4


def test_the_newest_frame_wins() -> None:
    results = first(live(source(ticking(0.002)), segmenter(0.05)), 8)
    indices = [result.index for result in results]
    assert indices == sorted(set(indices))
    # about 25 frames come while one is segmented
    assert indices[-1] > 3 * len(results)
    assert [result.drops for result in results] == [index - number for number, index in enumerate(indices)]
    # none of them waited for others: it is two inferences old at most, and some patience for a busy machine
    assert max(result.age_ms for result in results) < 1000
    assert all(set(result.stages_ms) == {"read", "wait", "segment"} for result in results)
    assert all(sum(result.stages_ms.values()) == pytest.approx(result.age_ms, abs=0.01) for result in results)


def test_a_slow_caller_gets_no_queue() -> None:
    with contextlib.closing(live(source(ticking(0.002)), segmenter())) as results:
        next(results)
        time.sleep(0.5)  # 100 frames or more, if the machine is not very busy
        late = [next(results).index for _ in range(4)]
    # one result waits, one more is held by the inference; the third is of a frame from now
    assert late[2] - late[0] > 20


@promises_a_time
def test_closing_ends_the_threads_at_once() -> None:
    for slow in (source(ticking(0.01)), source(given([grey(0)] * 1000), live=False, lasting=False)):
        results = live(slow, segmenter(0.01))
        next(results)
        assert threads() == ["inference", "reader"]
        with within(2):
            results.close()
        assert threads() == []


@promises_a_time
def test_a_source_that_hangs_is_left_behind() -> None:
    stuck = threading.Event()

    def frames() -> CapturedFrames:
        yield Captured(grey(5), time.monotonic())
        stuck.wait(20)

    results = live(source(frames), segmenter())
    next(results)
    with within(2):
        results.close()
    stuck.set()


def test_a_lost_source_is_opened_again() -> None:
    opened, stuck = itertools.count(), threading.Event()

    def frames() -> CapturedFrames:
        number = next(opened)
        if number in (1, 2):
            raise InputError("it is unplugged")
        yield from given([grey(100 * number % 256)] * 3)()
        if number:
            stuck.wait(20)

    with contextlib.closing(live(source(frames, live=False), segmenter())) as open_:
        results = list(itertools.islice(open_, 13))
        stuck.set()
    signal = [result.signal for result in results]
    back = signal.index(True, signal.index(False))
    assert signal[:3] == [True] * 3
    lost, again = results[signal.index(False) : back], results[back]
    # what was seen last stays, as old as it is
    assert {result.index for result in lost} == {2}
    assert [result.age_ms for result in lost] == sorted(result.age_ms for result in lost)
    assert lost[-1].age_ms > 100
    assert again.index == 3 and again.drops == 0


def test_a_source_that_ends_though_it_should_not_is_opened_again() -> None:
    results = first(live(source(given([grey(7)]), live=False), segmenter()), 12)
    assert {result.index for result in results if result.signal} >= {0, 1}


def test_a_source_that_hangs_has_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "FRAME_TIMEOUT", 0.2)
    stuck = threading.Event()

    def frames() -> CapturedFrames:
        yield Captured(grey(5), time.monotonic())
        stuck.wait(20)
        yield Captured(grey(6), time.monotonic())

    with contextlib.closing(live(source(frames), segmenter())) as results:
        assert next(results).signal
        assert not next(results).signal
        stuck.set()
        assert next(result for result in results if result.signal).index == 1


def test_a_source_that_never_opens_is_an_error() -> None:
    def frames() -> CapturedFrames:
        raise InputError("no camera there")
        yield

    with pytest.raises(InputError, match="no camera there"):
        next(live(source(frames), segmenter()))
    assert all_end()


def test_a_file_that_goes_away_is_an_error() -> None:
    def frames() -> CapturedFrames:
        yield Captured(grey(5), time.monotonic())
        raise InputError("the video is gone")

    results = live(source(frames, live=False, lasting=False), segmenter())
    next(results)
    with pytest.raises(InputError, match="the video is gone"):
        next(results)


def test_a_source_that_opens_and_gives_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="fake gives no frames"):
        next(live(source(given([])), segmenter()))


@pytest.mark.parametrize("error", [InputError("outside the engine's range"), ZeroDivisionError("a bug")])
def test_what_the_segmenter_raises_comes_through(error: Exception) -> None:
    calls = itertools.count()

    def fail_the_third_time() -> None:
        if next(calls) == 2:
            raise error

    results = live(source(ticking()), segmenter(before=fail_the_third_time))
    next(results)
    next(results)
    with pytest.raises(type(error), match=str(error)):
        next(results)
    assert all_end()


def test_a_bug_in_a_source_comes_through() -> None:
    def frames() -> CapturedFrames:
        yield Captured(grey(5), time.monotonic())
        raise ZeroDivisionError

    results = live(source(frames, live=False), segmenter())
    next(results)
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_sizes_may_change_in_mid_stream() -> None:
    sizes = [(48, 64), (48, 64), (100, 30), (17, 19), (48, 64)]
    frames = given([grey(90, size) for size in sizes])
    results = list(live(source(frames, live=False, lasting=False), segmenter()))
    assert [result.mask.labels.shape for result in results] == sizes


def test_a_slot_holds_one_thing() -> None:
    slot: Slot[int] = Slot()
    slot.put(1)
    slot.put(2)
    slot.end(ValueError("done"))
    with pytest.raises(Ended):
        slot.put(3)
    with pytest.raises(Ended):
        slot.wait_until_free()
    assert slot.take() == [2]
    with pytest.raises(ValueError, match="done"):
        slot.take()
    with pytest.raises(TimeoutError):
        Slot[int]().take(timeout=0.01)


# --- several sources


def missing() -> CapturedFrames:
    raise InputError("no camera there")
    yield


@contextlib.contextmanager
def looked_at(paced: list[Paced], before: Callable[[], None] = lambda: None) -> Iterator[Iterator[SegmentedFrame]]:
    """The results of these cameras."""
    with contextlib.closing(Cameras([camera.source() for camera in paced], segmenter(before=before))) as cameras:
        try:
            yield cameras.results()
        finally:
            for camera in paced:
                camera.unplug()


def test_each_camera_has_its_turn_however_fast_the_others_are() -> None:
    cameras, bursts = [Paced(0), Paced(100), Paced(200)], (5, 1, 2)

    def give_all() -> None:  # while a frame is segmented each camera gives its next ones
        for camera, burst in zip(cameras, bursts, strict=True):
            camera.give(burst)

    with looked_at(cameras, give_all) as all_of_them:
        cameras[0].give()
        results = list(itertools.islice(all_of_them, 30))
    assert [result.camera for result in results] == [0, 1, 2] * 10
    assert [int(result.frame[0, 0, 0]) for result in results] == [0, 100, 200] * 10
    for number, burst in enumerate(bursts):  # three turns pass between two of one camera's
        own = [result for result in results if result.camera == number]
        assert all(after.index - before.index == 3 * burst for before, after in itertools.pairwise(own))
        assert all(result.drops == result.index - turn for turn, result in enumerate(own))


def test_a_camera_that_is_unplugged_leaves_the_others_alone_and_comes_back() -> None:
    stays, goes = Paced(50), Paced(150)
    with looked_at([stays, goes]) as results:
        goes.give()
        assert next(results).camera == 1
        goes.unplug()
        for turn in range(3):
            stays.give()
            assert next(r for r in results if r.camera == 0 and r.signal).index == turn
            lost = next(r for r in results if r.camera == 1)
            assert (lost.signal, lost.index, int(lost.frame[0, 0, 0])) == (False, 0, 150)
        goes.unplug(False)
        goes.give()
        assert next(r for r in results if r.camera == 1 and r.signal).index == 1


def test_a_camera_that_never_opens_keeps_no_other_from_starting(caplog: pytest.LogCaptureFixture) -> None:
    sources = [source(missing), source(ticking())]
    with contextlib.closing(Cameras(sources, segmenter())) as cameras:
        assert {result.camera for result in itertools.islice(cameras.results(), 20)} == {1}
        assert cameras.why_silent(0) == "no camera there" and cameras.why_silent(1) is None
    assert caplog.text.count("no signal from fake: no camera there; trying again") == 1


def test_cameras_of_which_none_opens_are_an_error() -> None:
    with pytest.raises(InputError, match="no camera there; fake gives no frames"):
        next(live([source(missing), source(given([]))], segmenter()))
    assert all_end()


def test_no_camera_at_all_is_an_error() -> None:
    with pytest.raises(InputError, match="no source"):
        next(live([], segmenter()))


def test_of_several_files_each_is_shown_whole_and_what_failed_is_raised_at_the_end() -> None:
    def broken() -> CapturedFrames:
        yield Captured(grey(5), time.monotonic())
        raise InputError("the video is gone")

    whole = given([grey(level) for level in range(0, 120, 10)])
    seen: list[SegmentedFrame] = []
    results = live([source(frames, live=False, lasting=False) for frames in (whole, broken)], segmenter())
    with pytest.raises(InputError, match="the video is gone"):
        collections.deque(map(seen.append, results))
    levels = [[int(r.frame[0, 0, 0]) for r in seen if r.camera == camera and r.signal] for camera in (0, 1)]
    assert levels == [list(range(0, 120, 10)), [5]]
    assert all_end()


def test_memory_is_that_of_the_cameras_newest_frames() -> None:
    cameras = [Paced(size=(20 * number, 30)) for number in (1, 2, 3)]

    def give_all() -> None:
        for camera in cameras:
            camera.give(7)

    with looked_at(cameras, give_all) as results:
        cameras[0].give()
        for _ in itertools.islice(results, 40):
            alive = [sum(made() is not None for made in camera.frames_made) for camera in cameras]
            # the newest, the last result, the one that is segmented, its result, the caller's, the reader's
            assert max(alive) <= 6
    assert all(len(camera.frames_made) > 250 for camera in cameras)


def test_a_slot_of_several_gives_the_one_that_waited_longest() -> None:
    slot: Slot[str] = Slot(3)
    for number, letter in enumerate("abc"):
        slot.put(letter, number)
    slot.put("A", 0)
    assert slot.take() == ["A"]
    slot.put("a", 0)
    assert [slot.take() for _ in range(3)] == [["b"], ["c"], ["a"]]
    slot.put("c", 2)
    assert slot.take() == ["c"]
    for number, letter in enumerate("abc"):
        slot.put(letter, number)
    assert [slot.take(2), slot.take(2)] == [["b", "a"], ["c"]]
    slot.put("a", 0)
    assert slot.take(3) == ["a"]


@pytest.mark.parametrize("frames", [2, 3, 5])
def test_cameras_that_wait_go_together_into_a_network_of_several(frames: int) -> None:
    cameras, runs = [Paced(0), Paced(100), Paced(200)], []

    def give_all(images: np.ndarray) -> None:
        runs.append(len(images))
        for camera in cameras:
            camera.give(2)

    with contextlib.closing(Cameras([camera.source() for camera in cameras], several(frames, give_all))) as opened:
        cameras[0].give()
        results = list(itertools.islice(opened.results(), 30))
        for camera in cameras:
            camera.unplug()
    assert set(runs) == {frames}
    assert len(runs) <= 1 + -(-29 // min(frames, 3)) + 2  # those that were on their way at the end, too
    assert [result.camera for result in results] == [0, *([1, 2, 0] * 10)[:29]]
    for result in results:
        assert int(result.mask.labels[0, 0]) == result.camera
        assert sum(result.stages_ms.values()) == pytest.approx(result.age_ms, abs=0.01)
    for number in range(3):
        own = [result for result in results if result.camera == number]
        assert all(result.drops == result.index - turn for turn, result in enumerate(own))


def test_what_a_network_of_several_does_not_take_ends_it_as_alone() -> None:
    cameras = [source(given([np.zeros((4, 4), np.uint8)] * 9), live=False, lasting=False) for _ in range(2)]
    with pytest.raises(InputError, match="a frame is a HxWx3 BGR"):
        list(live(cameras, several(2, lambda images: None)))
    assert all_end()
