"""A worker of pieces that come from several threads; the pools themselves are tested by what they are for."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import pytest

from refinenet_edge.cluster.pool import TRIES, LocalPool, Stream, Tries, Worker, as_one
from refinenet_edge.errors import InputError, RefineNetEdgeError

LIMIT = 60  # seconds


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


class Doubler(Worker[int, int]):
    """Notes which pieces it had as one stream; before it asks for the next, it waits for `more` to be there."""

    def __init__(self, more: Counter[int] | None = None) -> None:
        self.streams: list[list[int]] = []
        self.more = more or Counter()
        self.stream: Stream | None = None

    def each(self, pieces: Iterable[int]) -> Iterator[int]:
        self.streams.append([])
        waiting: list[int] = []  # one that is not done yet, as frames on their way
        for piece in pieces:
            self.streams[-1].append(piece)
            if piece == 7:
                raise InputError("seven")
            if piece == 8:
                raise ValueError("eight")
            if waiting:
                yield 2 * waiting.pop()
            waiting.append(piece)
            until(lambda piece=piece: not self.stream or self.stream._asked.qsize() >= self.more[piece])
        yield from (2 * piece for piece in waiting)


def results(stream: Stream, *pieces: int) -> list[Any]:
    """Of pieces that come at once; their index is their number."""
    with ThreadPoolExecutor(len(pieces)) as threads:
        return list(threads.map(lambda piece: stream.result(piece, piece), pieces, timeout=LIMIT))


def test_what_is_there_is_one_stream() -> None:
    worker = Doubler(Counter({1: 1}))
    worker.stream = stream = Stream(lambda: worker, Tries())
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(stream.result, 1, 1)
        until(lambda: worker.streams == [[1]])
        second = threads.submit(stream.result, 2, 2)  # the worker waits for it, and has not answered the first
        assert (first.result(LIMIT), second.result(LIMIT)) == (2, 4)
    assert stream.result(3, 3) == 6  # nobody waits for a piece that may never come
    assert worker.streams == [[1, 2], [3]]


def test_a_piece_that_was_begun_before_is_alone() -> None:
    """What its worker died of then, or what was beside that."""
    tries = Tries()
    assert tries.begin(2, False) == 1
    worker = Doubler(Counter({0: 1, 1: 1}))
    made, gate = threading.Event(), threading.Event()

    def make() -> Doubler:
        made.set()
        assert gate.wait(LIMIT)
        return worker

    worker.stream = stream = Stream(make, tries)
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(stream.result, 0, 0)]
        assert made.wait(LIMIT)
        for piece in range(1, 4):  # in this order
            asked.append(threads.submit(stream.result, piece, piece))
            until(lambda piece=piece: stream._asked.qsize() == piece)
        gate.set()
        assert [each.result(LIMIT) for each in asked] == [0, 2, 4, 6]
    assert worker.streams == [[0, 1], [2], [3]]
    assert [tries.begin(piece, True) for piece in range(4)] == [1] * 4  # they are done: nobody dies of them


def test_a_piece_that_was_begun_too_often_has_no_result() -> None:
    worker = Doubler()
    tries = Tries()
    assert [tries.begin(2, False) for _ in range(TRIES)] == [1, 2, 3, 4]
    stream = Stream(lambda: worker, tries)
    assert results(stream, 1, 2, 3) == [2, None, 6]
    assert sorted(piece for stream in worker.streams for piece in stream) == [1, 3]


@pytest.mark.parametrize(("piece", "said"), [(7, "^seven$"), (8, "^a worker failed: ValueError: eight$")])
def test_what_it_raises_is_a_result_and_the_next_are_worked_on(piece: int, said: str) -> None:
    stream = Stream(Doubler, Tries())
    with pytest.raises(RefineNetEdgeError, match=said):
        raise stream.result(0, piece)
    assert stream.result(1, 5) == 10


def test_what_making_it_raises_is_a_result() -> None:
    made: list[None] = []

    def make() -> Doubler:
        made.append(None)
        if len(made) == 1:
            raise RefineNetEdgeError("no room")
        return Doubler()

    stream = Stream(make, Tries())
    assert str(stream.result(0, 1)) == "no room"
    assert results(stream, 2, 3) == [4, 6]
    assert len(made) == 2


@pytest.mark.parametrize("fails", ["begin", "done"])
def test_where_nobody_counts_tries_any_more_each_piece_is_answered(fails: str) -> None:
    """As where the actor that counts them is killed."""

    class Gone(Tries):
        def begin(self, index: int, beside: bool) -> int:
            return self.fail_for("begin", index) or super().begin(index, beside)

        def done(self, index: int) -> None:
            self.fail_for("done", index)

        def fail_for(self, what: str, index: int) -> int:
            if what == fails and index == 2:
                raise RuntimeError("the actor is gone")
            return 0

    worker = Doubler(Counter({1: 1}))
    worker.stream = stream = Stream(lambda: worker, Gone())
    answers: SimpleQueue[tuple[int, str]] = SimpleQueue()

    def ask(piece: int) -> None:  # in threads that may stay behind
        threading.Thread(target=lambda: answers.put((piece, str(stream.result(piece, piece)))), daemon=True).start()

    ask(1)
    until(lambda: worker.streams == [[1]])
    ask(2)
    said = "a worker failed: RuntimeError: the actor is gone"
    found = dict(answers.get(timeout=LIMIT) for _ in range(2))
    assert found == {1: "2" if fails == "done" else said, 2: said}


def test_in_this_process_all_pieces_are_one_stream() -> None:
    worker = Doubler()
    assert list(LocalPool().run(lambda: worker, [1, 2, 3])) == [2, 4, 6]
    assert worker.streams == [[1, 2, 3]]


def test_items_of_pieces_as_one_stream() -> None:
    """What works on them may be ahead by as many as it likes."""

    def squares(items: Iterator[int]) -> Iterator[int]:
        return iter([item * item for item in items])

    assert list(as_one([(1, 2), (3,), (4, 5, 6)], squares)) == [
        ((1, 2), [1, 4]),
        ((3,), [9]),
        ((4, 5, 6), [16, 25, 36]),
    ]
    assert list(as_one([], squares)) == []
