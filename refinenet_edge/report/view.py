"""What a report shows of a run: which rows of a case are worth having, stages, blocks."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from refinenet_edge.bench.record import STAGES, BenchmarkRun, Layer, Measurement, Subject
from refinenet_edge.bench.verdicts import Row


@dataclass(frozen=True)
class Block:
    """A block of the model as the backend ran it: its layers, the most costly first, `ms` together."""

    name: str
    ms: float
    layers: tuple[Layer, ...]


def fastest(rows: Sequence[Row]) -> Row:
    return min(rows, key=lambda row: row.times.p50)


def judges(rows: Sequence[Row]) -> tuple[str, ...]:
    """What mIoU was judged on, each once; () where it was not asked."""
    return tuple(dict.fromkeys(row.subject.judge or "" for row in rows if row.subject.miou is not None))


def undominated(rows: Sequence[Row]) -> frozenset[int]:
    """Keys of the rows that no other row beats: none is as fast and as accurate, and better in one of the two."""
    points = {row.key: (-row.times.p50, row.subject.miou) for row in rows if row.subject.miou is not None}
    return frozenset(
        key
        for key, (speed, miou) in points.items()
        if not any(s >= speed and m >= miou and (s, m) != (speed, miou) for s, m in points.values())
    )


def stages(measurement: Measurement) -> dict[str, float]:
    """Stage -> median ms, in the order in which a frame passes them."""
    known = [stage for stage in STAGES if stage in measurement.stages]
    order = [*known, *(stage for stage in measurement.stages if stage not in STAGES)]
    return {stage: statistics.median(measurement.stages[stage]) for stage in order if measurement.stages[stage]}


def blocks(run: BenchmarkRun, subject: Subject) -> tuple[Block, ...]:
    """Blocks of `subject`, the most costly first; () where it has no profile."""
    by_block: dict[str, list[Layer]] = {}
    for layer in run.layers:
        if layer.subject == subject.name:
            by_block.setdefault(layer.block, []).append(layer)
    made = [
        Block(name, sum(layer.ms for layer in layers), tuple(sorted(layers, key=lambda layer: -layer.ms)))
        for name, layers in by_block.items()
    ]
    return tuple(sorted(made, key=lambda block: -block.ms))
