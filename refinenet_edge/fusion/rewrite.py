"""What every rewrite is: applied to a graph until it no longer fires, counted, and able to say why it did not.

A rewrite of ours is a `PatternRewrite`: `pattern` draws what it matches, `check` refuses with a reason, `rewrite` gives
the replacement. `LibraryRewrite` runs one of onnxscript's or onnx-ir's own.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.rewriter import MatchingTracer, MatchResult, MatchStatus, RewriteRule, RewriteRuleClassBase, RewriteRuleSet

Weights = npt.NDArray[np.float32]
MAX_ROUNDS = 64
NEW_WEIGHTS = "new weights "
_serial = itertools.count()
SHARED = "a value inside the pattern has another user"


@dataclass(frozen=True)
class Firing:
    """What a rewrite did: how often it fired, and reason -> places for where it matched and was refused."""

    name: str
    fired: int
    refused: dict[str, int]


class Rewrite(Protocol):
    """One exact rewrite of a graph, in place."""

    @property
    def name(self) -> str: ...

    def __call__(self, model: ir.Model) -> Firing: ...


class PatternRewrite(RewriteRuleClassBase):  # type: ignore[misc]
    """A rewrite given by `pattern`, `check` and `rewrite`, as onnxscript defines them."""

    name: str

    def __init__(self) -> None:
        super().__init__(self.name)

    def __call__(self, model: ir.Model) -> Firing:
        rules = RewriteRuleSet([type(self).rule()])
        fired = 0
        for _ in range(MAX_ROUNDS):
            if not (count := rules.apply_to_model(model)):
                break
            fired += count
        if fired:
            RemoveUnusedNodesPass()(model)
        reasons = _Reasons()
        rules.apply_to_model(model, tracer=reasons)
        return Firing(self.name, fired, dict(reasons.counts))


class _Reasons(MatchingTracer):  # type: ignore[misc]
    """Collects why a matched pattern was refused; places that do not match are not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def log(self, rule: RewriteRule, container: Any, node: ir.Node, match_result: MatchResult, status: MatchStatus) -> None:
        if status == MatchStatus.CONDITION_FAILED:
            self.counts[match_result.reason or "refused"] += 1
        elif "other use" in (match_result.reason or "") or "removed" in (match_result.reason or ""):
            self.counts[SHARED] += 1


@dataclass(frozen=True)
class LibraryRewrite:
    """A rewrite that onnxscript or onnx-ir already has; `apply` returns how often it fired."""

    name: str
    apply: Callable[[ir.Model], int]

    def __call__(self, model: ir.Model) -> Firing:
        return Firing(self.name, self.apply(model), {})


def conv_inputs(node: ir.Node) -> tuple[Weights, Weights | None] | None:
    """A Conv's constant weights (OIHW) and bias, float32; None when one of them is computed."""
    values = [value for value in node.inputs[1:] if value is not None]
    arrays = [constant(value) for value in values]
    if any(array is None for array in arrays):
        return None
    return arrays[0], arrays[1] if len(arrays) > 1 else None  # type: ignore[return-value]


def constant(value: ir.Value | None) -> Weights | None:
    """The array a value always has; None when it is computed or can be fed."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def is_pointwise(node: ir.Node) -> bool:
    """A Conv that looks at one pixel, moves nothing and mixes all channels: 1x1, stride 1, no padding, one group."""
    weight = node.inputs[1].shape if node.inputs[1] is not None else None
    if weight is None or tuple(weight[2:]) != (1, 1):
        return False
    return (
        all(stride == 1 for stride in _ints(node, "strides"))
        and not any(_ints(node, "pads"))
        and node.attributes.get_int("group", 1) == 1
        and node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    )


def _ints(node: ir.Node, name: str) -> Sequence[int]:
    return node.attributes.get_ints(name, ())


def refused(reason: str, *where: ir.Value | ir.Node) -> MatchResult:
    """What `check` returns when the rewrite would be inexact or would not pay."""
    return MatchResult().fail(reason, list(where))


def conv(op: Any, x: ir.Value, like: ir.Node, kernel: npt.NDArray[Any], bias: npt.NDArray[Any] | None) -> ir.Value:
    """A replacement Conv named and shaped as `like`, with new weights."""
    arrays = [kernel] if bias is None else [kernel, bias]
    value: ir.Value = op.Conv(x, *(_initializer(op, array) for array in arrays), _name=like.name, **like.attributes)
    return value


def _initializer(op: Any, array: npt.NDArray[Any]) -> ir.Value:
    # unique while rewriting; `fuse` names weights after their nodes in the end
    name = f"{NEW_WEIGHTS}{next(_serial)}"
    value: ir.Value = op.initializer(ir.tensor(np.ascontiguousarray(array, np.float32), name=name), name=name)
    return value
