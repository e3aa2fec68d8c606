"""A suite: a TOML file that says what to build, what to compare it with, and how. One command runs it.

    against = ["torch", "compile", "onnxruntime", "openvino"]
    sizes = ["512x512"]             # also: batches = [1, 4], streams = [1, 2]
    judge = "scenes"                # mIoU, where it is asked
    source = "scenes"               # camera to screen, where it is asked

    [bundles.int8]                  # a recipe, as of build-engine; the first is what the rest is compared with
    checkpoint = "scenes"
    precision = "int8"
    calib = "calib/scenes.ranges.json"

Paths in it are relative to where the command is run, as in every recipe.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from refinenet_edge.bench.record import Case
from refinenet_edge.errors import InputError
from refinenet_edge.recipe import parse_size, read_table, recipe_of, record_of
from refinenet_edge.records import Recipe, Size


@dataclass(frozen=True)
class BenchScope:
    """What is measured, beside which baselines; empty or None: not given."""

    against: tuple[str, ...] = ()
    sizes: tuple[Size, ...] = ()
    batches: tuple[int, ...] = ()
    streams: tuple[int, ...] = ()
    judge: str | None = None
    source: str | None = None

    def before(self, other: BenchScope) -> BenchScope:
        """Itself, filled up with `other` where nothing is given; the baselines of both."""
        merged = {name: value or getattr(other, name) for name, value in vars(self).items()}
        return BenchScope(**{**merged, "against": self.against + other.against})

    def cases(self, usual: Size) -> tuple[Case, ...]:
        """Every size with every batch and number of streams; `usual` is the size where none is given."""
        points = itertools.product(self.sizes or (usual,), self.batches or (1,), self.streams or (1,))
        return tuple(Case(*point) for point in points)


@dataclass(frozen=True)
class Suite:
    """What a suite's file says; `bundles`: name -> recipe, whose `output` is `folder`/name."""

    bundles: Mapping[str, Recipe]
    scope: BenchScope


def read_suite(path: Path, folder: Path) -> Suite:
    """The suite in a TOML file, its bundles to be built in `folder`. Raises `InputError` for what it cannot be."""
    table = read_table(path, "suite")
    bundles = table.pop("bundles", None)
    if not isinstance(bundles, dict) or not bundles or not all(isinstance(b, dict) for b in bundles.values()):
        raise InputError(f"suite {path}: [bundles.NAME] is missing, a recipe for each bundle")
    recipes = {}
    for name, recipe in bundles.items():
        if "output" in recipe or Path(name).name != name:
            raise InputError(f"suite {path}: bundle {name!r}: a plain name, and no output of its own")
        recipes[name] = recipe_of({**recipe, "output": str(folder / name)}, f"suite {path}, bundle {name}")
    if isinstance(table.get("sizes"), list):
        table["sizes"] = [parse_size(str(size)) for size in table["sizes"]]
    return Suite(recipes, record_of(BenchScope, table, f"suite {path}"))
