"""What an ONNX file says of itself, read without onnx: whether it is one, and whole without other files.

An ONNX file is a protobuf `ModelProto`. Its fields are walked here as far as tensors can lie in it (the numbers are
onnx.proto's), so that no library is given a file that is something else, or that makes it read another file.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from refinenet_edge.errors import BundleError

MAX_FIELDS = 2_000_000
MAX_DEPTH = 64  # of messages in one another; protobuf takes 100
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # how a value is written
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # of a TensorProto

Fields = Mapping[int, Any]  # the number of a field -> the fields of the message in it

TENSOR: Fields = {}
SPARSE_TENSOR: Fields = {1: TENSOR, 2: TENSOR}
ATTRIBUTE: dict[int, Fields] = {5: TENSOR, 10: TENSOR, 22: SPARSE_TENSOR, 23: SPARSE_TENSOR}
NODE: Fields = {5: ATTRIBUTE}
GRAPH: Fields = {1: NODE, 5: TENSOR, 15: SPARSE_TENSOR}
ATTRIBUTE |= {6: GRAPH, 11: GRAPH}
MODEL: Fields = {7: GRAPH, 20: {1: GRAPH, 2: GRAPH}, 25: {7: NODE, 11: ATTRIBUTE}}  # training, functions


def require_whole(data: bytes) -> None:
    """Raise `BundleError` unless `data` is an ONNX model with a graph, all of whose weights are inside."""
    pending: list[tuple[Fields, memoryview, int]] = [(MODEL, memoryview(data), 0)]
    fields, graphs = 0, 0
    while pending:
        kind, message, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise BundleError(f"is no ONNX model that is read here: more than {MAX_DEPTH} messages in one another")
        for number, value in _fields(message):
            fields += 1
            if fields > MAX_FIELDS:
                raise BundleError(f"is no ONNX model that is read here: more than {MAX_FIELDS} fields")
            if kind is TENSOR:
                if number == EXTERNAL_DATA or (number == DATA_LOCATION and value != 0):
                    raise BundleError("keeps weights in another file, which is not read: save it with weights inside")
            elif number in kind:
                if not isinstance(value, memoryview):
                    raise BundleError("is no ONNX model: a message is no bytes")
                graphs += kind is MODEL
                pending.append((kind[number], value, depth + 1))
    if not graphs:
        raise BundleError("is no ONNX model: it has no graph")


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of the fields of a message: a number as it is written, all else as bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        size = {FIXED64: 8, FIXED32: 4}.get(wire)
        if wire == BYTES:
            size, at = _varint(message, at)
        if size is None or number == 0 or at + size > len(message):
            raise BundleError("is no ONNX model: it is damaged, cut short or something else")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number written in sevens of bits, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise BundleError("is no ONNX model: it is damaged, cut short or something else")
