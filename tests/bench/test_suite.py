"""A suite's file -> recipes and cases; what it cannot be is one clear error."""

from __future__ import annotations

from pathlib import Path

import pytest

from refinenet_edge.bench import read_suite
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
    assert suite.against == ("torch",) and suite.sizes == ((64, 96), (128, 128)) and suite.judge == "scenes:1:2"
    assert suite.batches == suite.streams == (1,)


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
