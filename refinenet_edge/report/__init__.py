"""Benchmark results -> pages that people read: one HTML file that needs nothing else, and Markdown for a README."""

from collections.abc import Sequence
from pathlib import Path

from refinenet_edge.bench.record import read_run
from refinenet_edge.errors import InputError, MissingExtra
from refinenet_edge.files import write_atomically

try:
    import jinja2 as _jinja2  # noqa: F401
    import matplotlib as _matplotlib  # noqa: F401
except ModuleNotFoundError as exc:
    raise MissingExtra(f"{exc.name} is not installed: pip install 'refinenet-edge[report]'") from exc

from refinenet_edge.report import readme
from refinenet_edge.report.html import page
from refinenet_edge.report.readme import markdown

__all__ = ["markdown", "page", "write_report"]


def write_report(results: Sequence[Path], out: Path, markdown: Path | None = None) -> None:
    """Write the page of `results`, in that order, to `out`, and its tables to `markdown`.

    Each file is written whole or not at all, and none before both are made. Raises `InputError`.
    """
    if not results:
        raise InputError("a report is of one result or more; measure with refinenet-edge bench BUNDLE -o result.json")
    runs = [(str(path), read_run(path)) for path in results]
    files = {out: page(runs)}
    if markdown is not None:
        files[markdown] = readme.markdown(runs)
    for path, text in files.items():
        # JSON may hold half a surrogate pair, UTF-8 may not
        write_atomically(path, text.encode("utf-8", "replace"), InputError)
