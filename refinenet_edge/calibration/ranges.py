"""Ranges: what they hold for, and their file.

The key says what they hold for: graph, weights, preprocessing, frames and methods; `require_measured_on` refuses them
for anything else. The file, `calib/NAME.ranges.json`, is for people to review: one tensor a line, in the order of the
graph.
"""

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from refinenet_edge.calibration.methods import Method, name_of
from refinenet_edge.errors import BundleError, CalibrationError
from refinenet_edge.files import read_utf8, write_atomically
from refinenet_edge.records import Bilinear, FrameSpec, Ranges, RangesKey, from_json

MAX_FILE = 8 << 20  # bytes


def write_ranges(path: Path, ranges: Ranges) -> None:
    """Write `ranges` whole or not at all. Raises `CalibrationError`."""
    table = dataclasses.asdict(ranges)
    tensors = table.pop("tensors")
    lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in tensors.items())
    rest = json.dumps(table, indent=2, ensure_ascii=False)
    text = f'{rest[:-2]},\n  "tensors": {{\n{lines}\n  }}\n}}\n'
    write_atomically(path, text.encode(), CalibrationError)


def read_ranges(path: Path) -> Ranges:
    """The ranges in `path`, which is not trusted. Raises `CalibrationError`."""
    try:
        return from_json(Ranges, read_utf8(path, MAX_FILE, "ranges", CalibrationError))
    except (CalibrationError, BundleError) as exc:
        raise CalibrationError(f"ranges {path} cannot be used: {exc}; make them with refinenet-edge calibrate") from exc


def key_of(
    model: ir.Model, spec: FrameSpec, digests: Sequence[str], method: Method, overrides: Mapping[str, Method]
) -> RangesKey:
    """What ranges of these hold for; `digests` of the frames, in order."""
    return RangesKey(*graph_digests(model, spec), _digest(*digests), name_of(method, overrides))


def graph_digests(model: ir.Model, spec: FrameSpec) -> tuple[str, str, str]:
    """sha256 of the graph without its weights, of the weights, and of the preprocessing.

    The same for a graph in memory and one read back from a bundle: notes and the names of nodes say nothing. Nor does
    the way from logits to labels: no activation depends on it.
    """
    proto = ir.to_proto(model)
    weights = [_digest(tensor.name, tensor.SerializeToString(deterministic=True)) for tensor in proto.graph.initializer]
    # what is computed, not how it happens to be written: no types, no metadata, attributes by name
    nodes = [
        _digest(
            f"{node.domain} {node.op_type} {list(node.input)} {list(node.output)}",
            *(a.SerializeToString(deterministic=True) for a in sorted(node.attribute, key=lambda a: a.name)),
        )
        for node in proto.graph.node
    ]
    return _digest(*nodes), _digest(*sorted(weights)), _digest(_preprocessing(spec))


def _preprocessing(spec: FrameSpec) -> str:
    """`spec` as JSON. Fields that came later are left out at their defaults, so that older ranges still fit."""
    fields = dataclasses.asdict(dataclasses.replace(spec, upsample=Bilinear()))
    for field in dataclasses.fields(spec):
        if field.name in ("scale", "order", "fit") and fields[field.name] == field.default:
            del fields[field.name]
    return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"


def require_measured_on(ranges: Ranges, model: ir.Model, spec: FrameSpec) -> None:
    """Raise `CalibrationError` unless `ranges` were measured on this graph, these weights and this preprocessing."""
    ours = graph_digests(model, spec)
    names = ("graph", "weights", "preprocessing")
    held = (ranges.key.graph, ranges.key.weights, ranges.key.frame)
    if other := [name for name, a, b in zip(names, held, ours, strict=True) if a != b]:
        raise CalibrationError(
            f"these ranges are not of this network (not the same: {', '.join(other)}); calibrate a fp32 bundle of it, "
            "built with the same options: refinenet-edge calibrate BUNDLE "
            f"--frames {shlex.quote(ranges.source)} {_options(ranges.key.method)} --out FILE"
        )


def _options(methods: str) -> str:
    """What `refinenet-edge calibrate` is told to get these methods."""
    first, *special = methods.split(", ")
    return shlex.join(["--method", first, *(word for item in special for word in ("--method-for", item))])


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
