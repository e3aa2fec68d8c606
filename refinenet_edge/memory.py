"""How much memory this machine and this process have, as Linux says it."""

import re
from dataclasses import dataclass
from pathlib import Path

from refinenet_edge.files import read_text


@dataclass(frozen=True)
class Memory:
    """Bytes, as in /proc/meminfo."""

    total: int
    available: int


def machine_memory(root: Path) -> Memory | None:
    """That of the machine, as /proc/meminfo has it; None when that does not say."""
    total, available = (_bytes_in(root / "proc/meminfo", name) for name in ("MemTotal", "MemAvailable"))
    return None if total is None or available is None else Memory(total, available)


def process_memory(name: str) -> int | None:
    """The bytes that Linux says of this process, such as its VmData, or VmHWM, its peak; None where it does not say."""
    return _bytes_in(Path("/proc/self/status"), name)


def _bytes_in(path: Path, name: str) -> int | None:
    found = re.search(rf"^{name}:\s*(\d{{1,18}}) kB", read_text(path), re.MULTILINE)
    return int(found[1]) << 10 if found else None
