"""What importing the device side costs, in an empty environment where it was installed alone: time and memory.

    python benchmarks/import_cost.py                 -> benchmarks/results/<cpu>/import_cost.json

Each import has a new Python, all of them in turn, round after round; the first two rounds warm the disk's cache and are
not counted. Both times are those of the import alone, without the interpreter's start: what the clock says, and what
the processor spent, which other work on the machine changes less. Memory is the resident peak, with the interpreter,
from /proc (ru_maxrss would be that of the process that started it). What is above numpy is ours; OpenCV
is what the first frame on the CPU costs besides.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import click
from device_environment import clean, make_environment
from machine import cpu, save
from rich.console import Console
from rich.table import Table

from refinenet_edge.bench.measure import WARM_UPS, Stages, take_turns

SECONDS, MEMORY = 0.3, 100e6  # what refinenet_edge.runtime may cost
IMPORTS = {
    "nothing": "pass",
    "numpy": "import numpy",
    "numpy, cv2": "import numpy, cv2",
    "refinenet_edge.runtime": "import refinenet_edge.runtime",
    "refinenet_edge.cli": "import refinenet_edge.cli",
}
CHILD = r"""
import time
start, spent = time.perf_counter(), time.process_time()
{statement}
taken, spent = time.perf_counter() - start, time.process_time() - spent
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
print(taken, spent, status["VmHWM"].removesuffix(" kB"))
"""


@dataclass
class Import:
    """A contender that imports in a new Python; what it spent there is kept, the warm-ups' too."""

    python: Path
    statement: str
    cpu_ms: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)

    def __call__(self) -> Stages:
        command = [self.python, "-c", CHILD.format(statement=self.statement)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean(), cwd=self.python.parent)
        taken, spent, kilobytes = done.stdout.split()
        self.cpu_ms.append(1000 * float(spent))
        self.peak_bytes.append(int(kilobytes) << 10)
        return {"import": 1000 * float(taken)}


@click.command(help=__doc__)
@click.option("--rounds", default=15, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(rounds: int, out: Path | None) -> None:
    with tempfile.TemporaryDirectory() as text:
        python = make_environment(Path(text))
        contenders = {name: Import(python, statement) for name, statement in IMPORTS.items()}
        timing = take_turns(contenders, rounds)
        freeze = [python, "-m", "pip", "list", "--format", "freeze", "--disable-pip-version-check"]
        packages = subprocess.run(freeze, capture_output=True, text=True, check=True, env=clean()).stdout.split()
    rows = {
        name: {
            "ms": timing.ms(name),
            "samples_ms": timing.samples(name),
            "cpu_ms": statistics.median(contender.cpu_ms[WARM_UPS:]),
            "peak_bytes": max(contender.peak_bytes),
        }
        for name, contender in contenders.items()
    }
    load = os.getloadavg()[0]
    title = f"{rounds} rounds on {os.cpu_count()} cores, load {load:.1f}"
    table = Table("import", "ms, median", "lowest to highest", "processor ms", "peak MB", title=title)
    for name, row in rows.items():
        numbers = (row["ms"], row["cpu_ms"], row["peak_bytes"] / 1e6)
        median, spent, peak = (f"{number:.0f}" for number in numbers)
        table.add_row(name, median, f"{min(row['samples_ms']):.0f} to {max(row['samples_ms']):.0f}", spent, peak)
    ours = rows["refinenet_edge.runtime"]
    console = Console(width=100)
    console.print(table)
    for what, found, limit, unit in (
        ("import of the runtime", ours["ms"] / 1000, SECONDS, "s"),
        ("its peak memory", ours["peak_bytes"] / 1e6, MEMORY / 1e6, "MB"),
    ):
        console.print(f"{what}: {found:.3g} {unit}, {'within' if found < limit else 'ABOVE'} {limit:g} {unit}")
    record = {"cpu": cpu(), "python": platform.python_version(), "packages": packages, "rounds": rounds, "load": load}
    record["imports"] = rows
    console.print(f"written to {save(record, 'import_cost.json', out)}")


if __name__ == "__main__":
    main()
