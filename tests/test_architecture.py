"""The pages for contributors name rooms and files that are there, and draw the arrows that lint proves."""

from __future__ import annotations

import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGES = ("docs/architecture.md", "docs/measurements.md", "CONTRIBUTING.md")
TEXT = {page: (ROOT / page).read_text("utf-8") for page in PAGES}


@pytest.mark.parametrize("page", PAGES)
def test_every_path_is_there(page: str) -> None:
    paths = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:py|md|toml))`", TEXT[page]))
    paths |= set(re.findall(r"(?:python|pytest) ((?:tests|benchmarks)/[\w./-]+)", TEXT[page]))
    assert len(paths) >= 3
    built = ("build/arm", "dist/")
    missing = {
        path
        for path in paths
        if not path.startswith(built) and not (ROOT / path).exists() and not (ROOT / "refinenet_edge" / path).exists()
    }
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", TEXT[page]) if "://" not in link]
    assert all((ROOT / page).parent.joinpath(link).exists() for link in links)


def test_the_rooms_are_the_layers_that_lint_proves() -> None:
    block = re.search(r"<!-- rooms.*?```\n(.*?)```", TEXT["docs/architecture.md"], re.DOTALL)
    assert block
    drawn = [re.split(r" {2,}", line)[0] for line in block[1].splitlines() if not line.startswith(" ")]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    assert drawn == next(
        c["layers"] for c in contracts if c["type"] == "layers" and c["containers"] == ["refinenet_edge"]
    )


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_is_there(page: str) -> None:
    targets = re.findall(r"(?:^|`)make ([a-z0-9-]+)", TEXT[page], re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def words_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every comment and docstring of a file."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and token.string.startswith('"""')):
                yield from enumerate(token.string.splitlines(), token.start[0])


def test_measurements_stand_in_their_page_and_in_no_docstring() -> None:
    units = r"\d ?(ms|µs|fps|[kM]B|mIoU|points of)\b"
    measured = re.compile(units + r"|\d times (as|the)|\d ?% (of|less|more|faster|slower)")
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in sorted((ROOT / "refinenet_edge").rglob("*.py"))
        for number, line in words_of(path)
        if measured.search(line)
    ]
    assert not found
