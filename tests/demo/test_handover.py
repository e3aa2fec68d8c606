"""What a caller that Ctrl-C interrupts leaves to the thread that makes the results."""

import contextlib
import itertools
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest

from refinenet_edge.demo.handover import Ended, Handover


def test_one_item_is_held_and_the_last_one_comes_before_the_end() -> None:
    handover: Handover[int] = Handover()
    with pytest.raises(TimeoutError):
        handover.take(0.01)
    handover.wait_until_free()
    handover.put(1)
    handover.end(ValueError("why"))
    assert handover.take() == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="why"):
            handover.take()
    for refused in (handover.wait_until_free, lambda: handover.put(2)):
        with pytest.raises(Ended):
            refused()


def test_items_come_in_order_and_none_is_lost() -> None:
    handover: Handover[int] = Handover()

    def give() -> None:
        for number in range(2000):
            handover.wait_until_free()
            assert handover._items.empty()
            handover.put(number)
        handover.end()

    threading.Thread(target=give, daemon=True).start()
    assert [handover.take(60) for _ in range(2000)] == list(range(2000))
    with pytest.raises(Ended):
        handover.take(60)


def interrupted(step: int, act: Callable[[], object]) -> bool:
    """Whether `act` was interrupted at its bytecode number `step`, in whatever of Python it calls, or ended before."""
    steps = itertools.count()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        frame.f_trace_opcodes = True
        if event == "opcode" and next(steps) == step:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        with contextlib.suppress(TimeoutError):
            act()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("full", [True, False])
def test_wherever_the_taker_is_interrupted_the_giver_can_go_on(full: bool) -> None:
    for step in itertools.count():
        handover: Handover[int] = Handover()
        if full:
            handover.put(1)
        if not interrupted(step, partial(handover.take, 0.001)):
            break
        handover.end()
        giver = threading.Thread(target=_goes_on, args=(handover,), daemon=True)
        giver.start()
        giver.join(60)
        assert not giver.is_alive(), f"interrupted at bytecode {step}"
    assert step > 10


def _goes_on(handover: Handover[int]) -> None:
    with contextlib.suppress(Ended):
        handover.wait_until_free()
        handover.put(2)
    handover.end()
