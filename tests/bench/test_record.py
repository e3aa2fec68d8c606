"""A run survives its file, and nothing else is taken for one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from refinenet_edge.bench.record import Case, Layer, Power, Start, read_run, summary, write_run
from refinenet_edge.errors import BundleError, InputError
from tests.bench.runs import measurement, run

WRITER = """
import sys
from pathlib import Path
from refinenet_edge.bench.record import read_run, write_run
first, second, target = map(Path, sys.argv[1:])
runs = read_run(first), read_run(second)
print("ready", flush=True)
while True:
    for run in runs:
        write_run(target, run)
"""


def test_a_run_reads_back_as_it_was_written(tmp_path: Path) -> None:
    whole = run(
        measurement("ours", 10.0, 11.0),
        measurement("theirs", 20.0, 21.5),
        starts=(Start("ours", 100.0, 20.0, 50 << 20, None),),
        power=(Power("ours", 3.0, 60, {"VDD_IN": 7.5}, 0.375, {"cpu": 51.0}, {"GPU": (300.0, 625.0)}, ("heat",)),),
        layers=(Layer("ours", "refine1.crp/Add", "Sum", "refine1.crp", 0.25),),
        notes=("no mIoU was asked",),
    )
    write_run(tmp_path / "r.json", whole)
    assert read_run(tmp_path / "r.json") == whole


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": 3}, "schema 3, this toolkit reads 2: make it again"),
        ({"schema": 1}, "schema 1, this toolkit reads 2: make it again"),
        ({"subjects": []}, "at least one"),
        ({"unheard_of": 1}, "unheard_of: unknown field"),
        ({"machine": None}, "machine"),
    ],
)
def test_what_it_cannot_read_is_refused(tmp_path: Path, change: dict[str, object], says: str) -> None:
    path = tmp_path / "r.json"
    write_run(path, run(measurement("ours", 10.0)))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=rf"r\.json is not a benchmark result: .*{says}"):
        read_run(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "\udcff"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"not a benchmark result|benchmark result .* cannot be read"):
        read_run(path)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no benchmark result at .*refinenet-edge bench -o"):
        read_run(tmp_path / "none.json")


def test_times_are_positive_finite_and_of_a_subject() -> None:
    for ms in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(BundleError, match="positive and finite"):
            run(measurement("ours", ms))
    with pytest.raises(BundleError, match="not every subject ran as often"):
        run(measurement("ours", 1.0, 2.0), measurement("theirs", 1.0))
    with pytest.raises(BundleError, match="'theirs', which is no subject"):
        run(measurement("ours", 1.0), starts=(Start("theirs", 1.0, 1.0, None, None),))


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    runs = [run(measurement("ours", *np.linspace(first, 900, 4000).tolist())) for first in (10.0, 20.0)]
    sources = [tmp_path / "first.json", tmp_path / "second.json"]
    for source, whole in zip(sources, runs, strict=True):
        write_run(source, whole)
    target, dice = tmp_path / "target.json", random.Random(0)
    write_run(target, runs[0])  # a busy machine may kill the first before it wrote anything
    for _ in range(4):
        words = [sys.executable, "-c", WRITER, *map(str, sources), str(target)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
            time.sleep(dice.uniform(0.05, 0.15))
            writer.send_signal(signal.SIGKILL)
        assert read_run(target) in runs


def test_summary() -> None:
    figures = summary(tuple(float(ms) for ms in range(1, 102)))
    assert (figures.least, figures.p50, figures.p90, figures.p99, figures.most) == (1.0, 51.0, 91.0, 100.0, 101.0)
    assert figures.jitter == 49.0 and figures.count == 101


def test_a_case_in_words() -> None:
    assert str(Case((512, 1024))) == "512x1024"
    assert str(Case((512, 512), 4, 2)) == "512x512, batch 4, 2 streams"
