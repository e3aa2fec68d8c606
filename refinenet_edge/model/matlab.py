"""MATLAB's files, as far as networks are in them: structs, cells, text and numbers become plain Python values.

    MATLAB 5 (what `save -v7` writes), read here        MATLAB 7.3, which is HDF5, by h5py

    struct       {field: value}; an array of them is a list, in MATLAB's order
    cell         [value, ...]
    text         str
    numbers      an array with MATLAB's dimensions
    the rest     None: objects of classes, handles of functions, sparse arrays

What an object holds lies beside it in the file, and only MATLAB's own code says to which object it belongs. So nobody
asks for an object here: every struct of the file is looked at, wherever it lies, and known by its fields.

A file is untrusted. Nothing in it is run; it is read from nothing but itself (no external links, no external storage);
and what it becomes is bounded by its size, as numbers that are weights hardly compress.
"""

import itertools
import math
import struct
import sys
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from refinenet_edge.errors import CheckpointError, MissingExtra, first_line
from refinenet_edge.files import open_regular

MATLAB, HDF5 = b"MATLAB ", b"\x89HDF\r\n\x1a\n"  # what files begin with
HDF5_AT = 512  # in those of MATLAB 7.3
HEADER = 128  # bytes before the variables of MATLAB 5
MATRIX, COMPRESSED = 14, 15  # types of elements, as the numbers and texts of `STORED`
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
CELL, STRUCT, OBJECT, CHAR = 1, 2, 3, 4  # classes of values, as the numbers of `NUMBERS`
NUMBERS = dict(enumerate(("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"), start=6))
OPAQUE = (5, 16, 17)  # sparse, function, object of a class
COMPLEX = 0x800
MAX_BYTES = 4 << 30
EXPANSION, ALLOWANCE = 4, 8 << 20  # a file becomes at most so many times its bytes, and so many bytes more
OVERHEAD, HDF5_OVERHEAD = 64, 1024  # bytes that a value takes at least: a Python object, an object of an HDF5 file
MAX_DEPTH = 16  # of values in one another

Value = Any  # see the module
Struct = dict[str, Value]


def is_matlab(magic: bytes) -> bool:
    """Whether a file that begins with `magic`, 8 bytes or more, is one of MATLAB's."""
    return magic.startswith((MATLAB, HDF5))


def find_structs(path: Path, *wanted: Collection[str]) -> list[list[Struct]]:
    """For each set of field names in `wanted`, these fields of the structs that have them; variables are fields, too.

    Raises `CheckpointError` for what is no MATLAB file or not one to be trusted, `MissingExtra` without h5py for HDF5.
    """
    try:
        with open_regular(path) as file:
            head = file.read(HDF5_AT + len(HDF5))
        hdf5 = head.startswith(HDF5) or head[HDF5_AT:] == HDF5
        return _in_hdf5(path, wanted) if hdf5 else _in_matlab_5(path, wanted)
    except ImportError as exc:
        raise MissingExtra(
            f"{path} is a MATLAB file ({exc.name} is not installed): pip install 'refinenet-edge[matlab]'"
        ) from exc
    except (CheckpointError, MemoryError):
        raise
    except Exception as exc:  # a damaged file raises anything
        raise CheckpointError(f"{path} is damaged or cut short: {first_line(exc)}") from exc


def rows(value: Value) -> list[Struct]:
    """A struct array: `value`, or the one struct that it is."""
    return [row for row in (value if isinstance(value, list) else [value]) if isinstance(row, dict)]


class _Budget:
    """How many bytes a file may still become."""

    def __init__(self, path: Path) -> None:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise CheckpointError(f"{path} has {size} bytes: a checkpoint has at most 4 GiB")
        self.path, self.left = path, EXPANSION * size + ALLOWANCE

    def spend(self, size: int, depth: int = 0) -> None:
        """Take off a value of `size` bytes that lies `depth` deep in others."""
        if depth > MAX_DEPTH:
            raise CheckpointError(f"{self.path} has values more than {MAX_DEPTH} deep in one another")
        self.left -= size
        if self.left < 0:
            raise CheckpointError(
                f"{self.path} would become much more than the {self.path.stat().st_size} bytes it has"
            )


# --- MATLAB 7.3


def _in_hdf5(path: Path, wanted: tuple[Collection[str], ...]) -> list[list[Struct]]:
    import h5py

    with h5py.File(path, "r") as file:
        reader = _Hdf5(file, _Budget(path))
        found: list[list[Struct]] = [[] for _ in wanted]

        for group in reader.groups():
            fields = set(reader.names(group))
            for structs, names in zip(found, wanted, strict=True):
                if fields.issuperset(names):
                    structs += rows(reader.struct(group, 0, names))
        return found


class _Hdf5:
    """Values of an open HDF5 file. MATLAB's dimensions are HDF5's in reverse, so HDF5's order of items is MATLAB's."""

    def __init__(self, file: Any, budget: _Budget) -> None:
        self.file, self.budget = file, budget

    def groups(self) -> Iterator[Any]:
        """Every group once, through hard links only."""
        import h5py

        left, seen = [self.file], set()
        while left:
            group = left.pop()
            # not `h5o.get_info`, which counts what a damaged group has, without end
            if (place := h5py.h5g.get_objinfo(group.id).objno) in seen:
                continue
            seen.add(place)
            yield group
            hard = (name for name in self.names(group) if isinstance(group.get(name, getlink=True), h5py.HardLink))
            left += [item for item in map(group.get, hard) if isinstance(item, h5py.Group)]

    def names(self, group: Any) -> list[str]:
        """The names in a group: counted as they come, as a damaged list of them may have no end."""
        found: list[str] = []

        def add(name: bytes) -> None:
            self.budget.spend(OVERHEAD)
            found.append(name.decode())

        group.id.links.iterate(add)
        return found

    def struct(self, group: Any, depth: int, names: Collection[str] = ()) -> Struct | list[Struct]:
        """A struct, or an array of them: then each field is references without a class, one for each struct."""
        import h5py

        fields = {}
        for name in names or self.names(group):
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise CheckpointError(f"{self.budget.path}: {name} is a link out of the file")
            if not name.startswith("#"):
                fields[name] = group[name]
        arrays = [
            isinstance(f, h5py.Dataset) and f.dtype == h5py.ref_dtype and "MATLAB_class" not in f.attrs
            for f in fields.values()
        ]
        if not fields or not all(arrays):
            return {name: self.value(field, depth + 1) for name, field in fields.items()}
        columns = [self.cells(field, depth) for field in fields.values()]
        return [dict(zip(fields, row, strict=True)) for row in zip(*columns, strict=True)]

    def value(self, item: Any, depth: int) -> Value:
        import h5py

        self.budget.spend(HDF5_OVERHEAD, depth)
        kind = bytes(item.attrs.get("MATLAB_class", b"")).decode()
        if isinstance(item, h5py.Group):
            return self.struct(item, depth) if kind == "struct" else None
        empty = bool(item.attrs.get("MATLAB_empty", 0))  # then the data are the dimensions
        if kind == "cell":
            return [] if empty else self.cells(item, depth)
        if kind == "char":
            return "" if empty else "".join(map(chr, self.numbers(item).ravel("F")))
        if "MATLAB_object_decode" in item.attrs or item.dtype.kind not in "biuf":
            return None
        return np.zeros(0) if empty else self.numbers(item)

    def cells(self, dataset: Any, depth: int) -> list[Value]:
        return [self.value(self.file[reference], depth + 1) for reference in self._read(dataset).ravel()]

    def numbers(self, dataset: Any) -> Any:
        return self._read(dataset).T

    def _read(self, dataset: Any) -> Any:
        if dataset.external or dataset.is_virtual:
            raise CheckpointError(f"{self.budget.path}: {dataset.name} lies in another file")
        self.budget.spend(dataset.size * dataset.dtype.itemsize)
        return dataset[()]


# --- MATLAB 5


def _in_matlab_5(path: Path, wanted: tuple[Collection[str], ...]) -> list[list[Struct]]:
    data = path.read_bytes()
    order = ">" if data[126:128] == b"MI" else "<"
    reader = _Matlab5(order, _Budget(path))
    reader.structs.append(dict(reader.variables(memoryview(data)[HEADER:])))
    return [
        [{name: fields[name] for name in names} for fields in reader.structs if fields.keys() >= set(names)]
        for names in wanted
    ]


class _Matlab5:
    """Values of a MATLAB 5 file, which is elements in elements: a type, a size, and so many bytes. Structs are kept."""

    def __init__(self, order: str, budget: _Budget) -> None:
        self.order, self.budget = order, budget
        self.structs: list[Struct] = []

    def variables(self, data: memoryview) -> Iterator[tuple[str, Value]]:
        for kind, body in self.elements(data):
            if kind == COMPRESSED:
                inflated = zlib.decompressobj().decompress(body, self.budget.left + 1)
                self.budget.spend(len(inflated))
                kind, body = next(self.elements(memoryview(inflated)))
            if kind != MATRIX:
                raise CheckpointError(f"{self.budget.path} is damaged: an element of type {kind} is no variable")
            name, value = self.matrix(body, 0)
            yield name, value
            if not name and isinstance(value, np.ndarray) and value.dtype == np.uint8:
                # what objects and functions hold: elements again, after their byte order
                yield from self.variables(memoryview(value.tobytes("F"))[8:])

    def elements(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        at = 0
        while at < len(data):
            kind, size = struct.unpack_from(f"{self.order}II", data, at)
            start, step = at + 8, 8 + size + (0 if kind == COMPRESSED else -size % 8)
            if kind >> 16:  # at most four bytes, within the tag
                kind, size, start, step = kind & 0xFFFF, kind >> 16, at + 4, 8
            if start + size > len(data):
                raise CheckpointError(
                    f"{self.budget.path} is cut short: an element of {size} bytes ends beyond its own"
                )
            yield kind, data[start : start + size]
            at += step

    def matrix(self, body: memoryview, depth: int) -> tuple[str, Value]:
        """A variable, or a value without a name."""
        self.budget.spend(OVERHEAD, depth)
        parts = self.elements(body)
        first = next(parts, None)
        if first is None:
            return "", np.zeros(0)
        flags = int(self.numbers(first)[0])
        kind = flags & 0xFF
        if kind in OPAQUE or flags & COMPLEX:
            for _, inner in (part for part in parts if part[0] == MATRIX):  # for structs in it
                self.matrix(inner, depth + 1)
            return "", None
        dims = [int(side) for side in self.numbers(next(parts))]
        name, count = self.text(next(parts)), math.prod(dims)
        if kind == CELL:
            return name, self.values(parts, count, depth)
        if kind in (STRUCT, OBJECT):
            if kind == OBJECT:
                next(parts)  # the name of its class
            width, names = int(self.numbers(next(parts))[0]), self.text(next(parts))
            fields = [names[at : at + width].rstrip("\0") for at in range(0, len(names), max(width, 1))]
            values = self.values(parts, count * len(fields), depth)
            found = [dict(zip(fields, values[at:], strict=False)) for at in range(0, len(values), len(fields) or 1)]
            self.structs += found
            return name, found[0] if count == 1 and found else found
        if kind == CHAR:
            return name, self.text(next(parts))
        values = self.numbers(next(parts)).astype(NUMBERS[kind], copy=False)
        return name, values.reshape(dims, order="F")

    def values(self, parts: Iterator[tuple[int, memoryview]], count: int, depth: int) -> list[Value]:
        values = [self.matrix(body, depth + 1)[1] for _, body in itertools.islice(parts, min(count, sys.maxsize))]
        if len(values) != count:
            raise CheckpointError(f"{self.budget.path} is damaged: {len(values)} values where there should be {count}")
        return values

    def numbers(self, element: tuple[int, memoryview]) -> Any:
        return np.frombuffer(element[1], f"{self.order}{STORED[element[0]]}")

    def text(self, element: tuple[int, memoryview]) -> str:
        codes = {4: "utf-16", 17: "utf-16", 18: "utf-32"}
        code = f"{codes[element[0]]}-{'be' if self.order == '>' else 'le'}" if element[0] in codes else "utf-8"
        return bytes(element[1]).decode(code)
