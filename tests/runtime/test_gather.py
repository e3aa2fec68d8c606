"""Frames as they come, gathered into lists: by whatever came, and never one lost, doubled or out of order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from refinenet_edge.errors import InputError
from refinenet_edge.labels import numbered
from refinenet_edge.records import FrameSpec, TensorSpec
from refinenet_edge.runtime import FakeSession, Segmenter
from refinenet_edge.runtime.gather import Together, gathered

LONG = 60.0  # seconds: a test that waits so long has failed
WAITS = [None, LONG]


def then_raises(count: int) -> Iterator[int]:
    yield from range(count)
    raise ZeroDivisionError


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8])
def test_lists_are_full_but_for_the_last(wait: float | None, count: int) -> None:
    """The end of the source is waited for, not for the time."""
    found = list(gathered(range(count), 4, wait))
    assert [len(items) for items in found] == [4] * (count // 4) + [count % 4] * (count % 4 > 0)
    assert [item for items in found for item in items] == list(range(count))


@pytest.mark.parametrize("wait", WAITS)
def test_what_an_item_raises_comes_after_those_before_it(wait: float | None) -> None:
    lists = gathered(then_raises(6), 4, wait)
    assert [next(lists), next(lists)] == [[0, 1, 2, 3], [4, 5]]
    with pytest.raises(ZeroDivisionError):
        next(lists)


def test_what_has_come_waits_no_longer() -> None:
    """The third item comes only when the first two have been given out."""
    given = threading.Event()

    def source() -> Iterator[int]:
        yield from (0, 1)
        assert given.wait(LONG)
        yield 2

    found = []
    for items in gathered(source(), 4, 0.001):
        found += items
        if 1 in items:
            given.set()
    assert found == [0, 1, 2]


def test_the_thread_reads_so_many_ahead_and_no_more() -> None:
    taken: list[int] = []
    full = threading.Event()

    def source() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            if len(taken) == 8:
                full.set()
            yield item

    lists = gathered(source(), 4, LONG)
    assert next(lists) == [0, 1, 2, 3]
    assert full.wait(LONG)
    lists.close()
    assert len(taken) == 8
    assert not [thread for thread in threading.enumerate() if thread.name == "gather"]


# --- a segmenter's streams

FRAMES = [np.full((8, 8 + index, 3), 40 * index, np.uint8) for index in range(6)]


@pytest.fixture
def segmenter() -> Iterator[Segmenter]:
    def run(feeds: Any) -> Any:
        return {"logits": np.concatenate([-feeds["image"][:, :1], feeds["image"][:, :1]], axis=1)}

    ends = (TensorSpec("image", "float32", (1, 3, 8, 8)),), (TensorSpec("logits", "float32", (1, 2, 8, 8)),)
    with Segmenter.from_session(FakeSession(run, *ends), FrameSpec((8, 8)), numbered(2)) as made:
        yield made


@pytest.mark.parametrize("wait_ms", [None, 0, 5, 1000.0 * LONG - 1])
@pytest.mark.parametrize("batch", [1, 4, 9])
def test_a_stream_gives_the_masks_of_its_frames(segmenter: Segmenter, batch: int, wait_ms: float | None) -> None:
    alone = [segmenter.segment(frame).labels for frame in FRAMES]
    assert len({labels.max() for labels in alone}) == 2
    found = [mask.labels for mask in segmenter.segment_stream(FRAMES, batch=batch, wait_ms=wait_ms)]
    assert [labels.shape for labels in found] == [labels.shape for labels in alone]
    assert all(np.array_equal(one, other) for one, other in zip(found, alone, strict=True))


@pytest.mark.parametrize("wait_ms", [None, 5])
def test_a_bad_frame_is_raised_at_its_place(segmenter: Segmenter, wait_ms: float | None) -> None:
    stream = segmenter.segment_stream([*FRAMES[:2], FRAMES[2][0], FRAMES[3]], batch=4, wait_ms=wait_ms)
    assert [mask.labels.shape for mask in (next(stream), next(stream))] == [(8, 8), (8, 9)]
    with pytest.raises(InputError, match="frame"):
        next(stream)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch": 0}, "a batch of 0: at least 1"),
        ({"batch": 4, "wait_ms": -1}, r"wait_ms=-1: expected milliseconds, 0 to 60000"),
        ({"batch": 4, "wait_ms": float("nan")}, "wait_ms=nan: expected milliseconds"),
        ({"wait_ms": 5}, "say batch too"),
        ({"batch": 4, "depth": 2}, "leave one out"),
    ],
)
def test_what_cannot_be_gathered_is_refused(segmenter: Segmenter, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        next(segmenter.segment_stream(FRAMES, **options))


def until(true: Callable[[], bool]) -> None:
    given_up = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < given_up
        time.sleep(0.001)


class Work:
    """Doubles numbers, when `go` is set; what it was given, list by list."""

    def __init__(self) -> None:
        self.lists: list[list[int]] = []
        self.go = threading.Event()

    def __call__(self, numbers: list[int]) -> list[int]:
        self.lists.append(numbers)
        assert self.go.wait(LONG)
        if 13 in numbers:
            raise ValueError(f"of {len(numbers)}")
        return [2 * number for number in numbers]


def test_what_threads_ask_for_meanwhile_is_worked_on_together() -> None:
    together, work = Together[int, int](3), Work()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(together.answer, 0, work)
        until(lambda: len(work.lists) == 1)
        others = [pool.submit(together.answer, number, work) for number in range(1, 8)]
        until(lambda: len(together._waiting) == 7)
        work.go.set()
        assert [each.result(LONG) for each in (first, *others)] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert work.lists[0] == [0]  # nobody waits for others
    assert [len(each) for each in work.lists] == [1, 3, 3, 1]
    assert sorted(number for each in work.lists for number in each) == list(range(8))


def test_what_the_work_raises_is_raised_for_all_of_its_list_and_no_other() -> None:
    together, work = Together[int, int](2), Work()
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(together.answer, 1, work)]
        until(lambda: len(work.lists) == 1)
        for count, number in enumerate((13, 2, 3), 1):
            asked.append(pool.submit(together.answer, number, work))
            until(lambda count=count: len(together._waiting) == count)
        work.go.set()
        assert [asked[0].result(LONG), asked[3].result(LONG)] == [2, 6]
        for failed in asked[1:3]:
            with pytest.raises(ValueError, match="of 2"):
                failed.result(LONG)


def test_who_waits_for_one_that_was_interrupted_works_itself() -> None:
    together, taken, waits = Together[int, int](2), threading.Event(), threading.Event()

    def interrupted(numbers: list[int]) -> list[int]:
        taken.set()
        assert waits.wait(LONG)
        raise KeyboardInterrupt

    def stopped() -> None:
        with pytest.raises(KeyboardInterrupt):
            together.answer(1, interrupted)

    work = Work()
    work.go.set()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(stopped)
        assert taken.wait(LONG)
        other = pool.submit(together.answer, 2, work)
        until(lambda: len(together._waiting) == 1)
        together._waiting.clear()  # as if the first had taken it, too
        waits.set()
        assert other.result(LONG) == 4
        first.result(LONG)
