"""Read what `torch.save` wrote, without unpickling: tensors, numbers, text, lists and dictionaries, nothing is called.

A pickle is a program for a stack machine. This machine makes plain values and tensors; whatever else a program asks
for, an object of some class or the result of a call, is an `Other`, which only has a name. Everything is bounded before
it is read: a file is untrusted.
"""

from __future__ import annotations

import io
import os
import pickletools
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refinenet_edge.errors import CheckpointError
from refinenet_edge.files import open_regular

MAX_PICKLE = 64 << 20  # bytes; it has no weights in it
MAX_DIRECTORY = 16 << 20  # bytes
MAX_STEPS = 500_000  # of the machine
MAX_LEGACY_TENSORS = 100_000
CHUNK = 1 << 20

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
REBUILD = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
PARAMETER = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Other("set"),
}
VALUES = {  # opcodes whose argument is the value
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}

Storage = tuple[torch.dtype, str, int]  # of what, its name in the file, how many
Load = Callable[[Storage], Tensor | None]  # the numbers of a storage, flat; None: they are not wanted


class Other:
    """What is neither a tensor nor a plain value: an object or a function, of which only the name is known."""

    def __init__(self, name: str) -> None:
        self.name = name


class Damaged(Exception):
    """The file is not what `torch.save` writes."""


# what zipfile, pickletools and torch raise on bytes that make no sense, besides our own
DAMAGED = (Damaged, ValueError, IndexError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile)


def read_pickled(path: Path) -> object:
    """What a PyTorch file holds. Raises `CheckpointError` for anything that cannot be, `OSError`."""
    with open_regular(path) as raw, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # what pickletools says of text in a damaged one
        size = os.fstat(raw.fileno()).st_size
        try:
            if raw.read(4) == b"PK\x03\x04":
                with _Bounded(raw.fileno(), closefd=False) as file:
                    return _read_zip(file, size, path)
            raw.seek(0)
            return _read_legacy(raw, size)
        except DAMAGED as exc:
            raise CheckpointError(f"{path} is damaged or cut short: {exc}") from exc
        except (MemoryError, NotImplementedError, OverflowError) as exc:
            raise CheckpointError(f"{path} cannot be read: {exc or 'there is not enough memory'}") from exc


class _Bounded(io.FileIO):
    """A file of which no large part is read at once, as long as there is a `limit`."""

    limit = MAX_DIRECTORY  # bytes; 0: none

    def read(self, size: int | None = -1) -> Any:
        size = -1 if size is None else size
        if self.limit and size > self.limit:
            raise Damaged("its directory is too large")
        return super().read(self.limit if self.limit and size < 0 else size)


def _read_zip(file: _Bounded, size: int, path: Path) -> object:
    with zipfile.ZipFile(file) as archive:
        file.limit = 0
        parts = {part.filename: part for part in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in parts if name.count("/") == 1 and name.endswith("/data.pkl")]
        _require_no_program(set(parts), roots, path)
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts.values()):
            raise Damaged("parts of it are compressed, as torch never writes them")
        if sum(part.file_size for part in archive.infolist()) > size:
            raise Damaged("its parts are larger than the file")
        if len(roots) != 1:
            raise Damaged("it has no data.pkl")
        root = roots[0]
        if f"{root}byteorder" in parts and archive.read(f"{root}byteorder") != b"little":
            raise Damaged("it was saved on a big-endian machine, save it on another")

        def load(storage: Storage) -> Tensor:
            part = parts.get(f"{root}data/{storage[1]}")
            if part is None:
                raise Damaged(f"it has no data/{storage[1][:20]}")
            with archive.open(part) as source:
                return _numbers(source, part.file_size, storage)

        if parts[f"{root}data.pkl"].file_size > MAX_PICKLE:
            raise Damaged("its pickle is too large")
        return _run(io.BytesIO(archive.read(f"{root}data.pkl")), _once(load))


def _require_no_program(names: set[str], roots: list[str], path: Path) -> None:
    kind = ""
    if any(name.startswith(f"{root}code/") for root in roots for name in names) or any(
        name.endswith("/constants.pkl") for name in names
    ):
        kind, state = "a TorchScript program", f"torch.jit.load({str(path)!r}, map_location='cpu').state_dict()"
    elif any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        kind, state = "an exported program (.pt2)", f"dict(torch.export.load({str(path)!r}).state_dict)"
    if kind:
        raise CheckpointError(
            f"{path} is {kind}, not weights; where you trust it, run this in Python and build from weights.pth: "
            f"import torch; torch.save({state}, 'weights.pth')"
        )


def _read_legacy(file: io.BufferedReader, size: int) -> object:
    """The format before torch 1.6: five pickles, then the storages one after the other."""
    head = [_run(_Part(file), None) for _ in range(2)]
    if head[0] != LEGACY_MAGIC:
        raise Damaged("it does not begin as torch's files do")
    _run(_Part(file), None)
    start = file.tell()
    for _ in _steps(_Part(file)):
        pass
    keys = _run(_Part(file), None)
    if not isinstance(keys, list) or len(keys) > MAX_LEGACY_TENSORS:
        raise Damaged("it has no list of its storages")
    places = _Places(file, size, [str(key)[:99] for key in keys])
    end = file.tell()
    file.seek(start)
    found: list[Storage] = []
    # the sizes of the numbers are in the pickle, their places after it: once for the one, once for the other
    _run(_Part(file), found.append)
    places.find(end, found)
    file.seek(start)
    return _run(_Part(file), _once(places.load))


class _Places:
    """Where the storages of a legacy file are."""

    def __init__(self, file: io.BufferedReader, size: int, keys: list[str]) -> None:
        self._file, self._size, self._keys = file, size, keys
        self._at: dict[str, int] = {}

    def find(self, at: int, storages: list[Storage]) -> None:
        """Walk the storages from `at` on: each is its count, then its numbers."""
        width = {key: dtype.itemsize for dtype, key, _ in storages}
        for key in self._keys:
            self._file.seek(at)
            count = int.from_bytes(self._file.read(8), "little")
            if key not in width or at + 8 + count * width[key] > self._size:
                raise Damaged("it ends in the middle of its weights")
            self._at[key] = at + 8
            at += 8 + count * width[key]

    def load(self, storage: Storage) -> Tensor:
        there = self._file.tell()  # in the pickle, which is being read
        self._file.seek(self._at[storage[1]])
        numbers = _numbers(self._file, storage[2] * storage[0].itemsize, storage)
        self._file.seek(there)
        return numbers


class _Part(io.RawIOBase):
    """A file from where it is on, as far as a pickle may reach."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file, self._left = file, MAX_PICKLE

    def read(self, size: int = -1) -> bytes:
        return self._taken(self._file.read(self._within(size)))

    def readline(self, size: int | None = -1) -> bytes:
        return self._taken(self._file.readline(self._within(-1 if size is None else size)))

    def tell(self) -> int:
        return self._file.tell()

    def _within(self, size: int) -> int:
        if size > self._left:
            raise Damaged("its pickle is too large")
        return size if size >= 0 else self._left

    def _taken(self, data: bytes) -> bytes:
        self._left -= len(data)
        return data


def _once(load: Load) -> Load:
    """`load` that keeps what it loaded: tensors may share a storage."""
    loaded: dict[Storage, Tensor | None] = {}

    def kept(storage: Storage) -> Tensor | None:
        if storage not in loaded:
            loaded[storage] = load(storage)
        return loaded[storage]

    return kept


def _numbers(source: Any, size: int, storage: Storage) -> Tensor:
    dtype, _, count = storage
    wanted = count * dtype.itemsize
    if not 0 <= wanted <= size:
        raise Damaged("it ends in the middle of its weights")
    if not wanted:
        return torch.empty(0, dtype=dtype)
    data, at = memoryview(bytearray(wanted)), 0
    while at < wanted:
        got = source.readinto(data[at : at + CHUNK])
        if not got:
            raise Damaged("it ends in the middle of its weights")
        at += got
    return torch.frombuffer(data, dtype=dtype)


def _steps(source: Any) -> Iterator[tuple[str, Any]]:
    """(opcode, argument) of a pickle, to its end."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(source)):
        if count > MAX_STEPS:
            raise Damaged("its pickle has no end")
        yield opcode.name, argument


def _run(source: Any, load: Load | None) -> object:
    machine = _Machine(load)
    for name, argument in _steps(source):
        machine.step(name, argument)
    return machine.stack[-1]


class _Machine:
    """The stack machine of a pickle. `load` None: it has no tensors."""

    def __init__(self, load: Load | None) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._load = load

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in VALUES:
            if isinstance(argument, int) and argument.bit_length() > 128:
                raise Damaged("it has a number of thousands of digits")
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self._taken(int(name[-1]))))
        elif name == "GLOBAL":
            stack.append(_named(argument.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(_named(".".join(map(str, self._taken(2)))))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        else:
            self._build(name, argument)

    def _build(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in ("TUPLE", "LIST"):
            items = self._marked()
            stack.append(tuple(items) if name == "TUPLE" else items)
        elif name in ("APPEND", "APPENDS"):
            items = self._taken(1) if name == "APPEND" else self._marked()
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._taken(2) if name == "SETITEM" else self._marked()
            if isinstance(stack[-1], dict):
                _put(stack[-1], items)
        elif name == "DICT":
            items = self._marked()
            stack.append({})
            _put(stack[-1], items)
        elif name in ("REDUCE", "NEWOBJ"):
            function, arguments = self._taken(2)
            stack.append(self._called(function, arguments))
        elif name == "BUILD":  # the state of what is below it: of a dictionary nothing that is needed
            self._taken(1)
        elif name == "NEWOBJ_EX":
            stack.append(Other(_name_of(self._taken(3)[0])))
        elif name in ("INST", "OBJ", "FROZENSET"):
            self._marked()
            stack.append(Other(str(argument or "object").replace(" ", ".", 1)))
        elif name == "ADDITEMS":
            self._marked()
        elif name == "POP":
            self._taken(1)
        elif name == "POP_MARK":
            self._marked()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise Damaged(f"its pickle has {name} in it, as torch never writes it")

    def _taken(self, count: int) -> list[Any]:
        """The last values of the stack, none from below the last mark."""
        if len(self.stack) - count < (self._marks[-1] if self._marks else 0):
            raise Damaged("its pickle takes more than there is")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _marked(self) -> list[Any]:
        start = self._marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _called(self, function: Any, arguments: Any) -> Any:
        name = _name_of(function)
        if not isinstance(function, Other) or not isinstance(arguments, tuple):
            return Other(name)
        if name == "collections.OrderedDict":
            made: dict[Any, Any] = {}
            if arguments and isinstance(arguments[0], list):  # of Python 2: a list of pairs
                for pair in arguments[0]:
                    _put(made, pair if isinstance(pair, (list, tuple)) else [])
            return made
        if name in PARAMETER and arguments:
            return arguments[0]
        if name in REBUILD and len(arguments) >= 4 and self._load is not None:
            storage, offset, size, stride = arguments[:4]
            return _tensor(storage, offset, size, stride, self._load)
        return Other(name)


def _name_of(function: Any) -> str:
    return function.name if isinstance(function, Other) else "object"


def _named(name: str) -> Any:
    """What a program calls by its name."""
    module, _, kind = name.rpartition(".")
    return STORAGES[kind] if module == "torch" and kind in STORAGES else Other(name)


def _put(into: dict[Any, Any], items: Any) -> None:
    """Keys and values in turn; those whose key is no plain one are left out, no weights have such a name."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        if isinstance(key, (str, int, float)):
            into[key] = value


def _storage(of: Any) -> Any:
    """What a tensor's numbers are in: ("storage", kind, name, device, count)."""
    if isinstance(of, tuple) and len(of) > 1 and isinstance(of[1], Other):
        return of[1]  # ("module", class, its source ...)
    if isinstance(of, tuple) and len(of) >= 5 and of[0] == "storage":
        _, dtype, name, _, count = of[:5]
        if isinstance(dtype, torch.dtype) and type(count) is int and (len(of) == 5 or of[5] is None):
            return dtype, str(name)[:99], count
    return Other("storage")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, load: Load) -> Any:
    if not isinstance(storage, tuple) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        return Other("tensor")
    numbers = [offset, *size, *stride]
    if len(size) != len(stride) or not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
        raise Damaged("a tensor has a shape that none has")
    flat = load(storage)
    if flat is None:
        return Other("tensor")
    if 0 in size:
        return flat.new_empty(size)
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    if last >= flat.numel():
        raise Damaged("a tensor reaches beyond its numbers")
    return flat.as_strided(size, stride, offset)
