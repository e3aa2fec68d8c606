"""What a monitor reads, by the grammar of Prometheus' text format, and when the demo is well."""

from __future__ import annotations

import dataclasses
import re

import pytest

from refinenet_edge import __version__
from refinenet_edge.demo import Controls, Figures
from refinenet_edge.demo.figures import CameraFigures, ClassShare, LiveSpeed, Playing, Score
from refinenet_edge.demo.metrics import metrics, problem, remark
from refinenet_edge.overlay import OverlayStyle

FIGURES = Figures(
    state="live",
    message="",
    controls=Controls(OverlayStyle()),
    playing=Playing(('rtsp://camera/"a"\\b\n',), ("voc50 (fp16)",), "fp16", "tensorrt"),
    speed=LiveSpeed(29.5, 12.5, 40.0, 55.0, {"read": 2.0, "segment": 12.5}, 7200, 3),
    score=Score(0.75, 100),
    classes=(
        ClassShare("road", (1, 2, 3), 0.5),
        ClassShare("sky", (1, 2, 3), 0.25),
        ClassShare("road", (1, 2, 3), 0.125),
    ),
    power_w=14.5,
)
# https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(
    rf"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{{({LABEL}(?:,{LABEL})*)\}})? (-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|NaN|[+-]Inf)"
)
HELP = re.compile(r"# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) (?:[^\\\n]|\\[\\n])+")
TYPE = re.compile(r"# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge)")


def parsed(text: str) -> dict[str, float]:
    """Series -> value; fails for what is not in the grammar, and for what it asks besides."""
    assert text.endswith("\n")
    lines, family = text.splitlines(), ""
    found: dict[str, float] = {}
    families: set[str] = set()
    for i, line in enumerate(lines):
        if told := HELP.fullmatch(line):
            family = told[1]
            assert family not in families  # all lines of a metric are one group
            families.add(family)
            kind = TYPE.fullmatch(lines[i + 1])
            assert kind and kind[1] == family  # before the first sample
            assert (kind[2] == "counter") == family.endswith("_total")
        elif not TYPE.fullmatch(line):
            sample = SAMPLE.fullmatch(line)
            assert sample and sample[1] == family, line
            series = family.removeprefix("refinenet_edge_") + (f"{{{sample[2]}}}" if sample[2] else "")
            assert series not in found  # a series is there once
            found[series] = float(sample[3])
    return found


def test_every_figure_is_a_metric_in_base_units() -> None:
    about = f'version="{__version__}",model="voc50 (fp16)",backend="tensorrt",source="rtsp://camera/\\"a\\"\\\\b\\n"'
    assert parsed(metrics(FIGURES, 2)) == {
        f"info{{{about}}}": 1,
        "live": 1,
        "frames_total": 7200,
        "dropped_frames_total": 3,
        "frames_per_second": 29.5,
        "age_seconds": 0.055,
        "segment_p50_seconds": 0.0125,
        "segment_p99_seconds": 0.04,
        'stage_seconds{stage="read"}': 0.002,
        'stage_seconds{stage="segment"}': 0.0125,
        'class_share{class="road"}': 0.625,
        'class_share{class="sky"}': 0.25,
        "miou": 0.75,
        "power_watts": 14.5,
        "viewers": 2,
    }


def test_each_camera_has_series_of_its_own() -> None:
    cameras = (
        CameraFigures('rtsp://a/"1"', "live", "", 12.5, 40.0, 70, 3, 0.75),
        CameraFigures("b", "no signal", "it is unplugged", 0.0, 9000.0, 20, 1, 0.25),
    )
    found = parsed(metrics(dataclasses.replace(FIGURES, cameras=cameras), 0))
    assert {name: value for name, value in found.items() if name.startswith("camera_")} == {
        f'camera_{name}{{camera="{camera}"}}': value
        for camera, values in (('rtsp://a/\\"1\\"', (1, 70, 3, 12.5, 0.04, 0.75)), ("b", (0, 20, 1, 0, 9, 0.25)))
        for name, value in zip(
            ("live", "frames_total", "dropped_frames_total", "frames_per_second", "age_seconds", "share"),
            values,
            strict=True,
        )
    }
    assert found["frames_total"] == 7200
    assert remark(dataclasses.replace(FIGURES, cameras=cameras)) == ", no signal from b"
    assert remark(FIGURES) == remark(None) == ""


def test_what_is_not_known_is_left_out() -> None:
    nothing = LiveSpeed(0.0, 0.0, 0.0, 0.0, {}, 0, 0)
    found = parsed(metrics(dataclasses.replace(FIGURES, state="opening", speed=nothing, score=None, power_w=None), 0))
    assert found["live"] == found["frames_total"] == 0
    assert not {"age_seconds", "segment_p50_seconds", "miou", "power_watts"} & found.keys()


@pytest.mark.parametrize(
    ("state", "silent", "expected"),
    [
        ("live", 0.1, ""),
        ("paused", 0.1, ""),
        ("opening", 0.1, "opening the source"),
        ("no signal", 0.1, "no signal from rtsp"),
        ("live", 11.0, "nothing was shown for 11 s"),
    ],
)
def test_when_it_is_well(state: str, silent: float, expected: str) -> None:
    why = problem(dataclasses.replace(FIGURES, state=state), silent)
    assert why.startswith(expected) and bool(why) == bool(expected)


def test_before_anything_was_shown_it_is_not() -> None:
    assert problem(None, 0.0) == "opening the source"
