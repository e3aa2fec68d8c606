"""What is made on the device once and kept for the next start: kernels, TensorRT-RTX's caches, a measured choice."""

import logging
import os
from pathlib import Path

from refinenet_edge.errors import RefineNetEdgeError
from refinenet_edge.files import write_atomically

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refinenet-edge" / "kernels"


def keep(path: Path, data: bytes) -> None:
    """Write `data` whole or not at all; a disk that refuses costs the next start its time, nothing more."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data, RefineNetEdgeError)
    except (OSError, RefineNetEdgeError) as exc:
        logger.info("%s is not kept: %s", path, exc)


def memory_choice(capability: str) -> Path:
    """Where `make gpu` says what it measured as faster on an integrated GPU: "mapped" memory, or "copied"."""
    return cache_folder() / f"memory-{capability}.txt"
