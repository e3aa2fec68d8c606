"""Where results go, for every benchmark: benchmarks/results/<cpu>-<cores>/, <GPU>/, or tensorrt-rtx/ for plans."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from refinenet_edge.bench.machine import cpu
from refinenet_edge.errors import BuildError
from refinenet_edge.files import write_atomically

RESULTS = Path(__file__).parent / "results"


def gpu() -> dict[str, str]:
    """The NVIDIA GPU's or Jetson's name, and its driver, power mode and clocks as its own tools say them."""
    model = Path("/proc/device-tree/model")  # of a Jetson
    if model.exists():
        release, mode = _said("cat", "/etc/nv_tegra_release"), _said("nvpmodel", "-q")
        return {"name": model.read_text().rstrip("\0"), "release": release, "mode": mode}
    asked = ("name", "driver_version", "power.limit", "clocks.max.sm")
    said = _said("nvidia-smi", "--id=0", f"--query-gpu={','.join(asked)}", "--format=csv,noheader").split(", ")
    return dict(zip(asked, said, strict=True)) if len(said) == len(asked) else {"name": "unknown GPU"}


def _said(*command: str) -> str:
    """What a command prints, "" where it is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def folder_of(machine: str | None = None) -> Path:
    """Where the results of `machine` go (None: of this CPU)."""
    return RESULTS / re.sub("[^a-z0-9]+", "-", (machine or f"{cpu()} {os.cpu_count()}").lower()).strip("-")


def save(record: Any, name: str, out: Path | None, machine: str | None = None) -> Path:
    """Write `record` as JSON to `out`, or as `machine`'s `name` (None: this CPU's); where it went."""
    path = out or folder_of(machine) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode(), BuildError)
    return path
