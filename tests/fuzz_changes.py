"""Changes of files that parsers stumble over: bytes of any file, and what lies behind a checksum or an outer format.

A change takes the bytes of a file that is read and a generator of random numbers, and gives the bytes of another.
"""

from __future__ import annotations

import copy
import io
import json
import math
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

import onnx

Change = Callable[[bytes, Random], bytes]

TOKENS = [
    *(b"[" * 99, b"{", b"}", b"]", b'"', b"'", b"\\", b"\n", b"\0", b"\xff", b"-", b".", b"=", b"[/]", b"\x1b[2J"),
    *(b"1e999", b"9" * 400, b"NaN", b"Infinity", b"null", b"true", b"\\ud800", b"0x", b"\xef\xbb\xbf", b"#"),
    *(b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 8, b"\x80\x80\x80\x80\x08", b"\0" * 8, b"(", b"t", b"R"),
]
# what a value may be instead; RAW is written as it stands, which no JSON writer would
RAW = "raw "
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 0.5, 255, 1 << 31, -(1 << 31), 1 << 63, 10**400, 1e100, 1e308, -1e308, math.inf),
    *(-math.inf, math.nan, "", "x", "[/]", "[bold", "\x1b[2J", "\0", "\ud800", "../x", "/dev/zero", "x" * 300, "%s"),
    *([], {}, [[]], {"": {}}, RAW + "[" * 500 + "]" * 500, RAW + "9" * 5000, RAW + "1e999", RAW + "-0"),
]
OPCODES = b"(.0125FIJKLMNPRTUXabcdeghijlopqrstu])}\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90"
OPCODES += b"\x91\x92\x93\x94\x95\x96\x97\x98"


def changed_bytes(data: bytes, draw: Random) -> bytes:
    """Up to six times written over, inserted, cut out, doubled or ended; also not at all."""
    for _ in range(draw.randrange(7)):
        token = draw.choice(TOKENS) if draw.random() < 0.5 else draw.randbytes(draw.randint(1, 4))
        at, width = int(draw.random() * len(data)), len(token)
        data = (
            {
                "write": lambda data, at, token, width: data[:at] + token + data[at + width :],
                "insert": lambda data, at, token, width: data[:at] + token + data[at:],
                "cut": lambda data, at, token, width: data[:at] + data[at + width :],
                "double": lambda data, at, token, width: data[: at + 16 * width] + data[at:],
                "flip": lambda data, at, token, width: data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :],
                "end": lambda data, at, token, width: data[: at + 1],
            }[draw.choice(("write", "insert", "cut", "double", "flip", "end"))](data, at, token, width)
            if data
            else token
        )
    return data


def either(*changes: Change) -> Change:
    return lambda data, draw: draw.choice(changes)(data, draw)


# --- JSON


def changed_json(data: bytes, draw: Random) -> bytes:
    """Values of it, at any depth, that are others, lack or are there twice."""
    tree = json.loads(data)
    for _ in range(draw.randint(1, 3)):
        holders = list(_holders(tree))
        if not holders:
            break
        holder = draw.choice(holders)
        key = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        way = draw.randrange(4)
        if way == 0:
            del holder[key]
        elif way == 1:
            other = draw.choice(holders)
            holder[key] = json.loads(json.dumps(other)) if len(json.dumps(other)) < 1 << 16 else None
        elif way == 2 and isinstance(holder, list):
            holder += [copy.deepcopy(holder[key]) for _ in range(draw.choice((1, 100)))]
        elif way == 2 and isinstance(holder, dict):
            holder[draw.choice([v for v in VALUES if isinstance(v, str)])] = holder.pop(key)
        else:
            holder[key] = copy.deepcopy(draw.choice(VALUES))  # it may be changed, too
    text = json.dumps(tree, indent=draw.choice((None, 2)))
    return re.sub(rf'"{RAW}([^"]*)"', r"\1", text).encode("utf-8", "surrogatepass")


def _holders(tree: Any) -> list[Any]:
    found, left = [], [tree]
    while left:
        one = left.pop()
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        if inner:
            found.append(one)
        left.extend(inner)
    return found


def changed_safetensors(data: bytes, draw: Random) -> bytes:
    """Its JSON, whose length stands before it."""
    (length,) = struct.unpack_from("<Q", data)
    head = changed_json(data[8 : 8 + length], draw)
    return struct.pack("<Q", len(head)) + head + data[8 + length :]


# --- TOML


def changed_lines(data: bytes, draw: Random) -> bytes:
    """Values, keys and lines of it."""
    lines = data.split(b"\n")
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(lines))
        key, equals, _value = lines[at].partition(b"=")
        value = draw.choice(VALUES)
        said = value[4:] if isinstance(value, str) and value.startswith(RAW) else json.dumps(value)
        lines[at : at + 1] = {
            "value": [key + equals + b" " + said.encode()],
            "dotted": [b".".join([key.strip()] * draw.choice((2, 200))) + equals + _value],
            "table": [b"[" + key.strip() + b"]", lines[at]],
            "twice": [lines[at]] * 2,
            "none": [],
            "other": [draw.choice(lines)],
        }[draw.choice(("value", "value", "dotted", "table", "twice", "none", "other"))]
        if not lines:
            break
    return b"\n".join(lines)


# --- protobuf


def changed_onnx(data: bytes, draw: Random) -> bytes:
    """Fields of its messages."""
    model = onnx.load_model_from_string(data)
    for _ in range(draw.randint(1, 4)):
        messages = _messages(model)
        message = draw.choice(messages)
        field = draw.choice(message.DESCRIPTOR.fields)
        many = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
        if draw.random() < 0.2:
            message.ClearField(field.name)
        elif field.type == field.TYPE_MESSAGE:
            alike = [other for other in messages if other.DESCRIPTOR is field.message_type]
            target = getattr(message, field.name)
            target = target.add() if many else target
            if alike:
                target.CopyFrom(type(target).FromString(draw.choice(alike).SerializeToString()))
            else:
                target.SetInParent()
        else:
            value = _field_value(field, draw, messages)
            if many:
                held = getattr(message, field.name)
                if held and draw.random() < 0.7:
                    held[draw.randrange(len(held))] = value
                else:
                    held.append(value)
            else:
                setattr(message, field.name, value)
    return model.SerializeToString()


def _messages(message: Any) -> list[Any]:
    found, left = [], [message]
    while left:
        one = left.pop()
        found.append(one)
        for field, value in one.ListFields():
            if field.type == field.TYPE_MESSAGE:
                left.extend([value] if hasattr(value, "DESCRIPTOR") else value)
    return found


def _field_value(field: Any, draw: Random, messages: list[Any]) -> Any:
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return draw.choice((0.0, -1.0, 1e38, math.inf, math.nan))
    if field.type == field.TYPE_STRING:
        nodes = [name for m in messages if hasattr(m, "op_type") for name in (*m.input, *m.output, m.op_type)]
        return draw.choice([*nodes, *OPERATORS, "", "[/]", "\x1b[2J", "x" * 300])
    if field.type == field.TYPE_BYTES:
        return draw.choice((b"", b"\xff\xfe", bytes(64), b"x" * 1000))
    if field.type == field.TYPE_ENUM:
        return draw.choice(field.enum_type.values).number
    most = (1 << 31) - 1 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else (1 << 63) - 1
    least = 0 if field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64) else -most - 1
    return draw.choice((0, 1, max(-1, least), 2, 3, 4, 7, 64, 1 << 20, most, least))


OPERATORS = [
    *("Conv", "Relu", "Add", "Concat", "Resize", "Reshape", "Pad", "Loop", "If", "Scan", "Slice", "Gather", "MatMul"),
    *("QuantizeLinear", "DequantizeLinear", "MaxPool", "Softmax", "ArgMax", "Transpose", "Expand", "Tile", "Shape"),
    *("ConstantOfShape", "Constant", "Cast", "Split", "Einsum", "BatchNormalization", "Range", "Identity", "NonZero"),
]


# --- containers whose checksums are right again


PNG_PARTS = [*(b"PLTE", b"tRNS", b"gAMA", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"IDAT", b"IEND", b"zTXt", b"\xff" * 4)]


def changed_png(data: bytes, draw: Random) -> bytes:
    """Its parts: their bytes, order and number, and the pixels before they are packed."""
    parts, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        parts.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(parts))
        kind, body = parts[at]
        if draw.random() < 0.2:
            parts[at : at + 1] = draw.choice(([], [parts[at]] * 2, [parts[at]] * 300, [draw.choice(parts)]))
        elif kind == b"IDAT" and draw.random() < 0.7:
            with_rows = changed_bytes(zlib.decompress(body), draw) if _inflates(body) else b"\0" * 1000
            parts[at] = kind, zlib.compress(with_rows)
        elif kind == b"IHDR":
            width, height, *rest = struct.unpack(">IIBBBBB", body[:13]) if len(body) >= 13 else (9,) * 7
            fields = [width, height, *rest]
            fields[draw.randrange(7)] = draw.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
            fields[draw.randrange(2)] = draw.choice((1, 9, 14, 255, 65535, 1 << 20, (1 << 31) - 1, (1 << 32) - 1))
            parts[at] = kind, struct.pack(">IIBBBBB", *fields)
        elif draw.random() < 0.5:
            kinds = (
                b"PLTE",
                b"tRNS",
                b"gAMA",
                b"iCCP",
                b"eXIf",
                b"acTL",
                b"fcTL",
                b"IDAT",
                b"IEND",
                b"zTXt",
                b"\xff" * 4,
            )
            parts.insert(at, (draw.choice(kinds), draw.randbytes(draw.choice((0, 1, 3, 26, 768)))))
        else:
            parts[at] = kind, changed_bytes(body, draw)
        if not parts:
            break
    whole = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    return data[:8] + b"".join(whole)


def _inflates(data: bytes) -> bool:
    try:
        zlib.decompress(data)
    except zlib.error:
        return False
    return True


def changed_zip(inner: Change) -> Change:
    """Files of a zip, and the directory's words for them."""

    def change(data: bytes, draw: Random) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = [(info.filename, archive.read(info)) for info in archive.infolist()]
        at = draw.randrange(len(files)) if draw.random() < 0.3 else 0
        name, body = files[at]
        if draw.random() < 0.1:
            files[at : at + 1] = draw.choice(([], [(name, body)] * 2, [(name + "/../x", body)], [("x" * 999, body)]))
        else:
            files[at] = name, inner(body, draw)
        made = io.BytesIO()
        packed = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        with warnings.catch_warnings(), zipfile.ZipFile(made, "w", packed) as archive:
            warnings.simplefilter("ignore")  # of names that are there twice
            for one, content in files:
                archive.writestr(zipfile.ZipInfo(one), content)
        return made.getvalue()

    return change


def changed_pickle(data: bytes, draw: Random) -> bytes:
    """Opcodes and arguments of it."""
    for _ in range(draw.randint(1, 5)):
        at = draw.randrange(len(data) or 1)
        some = bytes(draw.choices(OPCODES, k=draw.randint(1, 6)))
        how = draw.randrange(5)
        if how == 0:
            data = data[:at] + some + data[at:]
        elif how == 1:
            data = data[:at] + some[:1] + data[at + 1 :]
        elif how == 2:
            start = draw.randrange(len(data) or 1)
            data = data[:at] + data[start : start + draw.randint(1, 60)] + data[at:]
        elif how == 3:
            data = data[:at] + some * draw.choice((10, 3000)) + data[at:]
        else:
            data = changed_bytes(data, draw)
    return data


def changed_mat5(data: bytes, draw: Random) -> bytes:
    """The variables of MATLAB 5, also those that are packed."""
    order = ">" if data[126:128] == b"MI" else "<"
    made, at = [data[:128]], 128
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        body = data[at + 8 : at + 8 + size]
        if draw.random() < 0.7:
            if kind == 15 and _inflates(body):
                body = zlib.compress(_changed_words(zlib.decompress(body), draw, order))
            else:
                body = _changed_words(body, draw, order)
        made.append(struct.pack(f"{order}II", kind, len(body)) + body)
        at += 8 + size
    return b"".join(made)


def _changed_words(data: bytes, draw: Random, order: str) -> bytes:
    """Sizes, types and dimensions, which lie in words of four bytes."""
    if draw.random() < 0.3 or len(data) < 8:
        return changed_bytes(data, draw)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) // 4) * 4
        number = draw.choice((0, 1, 2, 5, 6, 8, 9, 14, 15, 16, 17, 255, 1 << 28, (1 << 31) - 1, (1 << 32) - 1))
        data = data[:at] + struct.pack(f"{order}I", number) + data[at + 4 :]
    return data
