"""Where results go, for every benchmark the same: benchmarks/results/<cpu>-<cores>/, or tensorrt-rtx/ for plans."""

from __future__ import annotations

import json
import os
import platform
import re
from pathlib import Path
from typing import Any

from refinenet_edge.errors import BuildError
from refinenet_edge.files import write_atomically

RESULTS = Path(__file__).parent / "results"


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def save(record: Any, name: str, out: Path | None) -> Path:
    """Write `record` as JSON to `out`, or as this machine's `name`; where it went."""
    folder = re.sub("[^a-z0-9]+", "-", f"{cpu()} {os.cpu_count()}".lower()).strip("-")
    path = out or RESULTS / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode(), BuildError)
    return path
