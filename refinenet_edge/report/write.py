"""Result files -> the report's files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from refinenet_edge.bench.record import read_run
from refinenet_edge.errors import InputError
from refinenet_edge.files import write_atomically
from refinenet_edge.report.html import page
from refinenet_edge.report.readme import markdown as as_markdown


def write_report(results: Sequence[Path], out: Path, markdown: Path | None = None) -> None:
    """Write the page of `results`, in that order, to `out`, and its tables to `markdown`.

    Each file is written whole or not at all, and none before both are made. Raises `InputError`.
    """
    if not results:
        raise InputError("a report is of one result or more; measure with refinenet-edge bench BUNDLE -o result.json")
    runs = [(str(path), read_run(path)) for path in results]
    files = {out: page(runs)}
    if markdown is not None:
        files[markdown] = as_markdown(runs)
    for path, text in files.items():
        # JSON may hold half a surrogate pair, UTF-8 may not
        write_atomically(path, text.encode("utf-8", "replace"), InputError)
