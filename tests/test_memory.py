"""The memory of a machine and of this process."""

import sys
from pathlib import Path

import pytest

from refinenet_edge.memory import Memory, machine_memory, process_memory

MEMINFO = "MemTotal:        7802132 kB\nMemFree:  1 kB\nMemAvailable:    5242880 kB\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [(MEMINFO, Memory(7802132 << 10, 5 << 30)), (MEMINFO.replace("MemAvailable", "Other"), None), (None, None)],
)
def test_the_memory_of_a_machine(tmp_path: Path, text: str | None, found: Memory | None) -> None:
    if text is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/meminfo").write_text(text)
    assert machine_memory(tmp_path) == found


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux says it")
def test_the_memory_of_this_process() -> None:
    now, peak = process_memory("VmRSS"), process_memory("VmHWM")
    assert now is not None and peak is not None and peak >= now > 1 << 20
    assert process_memory("VmNone") is None
