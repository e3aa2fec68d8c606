"""How an entry starts: loading, first frame and memory, in a process of its own."""

from __future__ import annotations

import multiprocessing
import re
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from refinenet_edge.bench.entry import Entry
from refinenet_edge.bench.record import Case, Start
from refinenet_edge.errors import RefineNetEdgeError
from refinenet_edge.records import Frame
from refinenet_edge.runtime.cuda import gpu_problem, load_cuda

FRAMES = 5  # until memory has its size


def measure_start(entry: Entry, case: Case, frames: Sequence[Frame]) -> Start:
    """Load `entry` and segment `frames` in a new process. Raises `RefineNetEdgeError` when that fails."""
    context = multiprocessing.get_context("spawn")  # a fork would have our libraries loaded
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_start, args=(there, entry, case, list(frames)))
    process.start()
    there.close()
    try:
        outcome = here.recv()
    except EOFError:
        process.join()
        outcome = f"its process ended with {process.exitcode}"
    finally:
        process.join()
        here.close()
    if isinstance(outcome, Start):
        return outcome
    raise RefineNetEdgeError(f"{entry.subject.name} cannot be started by itself: {outcome}")


def _start(connection: Connection, entry: Entry, case: Case, frames: Sequence[Frame]) -> None:
    try:
        used = _device_memory()
        started = time.perf_counter()
        with entry.open(case) as run:
            loaded = time.perf_counter()
            run(frames[:1])
            first = time.perf_counter()
            for index in range(FRAMES):
                run([frames[index % len(frames)]])
            device = _device_memory()
            grown = device - used if used is not None and device is not None else None
            load_ms, first_ms = 1000 * (loaded - started), 1000 * (first - loaded)
            connection.send(Start(entry.subject.name, load_ms, first_ms, peak_memory(), grown))
    except Exception as exc:  # whatever it is, the other side raises it
        connection.send(f"{type(exc).__name__}: {exc}")


def peak_memory() -> int | None:
    """The most that this process ever had in memory, bytes; None where the system does not say.

    Not getrusage's ru_maxrss: that one remembers the parent's memory over exec.
    """
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * int(peak[1]) if peak else None


def _device_memory() -> int | None:
    """Bytes in use on the GPU, this process's CUDA context included; None without a GPU."""
    if gpu_problem():
        return None
    try:
        provider = load_cuda()()
    except RefineNetEdgeError:
        return None
    try:
        with provider.current():
            free, total = provider.memory()
    finally:
        provider.close()
    return total - free
