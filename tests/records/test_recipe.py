"""A recipe's command builds it again, and says it again."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any
from unittest.mock import patch

from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from refinenet_edge import cli
from refinenet_edge.fusion import REWRITES
from refinenet_edge.records import PREPROCESSINGS, Batch, Recipe


def test_the_command_names_only_what_is_not_at_its_default() -> None:
    recipe = Recipe("bundles/my pets", "rf50", size=(480, 640), without=("a", "b"), align_corners=False, dynamic=True)
    assert recipe.command == (
        "refinenet-edge build --out 'bundles/my pets' --model rf50 --size 480x640 --dynamic --no-align-corners "
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
BUDGET = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"max_miou_drop": st.floats(0, 100, exclude_min=True), "judge": MAYBE}),
    st.fixed_dictionaries({"min_agreement": st.floats(0, 100, exclude_min=True, exclude_max=True), "judge": MAYBE}),
)
RECIPES = st.builds(
    lambda source, budget, fields, free: Recipe(
        **source, **budget, **fields, dynamic=free and fields["resize"] == "stretch"
    ),
    SOURCE,
    BUDGET,
    st.fixed_dictionaries(
        {
            "output": WORD,
            "size": st.tuples(st.integers(1, 16_384), st.integers(1, 16_384)),
            "resize": st.sampled_from(["stretch", "letterbox"]),
            "precision": st.sampled_from(["fp32", "fp16", "int8", "fp8"]),
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
            "preprocess": st.sampled_from([None, *PREPROCESSINGS]),
            "mean": st.none() | st.tuples(*3 * [st.floats(-1e3, 1e3)]),
            "std": st.none() | st.tuples(*3 * [st.floats(1e-3, 1e3)]),
            "scale": st.none() | st.floats(1, 1e3),
            "order": st.sampled_from([None, "rgb", "bgr"]),
            "batch": st.none() | st.lists(st.integers(1, 256), min_size=3, max_size=3).map(lambda n: Batch(*sorted(n))),
        }
    ),
    st.booleans(),
)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(RECIPES)
def test_the_command_builds_the_same_recipe_again(recipe: Recipe) -> None:
    assert parsed(recipe.command) == recipe


class TestInAnotherPrecision:
    BUDGETED = Recipe(
        "b", "rf50", crp="conv_pool", precision="int8", calib="c.json", max_miou_drop=0.5, judge="voc", force=True
    )

    def test_in_float_nothing_for_quantising_is_left(self) -> None:
        expected = Recipe("b_fp32", "rf50", crp="conv_pool")
        assert self.BUDGETED.in_precision("fp32", "b_fp32") == expected

    def test_quantised_the_ranges_come_with_it(self) -> None:
        expected = Recipe("b_int8", "rf50", size=(64, 96), precision="int8", calib="r.json")
        assert Recipe("b", "rf50", size=(64, 96)).in_precision("int8", "b_int8", "r.json") == expected


def test_every_option_of_a_recipe_is_one_of_the_command() -> None:
    options = {option for parameter in cli.main.commands["build"].params for option in parameter.opts}
    for field in dataclasses.fields(Recipe):
        assert f"--{field.name.replace('_', '-')}" in options
