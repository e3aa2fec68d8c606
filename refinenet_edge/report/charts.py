"""The plots of a page, SVG that takes the page's font and text colour.

Subjects are named by their numbers only: what a record calls them could be mathematics, markup or in no font.
"""

import io
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter

# of the subjects in turn, in the text around the plots too: each at least 3:1 on the light and on the dark page, and
# white at least 4.5:1 on each
COLOURS = ("#2f74b8", "#b45f1e", "#23805f", "#9350a0", "#b8455e", "#56707f", "#6b7d22", "#8a6a1f")
GREY = "#8b929c"
PAGE = "#fefefe"  # becomes the page's own colour
WIDTH = 4.4  # inches: text of 9 points is then readable on a phone
LABEL = 0.3  # of a decade: what a label of an axis takes
POINT = 1.0  # of mIoU: the least that an axis spans, so that a hundredth looks like one
SPREAD = 5.0  # times the least: from here on a scale of times is logarithmic
STYLE: Any = {  # matplotlib's own type of it lists every key
    "svg.fonttype": "none",
    "svg.hashsalt": "refinenet-edge",
    "font.size": 9,
    "axes.edgecolor": GREY,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "grid.alpha": 0.3,
    "grid.color": GREY,
    # text stays black, which matplotlib leaves out: it is then the page's
    "xtick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.color": GREY,
    "ytick.labelcolor": "black",
}


def percentiles(name: str, samples: Mapping[int, Sequence[float]]) -> Markup:
    """Time by percentile, the tail stretched: 90 to 99 is as wide as 0 to 90. `samples`: key -> ms."""

    def paint(figure: Figure) -> None:
        axes = _axes(figure, right=0.88, bottom=0.1)
        ends = {}
        for key, ms in samples.items():
            slower = np.linspace(0, math.log10(max(2, len(ms))), 120)  # -log10 of the share of runs beyond
            curve = np.percentile(ms, 100 * (1 - 10**-slower))
            axes.plot(slower, curve, color=colour(key))
            ends[key] = float(slower[-1]), float(curve[-1])
        marks = [("min", 1.0), ("p50", 0.5), ("p90", 0.1), ("p99", 0.01), ("p99.9", 1e-3), ("p99.99", 1e-4)]
        longest = max(x for x, _ in ends.values())
        shown = {label: -math.log10(share) for label, share in marks if -math.log10(share) <= longest}
        if longest - max(shown.values()) > LABEL:  # the curves go on beyond the last mark: to where is said
            shown[f"p{100 * (1 - 10**-longest):.3g}"] = longest
        axes.set_xticks(list(shown.values()), list(shown))
        axes.set_ylabel("ms")
        _scale(axes, "y", [ms for values in samples.values() for ms in np.percentile(values, [0, 100])])
        for key, height in _apart({key: _within(axes, end)[1] for key, end in ends.items()}, 0.09).items():
            _key(axes, key, ends[key], (1.08, height), **_leader(key))

    return _drawn(name, "Time by percentile", 3.0, paint)


def histogram(name: str, samples: Mapping[int, Sequence[float]]) -> Markup:
    """How often a run took how long, a scale of its own for each; lines at p50 and p99."""
    height = 0.4 + 0.65 * len(samples)

    def paint(figure: Figure) -> None:
        spacing = {"left": 0.1, "right": 0.97, "bottom": 0.4 / height, "top": 1 - 0.05 / height, "hspace": 0.9}
        panels = figure.subplots(len(samples), squeeze=False, gridspec_kw=spacing)[:, 0]
        for axes, (key, ms) in zip(panels, samples.items(), strict=True):
            axes.hist(ms, bins=int(np.clip(2 * math.sqrt(len(ms)), 8, 48)), color=colour(key), alpha=0.8)
            for percentile, style in ((50, "-"), (99, ":")):
                axes.axvline(float(np.percentile(ms, percentile)), color=GREY, linestyle=style)
            axes.grid(visible=False)
            axes.spines.left.set_visible(False)
            axes.set_yticks([])
            axes.xaxis.set_major_locator(MaxNLocator(6))
            _key(axes, key, (0, 0), (-0.06, 0.4))
        panels[-1].set_xlabel("ms")

    return _drawn(name, "Histogram of the times of each subject", height, paint)


def pareto(name: str, points: Mapping[int, tuple[float, float]], best: Collection[int]) -> Markup:
    """`points`: key -> (ms, mIoU); those in `best` are filled and joined, the others are rings."""

    def paint(figure: Figure) -> None:
        axes = _axes(figure, right=0.97, bottom=0.15)
        axes.step(*zip(*sorted(points[key] for key in best), strict=True), where="post", color=GREY, linewidth=1)
        times, miou = zip(*points.values(), strict=True)
        axes.scatter(times, miou, s=6, color=GREY)
        axes.margins(0.15)
        axes.set_xlabel("p50, ms")
        axes.set_ylabel("mIoU, %")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        middle, half = (max(miou) + min(miou)) / 2, 0.65 * max(POINT, max(miou) - min(miou))
        axes.set_ylim(middle - half, middle + half)
        _scale(axes, "x", times)
        taken: list[tuple[float, float]] = []
        for key in sorted(points, key=lambda key: key not in best):
            x, y = _within(axes, points[key])
            before = sum(abs(x - there[0]) < 0.06 and abs(y - there[1]) < 0.08 for there in taken)
            taken.append((x, y))
            moved = {"textcoords": "offset points"} | (_leader(key) if before else {})
            _key(axes, key, points[key], (0, -17 * before), filled=key in best, **moved)

    return _drawn(name, "Accuracy beside time", 3.0, paint)


def colour(key: int) -> str:
    return COLOURS[(key - 1) % len(COLOURS)]


def _drawn(name: str, label: str, height: float, paint: Callable[[Figure], None]) -> Markup:
    """What `paint` puts into a figure of `height` inches, as an <svg> for a page; `name` is like no other on it."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, height))
        paint(figure)
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    box, drawing = re.split(r'<svg [^>]*?(viewBox="[^"]+")[^>]*>', buffer.getvalue())[1:]
    # every figure numbers its parts from one, and an id is of a whole page
    drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", drawing).replace(PAGE, "var(--page)")
    return Markup(f'<svg {box} role="img" aria-label="{label}">{drawing}')


def _axes(figure: Figure, right: float, bottom: float) -> Axes:
    """The only axes of a figure, with room for their labels."""
    return figure.subplots(gridspec_kw={"left": 0.16, "right": right, "bottom": bottom, "top": 0.97})


def _key(
    axes: Axes, key: int, at: tuple[float, float], text_at: tuple[float, float], filled: bool = True, **options: Any
) -> None:
    """The number of a subject in a circle at `text_at`, by default in fractions of the axes; `at` is what it is of."""
    axes.annotate(
        str(key),
        at,
        text_at,
        ha="center",
        va="center",
        color="white" if filled else colour(key),
        weight="bold",
        size=8,
        bbox={"boxstyle": "circle,pad=0.25", "fc": colour(key) if filled else PAGE, "ec": colour(key)},
        annotation_clip=False,
        **({"textcoords": "axes fraction"} | options),
    )


def _leader(key: int) -> dict[str, Any]:
    """The option for a line from a subject's number to what it is of."""
    return {"arrowprops": {"arrowstyle": "-", "color": colour(key), "lw": 0.7}}


def _within(axes: Axes, point: tuple[float, float]) -> tuple[float, float]:
    """`point` of the data in fractions of the axes."""
    x, y = (axes.transScale + axes.transLimits).transform(point)
    return float(x), float(y)


def _scale(axes: Axes, which: str, ms: Sequence[float]) -> None:
    """Logarithmic where `ms` lie far apart; figures are written out in both."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    if max(ms) > SPREAD * min(ms):
        axes.set(**{f"{which}scale": "log"})
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(ScalarFormatter(useOffset=False))


def _apart(heights: Mapping[int, float], gap: float) -> dict[int, float]:
    """`heights` in [0, 1], moved as little as it takes upwards, then down from the top, to lie `gap` apart."""
    order = sorted(heights, key=lambda key: heights[key])
    placed = [heights[key] for key in order]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    ceiling = 1.0
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return dict(zip(order, placed, strict=True))
