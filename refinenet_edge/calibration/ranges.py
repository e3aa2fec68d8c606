"""Ranges in a file: `calib/NAME.ranges.json`, JSON that people review, one tensor a line in the order of the graph."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from refinenet_edge.errors import BundleError, CalibrationError
from refinenet_edge.files import write_atomically
from refinenet_edge.records import Ranges, from_json

MAX_FILE = 8 << 20  # bytes


def write_ranges(path: Path, ranges: Ranges) -> None:
    """Write `ranges` whole or not at all. Raises `CalibrationError`."""
    table = dataclasses.asdict(ranges)
    tensors = table.pop("tensors")
    lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in tensors.items())
    rest = json.dumps(table, indent=2, ensure_ascii=False)
    text = f'{rest[:-2]},\n  "tensors": {{\n{lines}\n  }}\n}}\n'
    write_atomically(path, text.encode(), CalibrationError)


def read_ranges(path: Path) -> Ranges:
    """The ranges in `path`, which is not trusted. Raises `CalibrationError`."""
    try:
        if path.stat().st_size > MAX_FILE:
            raise CalibrationError(f"{path} is larger than {MAX_FILE} bytes: it holds no ranges")
        return from_json(Ranges, path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, BundleError) as exc:
        raise CalibrationError(f"ranges {path} cannot be used: {exc}; make them with refinenet-edge calibrate") from exc
