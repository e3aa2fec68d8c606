"""Proof at build time: two graphs give the same logits, on a random frame and on a real one.

ONNX Runtime on the CPU is the referee, with its own graph optimisations off, so that it runs what is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from refinenet_edge.errors import GraphError, first_line
from refinenet_edge.fusion.rewrite import Rewrite
from refinenet_edge.records import Parity, relative_error
from refinenet_edge.runtime.ort import open_onnxruntime
from refinenet_edge.trace import to_bytes

BOUND = 1e-4  # max |fused - traced| / max |traced|, float32

Inputs = Mapping[str, npt.NDArray[np.float32]]  # frame name -> 1x3xhxw


def logits(model: bytes, inputs: Inputs) -> dict[str, npt.NDArray[np.float32]]:
    """The float32 logits of a serialised ONNX model on each input, cast to its type and padded to its channels."""
    try:
        session = open_onnxruntime(model, optimised=False)
        source = session.get_inputs()[0]
        dtype = np.float16 if source.type == "tensor(float16)" else np.float32
        by_frame = {}
        for name, image in inputs.items():
            padding = [(0, 0), (0, source.shape[1] - image.shape[1]), (0, 0), (0, 0)]
            feed = np.pad(image, padding).astype(dtype)
            by_frame[name] = np.asarray(session.run(None, {source.name: feed})[0], np.float32)
        return by_frame
    except Exception as exc:  # ONNX Runtime's own classes are private
        raise GraphError(f"ONNX Runtime cannot run the graph: {first_line(exc)}") from exc


def compare(stage: str, reference: Inputs, actual: Inputs) -> tuple[Parity, ...]:
    """How far the logits `actual` are from `reference`, frame by frame."""
    parities = []
    for name, expected in reference.items():
        if not np.isfinite(expected).all():
            raise GraphError(f"the model's own logits are not finite on the {name} frame: its weights cannot be used")
        same_shape = actual[name].shape == expected.shape
        agreement = float((actual[name].argmax(1) == expected.argmax(1)).mean()) if same_shape else 0.0
        parities.append(Parity(stage, name, relative_error(expected, actual[name]), agreement))
    return tuple(parities)


def prove(
    traced: bytes, expected: Inputs, fused: ir.Model, rewrites: Sequence[Rewrite], inputs: Inputs
) -> tuple[Parity, ...]:
    """Hold the fused graph to the traced one, whose logits on `inputs` are `expected`.

    Raises `GraphError` naming the rewrite that broke the bound.
    """
    parities = compare("fused", expected, logits(to_bytes(fused), inputs))
    worst = _worst(parities)
    if worst.relative_error <= BOUND:
        return parities
    model = ir.from_proto(onnx.load_model_from_string(traced))
    for rewrite in rewrites:
        rewrite(model)
        step = _worst(compare("fused", expected, logits(to_bytes(model), inputs)))
        if step.relative_error > BOUND:
            raise GraphError(
                f"the rewrite {rewrite.name} changed the logits: relative error {step.relative_error:.2e} on the "
                f"{step.frame} frame, {BOUND:.0e} is allowed; build with --without {rewrite.name}"
            )
    raise GraphError(
        f"the fused graph is off by {worst.relative_error:.2e} on the {worst.frame} frame, {BOUND:.0e} is allowed"
    )


def _worst(parities: Sequence[Parity]) -> Parity:
    return max(parities, key=lambda parity: parity.relative_error)
