"""How many frames a network takes at once."""

from __future__ import annotations

import re
from dataclasses import dataclass

from refinenet_edge.errors import InputError

MAX_BATCH = 256  # frames at once: more fill no device better, and a plan reserves memory for the most


@dataclass(frozen=True)
class Batch:
    """Frames at once: at least, at best and at most; all the same where the number is fixed.

    `best` is what an engine is tuned for. `str` writes it as the command line has it: "4", "1:8", "1:4:8".
    Raises `InputError` where these are not in order, or outside 1..256.
    """

    least: int = 1
    best: int = 1
    most: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.best <= self.most <= MAX_BATCH:
            raise InputError(
                f"a batch of {self}: expected numbers from 1 to {MAX_BATCH} in order: N, LEAST:MOST or LEAST:BEST:MOST"
            )

    @classmethod
    def parse(cls, text: str) -> Batch:
        """The batch of "N", "LEAST:MOST", whose best is the most, or "LEAST:BEST:MOST". Raises `InputError`."""
        if not re.fullmatch(r"[0-9]{1,6}(:[0-9]{1,6}){0,2}", text):
            raise InputError(f"batch {text!r}: expected N, LEAST:MOST or LEAST:BEST:MOST frames, such as 4 or 1:8")
        numbers = [int(number) for number in text.split(":")]
        return cls(numbers[0], numbers[len(numbers) // 2], numbers[-1])

    def __str__(self) -> str:
        numbers = [self.least] if self.fixed else [self.least, self.most]
        if self.best not in numbers[-1:]:
            numbers.insert(1, self.best)
        return ":".join(map(str, numbers))

    @property
    def fixed(self) -> bool:
        """Whether it is always the same number; else the graph's first axis is free."""
        return self.least == self.best == self.most

    def takes(self, frames: int) -> bool:
        """Whether so many frames can go in at once."""
        return self.least <= frames <= self.most


ONE = Batch()  # frame by frame
