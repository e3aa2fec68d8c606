"""Bundles and baselines timed side by side: a frozen `BenchmarkRun` that can be read, checked and compared.

measure.py    contenders in turn -> Timing: medians, intervals, the rule that ended it
entry.py      a bundle as something to time; baselines.py, beside this package, has the others
judge.py      entries + data set -> mIoU, examples
run.py        entries + options -> BenchmarkRun
alone.py      one entry by itself: its start in a new process, its power, camera to screen in the demo's loop
machine.py    where it ran
blocks.py     a layer's name -> the block of the model
record.py     BenchmarkRun, to JSON and back
verdicts.py   ratios and verdicts, in one run and between two
suite.py      TOML -> what to build and to measure
"""

from refinenet_edge.bench.entry import BundleEntry, Entry, bundle_entry
from refinenet_edge.bench.measure import Contender, Estimate, Stages, Timing, take_turns, timed
from refinenet_edge.bench.record import BenchmarkRun, Case, read_run, write_run
from refinenet_edge.bench.run import Options, run
from refinenet_edge.bench.suite import BenchScope, read_suite
from refinenet_edge.bench.verdicts import BatchCurve, batch_curves, compare, faster, measured_once, ratios, rows

__all__ = [
    "BatchCurve", "BenchScope", "BenchmarkRun", "BundleEntry", "Case", "Contender", "Entry", "Estimate", "Options",
    "Stages", "Timing", "batch_curves", "bundle_entry", "compare", "faster", "measured_once", "ratios", "read_run",
    "read_suite", "rows", "run", "take_turns", "timed", "write_run",
]  # fmt: skip
