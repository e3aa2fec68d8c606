"""Whatever the bytes of a file are, the answer is a value or an error of ours: soon, and in little memory.

A target for each parser, on files that it takes and then on changed ones. `make fuzz` draws many more. What a file
breaks is that file's process, and it is kept in build/fuzz.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from refinenet_edge.errors import RefineNetEdgeError
from tests.fuzz_targets import BROKEN, ROOT, TARGETS, Reader

EXAMPLES = int(os.environ.get("FUZZ", "40"))
# what parsers stumble over, besides single bytes
TOKENS = [
    *(b"[" * 99, b"{", b"}", b"]", b'"', b"'", b"\\", b"\n", b"\0", b"\xff", b"-", b".", b"=", b"[/]", b"\x1b[2J"),
    *(b"1e999", b"9" * 400, b"NaN", b"Infinity", b"null", b"true", b"\\ud800", b"0x", b"\xef\xbb\xbf", b"#"),
    *(b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 8, b"\x80\x80\x80\x80\x08", b"\0" * 8, b"(", b"t", b"R"),
]


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["write", "insert", "cut", "double", "end"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.sampled_from(TOKENS), st.binary(min_size=1, max_size=4)),
    ),
    max_size=6,
)


def edited(data: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    for kind, where, token in edits:
        at = int(where * len(data))
        width = len(token)
        data = {
            "write": data[:at] + token + data[at + width :],
            "insert": data[:at] + token + data[at:],
            "cut": data[:at] + data[at + width :],
            "double": data[: at + 16 * width] + data[at:],
            "end": data[: at + 1],
        }[kind]
    return data


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
        if name == "checkpoint":  # of no network that is known
            with pytest.raises(RefineNetEdgeError, match=r"no RefineNet|no weights by name"):
                target.read(path)
        else:
            target.read(path)


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_the_bytes_are(name: str, reader: Reader, tmp_path: Path) -> None:
    target, seeds = TARGETS[name], TARGETS[name].seeds()
    path = tmp_path / f"file{target.suffix}"

    @settings(
        max_examples=max(EXAMPLES // target.cost, 1),
        deadline=None,
        derandomize="FUZZ" not in os.environ,
        database=None,
        phases=[Phase.generate],  # what is found is kept as it is: a smaller one would cost a process for each try
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.sampled_from(seeds), edits=EDITS)
    def draw(seed: bytes, edits: list[tuple[str, float, bytes]]) -> None:
        data = edited(seed, edits)
        path.write_bytes(data)
        try:
            reader.read(name, path)
        except AssertionError as exc:
            kept = ROOT / "build" / "fuzz" / f"{name}-{hashlib.sha256(data).hexdigest()[:8]}{target.suffix}"
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(data)
            raise AssertionError(f"{kept}: {exc}") from exc

    draw()


def test_the_limits_are_kept(reader: Reader, tmp_path: Path) -> None:
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
        with pytest.raises(AssertionError, match=words):
            reader.read(name, tmp_path, seconds=0.5)
