"""What a plan file says of itself without a GPU: which TensorRT wrote it.

Both flavours start with a tag and keep the four parts of the builder's version in bytes 24 to 27: TensorRT as its
trtexec reads it (--getPlanVersionOnly), TensorRT-RTX as seen in the plans of 1.7.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from refinenet_edge.errors import BundleError

TAGS = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
HEADER = 28  # bytes


@dataclass(frozen=True)
class PlanHeader:
    """The builder of a plan."""

    flavour: str
    version: str


def read_header(path: Path) -> PlanHeader:
    """The header of a plan file. Raises `BundleError` when it is none."""
    try:
        with path.open("rb") as file:
            header = file.read(HEADER)
    except OSError as exc:
        raise BundleError(f"{path} cannot be read: {exc.strerror}") from exc
    flavour = TAGS.get(header[:4])
    if flavour is None or len(header) < HEADER:
        raise BundleError(f"{path} is no TensorRT plan: it starts with {header[:4]!r}, a plan with b'ftrt' or b'vtrt'")
    return PlanHeader(flavour, ".".join(str(part) for part in header[24:28]))
