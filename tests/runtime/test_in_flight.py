from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from refinenet_edge.runtime.in_flight import AHEAD, Workers

LIMIT = 60.0  # seconds, for what must happen


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("in flight")]


def test_results_come_in_the_order_of_the_items_whatever_is_done_first() -> None:
    done = [threading.Event() for _ in range(4)]

    def work(item: int) -> int:
        if item % 2 == 0:  # the even one waits for the odd one after it
            assert done[item + 1].wait(LIMIT)
        done[item].set()
        return 10 * item

    with Workers(2) as workers:
        assert list(workers.in_order(work, range(4))) == [0, 10, 20, 30]
    assert not ours()


@pytest.mark.parametrize("depth", [None, 3])
def test_no_more_items_are_taken_than_are_on_their_way(depth: int | None) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 20:
            taken += 1
            yield taken

    with Workers(2) as workers:
        for count, result in enumerate(workers.in_order(lambda item: item, items(), depth), 1):
            assert result == count
            assert taken == min(20, count - 1 + (depth or 2 * AHEAD))
    assert count == 20


def test_one_thread_is_the_callers_and_takes_nothing_ahead() -> None:
    taken: list[int] = []
    for item, worker in Workers(1).in_order(lambda item: (item, threading.current_thread()), noting(taken)):
        assert taken[-1] == item
        assert worker is threading.current_thread()


def noting(taken: list[int]) -> Iterator[int]:
    for item in range(3):
        taken.append(item)
        yield item


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_comes_after_the_results_before_it_and_ends_the_work(threads: int) -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 3:
            raise ValueError("three")
        return item

    with Workers(threads) as workers:
        results = workers.in_order(work, range(100))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="three"):
            next(results)
        ended = len(begun)
        assert ended < 4 + 2 * AHEAD
        assert list(workers.in_order(str, range(5))) == ["0", "1", "2", "3", "4"]  # they work on
        assert len(begun) == ended


@pytest.mark.parametrize("threads", [1, 2])
def test_an_item_that_cannot_be_taken_is_an_error_after_the_results_before_it(threads: int) -> None:
    def items() -> Iterator[int]:
        yield from (0, 1)
        raise ValueError("no more")

    with Workers(threads) as workers:
        results = workers.in_order(lambda item: item, items())
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ValueError, match="no more"):
            next(results)


def test_an_interrupt_is_raised_when_what_was_begun_has_ended() -> None:
    held, begun = threading.Event(), threading.Barrier(3)
    ended: list[int] = []
    lock = threading.Lock()

    def items() -> Iterator[int]:
        yield from (0, 1)
        begun.wait(LIMIT)
        held.set()  # what was begun ends
        raise KeyboardInterrupt

    def work(item: int) -> int:
        begun.wait(LIMIT)
        assert held.wait(LIMIT)
        with lock:
            ended.append(item)
            ended.sort()
        return item

    with Workers(2) as workers:
        with pytest.raises(KeyboardInterrupt):
            next(workers.in_order(work, items()))
        assert ended == [0, 1]
    assert not ours()


def test_who_stops_early_leaves_nothing_to_be_done() -> None:
    done: list[int] = []
    with Workers(2) as workers:
        results = workers.in_order(done.append, range(100))
        next(results)
        results.close()  # type: ignore[attr-defined]
        assert len(done) <= 2 * AHEAD
        assert ours()
    workers.close()
    assert not ours()
    assert len(done) <= 2 * AHEAD


def test_threads_end_with_who_has_them() -> None:
    workers = Workers(2)
    assert list(workers.in_order(str, range(3))) == ["0", "1", "2"]
    threads = ours()
    assert len(threads) == 2
    del workers
    gc.collect()
    assert not any(thread.is_alive() for thread in threads)


def test_an_interrupt_at_any_moment_ends_the_work() -> None:
    """At each bytecode of the caller, as Ctrl-C would."""
    code = """
import sys
import faulthandler
from refinenet_edge.runtime import in_flight

faulthandler.dump_traceback_later(50, exit=True)
workers, at = in_flight.Workers(2), 0
list(workers.in_order(str, range(2)))

def trace(frame, event, argument):
    global left
    if frame.f_code.co_filename != in_flight.__file__:
        return None
    frame.f_trace_opcodes = True
    if event == "opcode":
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
    return trace

interrupted = True
while interrupted:
    at += 1
    left, interrupted = at, False
    sys.settrace(trace)
    try:
        results = list(workers.in_order(str, range(7)))
    except KeyboardInterrupt:
        interrupted = True
    finally:
        sys.settrace(None)
assert results == list("0123456")
assert at > 100, at
workers.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=LIMIT, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_process_that_ends_in_the_middle_ends_well() -> None:
    code = (
        "from refinenet_edge.runtime.in_flight import Workers\n"
        "results = Workers(4).in_order(lambda item: sum(range(100_000)), range(1000))\n"
        "next(results)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_thread_that_cannot_be_started_is_an_error_and_the_others_end(monkeypatch: pytest.MonkeyPatch) -> None:
    start, begun = threading.Thread.start, []

    def refuse(thread: threading.Thread) -> None:
        begun.append(thread)
        if len(begun) == 3:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"), Workers(4) as workers:
        list(workers.in_order(str, range(9)))
    assert not ours() and len(begun) == 3
