"""Result files in, report files out, whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from refinenet_edge.bench.record import write_run
from refinenet_edge.errors import InputError
from refinenet_edge.report import markdown, page, write_report
from tests.report.made_up import MACHINE, full_run, run


def test_results_become_a_page_and_tables(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    write_run(first, run())
    write_run(second, full_run())
    write_report([first, second], tmp_path / "report.html", tmp_path / "report.md")
    runs = [(str(first), run()), (str(second), full_run())]
    assert (tmp_path / "report.html").read_text("utf-8") == page(runs)
    assert (tmp_path / "report.md").read_text("utf-8") == markdown(runs)


def test_one_result_that_cannot_be_read_stops_it(tmp_path: Path) -> None:
    good, bad, out = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "report.html"
    write_run(good, run())
    bad.write_text("{}")
    out.write_text("before")
    with pytest.raises(InputError, match=r"b\.json is not a benchmark result"):
        write_report([good, bad], out)
    assert out.read_text() == "before"


def test_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one result or more"):
        write_report([], tmp_path / "report.html")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a.json", run())
    with pytest.raises(InputError, match=r"report\.html cannot be written"):
        write_report([tmp_path / "a.json"], tmp_path / "nowhere" / "report.html")


def test_half_a_surrogate_pair_is_written_as_a_question_mark(tmp_path: Path) -> None:
    result = tmp_path / "a.json"
    write_run(result, run(machine=replace(MACHINE, device="NAME")))
    result.write_text(result.read_text("utf-8").replace("NAME", r"odd \ud800"), "utf-8")
    write_report([result], tmp_path / "report.html")
    assert '<h1 id="run-1">rf_lw_mbv2 on odd ?</h1>' in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_what_is_missing_is_named(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import refinenet_edge.report"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"MissingExtra: {missing} is not installed: pip install 'refinenet-edge[report]'" in done.stderr
