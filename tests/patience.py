"""Promises about time, held on a machine that may stall: a stall makes a try slower, never faster."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


class TooSlow(AssertionError):
    """What should have ended within a time did not."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What is done inside takes less than `seconds` of the wall's clock."""
    begun = time.monotonic()
    yield
    if (taken := time.monotonic() - begun) >= seconds:
        raise TooSlow(f"{taken:.2f} s, expected less than {seconds:g}")


# once in three tries, each with fixtures of its own; any other failure is one at once
promises_a_time = pytest.mark.flaky(reruns=2, only_rerun=["TooSlow"])
