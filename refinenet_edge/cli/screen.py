"""What is printed, and how: results on stdout, progress and complaints on stderr."""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from refinenet_edge.records import CHANNEL_MULTIPLE, ONE, Bilinear, Inference, Interpolation, MultiScale, Tiles
from refinenet_edge.urls import masked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from refinenet_edge.records import Budget, Manifest, TensorSpec


class Screen(Console):
    """A terminal that shows text as it is: much of it is from files, and nothing in it is markup or an escape code."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is to be written, in pieces; control characters are spelt out, the secrets of URLs masked."""
        if isinstance(renderable, str):
            renderable = masked(renderable)  # before it is broken into lines
        elif isinstance(renderable, Text) and masked(renderable.plain) != renderable.plain:
            renderable = Text(masked(renderable.plain), renderable.style)
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(spelt_out(segment.text), segment.style)


out = Screen()
err = Screen(stderr=True)


quiet = False  # whether only results and errors are to be seen
FIRST, EVERY = 10, 30  # seconds until a line tells of progress, and between two such lines


class Progressing(Progress):
    """A bar on a terminal; elsewhere a line for each step of long work, and one now and then within it."""

    def __init__(self, *columns: Any, lines: bool, **options: Any) -> None:
        super().__init__(*columns, **options)
        self._lines, self._began, self._said = lines, time.monotonic(), 0.0
        self._step, self._step_began = "", 0.0

    def begin(self, description: str) -> None:
        """Tell of one task from now on, by `step`, `phase` and `count`."""
        self._only = self.add_task(description, total=None)

    def step(self, name: str) -> None:
        """It is at the step `name`, whose length is not known."""
        self.update(self._only, description=name, total=None)

    def phase(self, name: str, done: int, count: int) -> None:
        """It is at the step `name`, `done` of `count` parts of which are done."""
        self.update(self._only, description=name, completed=done, total=count or None)

    def count(self, done: int, count: int) -> None:
        """So many of its parts are done."""
        self.update(self._only, completed=done, total=count)

    def update(self, task_id: TaskID, **fields: Any) -> None:
        super().update(task_id, **fields)
        self._tell(self._tasks[task_id])

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._tell(self._tasks[task_id])

    def _tell(self, task: Task) -> None:
        now = time.monotonic()
        new = task.description != self._step
        if new:
            self._step, self._step_began = task.description, now
        if not self._lines or now - self._began < FIRST or not (new or now - self._said >= EVERY):
            return
        self._said = now
        line = f"{now - self._began:.0f} s: {task.description}"
        if task.total:
            line += f", {task.completed:.0f} of {task.total:.0f}"
            if task.completed and not new:
                left = (now - self._step_began) * (task.total - task.completed) / task.completed
                line += f", about {left:.0f} s more"
        err.print(line, soft_wrap=True)


def progress_bar(description: str = "") -> Progressing:
    """Progress on stderr, of one task where it is described: what a command prints stays clean."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    bar = err.is_terminal and not quiet
    made = Progressing(*columns, lines=not bar and not quiet, console=err, transient=True, disable=not bar)
    if description:
        made.begin(description)
    return made


def print_cited(text: str) -> None:
    """A line that cites its sources, whose links open the place that is meant: with what is behind ? and #."""
    out.file.write(f"{spelt_out(masked(text, options=True))}\n")


def print_json(value: Any, cites: str = "") -> None:
    """A record, or plain values, on stdout; docs/commands.md has the keys. `cites`: that of lines for `print_cited`."""
    plain = dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
    out.file.write(json.dumps(_masked(plain, cites), indent=1, default=str) + "\n")


def _masked(value: Any, cites: str, options: bool = False) -> Any:
    if isinstance(value, dict):
        return {
            masked(key) if isinstance(key, str) else key: _masked(item, cites, options or key == cites)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_masked(item, cites, options) for item in value]
    return masked(str(value), options) if isinstance(value, (str, Path)) else value


def numbers(*headings: str) -> list[Column]:
    """Columns of numbers, which are never broken."""
    return [Column(heading, no_wrap=True) for heading in headings]


def spelt_out(text: str) -> str:
    """`text` with every character that is not printed, but for ends of lines, as its escape sequence in Python."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def styled(words: str, style: str, rest: str) -> Text:
    """`words` in a style, and the rest as it is."""
    return Text.assemble((words, style), rest)


def print_next(command: str) -> None:
    """The command to go on with, on a line of its own."""
    out.print(Text.assemble("next: ", (command, "bold")), soft_wrap=True)


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def folding(*headings: str) -> list[Column]:
    """Columns that break a long name, where others would cut it."""
    return [Column(heading, overflow="fold") for heading in headings]


def upsampling(how: Interpolation) -> str:
    return f"{how.kind}, align_corners={how.align_corners}" if isinstance(how, Bilinear) else how.kind


def passes(inference: Inference) -> str:
    """What is to be said of it after a comma; nothing of a whole frame."""
    if isinstance(inference, MultiScale):
        scales = ", ".join(f"{scale:g}" for scale in inference.scales)
        first = ", short side {} to {}".format(*inference.short_side) if inference.short_side else ""
        return f"{first}, scales {scales}" + (" and mirrored" if inference.flip else "")
    if isinstance(inference, Tiles):
        return f", tiles of {inference.size[0]}x{inference.size[1]} that overlap by {inference.overlap}"
    return ""


def _lies(manifest: Manifest, spec: TensorSpec) -> str:
    """How an end of a plan lies in memory, where other tools would not expect it."""
    channels = spec.shape[1] if len(spec.shape) == 4 else 0
    if not manifest.backend.startswith("tensorrt") or spec.dtype != "float16" or not isinstance(channels, int):
        return ""
    padded = channels and channels % CHANNEL_MULTIPLE == 0
    return ", channels last and padded with zeros (--io plain: as in the ONNX)" if padded else ""


def manifest_table(manifest: Manifest, title: str) -> Table:
    table = Table(title=title, show_header=False)

    row = table.add_row
    row("model", f"{manifest.model}, weights: {manifest.checkpoint}")
    row("classes", f"{len(manifest.labels.names)} ({manifest.labels.name})")
    for kind, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        for spec in specs:
            row(kind, f"{spec.name} {spec.dtype} {'x'.join(map(str, spec.shape))}{_lies(manifest, spec)}")
    if (batch := manifest.batch) != ONE:
        few = f"{batch.most}" if batch.fixed else f"{batch.least} to {batch.most}, at best {batch.best}"
        row("frames at once", few)
    row("precision", manifest.precision)
    row("built for", manifest.backend)
    row("preprocessing", manifest.frame.preprocessing)
    row("upsampling", upsampling(manifest.frame.upsample))
    row("rewrites", ", ".join(f"{name} {fired}" for name, fired in manifest.rewrites.items()))
    for name, cost in (("traced", manifest.traced_cost), ("fused", manifest.fused_cost)):
        if cost is not None:
            row(f"cost, {name}", f"{cost.macs / 1e9:.2f} GMAC, {cost.bytes / 1e6:.0f} MB moved, {cost.nodes} nodes")
    for p in manifest.parity:
        agreement = f"{100 * p.label_agreement:.2f} % same labels"
        row(f"parity, {p.stage}", f"{p.frame} by {p.backend}: error {p.relative_error:.1e}, {agreement}")
    if budget := manifest.budget:
        unit = "points of mIoU" if budget.loss == "miou" else "% of the labels"
        lost = f"{budget.reached:.3f} {unit} lost on {budget.judge}, {budget.allowed:g} allowed"
        row("budget", f"{lost}; {len(budget.kept)} layers back in float, {budget.full:.3f} lost without")
    if speed := manifest.speed:
        row("speed", f"{speed.times:.2f} ({speed.low:.2f}..{speed.high:.2f}) times as fast as {speed.than}")
    if manifest.engine is None and manifest.backend.startswith("tensorrt"):
        row(
            "engine",
            f"none yet: refinenet-edge plan {shlex.quote(title)} --backend {manifest.backend}, where it is to run",
        )
    if engine := manifest.engine:
        row("engine", f"{engine.flavour} {engine.version} for {', '.join(engine.targets)}")
        sizes = ("activations", engine.activation_bytes), ("weights", engine.weight_bytes)
        said = [f"{value / 1e6:.1f} MB {name}" for name, value in sizes if value is not None]
        row("", ", ".join([f"{engine.layers} layers", *said]))
    for name, digest in manifest.files.items():
        row("file", f"{name} {digest.size / 1e6:.1f} MB, sha256 {digest.sha256[:12]}")
    row("built by", manifest.command)
    return table


def harms_table(budget: Budget) -> Table:
    """The worst layers, what was decided, and the rest in groups that were not told apart."""
    title = f"what quantising harms, in {budget.runs} runs; {budget.judged} candidates judged with {budget.backend}"
    table = Table("layer", "error of the logits", "decision", title=title)
    for harm in budget.harms:
        names = harm.layers[0] if len(harm.layers) == 1 else f"{len(harm.layers)} from {harm.layers[0]} on"
        table.add_row(names, f"{harm.harm:.1e}", "back in float" if harm.kept else "quantised")
    return table
