"""Whatever the bytes of a file are, the answer is a value or an error of ours: soon, and in little memory.

A target for each parser, on files that it takes and then on changed ones. `make fuzz` draws many more. What a file
breaks is that file's process, and it is kept in build/fuzz.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from refinenet_edge.errors import RefineNetEdgeError
from refinenet_edge.model.checkpoint import load_checkpoint
from tests.fuzz_targets import BROKEN, ROOT, TARGETS, Reader, changed

EXAMPLES = int(os.environ.get("FUZZ", "40"))
# other ones each time in `make fuzz`, always the same in CI
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    process = Reader()
    yield process
    process.close()


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_read(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    for seed in target.seeds():
        path = tmp_path / f"file{target.suffix}"
        path.write_bytes(seed)
        if target.read is load_checkpoint:  # of no network that is known
            with pytest.raises(RefineNetEdgeError, match=r"no RefineNet|no weights by name"):
                target.read(path)
        else:
            target.read(path)


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_the_bytes_are(name: str, reader: Reader) -> None:
    failures = []
    for number, said in reader.read(name, FIRST, FIRST + max(EXAMPLES // TARGETS[name].cost, 1)):
        kept = ROOT / "build" / "fuzz" / f"{name}-{number}{TARGETS[name].suffix}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(changed(name, number))
        failures.append(f"{kept}: {said}")
    assert failures == []


def test_an_input_is_the_same_each_time() -> None:
    for name in TARGETS:
        made = [changed(name, number) for number in range(9)]
        assert made == [changed(name, number) for number in range(9)]
        assert len(set(made)) > 4


def test_the_limits_are_kept(reader: Reader) -> None:
    said = {
        "crash": rf"its process ended with -{signal.SIGSEGV:d}: [\s\S]*Fatal Python error: Segmentation fault",
        "loop": "TimeoutError: more than 0.5 s",
        "loop in C": f"its process ended with -{signal.SIGXCPU:d}",
        "memory": "it took 2[0-9]{6} KiB",
        "all memory": "MemoryError",
        "error": "KeyError: 'missing'",
    }
    assert said.keys() == BROKEN.keys()
    for name, words in said.items():
        # the memory takes seconds on a busy machine
        ((number, found),) = reader.read(name, 0, 1, 0.5 if "loop" in name else 60)
        assert number == 0 and re.search(words, found), found


def test_what_ends_a_process_does_not_end_the_rest(reader: Reader) -> None:
    assert [number for number, _ in reader.read("crash", 3, 5)] == [3, 4]
    assert list(reader.read("labels", 0, 3)) == []
