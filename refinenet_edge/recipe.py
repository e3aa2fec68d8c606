"""Recipes in TOML files, and the sizes and tables in them."""

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

from refinenet_edge.errors import BundleError, InputError
from refinenet_edge.files import read_utf8
from refinenet_edge.records import Batch, Recipe, Size, from_plain
from refinenet_edge.records.json import Record

MAX_RECIPE = 64 * 1024  # bytes
MAX_DEPTH = 8  # of tables and lists in one another
NAME = r"""(?:[\w-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
TOKENS = re.compile(  # all else is passed over
    r"#[^\n]*|\"{3}(?:[^\\]|\\.)*?\"{3}|'{3}.*?'{3}"
    rf"|(?P<dotted>{NAME}(?:[ \t]*\.[ \t]*{NAME}){{{MAX_DEPTH},}})|{NAME}|[\[\]{{}}]",
    re.DOTALL,
)


def parse_size(text: str) -> Size:
    """(height, width) of "HxW", or of "N" for a square."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() and len(side) < 7 for side in sides):
        raise InputError(f"size {text!r}: expected HEIGHTxWIDTH in pixels, such as 512x512")
    return int(sides[0]), int(sides[-1])


def parse_channels(text: str) -> tuple[float, float, float]:
    """The three numbers of "A,B,C", or of "A" for all."""
    try:
        numbers = [float(number) for number in text.split(",")]
        first, second, third = numbers if len(numbers) > 1 else 3 * numbers
    except ValueError as exc:
        raise InputError(f"{text!r}: expected a number for each of the network's channels, as 0.5,0.5,0.5") from exc
    return first, second, third


def read_recipe(path: Path) -> Recipe:
    """The recipe of a TOML file; its keys are the option names, written as on the command line.

    `mean` and `std` may be lists, `batch` a number.
    """
    if path.is_dir():
        raise InputError(
            f"recipe {path} cannot be read: it is a folder; give --out and options, or such as engines/NAME.toml"
        )
    table = read_table(path, "recipe")
    # the name of the recipe is the name of its bundle
    return recipe_of({"output": str(path.with_suffix("")), **table}, f"recipe {path}")


def recipe_of(table: dict[str, Any], origin: str) -> Recipe:
    """The recipe in a TOML table; `origin` is what an error names."""
    for name, parse in (("size", parse_size), ("mean", parse_channels), ("std", parse_channels)):
        if isinstance(table.get(name), str):
            table = {**table, name: parse(table[name])}
    batch = table.get("batch")
    if isinstance(batch, (int, str)) and not isinstance(batch, bool):
        table = {**table, "batch": dataclasses.asdict(Batch.parse(str(batch)))}
    return record_of(Recipe, table, origin)


def record_of(kind: type[Record], table: Any, origin: str) -> Record:
    """The record of a `kind` in a TOML table; `origin` is what an error names. Raises `InputError`."""
    try:
        return from_plain(kind, table)
    except BundleError as exc:
        raise InputError(f"{origin}: {str(exc).removeprefix(kind.__name__).lstrip('.: ')}") from exc


def read_table(path: Path, kind: str) -> dict[str, Any]:
    """What is in a small TOML file, a `kind`."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:  # only here: a device builds nothing from recipes, and has no tomli
        import tomli as tomllib
    text = read_utf8(path, MAX_RECIPE, kind)
    _require_shallow(text, f"{kind} {path}")
    try:
        return tomllib.loads(text)
    except ValueError as exc:  # of a syntax error, and of a number of thousands of digits
        raise InputError(f"{kind} {path} cannot be read: {exc}") from exc


def _require_shallow(text: str, what: str) -> None:
    """Raise `InputError` for what the parser would recurse into, or take for ever over."""
    depth = 0
    for token in TOKENS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > MAX_DEPTH or token["dotted"]:
            line = text.count("\n", 0, token.start()) + 1
            raise InputError(f"{what}: line {line} has tables or lists more than {MAX_DEPTH} deep, none of ours has")
