"""Which nodes of a graph DLA would run, which would fall back to the GPU and why, before anything is built.

This is advice from documents (rules.py): no plan was ever built for DLA with this toolkit, and TensorRT has the last
word (`trtexec --useDLACore=0 --allowGPUFallback` prints it). Nodes that depend on the image are counted; the others are
folded into the plan, and constants are taken as the build leaves them, folded. A node that may fall back counts as one
that does.

onnx-ir is needed, and no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from refinenet_edge.dla.rules import Rule, mark_activations, refusals
from refinenet_edge.graph import macs_of
from refinenet_edge.onnx_import.bundled import impossible_nodes

OLD, NEW = "TensorRT 10.3 to 10.7", "TensorRT 11.4.1 and later"
WHERE = {  # where NVIDIA says that there is DLA: its migration pages for TensorRT 11.3 and 11.4.1, its DLA FAQ
    OLD: "JetPack 6 from 6.1 on, on AGX Orin and Orin NX",
    NEW: "JetPack 7.2.2 and later, on AGX Orin",
}
NOWHERE = (  # reports: no core and no compiler on JetPack 7.2; two cores there
    "There is none on Orin Nano and Thor, and by NVIDIA's pages none in TensorRT 10.8 to 11.3, so in JetPack 7.0 to "
    "7.2.1; of 10.16 reports disagree. What a board has: refinenet-edge doctor."
)


@dataclass(frozen=True)
class Reason:
    """Why `nodes` fall back, on which TensorRT (`where`: keys of `WHERE`)."""

    reason: str
    source: str
    certain: bool
    where: tuple[str, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Coverage:
    """Where a graph runs on one TensorRT. `macs` are those of convolutions and matrix products, None where a shape is
    free; `switches` is the least number of changes between DLA and GPU, in any order that the data allow.
    """

    where: str
    nodes: int
    on_dla: int
    macs: int | None
    macs_on_dla: int | None
    switches: int


@dataclass(frozen=True)
class DlaReport:
    """What `dla-check` says: reasons, those with most nodes first, and a placement for each of `WHERE`."""

    reasons: tuple[Reason, ...]
    placements: tuple[Coverage, ...]


@impossible_nodes()
def check(model: ir.Model) -> DlaReport:
    """Ask `rules` of every node of `model` that depends on the image. Raises `GraphError`."""
    places = {node: place for place, node in enumerate(model.graph)}
    nodes = {node: node.name or f"{node.op_type} {places[node]}" for node in mark_activations(model.graph)}
    refused = {where: {node: refusals(node, where == NEW) for node in nodes} for where in WHERE}
    placements = tuple(_placement(where, list(nodes), rules) for where, rules in refused.items())
    return DlaReport(_reasons(nodes, refused), placements)


def _reasons(
    nodes: Mapping[ir.Node, str], refused: Mapping[str, Mapping[ir.Node, Sequence[Rule]]]
) -> tuple[Reason, ...]:
    rules = dict.fromkeys(rule for of_nodes in refused.values() for rules in of_nodes.values() for rule in rules)
    reasons = []
    for rule in rules:
        where = tuple(where for where, of_nodes in refused.items() if any(rule in rules for rules in of_nodes.values()))
        names = tuple(name for node, name in nodes.items() if rule in refused[where[0]][node])
        reasons.append(Reason(rule.reason, rule.source, rule.certain, where, names))
    return tuple(sorted(reasons, key=lambda reason: -len(reason.nodes)))


def _placement(where: str, nodes: Sequence[ir.Node], refused: Mapping[ir.Node, Sequence[Rule]]) -> Coverage:
    on_dla = [node for node in nodes if not refused[node]]
    switches = min(_switches(nodes, set(on_dla), first) for first in (True, False))
    return Coverage(where, len(nodes), len(on_dla), _macs(nodes), _macs(on_dla), switches)


def _switches(nodes: Sequence[ir.Node], on_dla: set[ir.Node], dla: bool) -> int:
    """How often the device changes when each runs all it can before the other goes on; `dla`: which begins."""
    turn: dict[ir.Node, int] = {}  # in which it runs: those of the first device are even
    for node in nodes:  # in the graph's order: what a node needs is before it
        after = max((turn[other] for other in node.predecessors() if other in turn), default=0)
        turn[node] = after + ((after % 2 == 0) != ((node in on_dla) == dla))
    turns = set(turn.values())
    return max(turns) - min(turns) if turns else 0


def _macs(nodes: Sequence[ir.Node]) -> int | None:
    """The multiply-accumulates of convolutions and matrix products; None when a shape is free."""
    counts = [macs_of(node) for node in nodes]
    return None if None in counts else sum(count for count in counts if count is not None)
