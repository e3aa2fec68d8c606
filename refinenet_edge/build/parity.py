"""Proof at build time: a graph gives the logits of what the user handed in, on a random frame and on a real one.

The reference is the file as it was given, before any conversion. ONNX Runtime on the CPU is the referee, with its own
graph optimisations off, so that it runs what is written.

Of float32 `BOUND` is asked. Where a network's own sums lose more to rounding (the last bit of its weights moves its
logits further), what that is times `MARGIN`.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from refinenet_edge.errors import GraphError, RefineNetEdgeError, first_line
from refinenet_edge.fusion.rewrite import Rewrite
from refinenet_edge.graph import to_bytes
from refinenet_edge.records import Batch, Parity, label_agreement, relative_error
from refinenet_edge.runtime.ort import OrtSession
from refinenet_edge.runtime.session import Session

BOUND = 1e-4  # max |fused - given| / max |given|, float32
MARGIN = 8  # of the last bit's effect: it is one draw of many, and sums in another order are many such bits
FEW = 3  # frames at once, where any number goes
ALONE = "build it without --batch"
SAME_LABELS = 0.99  # of the pixels, where the bound is that of rounding
LAST_BIT, LAST_BIT_OF_HALF = 2.0**-23, 2.0**-10
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")  # their inputs from the second are weights

Inputs = Mapping[str, npt.NDArray[np.float32]]  # frame name -> 1x3xhxw
Reference = Callable[[Inputs], Inputs]  # what the user handed in: its logits on prepared frames


def logits(model: Path | bytes, inputs: Inputs) -> dict[str, npt.NDArray[np.float32]]:
    """The logits that an ONNX model (a file or its bytes) gives as it is written. Raises `GraphError`."""
    try:
        with OrtSession(model, optimised=False) as session:
            return run(session, inputs)
    except RefineNetEdgeError as exc:
        raise GraphError(f"ONNX Runtime cannot run the graph: {first_line(exc)}") from exc


def run(session: Session, inputs: Inputs) -> dict[str, npt.NDArray[np.float32]]:
    """The float32 logits of a session on each input, cast to its type and padded to its channels."""
    (source,), (target,) = session.inputs, session.outputs
    by_frame = {}
    for name, image in inputs.items():
        channels = source.shape[1] if isinstance(source.shape[1], int) else image.shape[1]
        feed = np.pad(image, [(0, 0), (0, channels - image.shape[1]), (0, 0), (0, 0)]).astype(source.dtype)
        by_frame[name] = np.array(session.run({source.name: feed})[target.name], np.float32)
    return by_frame


def compare(stage: str, reference: Inputs, actual: Inputs, backend: str = "onnxruntime") -> tuple[Parity, ...]:
    """How far the logits `actual`, which `backend` gave, are from `reference`, frame by frame; labels have no error."""
    parities = []
    for name, expected in reference.items():
        if not np.isfinite(expected).all():
            raise GraphError(
                f"the model's own logits are not finite on the {name} frame: its weights cannot be used: build others"
            )
        error = relative_error(expected, actual[name]) if expected.ndim == 4 else 0.0
        parities.append(Parity(stage, name, error, label_agreement(expected, actual[name]), backend))
    return tuple(parities)


def compare_together(
    stage: str, session: Session, batch: Batch, reference: Inputs, inputs: Inputs, backend: str = "onnxruntime"
) -> list[list[Parity]]:
    """`compare` of what `session` gives for several of `inputs` at once: each in every number that is tried.

    That is the fixed number of `batch`, or the least and a few.
    """
    by_frame: dict[str, list[Parity]] = {name: [] for name in inputs}
    for frames in sorted({batch.least, min(batch.most, max(batch.least, FEW))}):
        names = list(islice(cycle(inputs), -(-len(inputs) // frames) * frames))
        for first in range(0, len(names), frames):
            chosen = names[first : first + frames]
            outputs = run(session, {"": np.concatenate([inputs[name] for name in chosen])})[""]
            for place, name in enumerate(chosen):
                given = {name: outputs[place : place + 1]}
                by_frame[name] += compare(stage, {name: reference[name]}, given, backend)
    return list(by_frame.values())


def prove_together(
    model: bytes, batch: Batch, expected: Inputs, inputs: Inputs, noise: Callable[[], float]
) -> tuple[Parity, ...]:
    """Hold the fused graph that takes a `batch` to the `expected` logits of each frame. Raises `GraphError`."""
    try:
        with OrtSession(model, optimised=False) as session:
            worst = tuple(map(_worst, compare_together(f"fused, batch {batch}", session, batch, expected, inputs)))
    except RefineNetEdgeError as exc:
        raise GraphError(f"this network cannot take {batch} frames at once ({first_line(exc)}): {ALONE}") from exc
    for parity in worst:
        if not exact_enough(parity, noise):
            raise GraphError(f"with {batch} frames at once one changes the logits of others: {_said(parity)}; {ALONE}")
    return worst


def prove(
    traced: bytes,
    expected: Inputs,
    fused: ir.Model,
    rewrites: Sequence[Rewrite],
    inputs: Inputs,
    noise: Callable[[], float],
) -> tuple[Parity, ...]:
    """Hold the fused graph to the `expected` logits on `inputs`, which the file gave that was `traced` (or imported).

    Raises `GraphError` naming the rewrite that broke the bound, or saying that the import did.
    """

    def holds(parities: Sequence[Parity]) -> bool:
        return all(exact_enough(parity, noise) for parity in parities)

    parities = compare("fused", expected, logits(to_bytes(fused), inputs))
    if holds(parities):
        return parities
    if not holds(imported := compare("imported", expected, logits(traced, inputs))):
        step = _worst(imported)
        raise GraphError(
            f"brought to the opset used here the model computes something else: {_said(step)}; "
            "export it again, with opset 19 or 20"
        )
    model = ir.from_proto(onnx.load_model_from_string(traced))
    for rewrite in rewrites:
        rewrite(model)
        if not holds(changed := compare("fused", expected, logits(to_bytes(model), inputs))):
            raise GraphError(
                f"the rewrite {rewrite.name} changed the logits: {_said(_worst(changed))}; "
                f"build with --without {rewrite.name}"
            )
    raise GraphError(f"the fused graph is off: {_said(_worst(parities))}")


def exact_enough(parity: Parity, noise: Callable[[], float], bound: float = BOUND) -> bool:
    """Whether that is all that float32 can promise; its `noise` is asked for only where `bound` is broken."""
    if parity.relative_error <= bound:
        return True
    return parity.label_agreement >= SAME_LABELS and parity.relative_error <= MARGIN * noise()


def rounding_noise(model: bytes, inputs: Inputs, last_bit: float) -> float:
    """How far the last bit of every weight and pixel moves the logits of `model`, relative: float32's own noise."""
    random = np.random.default_rng(0)

    def shaken(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return array * (1 + last_bit * random.choice(np.array([-1, 1], np.float32), array.shape)).astype(np.float32)

    moved = onnx.load_model_from_string(model)
    taken = {name for node in moved.graph.node if node.op_type in WEIGHTED for name in node.input[1:]}
    for tensor in moved.graph.initializer:
        if tensor.name in taken and tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(shaken(numpy_helper.to_array(tensor)), tensor.name))
    found = logits(moved.SerializeToString(), {name: shaken(image) for name, image in inputs.items()})
    return _worst(compare("rounding", logits(model, inputs), found)).relative_error


def _worst(parities: Sequence[Parity]) -> Parity:
    return max(parities, key=lambda parity: parity.relative_error)


def _said(worst: Parity) -> str:
    labels = f"{100 * worst.label_agreement:.2f} % of the labels are the same"
    return f"relative error {worst.relative_error:.2e} on the {worst.frame} frame, {BOUND:.0e} is allowed, and {labels}"
