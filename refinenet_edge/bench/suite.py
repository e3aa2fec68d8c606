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

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from refinenet_edge.errors import BundleError, InputError
from refinenet_edge.recipe import parse_size, read_table, recipe_of
from refinenet_edge.records import Recipe, Size, from_json


@dataclass(frozen=True)
class Suite:
    """What a suite's file says; `bundles`: name -> recipe, whose `output` is `folder`/name."""

    bundles: Mapping[str, Recipe]
    against: tuple[str, ...] = ()
    sizes: tuple[Size, ...] = ()
    batches: tuple[int, ...] = (1,)
    streams: tuple[int, ...] = (1,)
    judge: str | None = None
    source: str | None = None


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
    try:
        rest = from_json(Suite, json.dumps({"bundles": {}, **table}, default=str))
    except BundleError as exc:
        raise InputError(f"suite {path}: {str(exc).removeprefix('Suite.')}") from exc
    return Suite(recipes, rest.against, rest.sizes, rest.batches, rest.streams, rest.judge, rest.source)
