"""What is measured of one entry by itself: how it starts, what it takes, camera to screen."""

import multiprocessing
import time
from collections.abc import Sequence
from contextlib import closing
from multiprocessing.connection import Connection

from refinenet_edge.bench.entry import BundleEntry, Entry
from refinenet_edge.bench.measure import WARM_UPS
from refinenet_edge.bench.record import Case, LiveRun, Power, Start
from refinenet_edge.errors import InputError, RefineNetEdgeError
from refinenet_edge.memory import process_memory
from refinenet_edge.records import Frame
from refinenet_edge.runtime.cuda import gpu_problem, load_cuda
from refinenet_edge.sensors import Meters
from refinenet_edge.urls import shown

START_FRAMES = 5  # until memory has its size
POWER_SECONDS = 3.0
SCREEN_SECONDS = 5.0


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
            for index in range(START_FRAMES):
                run([frames[index % len(frames)]])
            device = _device_memory()
            grown = device - used if used is not None and device is not None else None
            load_ms, first_ms = 1000 * (loaded - started), 1000 * (first - loaded)
            peak = process_memory("VmHWM")  # ru_maxrss of getrusage remembers the parent's memory over exec
            connection.send(Start(entry.subject.name, load_ms, first_ms, peak, grown))
    except Exception as exc:  # whatever it is, the other side raises it
        connection.send(f"{type(exc).__name__}: {exc}")


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


def measure_power(entry: Entry, case: Case, frames: Sequence[Frame], gpu: str | None, notes: list[str]) -> Power | None:
    """Watts, joules, heat and clocks while `entry` segments `frames` again and again; `gpu`: its bus id, None: the CPU.

    What cannot be read is appended to `notes`. None: nothing can be, and `entry` did not run.
    """
    with Meters(gpu=gpu) as meters:
        pass
    if meters.reading() is None:
        notes += meters.notes
        return None
    with entry.open(case) as run:
        run(frames[:1])
        done = 0
        with Meters(gpu=gpu) as meters:
            started = time.perf_counter()
            while time.perf_counter() - started < POWER_SECONDS:
                run([frames[done % len(frames)]])
                done += 1
    notes += meters.notes
    if (reading := meters.reading()) is None:
        return None
    joules = None if reading.joules is None else reading.joules / done
    heat = reading.celsius, reading.mhz, reading.throttled
    return Power(entry.subject.name, reading.seconds, done, reading.watts, joules, *heat)


def measure_screen(entry: BundleEntry, source: str) -> LiveRun:
    """The ages of `entry`'s pictures of a live `source`, each drawn; the first frames warm up and do not count.

    Raises `InputError` for a source that does not open or ends at once.
    """
    from refinenet_edge.demo import live, open_source  # needs OpenCV: estimate does not
    from refinenet_edge.overlay import OverlayStyle, draw

    ages: list[float] = []
    began = drops = 0.0
    with entry.segmenter() as segmenter, closing(live(open_source(source, repeat=True), segmenter)) as results:
        for number, result in enumerate(results):
            draw(result.frame, result.mask, OverlayStyle(), [], [])
            now = time.monotonic()
            if number == WARM_UPS:
                began, drops = now, result.drops
            elif number > WARM_UPS and result.signal:
                ages.append(1000 * (now - result.captured))
                if now - began > SCREEN_SECONDS:
                    break
    if not ages:
        raise InputError(f"{shown(source)} gave fewer than {WARM_UPS + 2} frames: camera to screen needs more")
    size = (result.frame.shape[0], result.frame.shape[1])
    lost, rate = int(result.drops - drops), len(ages) / (now - began)
    return LiveRun(entry.subject.name, shown(source), size, tuple(ages), rate, lost)
