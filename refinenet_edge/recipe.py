"""Recipes in TOML files, and the sizes and tables in them."""

import sys
from pathlib import Path
from typing import Any

from refinenet_edge.errors import BundleError, InputError
from refinenet_edge.records import Recipe, Size, from_plain

MAX_RECIPE = 64 * 1024  # bytes


def parse_size(text: str) -> Size:
    """(height, width) of "HxW", or of "N" for a square."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() and len(side) < 7 for side in sides):
        raise InputError(f"size {text!r}: expected HEIGHTxWIDTH in pixels, such as 512x512")
    return int(sides[0]), int(sides[-1])


def read_recipe(path: Path) -> Recipe:
    """The recipe of a TOML file; its keys are the option names, `size` is "HEIGHTxWIDTH"."""
    # the name of the recipe is the name of its bundle
    return recipe_of({"output": str(path.with_suffix("")), **read_table(path, "recipe")}, f"recipe {path}")


def recipe_of(table: dict[str, Any], origin: str) -> Recipe:
    """The recipe in a TOML table; `origin` is what an error names."""
    if isinstance(table.get("size"), str):
        table = {**table, "size": parse_size(table["size"])}
    try:
        return from_plain(Recipe, table)
    except BundleError as exc:
        raise InputError(f"{origin}: {str(exc).removeprefix('Recipe').lstrip('.: ')}") from exc


def read_table(path: Path, kind: str) -> dict[str, Any]:
    """What is in a small TOML file, a `kind`."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:  # only here: a device builds nothing from recipes, and has no tomli
        import tomli as tomllib
    try:
        if path.stat().st_size > MAX_RECIPE:
            raise InputError(f"{kind} {path} is larger than {MAX_RECIPE} bytes")
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise InputError(f"{kind} {path} cannot be read: {exc}") from exc
