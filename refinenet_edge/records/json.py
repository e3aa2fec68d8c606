"""Records as JSON, and JSON that is not trusted as records. A record with a `schema` is read from that schema only."""

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union

from refinenet_edge.errors import BundleError, InputError
from refinenet_edge.urls import masked

Record = TypeVar("Record")

MAX_INTEGER = (1 << 63) - 1
MAX_NUMBER = 1e100

_hints = functools.cache(typing.get_type_hints)  # they are made anew each time, of text


def to_json(record: Any) -> str:
    """A record as indented JSON with a closing newline; fields in the order of the class."""
    return json.dumps(dataclasses.asdict(record), indent=2, ensure_ascii=False) + "\n"


def from_json(kind: type[Record], text: str) -> Record:
    """The `kind` that `text` holds. `text` is untrusted: `BundleError` names the first field that does not fit."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise BundleError(f"not JSON of a {kind.__name__}: {exc}") from exc
    return from_plain(kind, value)


def from_plain(kind: type[Record], value: Any) -> Record:
    """`from_json` of what JSON or TOML was read to: dictionaries, lists, text, numbers. Raises `BundleError`."""
    try:
        return typing.cast(Record, _read(kind, value, kind.__name__))
    except (ValueError, RecursionError, OverflowError) as exc:  # overflow: an integer too large for a float
        raise BundleError(f"not a {kind.__name__}: {exc}") from exc


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_union(args, value, where)
    if origin is Literal:
        if value in args:
            return value
    elif origin is tuple:
        if isinstance(value, (list, tuple)) and (args[-1] is Ellipsis or len(value) == len(args)):
            kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
            return tuple(_read(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    elif origin is Mapping or (isinstance(origin, type) and issubclass(origin, Mapping)):
        if isinstance(value, dict):
            return {key: _read(args[1], item, f"{where}[{_start(key)!r}]") for key, item in value.items()}
    elif dataclasses.is_dataclass(kind):
        return _read_record(kind, value, where)
    elif kind in (int, float) and isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise BundleError(f"{where}: a number beyond {MAX_INTEGER}")
    elif kind is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if MAX_NUMBER < abs(value) < math.inf:  # what is reckoned with it would be beyond a float
                raise BundleError(f"{where}: a number beyond {MAX_NUMBER}")
            return float(value)
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    expected = f"one of {_listed(args)}" if origin is Literal else getattr(kind, "__name__", str(kind))
    raise BundleError(f"{where}: {expected} expected, found {_start(value)!r}")


def _start(value: object) -> str:
    """What a message quotes of it; a secret is masked first, as one cut off in its middle is not known."""
    return masked(str(value))[:60]


def _listed(choices: Iterable[object]) -> str:
    return ", ".join(map(str, choices))


def _read_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    named = [kind for kind in kinds if kind is not type(None)]
    if all(typing.get_origin(kind) is Literal for kind in named):
        named = [Literal[tuple(choice for kind in named for choice in typing.get_args(kind))]]
    failure = BundleError(f"{where}: nothing fits {_start(value)!r}")
    for kind in named:
        try:
            return _read(kind, value, where)
        except BundleError as exc:
            failure = exc
    raise failure


def _read_record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise BundleError(f"{where}: an object expected, found {_start(value)!r}")
    hints = _hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if "schema" in fields and (schema := value.get("schema", current := fields["schema"].default)) != current:
        raise BundleError(f"{where}: schema {_start(schema)}, this toolkit reads {current}: make it again")
    for name in value:
        if name not in fields:
            raise BundleError(f"{where}.{_start(name)}: unknown field")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise BundleError(f"{where}.{name}: missing")
    try:
        return kind(**{name: _read(hints[name], item, f"{where}.{name}") for name, item in value.items()})
    except InputError as exc:
        raise BundleError(f"{where}: {exc}") from exc
