"""Where a benchmark runs: device, CPU, system, power mode and the versions of what computes; nothing heavy is imported.

The hardware and its settings are read from files below a root folder, as `jetson` does it; kernel and packages are
those that run this.
"""

import contextlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import refinenet_edge
from refinenet_edge import jetson
from refinenet_edge.bench.record import Machine
from refinenet_edge.files import read_text
from refinenet_edge.memory import machine_memory
from refinenet_edge.runtime.libraries import DISTRIBUTIONS, version_of
from refinenet_edge.sensors import Gpu


def describe(root: Path = Path("/"), device: str | None = None, gpu: str | None = None) -> Machine:
    """The machine whose files are below `root`.

    `device` is the name of the GPU that computes and `gpu` its PCI bus id, by which the driver is asked
    (`runtime.cuda.gpu_name`, `gpu_bus_id`); None: the CPU computes. A Jetson says its own name.
    """
    board = jetson.read_board(root)
    memory = machine_memory(root)
    driver, limit = _driver(gpu) if gpu and board is None else (None, None)
    processor = cpu(root)
    return Machine(
        device=(board and board.model) or device or processor,
        cpu=processor,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=memory.total if memory else None,
        system=_system(root),
        python=platform.python_version(),
        power_mode=", ".join(filter(None, (_power_mode(root, board), limit))) or None,
        versions=dict(_versions(board, driver)),
    )


def comparable(a: Machine, b: Machine) -> str | None:
    """Why what was measured on `a` and on `b` may not be compared, None: it may."""
    for what, here, there in (
        ("devices", a.device, b.device),
        ("CPUs", a.cpu, b.cpu),
        ("numbers of cores", a.cores, b.cores),
        ("power modes", a.power_mode, b.power_mode),
    ):
        if here != there:
            return f"different {what}: {here or 'unknown'} and {there or 'unknown'}"
    return None


def commit(folder: Path) -> str | None:
    """The git commit that is checked out in `folder`, with "+changes" where tracked files differ from it.

    None where git is missing, or keeps nothing of `folder`: an installed package that merely lies in somebody's
    checkout has no commit.
    """
    if not _git(folder, "ls-files", "--", "."):
        return None
    return _git(folder, "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+changes")


def cpu(root: Path = Path("/")) -> str:
    name = re.search(r"model name\s*:\s*(.+)", read_text(root / "proc/cpuinfo"))
    return name[1] if name else platform.processor() or platform.machine()


def _system(root: Path) -> str:
    name = re.search(r'^PRETTY_NAME="?([^"\n]+)', read_text(root / "etc/os-release"), re.MULTILINE)
    kernel = f"{platform.system()} {platform.release()}"
    return f"{name[1]}, {kernel}" if name else kernel


def _power_mode(root: Path, board: jetson.Board | None) -> str | None:
    """What nvpmodel has set, or the frequency governors of the CPUs."""
    if board and board.power:
        return board.power.names.get(board.power.id, f"mode {board.power.id}")
    policies = (root / "sys/devices/system/cpu/cpufreq").glob("policy*/scaling_governor")
    return ", ".join(sorted({governor for path in policies if (governor := read_text(path))})) or None


def _driver(bus_id: str) -> tuple[str | None, str | None]:
    """The driver's version, and the power limit that it keeps, which is a part of the power mode."""
    driver = limit = None
    with contextlib.suppress(OSError), contextlib.closing(Gpu(bus_id)) as gpu:
        with contextlib.suppress(OSError):
            driver = gpu.driver()
        with contextlib.suppress(OSError):
            limit = f"GPU limited to {gpu.limit():.0f} W"
    return driver, limit


def _versions(board: jetson.Board | None, driver: str | None) -> Iterator[tuple[str, str]]:
    yield "refinenet_edge", refinenet_edge.__version__
    for package, distributions in DISTRIBUTIONS.items():
        loaded = getattr(sys.modules.get(package), "__version__", None)  # JetPack's OpenCV is no distribution
        if version := version_of(*distributions) or loaded:
            yield package, str(version)
    if driver:
        yield "NVIDIA driver", driver
    if board and board.l4t:
        yield "L4T", ".".join(map(str, board.l4t))
    if board and board.cuda:
        yield "CUDA", board.cuda


def _git(folder: Path, *command: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
