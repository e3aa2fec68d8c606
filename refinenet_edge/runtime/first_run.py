"""The first run of a graph from outside: in a process of its own, where what crashes or never ends is an error.

OpenVINO and ONNX Runtime crash at some graphs that no exporter writes, run others for ever, or take all memory. So what
was not seen before on this machine is opened and run once in a process with limits of time and memory that grow with
the graph and its frame; what ends well there is remembered by its SHA-256, and costs nothing from then on.

`python -m refinenet_edge.runtime.first_run BACKEND BYTES FILE` is that process; FILE "-": the graph comes by stdin.
"""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from refinenet_edge.errors import RefineNetEdgeError
from refinenet_edge.memory import process_memory
from refinenet_edge.runtime.cache import cache_folder, keep
from refinenet_edge.runtime.libraries import load_library
from refinenet_edge.runtime.openvino import OpenVinoSession
from refinenet_edge.runtime.ort import OrtSession
from refinenet_edge.runtime.session import Model, Session

try:
    import resource
except ImportError:  # not a Unix: nothing is limited but the time
    resource = None  # type: ignore[assignment]

# in the order of preference
ON_CPU: dict[str, type[OpenVinoSession | OrtSession]] = {"openvino": OpenVinoSession, "onnxruntime": OrtSession}
SECONDS, MEMORY = 6, 1 << 30  # of computing, and bytes: what the smallest graph may take
PER_BYTE = 16  # bytes of memory for each of the graph: it is read, converted and packed
PER_CORE = 32 << 20  # the stacks of threads that libraries start, one for each, whatever they are told
PER_INPUT_BYTE = 256  # the activations that are there at once, for each byte of the frame
SPEED = 1e9  # multiply-accumulates a second, of a slow core
STRIDE = 16  # a weight is used once for so many pixels, at most
PATIENCE = 20  # times as long as it may compute: other work goes on here
FREE = 64  # pixels of a side that varies
OUT_OF_MEMORY = 64  # how the process ends
ENDS = {
    -signal.SIGXCPU: "would never end",
    -signal.SIGKILL: "was killed at it, perhaps for the memory it takes",
    OUT_OF_MEMORY: "takes far too much memory for it",
}

logger = logging.getLogger(__name__)


def require_runs(
    model: Model,
    digest: str,
    backend: str,
    error: type[RefineNetEdgeError],
    name: str,
    advice: str = "",
    weights: int = 0,
) -> None:
    """Raise `error` where `backend`, "openvino" or "onnxruntime", does not survive the graph `model` of a SHA-256.

    A file may have `weights` bytes beside it. An error that the library raises is not one of these: whoever opens the
    graph gets it. Errors call it `name` and end with `advice`.
    """
    mark = _mark(digest, backend)
    if mark.exists() or not sys.executable:
        return
    if isinstance(model, Path):
        data, size, path = b"", weights + model.stat().st_size, str(model)
    else:
        data = model if isinstance(model, bytes) else model()
        size, path = len(data), "-"
    command = [sys.executable, "-m", __name__, backend, str(size), path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # as this process finds it
    limit = PATIENCE * _seconds(size, 0)
    try:
        done = subprocess.run(command, input=data, capture_output=True, env=environment, timeout=limit, check=False)
        code = done.returncode
    except subprocess.TimeoutExpired:
        code = -signal.SIGXCPU
    except OSError as exc:
        logger.info("%s was not tried in a process of its own: %s", name, exc)
        return
    if code == 0:
        keep(mark, b"")
    elif code < 0 or code == OUT_OF_MEMORY:
        how = ENDS.get(code, f"crashes at it (signal {-code})")
        raise error(f"{name} is not run: {backend} {how}; export it again{advice}")


def remember(digest: str, backend: str) -> None:
    """The graph of a SHA-256 is our own: it needs no first run."""
    if not (mark := _mark(digest, backend)).exists():
        keep(mark, b"")


def _mark(digest: str, backend: str) -> Path:
    version = re.sub(r"[^\w.+-]", "_", str(getattr(load_library(backend), "__version__", "")))
    return cache_folder() / f"{backend}-{version}-{digest}.ran"


def _seconds(graph: int, pixels: int) -> int:
    """What a graph of so many bytes, on a frame of so many pixels, may compute."""
    return math.ceil(SECONDS + graph / (1 << 20) + graph / 4 * pixels / STRIDE / SPEED)


def _memory(graph: int, frame: int) -> int:
    """The bytes that a graph of so many, on a frame of so many, may take, besides its threads' stacks."""
    return MEMORY + PER_BYTE * graph + PER_INPUT_BYTE * frame


def _limit(graph: int, pixels: int, frame: int, before: int) -> None:
    """Bound the time and the memory of this process; `frame`: the bytes of its input, `before`: what it had taken."""
    if resource is None:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (_seconds(graph, pixels), hard))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = before + _memory(graph, frame) + PER_CORE * (os.cpu_count() or 1)
    resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _run(session: Session, graph: int, before: int) -> None:
    feeds = {
        spec.name: np.zeros([_side(axis, side) for axis, side in enumerate(spec.shape)], spec.dtype)
        for spec in session.inputs
    }
    pixels = max((len(feed) * math.prod(feed.shape[2:]) if feed.ndim else 1 for feed in feeds.values()), default=0)
    _limit(graph, pixels, sum(feed.nbytes for feed in feeds.values()), before)
    session.run(feeds)


def _side(axis: int, side: int | str) -> int:
    """The length of an axis; of the first, where it is free, one frame."""
    return side if isinstance(side, int) else FREE if axis else 1


def _main(backend: str, size: int, path: str) -> int:
    model = sys.stdin.buffer.read() if path == "-" else Path(path)
    load_library(backend)
    before = process_memory("VmData") or 0
    _limit(size, 0, 0, before)
    try:
        with ON_CPU[backend](model, threads=1) as session:
            _run(session, size, before)
    except Exception as exc:
        said = f"{type(exc).__name__}: {exc}".lower()
        return OUT_OF_MEMORY if "alloc" in said or "memory" in said else 1
    return 0


if __name__ == "__main__":
    raise SystemExit(_main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
