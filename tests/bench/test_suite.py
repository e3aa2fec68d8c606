"""A suite's file -> recipes and cases; what it cannot be is one clear error."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from refinenet_edge.bench import BenchScope, Case, read_suite
from refinenet_edge.cli.bench import BATCHES
from refinenet_edge.errors import InputError

GOOD = """
against = ["torch"]
sizes = ["64x96", "128"]
judge = "scenes:1:2"
[bundles.one]
checkpoint = "scenes"
size = "64x96"
[bundles.two]
checkpoint = "scenes"
precision = "int8"
calib = "calib/scenes.ranges.json"
"""


def test_a_suite(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(GOOD)
    suite = read_suite(path, Path("build"))
    assert list(suite.bundles) == ["one", "two"]
    assert suite.bundles["one"].output == str(Path("build/one")) and suite.bundles["one"].size == (64, 96)
    assert suite.scope == BenchScope(("torch",), ((64, 96), (128, 128)), judge="scenes:1:2")
    assert suite.scope.cases((512, 512)) == (Case((64, 96), 1, 1), Case((128, 128), 1, 1))


def test_what_is_asked_for_counts_before_what_a_suite_says() -> None:
    asked = BenchScope(("torch",), batches=(1, 2), source="0")
    both = asked.before(BenchScope(("openvino",), ((64, 96),), batches=(4,), streams=(3,), judge="scenes"))
    assert both == BenchScope(("torch", "openvino"), ((64, 96),), (1, 2), (3,), "scenes", "0")
    assert both.cases((512, 512)) == (Case((64, 96), 1, 3), Case((64, 96), 2, 3))
    assert BenchScope().cases((512, 512)) == (Case((512, 512)),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"\[bundles.NAME\] is missing"),
        ("bundles = 3", r"\[bundles.NAME\] is missing"),
        ("[bundles.a]", "suite .*, bundle a: nothing to build"),
        ('[bundles.a]\ncheckpoint = "scenes"\noutput = "x"', "bundle 'a': a plain name"),
        ('[bundles."../a"]\ncheckpoint = "scenes"', "a plain name"),
        ('speed = "fast"\n' + GOOD, "speed: unknown field"),
        (GOOD.replace("128", "wide"), "HEIGHTxWIDTH"),
        ("against = [", "cannot be read"),
    ],
)
def test_what_is_no_suite(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        read_suite(path, Path("build"))


def test_the_suites_here_can_be_read() -> None:
    suites = sorted(Path("benchmarks", "suites").glob("*.toml"))
    assert suites
    for path in suites:
        assert read_suite(path, Path("build")).bundles


def test_batches_are_numbers_with_commas_between_them() -> None:
    assert [BATCHES.convert(text, None, None) for text in ("4", "1,2,4,8")] == [(4,), (1, 2, 4, 8)]
    for wrong in ("", "0", "1,,2", "1:8", "-1", "two"):
        with pytest.raises(click.BadParameter, match="expected whole numbers from 1 on"):
            BATCHES.convert(wrong, None, None)
