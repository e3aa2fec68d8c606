"""Put the results of the suites into docs/results.md, between its markers.

<!-- results: benchmarks/results/DEVICE/A.json benchmarks/results/DEVICE/B.json -->
what `refinenet-edge report ... --markdown` makes of them
<!-- end of results -->

python benchmarks/results_page.py
"""

from __future__ import annotations

import re
from pathlib import Path

from refinenet_edge.bench import read_run
from refinenet_edge.errors import InputError
from refinenet_edge.files import write_atomically
from refinenet_edge.report import markdown

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
BLOCK = re.compile(r"(<!-- results: (?P<files>[^>]*?) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def filled(text: str) -> str:
    """`text` with every block as its results are now."""

    def block(found: re.Match[str]) -> str:
        runs = [(Path(name).stem, read_run(ROOT / name)) for name in found["files"].split()]
        return f"{found[1]}\n{markdown(runs).rstrip()}\n\n{found[3]}"

    return BLOCK.sub(block, text)


def main() -> None:
    """Write the page again."""
    write_atomically(PAGE, filled(PAGE.read_text("utf-8")).encode(), InputError)


if __name__ == "__main__":
    main()
