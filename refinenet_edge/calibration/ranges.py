"""Ranges in a file: small JSON that people review, and TensorRT's own calibration cache.

`calib/NAME.ranges.json` has one tensor a line, in the order of the graph. The calibration cache is for TensorRT 10.3's
DLA, which takes INT8 from nowhere else: `name: ` and the scale amax / 127 as the hex of a big-endian float32. A
scale is positive: a tensor that was always zero gets that of amax 1, any scale holds a zero.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path

from refinenet_edge.errors import BundleError, CalibrationError
from refinenet_edge.files import write_atomically
from refinenet_edge.records import INT8_LEVELS, Ranges, from_json

MAX_FILE = 8 << 20  # bytes
HEADER = "TRT-100300-EntropyCalibration2"  # TensorRT 10.3, the calibrator that DLA takes


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


def write_cache(path: Path, ranges: Ranges, header: str = HEADER) -> None:
    """Write TensorRT's calibration cache. Raises `CalibrationError`."""
    lines = [header]
    for name, tensor in ranges.tensors.items():
        scale = struct.pack(">f", (tensor.amax or 1.0) / INT8_LEVELS)
        lines.append(f"{name}: {scale.hex()}")
    write_atomically(path, ("\n".join(lines) + "\n").encode(), CalibrationError)
