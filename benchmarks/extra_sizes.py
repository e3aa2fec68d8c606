"""How much each extra brings: the packages of this environment that it needs, and the bytes of their files.

    python benchmarks/extra_sizes.py      -> benchmarks/results/<cpu>/extra_sizes.json, of which README has the MB

What no package here has (Ray) is left out. Packages that extras share count in each of them.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import click
import tomllib
from machine import save
from packaging.requirements import Requirement

NAME = "refinenet-edge"
PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]


def requirements(name: str, extras: frozenset[str]) -> list[str]:
    """What a package says it needs; ours by pyproject.toml, which may be newer than what is installed."""
    if name != NAME:
        return metadata.requires(name) or []
    ours = PROJECT["optional-dependencies"]
    return [*PROJECT["dependencies"], *(text for extra in extras for text in ours[extra])]


def needed(name: str, extras: frozenset[str], seen: dict[tuple[str, frozenset[str]], None]) -> None:
    """Add what `name` with `extras` needs to `seen`. Raises `PackageNotFoundError` for what is not installed."""
    if (name, extras) in seen:
        return
    seen[name, extras] = None
    for text in requirements(name, extras):
        requirement = Requirement(text)
        asked = [{"extra": extra} for extra in extras] or [{"extra": ""}]
        if requirement.marker is None or any(map(requirement.marker.evaluate, asked)):
            needed(requirement.name.lower(), frozenset(requirement.extras), seen)


def size(name: str) -> int:
    """Bytes of an installed package's files."""
    files = metadata.files(name) or []
    return sum(path.stat().st_size for path in {Path(str(file.locate())) for file in files} if path.is_file())


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="[benchmarks/results/<cpu>/extra_sizes.json]")
def main(out: Path | None) -> None:
    record = {}
    for extra in PROJECT["optional-dependencies"]:
        seen: dict[tuple[str, frozenset[str]], None] = {}
        try:
            needed(NAME, frozenset([extra]), seen)
        except metadata.PackageNotFoundError as exc:
            print(f"{extra}: {exc.name} is not installed here")
            continue
        packages = {name for name, _ in seen} - {NAME}
        record[extra] = {"megabytes": round(sum(map(size, packages)) / 1e6), "packages": len(packages)}
        print(extra, record[extra])
    print(save(record, "extra_sizes.json", out))


if __name__ == "__main__":
    main()
