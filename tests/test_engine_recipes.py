"""Every recipe in engines/ is read, and built (at a small size) unless it is marked for hardware."""

from __future__ import annotations

import dataclasses
import fcntl
from pathlib import Path

import pytest

from refinenet_edge.build import build
from refinenet_edge.bundle import PLAN, open_bundle
from refinenet_edge.model import MODELS
from refinenet_edge.recipe import read_recipe

RECIPES = sorted((Path(__file__).parents[1] / "engines").glob("*.toml"))
HARDWARE = "# hardware:"


def needs_hardware(path: Path) -> bool:
    return path.read_text("utf-8").startswith(HARDWARE)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_is_for(path: Path) -> None:
    recipe = read_recipe(path)
    assert path.read_text("utf-8").startswith("# ")
    assert recipe.output == str(path.with_suffix(""))
    assert needs_hardware(path) == (recipe.backend == "tensorrt")


@pytest.mark.parametrize("target", ["rtx", "orin"])
def test_every_model_has_a_recipe_for_every_target(target: str) -> None:
    found = {path.stem for path in RECIPES}
    assert {f"{name}_{target}_fp16" for name in MODELS} <= found


@pytest.mark.parametrize("path", [path for path in RECIPES if not needs_hardware(path)], ids=lambda path: path.stem)
def test_a_recipe_builds(path: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    # the largest takes five gigabytes: one at a time, whatever the workers
    with (tmp_path_factory.getbasetemp().parent / "recipes.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build_small(path, tmp_path)


def build_small(path: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(read_recipe(path), output=str(tmp_path / path.stem), size=(64, 96))
    if recipe.calib:  # ranges hold for their size
        recipe = dataclasses.replace(recipe, calib="scenes:2:2")
    bundle = open_bundle(build(recipe).path)
    assert bundle.manifest.backend == recipe.backend
    assert (PLAN in bundle.manifest.files) == (recipe.backend == "tensorrt-rtx")
