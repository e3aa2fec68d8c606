"""Benchmark results -> pages that people read: one HTML file that needs nothing else, and Markdown for a README."""

from refinenet_edge.errors import MissingExtra

try:
    import jinja2 as _jinja2  # noqa: F401
    import matplotlib as _matplotlib  # noqa: F401
except ModuleNotFoundError as exc:
    raise MissingExtra(f"{exc.name} is not installed: pip install 'refinenet-edge[report]'") from exc

from refinenet_edge.report.html import page
from refinenet_edge.report.readme import markdown
from refinenet_edge.report.write import write_report

__all__ = ["markdown", "page", "write_report"]
