"""What the user handed in as a file: run as it was given, its logits are those that a bundle is held to.

ONNX Runtime runs the file unchanged, but for one output more where the logits are made of what lies before the file's
own (an ArgMax, say); what it gives itself is then held to the labels of those logits, on the same frames.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.inliner

from refinenet_edge.build import parity
from refinenet_edge.errors import GraphError, RefineNetEdgeError, first_line
from refinenet_edge.graph import Array
from refinenet_edge.onnx_import import Ends
from refinenet_edge.records import label_agreement
from refinenet_edge.runtime.ort import OrtSession
from refinenet_edge.runtime.session import Session

SAME_LABELS, OF_HALF = 0.999, 0.98  # of the pixels: ties that rounding settles, float16 many more


def given_logits(path: Path, ends: Ends, inputs: parity.Inputs) -> dict[str, Array]:
    """The logits that the file at `path` gives by its `ends` on prepared frames.

    Raises `GraphError` where ONNX Runtime cannot run it, where its own labels are others, or where one channel cannot
    be told to be a score or a probability.
    """
    try:
        with OrtSession(_tapped(path, ends), optimised=False) as session:
            found = {name: _run(session, ends, _filled(inputs, name, ends.taken.frames)) for name in inputs}
    except RefineNetEdgeError as exc:
        raise GraphError(f"ONNX Runtime cannot run {path}: {first_line(exc)}; export it again") from exc
    logits = {name: ends.logits(source) for name, (_, source) in found.items()}
    if ends.made.threshold == 0 and all(given.min() >= 0 and given.max() <= 1 for given, _ in found.values()):
        raise GraphError(
            f"{path} gives one channel from 0 to 1 and ends in no Sigmoid: whether its border is 0 or 0.5 is not said; "
            "export it with the Sigmoid at its end, or without"
        )
    for name, (given, _) in found.items():
        same = label_agreement(logits[name].argmax(1).ravel(), ends.labels(given))
        if same < (OF_HALF if ends.half else SAME_LABELS):
            raise GraphError(
                f"{path} gives labels that are not those of {ends.source!r}, taken for its scores of "
                f"{ends.made.classes} classes: {100 * same:.1f} % are the same on the {name} frame; export it without "
                "its last operators"
            )
    return logits


def _tapped(path: Path, ends: Ends) -> Path | bytes:
    """The file, or its bytes with the source of the logits as an output more, or nodes of one name without."""
    names = [node.name for node in onnx.load(path, load_external_data=False).graph.node if node.name]
    if ends.source == ends.taken.output and len(names) == len(set(names)):
        return path
    proto = onnx.load(path)
    for node in proto.graph.node:
        node.name = ""  # they mean nothing, but ONNX Runtime refuses two that are the same
    if ends.source == ends.taken.output:
        return bytes(proto.SerializeToString())
    if not any(ends.source in node.output for node in proto.graph.node):  # within a function
        proto = onnx.inliner.inline_local_functions(proto)
    proto.graph.output.append(onnx.ValueInfoProto(name=ends.source))
    return bytes(proto.SerializeToString())


def _filled(inputs: parity.Inputs, name: str, frames: int) -> Array:
    """The input `name` and those after it, in turn, until there are `frames`."""
    names = list(inputs)
    first = names.index(name)
    return np.concatenate([inputs[names[(first + index) % len(names)]] for index in range(frames)])


def _run(session: Session, ends: Ends, images: Array) -> tuple[Array, Array]:
    """What the file gives on the first of `images`, and the source of its logits.

    Inputs that nothing reads are zero.
    """
    feeds = {
        spec.name: np.zeros([side if isinstance(side, int) and side > 0 else 1 for side in spec.shape], spec.dtype)
        for spec in session.inputs
    }
    values = session.run({**feeds, ends.taken.image: ends.fed(images)})
    one = slice(1 if ends.taken.frames > 1 else None)
    return np.array(values[ends.taken.output])[one], np.array(values[ends.source])[one]
