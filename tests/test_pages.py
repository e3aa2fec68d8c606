"""What the README and the pages of docs/ tell people to type is there to be typed, and what they name is there."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path

import click
import gpu_batches
import integer_pools
import people
import pytest
import results_page
import throughput
import tiles

import refinenet_edge
from refinenet_edge.cli import build_engine, main
from refinenet_edge.records import Tiles

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
TEXT = {page: (ROOT / page).read_text("utf-8") for page in PAGES}
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def commands(page: str) -> list[list[str]]:
    """The words of each command line in a page's shell blocks and sentences."""
    lines: list[str] = []
    for block in re.findall(r"```bash\n(.*?)```", TEXT[page], re.DOTALL):
        lines += block.replace("\\\n", " ").splitlines()
    inline = re.findall(r"`((?:build-engine|refinenet-edge) [^`]+)`", TEXT[page])
    return [words for line in [*lines, *inline] if (words := shlex.split(line, comments=True))]


def of_every_page(*programs: str) -> list[tuple[str, list[str]]]:
    return [(page, words) for page in PAGES for words in commands(page) if words[0] in programs]


def test_there_are_commands() -> None:
    assert len(of_every_page("refinenet-edge", "build-engine")) >= 50


@pytest.mark.parametrize(("page", "words"), of_every_page("refinenet-edge", "build-engine"))
def test_a_command_is_understood(page: str, words: list[str]) -> None:
    program, *arguments = words
    command: click.Command = build_engine
    if program == "refinenet-edge":
        command = main.commands[arguments.pop(0)]
    if arguments:  # `doctor` and a bare `eval` in a sentence are names
        command.make_context(program, arguments)


@pytest.mark.parametrize(("page", "words"), of_every_page("make"))
def test_a_make_target_exists(page: str, words: list[str]) -> None:
    assert re.search(rf"^{words[1]}:", MAKEFILE, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_the_links_lead_somewhere(page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", TEXT[page]) if "://" not in link]
    assert all((ROOT / page).parent.joinpath(link).exists() for link in links)
    if page != "README.md":  # the site is of docs/ alone
        assert not [link for link in links if link.startswith("..")]


@pytest.mark.parametrize(
    ("page", "block"),
    [(page, block) for page in PAGES for block in re.findall(r"```python\n(.*?)```", TEXT[page], re.DOTALL)],
)
def test_the_python_compiles_and_its_imports_are_there(page: str, block: str) -> None:
    compile(block, page, "exec")
    if "tritonclient" in block:
        pytest.importorskip("tritonclient")
    exec("\n".join(line for line in block.splitlines() if line.startswith(("import ", "from "))))


def test_the_results_are_those_of_the_files() -> None:
    text = TEXT["docs/results.md"]
    assert results_page.filled(text) == text
    assert results_page.BLOCK.search(text)


def test_the_people_model_has_its_results_on_the_page() -> None:
    record = json.loads((ROOT / "benchmarks/results/amd-epyc-2/people.json").read_text("utf-8"))
    text = people.PAGE.read_text("utf-8")
    assert people.BLOCK.search(text) and people.filled(text, record) == text
    assert people.markdown(record).count("\n| ") == 2 + 9 + len(record["accuracy"]) - 1


def test_what_a_batch_costs_is_what_was_counted() -> None:
    found = json.loads((ROOT / "benchmarks/results/tensorrt-rtx/batch.json").read_text("utf-8"))["plans"]
    for rows in zip(found["rf_lw_mbv2"], found["rf_lw50"], strict=True):
        cells = (
            f"{row['kernels']}, {row['bytes_moved_per_frame'] / 1e6:.1f}, {row['activation_bytes'] / 1e6:.1f}"
            for row in rows
        )
        assert f"| {rows[0]['batch']} | {' | '.join(cells)} |" in TEXT["docs/measurements.md"]


def test_frames_per_second_on_a_cpu_are_those_that_were_measured() -> None:
    result = json.loads((ROOT / "benchmarks/results/amd-epyc-2/throughput.json").read_text("utf-8"))
    cells = result["cells"]
    assert [(cell["precision"], cell["task"]) for cell in cells] == [
        (precision, task) for precision, tasks in throughput.TASKS.items() for task in tasks
    ]
    found = throughput.TABLE.search(TEXT["docs/measurements.md"])
    assert found
    assert found[0] == found[1] + "".join(f"{line}\n" for line in throughput.rows(cells))
    assert throughput.bound(result["engine"]) in TEXT["docs/measurements.md"]


def test_what_pooling_integers_wins_is_what_was_measured() -> None:
    result = json.loads((ROOT / "benchmarks/results/amd-epyc-2/integer_pools.json").read_text("utf-8"))
    assert "\n".join(integer_pools.rows(result["cells"])) in TEXT["docs/measurements.md"]


def test_batches_on_a_gpu_are_those_that_were_measured() -> None:
    result = json.loads((ROOT / "benchmarks/results/nvidia-h100-80gb-hbm3/gpu_batches.json").read_text("utf-8"))
    assert "\n".join(gpu_batches.rows(result["cells"])) in TEXT["docs/measurements.md"]


def test_the_sizes_of_the_extras_are_those_that_were_measured() -> None:
    sizes = json.loads((ROOT / "benchmarks/results/amd-epyc-2/extra_sizes.json").read_text("utf-8"))
    told = dict(re.findall(r"^\| `(\w+)` \|.*\| (\d+) \|$", TEXT["README.md"], re.M))
    assert {name: str(size["megabytes"]) for name, size in sizes.items() if name != "dev"} == told
    assert f"is {sizes['dev']['megabytes']}." in TEXT["README.md"]


def test_the_tiles_are_those_that_were_measured() -> None:
    result = json.loads((ROOT / "benchmarks/results/amd-epyc-2/tiles_4096.json").read_text("utf-8"))
    assert tiles.markdown(result["tiles"]) in TEXT["docs/measurements.md"]
    streets = {(row["tile"], row["overlap"]): row["miou"] for row in result["tiles"] if row["picture"] == "streets"}
    without_a_number = Tiles((1024, 1024)).overlap
    assert abs(streets[1024, without_a_number] - streets[None, None]) < 0.002
    at = [f"{100 * result['inside_1024_by_32'][distance // 32]:.0f} %" for distance in (0, 128, 320)]
    inside = f"{at[0]} are the whole's at its border, {at[1]} 128 pixels inside and {at[2]} 320 pixels inside"
    assert inside in " ".join(TEXT["docs/evaluation.md"].split())


def test_what_several_cameras_did_is_what_was_noted() -> None:
    soak = json.loads((ROOT / "benchmarks/results/amd-epyc-2/soak_cameras.json").read_text("utf-8"))
    rows = [
        f"| {camera['size'][1]}x{camera['size'][0]} at {camera['rate']} "
        f"| {camera['fps']:.1f} ({camera['fair_fps']:.1f}) "
        f"| {100 * camera['share']:.0f} % | {camera['age_ms']['median']:.0f}, {camera['age_ms']['oldest']:.0f} "
        f"| {camera['age_ms']['per_minute']:+.1f} | {camera['lag_ms']['median']:.0f} | {camera['drops']} |"
        for camera in soak["cameras"]
    ]
    page = TEXT["docs/measurements.md"]
    assert "\n".join(rows) in page
    text = " ".join(page.split())
    assert f"{soak['minutes']:.0f} minutes, {soak['fps']:.1f} frames a second in all, {soak['shown']} shown)" in text
    assert f"back after {' and '.join(f'{seconds:.1f}' for seconds in soak['recovered_after_s'])} s" in text
    assert f"Memory grew by {soak['rss_mb']['per_minute']:.1f} MB a minute" in text
    assert f"what malloc had given out by {soak['used_mb']['per_minute']:.1f}." in text


def test_the_readme_is_read_in_a_minute() -> None:
    assert len(TEXT["README.md"].splitlines()) < 200


def test_every_page_is_in_the_site() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2]
    assert {f"docs/{name}" for name in re.findall(r"[\w-]+\.md", navigation)} == set(PAGES) - {"README.md"}


def test_every_public_name_is_in_the_reference() -> None:
    documented = {
        path.rpartition(".")[2] for path in re.findall(r"^::: (refinenet_edge\S+)", TEXT["docs/api.md"], re.M)
    }
    assert {name.replace("build_bundle", "build") for name in refinenet_edge.__all__} == documented


def test_the_messages_that_troubleshooting_explains_are_said() -> None:
    sources = (ROOT / "refinenet_edge").rglob("*.py")
    said = "\n".join(
        "".join(part.value if isinstance(part, ast.Constant) else "..." for part in parts)
        for path in sources
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (parts := node.values if isinstance(node, ast.JoinedStr) else [node] if _is_text(node) else [])
    )
    terms = re.findall(r"^(`.*`)\n:   ", TEXT["docs/troubleshooting.md"], re.MULTILINE)
    quoted = [message for term in terms for message in re.findall(r"`([^`]+)`", term)]
    assert len(quoted) >= 25
    assert [message for message in quoted if message not in said] == []


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
