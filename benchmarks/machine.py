"""Where results of this machine go: benchmarks/results/<cpu>-<cores>/, for every benchmark the same."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def results(name: str) -> Path:
    """The file of this machine's results; its folder is made."""
    folder = re.sub("[^a-z0-9]+", "-", f"{cpu()} {os.cpu_count()}".lower()).strip("-")
    path = Path(__file__).parent / "results" / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
