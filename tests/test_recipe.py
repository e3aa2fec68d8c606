"""A recipe from TOML, and the command line that builds it again."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from refinenet_edge import cli
from refinenet_edge.errors import InputError
from refinenet_edge.fusion import REWRITES
from refinenet_edge.recipe import MAX_RECIPE, parse_size, read_recipe
from refinenet_edge.records import Recipe


def written(folder: Path, text: str) -> Path:
    path = folder / "pets.toml"
    path.write_text(text, "utf-8")
    return path


def test_every_option_is_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        output = "bundles/pets"
        model = "rf_lw50"
        checkpoint = "pets.pth"
        size = "480x640"
        dynamic = true
        precision = "int8"
        calib = "calib/pets.ranges.json"
        min_agreement = 99.5
        judge = "photos"
        backend = "tensorrt-rtx"
        labels = "voc"
        upsample = "cubic"
        align_corners = false
        crp = "conv_pool"
        without = ["merge_siblings", "merge_pointwise"]
        target = ["sm_89", "sm_120"]
        workspace_mib = 64
        timing_cache = "timings"
        version_compatible = true
        hardware_compatible = true
        force = true
        """,
    )
    recipe = read_recipe(path)
    assert recipe == Recipe(
        "bundles/pets",
        "rf_lw50",
        "pets.pth",
        None,
        (480, 640),
        True,
        "int8",
        "calib/pets.ranges.json",
        None,
        99.5,
        "photos",
        "tensorrt-rtx",
        "voc",
        "cubic",
        False,
        "conv_pool",
        ("merge_siblings", "merge_pointwise"),
        ("sm_89", "sm_120"),
        64,
        "timings",
        True,
        True,
        True,
    )


def test_the_name_of_the_recipe_is_that_of_its_bundle(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, 'model = "rf50"')) == Recipe(str(tmp_path / "pets"), "rf50")


def test_a_square_size_is_one_number_and_a_pair_is_taken_too(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, 'model = "rf50"\nsize = "640"')).size == (640, 640)
    assert read_recipe(written(tmp_path, 'model = "rf50"\nsize = [480, 640]')).size == (480, 640)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('modell = "rf50"', r"modell: unknown field"),
        ('model = "rf50"\nsize = 512', r"size: .* expected, found '512'"),
        ('model = "rf50"\nsize = [512]', r"size: .* expected"),
        ('model = "rf50"\nsize = "0x512"', r"size 0x512 is outside 1\.\.16384"),
        ('model = "rf50"\nsize = "512x20000"', r"size 512x20000 is outside"),
        ('model = "rf50"\nsize = "large"', r"size 'large': HEIGHTxWIDTH in pixels is meant"),
        ('model = "rf50"\ndynamic = 1', r"dynamic: .*bool.* expected, found '1'"),
        ('model = "rf50"\nworkspace_mib = "1 GB"', r"workspace_mib: .*int.* expected"),
        ('model = "rf50"\nworkspace_mib = true', r"workspace_mib: .*int.* expected"),
        ('model = "rf50"\nwithout = "merge_siblings"', r"without: .* expected"),
        ('model = "rf50"\nwithout = [1]', r"without\[0\]: .*str.* expected"),
        ('model = "rf50"\nbackend = "cuda"', r"backend: .* expected, found 'cuda'"),
        ('model = "rf50"\nupsample = "nearest"', r"upsample: .* expected, found 'nearest'"),
        ('model = "rf50"\ncrp = "pool"', r"crp: .* expected, found 'pool'"),
        ("model = 50", r"model: .* expected, found '50'"),
        ('model = "rf50"\nonnx = "pets.onnx"', r"--onnx takes the model from the file: leave --model"),
        ("", r"nothing to build: give --model, --checkpoint or --onnx"),
        ('model = "rf50', r"cannot be read: "),
        ('[model]\nname = "rf50"', r"model: .* expected"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"^recipe \S*pets\.toml:? .*{said}|^{said}"):
        read_recipe(written(tmp_path, text))


@pytest.mark.parametrize("damage", ["missing", "folder", "large", "binary"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "pets.toml"
    if damage == "folder":
        path.mkdir()
    elif damage == "large":
        path.write_text("#" * (MAX_RECIPE + 1))
    elif damage == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"^recipe \S*pets\.toml (cannot be read|is larger than 65536 bytes)"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("text", "size"), [("512x640", (512, 640)), ("512", (512, 512)), ("33X65", (33, 65)), ("1x1", (1, 1))]
)
def test_a_size_is_height_by_width(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "512x", "x512", "1x2x3", "-1x2", "5.5", "1e3", " 512", "9999999", "512*512"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="HEIGHTxWIDTH in pixels is meant, such as 512x512"):
        parse_size(text)


def test_the_command_names_only_what_is_not_at_its_default() -> None:
    recipe = Recipe("bundles/my pets", "rf50", size=(480, 640), without=("a", "b"), align_corners=False, dynamic=True)
    assert recipe.command == (
        "refinenet-edge build --output 'bundles/my pets' --model rf50 --size 480x640 --dynamic --no-align-corners "
        "--without a --without b"
    )


class Captured(Exception):
    """Carries the recipe out of the command."""


def parsed(command: str) -> Recipe:
    """What `refinenet-edge` would build."""
    program, *words = shlex.split(command)
    assert program == "refinenet-edge"

    def capture(recipe: Recipe, *_: Any) -> None:
        raise Captured(recipe)

    with patch("refinenet_edge.build.build", capture):
        result = CliRunner().invoke(cli.main, words)
    assert isinstance(result.exception, Captured), result.output
    (recipe,) = result.exception.args
    return recipe


WORD = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=12)
MAYBE = st.none() | WORD
SOURCE = st.one_of(
    st.fixed_dictionaries({"model": WORD}),
    st.fixed_dictionaries({"checkpoint": WORD}),
    st.fixed_dictionaries({"model": WORD, "checkpoint": WORD}),
    st.fixed_dictionaries({"onnx": WORD}),
)
RECIPES = st.builds(
    lambda source, fields: Recipe(**source, **fields),
    SOURCE,
    st.fixed_dictionaries(
        {
            "output": WORD,
            "size": st.tuples(st.integers(1, 16_384), st.integers(1, 16_384)),
            "dynamic": st.booleans(),
            "precision": st.sampled_from(["fp32", "fp16", "int8"]),
            "calib": MAYBE,
            "backend": st.sampled_from(["auto", "tensorrt", "tensorrt-rtx", "openvino", "onnxruntime"]),
            "labels": MAYBE,
            "upsample": st.sampled_from(["bilinear", "cubic"]),
            "align_corners": st.none() | st.booleans(),
            "crp": st.sampled_from([None, "pool_conv", "conv_pool"]),
            "without": st.lists(st.sampled_from([rewrite.name for rewrite in REWRITES]), max_size=3).map(tuple),
            "target": st.lists(WORD, max_size=3).map(tuple),
            "workspace_mib": st.integers(16, 1 << 20),
            "timing_cache": MAYBE,
            "version_compatible": st.booleans(),
            "hardware_compatible": st.booleans(),
            "force": st.booleans(),
        }
    ),
)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(RECIPES)
def test_the_command_builds_the_same_recipe_again(recipe: Recipe) -> None:
    assert parsed(recipe.command) == recipe


def test_every_option_of_a_recipe_is_one_of_the_command() -> None:
    options = {option for parameter in cli.main.commands["build"].params for option in parameter.opts}
    for field in dataclasses.fields(Recipe):
        assert f"--{field.name.replace('_', '-')}" in options
