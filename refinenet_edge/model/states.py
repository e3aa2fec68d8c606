"""Which weights are in what somebody saved: a state_dict out of its wrappers, without what trainers put around names.

Of a "model" and its "ema" the average is taken, or what `state_key` says; which was, is said. Dropped are the prefixes
of DataParallel (`module.`), Lightning (`model.`) and torch.compile (`_orig_mod.`), the counters of AveragedModel and
thop, and arguments beside the weights.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from refinenet_edge.errors import CheckpointError
from refinenet_edge.model.pickled import Other

logger = logging.getLogger(__name__)

# keys that hold a state, best first; an average is what its trainer means to use
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "swa_model")
PLAIN = ("segmenter", "model", "state_dict", "model_state_dict", "net", "network", "weights", "module")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "segmenter.")
COUNTERS = ("n_averaged", "total_ops", "total_params")
PLAIN_OBJECTS = ("argparse.", "numpy.")  # what trainers keep beside weights
_TENSORS = "{key: value for key, value in model.items() if torch.is_tensor(value)}"
MAX_WRAPPERS = 8  # one inside the other
SHOWN_KEYS, MAX_SHOWN = 4, 160  # keys in an error, and characters of each

State = dict[str, Tensor]


def find_state(raw: object, path: Path, known: str, state_key: str | None = None) -> State:
    """The tensors by name in `raw`, what `path` holds. Raises `CheckpointError`, which ends with what is `known`."""
    states = _states(raw)
    if not states:
        raise CheckpointError(_nothing(raw, path, known))
    name = _chosen(states, path, state_key)
    beside = {key: value for key, value in states[name].items() if not isinstance(value, Tensor)}
    objects = [value.name for value in beside.values() if isinstance(value, Other)]
    if strange := [kind for kind in objects if not kind.startswith(PLAIN_OBJECTS)]:
        raise CheckpointError(
            f"{path} holds more than weights ({strange[0][:80]}), and code in model files is never run here; "
            + _save(path, "".join(f"[{key!r}]" for key in name.split(".") if key), _TENSORS)
        )
    if odd := [str(key) for key in beside if "." in str(key)]:
        raise CheckpointError(f"{path}: {listed(odd)} are no tensors; {known}")
    state = {str(key): value for key, value in states[name].items() if isinstance(value, Tensor)}
    return _bare({key: value for key, value in state.items() if key.rpartition(".")[2] not in COUNTERS}, path)


def _states(raw: object) -> dict[str, Mapping[Any, Any]]:
    """Where in `raw` there are weights -> the mapping: keys in one another, joined by dots."""
    found: dict[str, Mapping[Any, Any]] = {}
    seen: set[int] = set()
    pending: deque[tuple[str, object, int]] = deque([("", raw, 0)])
    while pending:
        name, inner, depth = pending.popleft()
        if not isinstance(inner, Mapping) or id(inner) in seen or depth > MAX_WRAPPERS:
            continue
        seen.add(id(inner))  # a wrapper may hold itself
        # an optimiser's states are tensors of weights' shapes, under other names
        if any(isinstance(value, Tensor) and str(key).endswith(".weight") for key, value in inner.items()):
            found[name] = inner
            continue
        pending += [
            (f"{name}.{key}" if name else key, value, depth + 1)
            for key, value in inner.items()
            if isinstance(key, str) and len(key) <= MAX_SHOWN and not key.startswith("optim")
        ]
    return found


def _chosen(states: Mapping[str, object], path: Path, state_key: str | None) -> str:
    """The one of `states` to take."""
    there = ", ".join(name[:MAX_SHOWN] for name in list(states)[:SHOWN_KEYS])
    wanted = list(states)
    if state_key is not None:
        wanted = [name for name in states if name == state_key or name.startswith(f"{state_key}.")]
        if not wanted:
            has = f"there are {there}" if there else "it holds one network's only: leave it out"
            raise CheckpointError(f"{path} has no weights under --state-key {state_key}; {has}")

    def rank(name: str) -> int:
        order = (*AVERAGED, *PLAIN)
        return min((order.index(part) for part in name.split(".") if part in order), default=len(order))

    wanted.sort(key=rank)
    if len(wanted) > 1 and rank(wanted[0]) == rank(wanted[1]):
        raise CheckpointError(f"{path} holds several networks' weights: say which with --state-key, one of {there}")
    if len(wanted) > 1:
        logger.warning(
            "%s holds several weights (%s): those of %s are taken; for others give --state-key %s",
            *(path, there, wanted[0], wanted[1]),
        )
    return wanted[0]


def _bare(state: State, path: Path) -> State:
    """`state` without what trainers put before every name."""
    while prefix := next((prefix for prefix in PREFIXES if any(key.startswith(prefix) for key in state)), None):
        other = [key for key in state if not key.startswith(prefix)]
        if other:  # a loss with weights, a metric
            logger.warning("%s: only the weights under %s are taken, not %s", path, prefix, listed(other))
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return state


def _nothing(raw: object, path: Path, known: str) -> str:
    """What to say of a file without weights by name."""
    inner = {"": raw, **{f"[{key!r}]": value for key, value in raw.items()}} if isinstance(raw, Mapping) else {"": raw}
    for where, value in inner.items():
        if isinstance(value, Other) and not value.name.startswith(PLAIN_OBJECTS):
            return (
                f"{path}{where[:80]} is an object of {value.name[:80]} with its code, which is never run here; "
                + _save(path, where[:80])
            )
    if isinstance(raw, Mapping) and raw:
        return f"{path} holds no weights by name; its first keys are {listed([str(key) for key in raw])}; {known}"
    return f"{path} holds no weights by name but {type(raw).__name__}; {known}"


def _save(path: Path, where: str, state: str = "model.state_dict()") -> str:
    """The Python that saves the `state` of what is at `where` in a file."""
    return (
        "where you trust it, run this in Python and build from weights.pth: import torch; "
        f"model = torch.load({str(path)!r}, map_location='cpu', weights_only=False){where}; "
        f"torch.save({state}, 'weights.pth')"
    )


def listed(keys: list[str]) -> str:
    """A few of `keys`, and how many more there are."""
    shown = [key[:MAX_SHOWN] for key in keys[:SHOWN_KEYS]]
    more = len(keys) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
