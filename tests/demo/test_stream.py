from __future__ import annotations

import contextlib
import itertools
import threading
import time

import pytest

from refinenet_edge.demo import Captured, SegmentedFrame, live, stream
from refinenet_edge.demo.stream import Ended, Slot
from refinenet_edge.errors import InputError
from refinenet_edge.frames import CapturedFrames
from tests.demo.fakes import given, grey, segmenter, source, ticking


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


def test_closing_ends_the_threads_at_once() -> None:
    for slow in (source(ticking(0.01)), source(given([grey(0)] * 1000), live=False, lasting=False)):
        results = live(slow, segmenter(0.01))
        next(results)
        assert threads() == ["inference", "reader"]
        begun = time.monotonic()
        results.close()
        assert time.monotonic() - begun < 2
        assert threads() == []


def test_a_source_that_hangs_is_left_behind() -> None:
    stuck = threading.Event()

    def frames() -> CapturedFrames:
        yield Captured(grey(5), time.monotonic())
        stuck.wait(20)

    results = live(source(frames), segmenter())
    next(results)
    begun = time.monotonic()
    results.close()
    assert time.monotonic() - begun < 2
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
    assert slot.take() == 2
    with pytest.raises(ValueError, match="done"):
        slot.take()
    with pytest.raises(TimeoutError):
        Slot[int]().take(0.01)
