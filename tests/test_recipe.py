"""Recipes in TOML files, and sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from refinenet_edge.errors import InputError
from refinenet_edge.recipe import MAX_RECIPE, parse_size, read_recipe
from refinenet_edge.records import Batch, Recipe
from tests.patience import promises_a_time, within


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
        cpu = "any"
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
        state_key = "ema"
        collapse_ind = "[0, 1, 2, 3]"
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
        "any",
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
        state_key="ema",
        collapse_ind="[0, 1, 2, 3]",
    )


def test_the_name_of_the_recipe_is_that_of_its_bundle(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, 'model = "rf50"')) == Recipe(str(tmp_path / "pets"), "rf50")


def test_a_square_size_is_one_number_and_a_pair_is_taken_too(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, 'model = "rf50"\nsize = "640"')).size == (640, 640)
    assert read_recipe(written(tmp_path, 'model = "rf50"\nsize = [480, 640]')).size == (480, 640)


@pytest.mark.parametrize(
    ("said", "expected"), [("4", Batch(4, 4, 4)), ('"4"', Batch(4, 4, 4)), ('"1:4:8"', Batch(1, 4, 8))]
)
def test_a_batch_is_a_number_or_a_range(tmp_path: Path, said: str, expected: Batch) -> None:
    assert read_recipe(written(tmp_path, f'model = "rf50"\nbatch = {said}')).batch == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('modell = "rf50"', r"modell: unknown field"),
        ('model = "rf50"\nsize = 512', r"size: .* expected, found '512'"),
        ('model = "rf50"\nsize = [512]', r"size: .* expected"),
        ('model = "rf50"\nsize = "0x512"', r"size 0x512 is outside 1\.\.16384"),
        ('model = "rf50"\nsize = "512x20000"', r"size 512x20000 is outside"),
        ('model = "rf50"\nsize = "large"', r"size 'large': expected HEIGHTxWIDTH in pixels"),
        ('model = "rf50"\nbatch = "8:1"', r"a batch of 8:1: expected numbers from 1 to 256 in order"),
        ('model = "rf50"\nbatch = "many"', r"batch 'many': expected N, LEAST:MOST or LEAST:BEST:MOST"),
        ('model = "rf50"\nbatch = true', r"batch: .* expected"),
        ('model = "rf50"\nbatch = 1.5', r"batch: .* expected"),
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
    with pytest.raises(
        InputError, match=r"^(no recipe at|recipe) \S*pets\.toml($| cannot be read| is larger than 65536 bytes)"
    ):
        read_recipe(path)


@pytest.mark.parametrize(
    ("text", "size"), [("512x640", (512, 640)), ("512", (512, 512)), ("33X65", (33, 65)), ("1x1", (1, 1))]
)
def test_a_size_is_height_by_width(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "512x", "x512", "1x2x3", "-1x2", "5.5", "1e3", " 512", "9999999", "512*512"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected HEIGHTxWIDTH in pixels, such as 512x512"):
        parse_size(text)


DEEP = {
    "lists": "a = " + "[" * 30000,
    "inline tables": "a = " + "{b = " * 12000,
    "a dotted key": "a" + ".a" * 30000 + " = 1",
    "a spaced key": "a" + " . 'a'" * 9000 + " = 1",
    "a header": "[" + "a." * 30000 + "a]",
    "a table in a list in a table": "a = " + "[{b = " * 6000,
}


@promises_a_time
@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_a_file_that_nests_without_end_is_refused_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "pets.toml").write_text("model = 'rf50'\n" + text)
    deep = r"recipe \S*pets\.toml: line 2 has tables or lists more than 8 deep"
    with within(2), pytest.raises(InputError, match=deep):
        read_recipe(tmp_path / "pets.toml")


@pytest.mark.parametrize("number", ["9" * 60000, "0x" + "f" * 60000, "99999999999999999999"])
def test_a_number_that_no_recipe_has(tmp_path: Path, number: str) -> None:
    (tmp_path / "pets.toml").write_text(f"model = 'rf50'\nworkspace_mib = {number}")
    with pytest.raises(InputError, match=r"pets\.toml.*(a number beyond|60000 digits)"):
        read_recipe(tmp_path / "pets.toml")


def test_brackets_and_dots_in_text_and_comments_nest_nothing(tmp_path: Path) -> None:
    name = "[{" * 20 + ".a" * 20
    text = f"# {name}\nmodel = \"{name}\"\noutput = '{name}'\nlabels = \"\"\"\n{name}\"\"\"\ncalib = '''{name}'''"
    (tmp_path / "pets.toml").write_text("\ufeff" + text)
    recipe = read_recipe(tmp_path / "pets.toml")
    assert (recipe.model, recipe.output, recipe.labels, recipe.calib) == (name,) * 4
