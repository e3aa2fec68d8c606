"""What every rewrite is: applied to a graph until it no longer fires, counted, and able to say why it did not.

A `PatternRewrite` is drawn; a `GraphRewrite` is a function of the whole graph.
"""

import inspect
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass
from onnxscript.rewriter import MatchingTracer, MatchResult, MatchStatus, RewriteRule, RewriteRuleSet

from refinenet_edge.graph import constant
from refinenet_edge.records import GraphCost

Weights = npt.NDArray[np.float32]
MAX_ROUNDS = 64
NEW_WEIGHTS = "new weights "
_serial = itertools.count()
SHARED = "a value inside the pattern has another user"


@dataclass(frozen=True)
class Firing:
    """What a rewrite did: how often it fired, reason -> places for where it was refused, the graph's cost after it."""

    name: str
    fired: int
    refused: dict[str, int]
    cost: GraphCost | None = None


class Rewrite(Protocol):
    """One exact rewrite of a graph, in place."""

    @property
    def name(self) -> str: ...

    def __call__(self, model: ir.Model) -> Firing: ...


class PatternRewrite:
    """A rewrite given by `pattern`, `check` and `rewrite`.

    `pattern(op, ...)` draws what is matched, as onnxscript does; `check(...)` refuses with a reason; `rewrite(op, ...)`
    gives the replacement. Both get, by name, the pattern's parameters as values and its `_outputs` as nodes.
    """

    name: str
    pattern: Callable[..., Any]
    check: Callable[..., MatchResult]
    rewrite: Callable[..., ir.Value]

    def __call__(self, model: ir.Model) -> Firing:
        rule = RewriteRule(
            self.pattern,
            lambda op, **matched: self.rewrite(op, **self._handed_over(matched)),
            lambda _context, **matched: self.check(**self._handed_over(matched)),
            name=self.name,
        )
        # an addition matches whichever way round its operands come
        rules = RewriteRuleSet([rule], commute=True)
        fired = 0
        for _ in range(MAX_ROUNDS):
            if not (count := rules.apply_to_model(model)):
                break
            fired += count
            RemoveUnusedNodesPass()(model)
            # the next round, and the next rewrite, judge new values by their shapes
            ShapeInferencePass()(model)
        reasons = _Reasons()
        rules.apply_to_model(model, tracer=reasons)
        return Firing(self.name, fired, dict(Counter(reason for reason, _ in reasons.places)))

    def _handed_over(self, matched: dict[str, ir.Value]) -> dict[str, ir.Value | ir.Node | None]:
        given = inspect.signature(self.pattern).parameters
        return {name: value if name in given else value.producer() for name, value in matched.items()}


class _Reasons(MatchingTracer):  # type: ignore[misc]
    """Collects why a matched pattern was refused; places that do not match are not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.places: set[tuple[str, ir.Node]] = set()  # a commuted pattern matches the same node twice

    def log(
        self, rule: RewriteRule, container: Any, node: ir.Node, match_result: MatchResult, status: MatchStatus
    ) -> None:
        if status == MatchStatus.CONDITION_FAILED:
            self.places.add((match_result.reason or "refused", node))
        elif "other use" in (match_result.reason or "") or "removed" in (match_result.reason or ""):
            self.places.add((SHARED, node))


@dataclass(frozen=True)
class GraphRewrite:
    """A rewrite by a function of the whole graph; `apply` returns how often it fired."""

    name: str
    apply: Callable[[ir.Model], int]

    def __call__(self, model: ir.Model) -> Firing:
        return Firing(self.name, self.apply(model), {})


def conv_inputs(node: ir.Node) -> tuple[Weights, Weights | None] | None:
    """A Conv's constant weights (OIHW) and bias, float32; None when one of them is computed, or not float32."""
    values = [value for value in node.inputs[1:] if value is not None]
    arrays = [constant(value) for value in values]
    if any(array is None or array.dtype != np.float32 for array in arrays):
        return None
    return arrays[0], arrays[1] if len(arrays) > 1 else None  # type: ignore[return-value]


def is_pointwise(node: ir.Node) -> bool:
    """A Conv that looks at one pixel, moves nothing and mixes all channels: 1x1, stride 1, no padding, one group."""
    weight = node.inputs[1].shape if node.inputs[1] is not None else None
    if weight is None or tuple(weight[2:]) != (1, 1):
        return False
    attributes = node.attributes
    return (
        all(stride == 1 for stride in attributes.get_ints("strides", ()))
        and not any(attributes.get_ints("pads", ()))
        and attributes.get_int("group", 1) == 1
        and attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    )


def crops(resize: ir.Node) -> bool:
    """Whether a Resize takes but a part of the map."""
    return bool(resize.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize")


def refused(reason: str, *where: ir.Value | ir.Node) -> MatchResult:
    """What `check` returns when the rewrite would be inexact or would not pay."""
    return MatchResult().fail(reason, list(where))


def conv(
    op: Any, x: ir.Value, like: ir.Node, kernel: npt.NDArray[Any], bias: npt.NDArray[Any] | None, suffix: str = ""
) -> ir.Value:
    """A replacement Conv named and shaped as `like`, with new float32 weights."""
    arrays = [kernel] if bias is None else [kernel, bias]
    new = (initializer(op, array.astype(np.float32)) for array in arrays)
    return op.Conv(x, *new, _name=f"{like.name}{suffix}", **like.attributes)


def initializer(op: Any, array: npt.NDArray[Any]) -> ir.Value:
    """A new constant for a replacement; `fuse` names it after its node in the end."""
    name = f"{NEW_WEIGHTS}{next(_serial)}"
    return op.initializer(ir.tensor(np.ascontiguousarray(array), name=name), name=name)
