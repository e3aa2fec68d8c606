"""examples/road_share.py on drawn streets."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

EXAMPLE = Path(__file__).parents[1] / "examples" / "road_share.py"


@pytest.fixture(scope="module")
def command() -> Any:
    spec = importlib.util.spec_from_file_location("road_share", EXAMPLE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_it_counts_a_class(command: Any, mobile_bundle: Path) -> None:
    done = CliRunner().invoke(command, [str(mobile_bundle), "scenes:5:1", "--of", "class 3", "--frames", "2"])
    assert done.exit_code == 0, done.output
    *rows, last = done.output.strip().splitlines()
    assert len(rows) == 2 and all("ms old, 0 dropped" in row for row in rows)
    assert last.startswith("class 3 was") and last.endswith("of 2 frames")


def test_a_class_that_the_model_does_not_know(command: Any, mobile_bundle: Path) -> None:
    done = CliRunner().invoke(command, [str(mobile_bundle), "scenes", "--of", "river"])
    assert done.exit_code == 2 and "'river' is none of class 0" in done.output
