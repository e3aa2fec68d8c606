"""The pages for contributors name rooms and files that are there, and draw the arrows that lint proves."""

from __future__ import annotations

import re
import sys
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
    built = ("build/arm",)
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
