"""The Markdown, to the character."""

from __future__ import annotations

from dataclasses import replace

from refinenet_edge.report import markdown
from tests.report.made_up import MACHINE, run, subject

EXPECTED = """\
On Some board, int8 is the fastest of 2: 11.0 ms for a frame of 512x512, the slowest of 20 took 12.0 ms, \
90.9 frames per second. It is 2.00 (2.00 to 2.00) times as fast as fp32. \
It costs 0.30 points of mIoU: 61.20 % on scenes:1:20 against 61.50 %.

ms for a frame of 512x512:

| | precision | backend | mIoU | p50 | p90 | p99 | max | frames/s | times as fast as fp32 |
|---|---|---|---:|---:|---:|---:|---:|---:|---|
| fp32 | fp32 | openvino | 61.50 % | 22.0 | 24.0 | 24.0 | 24.0 | 45.5 |  |
| int8 | int8 | openvino | 61.20 % | 11.0 | 12.0 | 12.0 | 12.0 | 90.9 | 2.00 (2.00 to 2.00), faster |

2026-11-24 10:00 UTC; Linux 6.1; refinenet_edge 0.1, numpy 2.4; scenes:1:20; 20 rounds; ratios with 95 % \
bootstrap intervals.
"""


def test_a_run_is_a_sentence_and_a_table() -> None:
    assert markdown([("result.json", run())]) == EXPECTED


def test_runs_follow_each_other() -> None:
    assert markdown([("a", run()), ("b", run())]) == EXPECTED + "\n" + EXPECTED


def test_a_name_is_no_markup() -> None:
    hostile = "<b> | [a](b)\n*`c`* & \\"
    found = markdown([("a", run(subjects=(subject("fp32", "fp32"), subject("int8", hostile))))])
    assert r"| int8 | &lt;b> \| \[a\](b) \*\`c\`\* &amp; \\ | openvino | not asked | 11.0 |" in found
    assert r"On &lt;b> \| \[a\](b) \*\`c\`\* &amp; \\, int8 is" in markdown(
        [("a", run(machine=replace(MACHINE, device=hostile)))]
    )
