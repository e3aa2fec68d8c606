"""Run the fused float32 graph over frames and count every activation that may be quantised.

ONNX Runtime runs it, on CUDA where it has that, on frames prepared as the engine's are. Memory is bounded: the
activations become graph outputs, group by group so that a group of one frame stays near `GROUP_BYTES`, and only their
histograms are kept; all cores count, a tensor each, on Ray those of the worker. A frame counts when all of its groups
are through, so an interrupt at any moment loses that frame.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from refinenet_edge.calibration.histogram import Histogram, is_compiled
from refinenet_edge.errors import CalibrationError, GraphError, first_line
from refinenet_edge.graph import elements, sides, to_bytes
from refinenet_edge.runtime.in_flight import Workers, cores
from refinenet_edge.runtime.ort import open_onnxruntime

OPERATORS: dict[str, int | None] = {
    **dict.fromkeys(["Conv", "ConvTranspose", "MaxPool", "AveragePool", "Resize", "Relu", "Clip"], 1),
    **dict.fromkeys(["Gemm", "MatMul", "Add"], 2),
    "Concat": None,
}  # how many of its inputs, from the first, a placement may quantise; the others are biases, scales, bounds
GROUP_BYTES = 1 << 30  # of one frame's activations at a time
UNEVEN = 32  # of 127 steps one channel then leaves four to the others
UNKNOWN = 64 << 20  # bytes that a tensor of free size is taken for

Activation = npt.NDArray[np.float32]


def observable(model: ir.Model) -> tuple[str, ...]:
    """The float32 activations that an operator of `OPERATORS` takes, and the outputs, in the order of the graph."""
    wanted = set(model.graph.outputs)
    made = list(model.graph.inputs)
    moving = set(made)  # what depends on the frame; the rest is constant, in an initializer or computed of some
    for node in model.graph:
        if node.op_type in OPERATORS:
            wanted |= {value for value in node.inputs[: OPERATORS[node.op_type]] if value is not None}
        if not moving.isdisjoint(node.inputs):
            made += node.outputs
            moving |= set(node.outputs)
    return tuple(str(value.name) for value in made if value in wanted and value.dtype == ir.DataType.FLOAT)


@dataclass(frozen=True)
class ActivationCounter:
    """A graph with its `observable` activations as outputs of ONNX Runtime sessions; `count` counts one frame's."""

    input: str
    groups: tuple[Any, ...]  # ONNX Runtime's sessions
    threads: int = 0  # of theirs, which count, too; 0: as many as there are cores

    def count(self, image: Activation, name: str) -> dict[str, Histogram]:
        """Tensor -> histogram of one prepared frame (1x3xhxw). Raises `CalibrationError` for NaN or infinity."""
        histograms: dict[str, Histogram] = {}
        threads = (self.threads or cores()) if is_compiled() else 1  # numpy's passes wait for each other
        with Workers(threads) as workers:
            for part in self._parts(image):
                histograms |= workers.in_order(_counted, part)
                if wrong := [tensor for tensor in histograms if histograms[tensor].not_finite]:
                    raise CalibrationError(
                        f"{wrong[0]} holds {histograms[wrong[0]].not_finite} NaN or infinite values on {name}: these "
                        "weights cannot be quantised; check the checkpoint with refinenet-edge run"
                    )
        return histograms

    def activations(self, image: Activation) -> Iterator[tuple[str, Activation]]:
        """Name and values of the input and of each tensor."""
        for part in self._parts(image):
            yield from part

    def _parts(self, image: Activation) -> Iterator[Iterator[tuple[str, Activation]]]:
        """The same, one group after the other: each is taken to its end before the next one."""
        yield iter([(self.input, image)])
        for session in self.groups:
            yield _activations(session, {self.input: image})


def _activations(session: Any, feeds: dict[str, Activation]) -> Iterator[tuple[str, Activation]]:
    names = [output.name for output in session.get_outputs()]
    try:
        values = session.run(names, feeds)
    except Exception as exc:  # ONNX Runtime's own classes are private
        raise GraphError(f"ONNX Runtime cannot run the graph: {first_line(exc)}") from exc
    values.reverse()
    for name in names:
        yield name, values.pop()  # not kept here: the next group's come while the caller has the last


def _counted(activation: tuple[str, Activation]) -> tuple[str, Histogram]:
    histogram = Histogram()
    histogram.add(activation[1])
    return activation[0], histogram


def peaks(model: ir.Model, images: Iterable[Activation]) -> dict[str, float]:
    """The largest magnitude of every float32 activation of a graph on prepared images (1x3xhxw)."""
    names = [str(v.name) for node in model.graph for v in node.outputs if v.dtype == ir.DataType.FLOAT]
    counter, found = activation_counter(model, names), dict.fromkeys(names, 0.0)
    for image in images:
        for name, values in counter.activations(image):
            found[name] = max(found.get(name, 0.0), float(np.abs(values).max(initial=0.0)))
    return found


def uneven(model: ir.Model, images: Iterable[Activation]) -> dict[str, float]:
    """Activation -> how many times further its widest channel reaches than most, where one scale cannot hold both.

    Of a fused float32 graph, on prepared images (1x3xhxw), the most uneven first.
    """
    reach: dict[str, Activation] = {}
    counter = activation_counter(model)
    for image in images:
        for name, values in counter.activations(image):
            if values.ndim == 4:
                found = np.abs(values).max(axis=(0, 2, 3))
                reach[name] = np.maximum(reach.get(name, found), found)
    ratios = {name: _ratio(channels[channels > 0]) for name, channels in reach.items()}
    return {name: r for name, r in sorted(ratios.items(), key=lambda item: -item[1]) if r >= UNEVEN}


def _ratio(reach: Activation) -> float:
    return float(reach.max() / np.quantile(reach, 0.25)) if reach.size else 1.0


def activation_counter(model: ir.Model, tensors: Sequence[str] | None = None, threads: int = 0) -> ActivationCounter:
    """The counter of a fused float32 graph, of its observable `tensors` or others; see its `threads`.

    Raises `GraphError`.
    """
    sizes = {str(value.name): _bytes(value) for node in model.graph for value in node.outputs}
    source = str(model.graph.inputs[0].name)
    groups: list[list[str]] = [[]]
    room = GROUP_BYTES
    for name in observable(model) if tensors is None else tensors:
        if name == source:
            continue
        if groups[-1] and sizes[name] > room:
            groups.append([])
            room = GROUP_BYTES
        groups[-1].append(name)
        room -= sizes[name]
    data = to_bytes(model)
    # kept for the next frame where that is as large: an arena keeps what its largest frame took, and each group has one
    keep_memory = len(groups) == 1 and sides(model.graph.inputs[0]) is not None
    return ActivationCounter(source, tuple(_session(data, group, keep_memory, threads) for group in groups), threads)


def _session(data: bytes, outputs: list[str], keep_memory: bool, threads: int) -> Any:
    proto = onnx.load_model_from_string(data)
    _keep_only(proto.graph, set(outputs))
    del proto.graph.output[:]
    kind = onnx.TensorProto.FLOAT
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name in outputs)
    kept = proto.SerializeToString()
    del proto  # its weights are in memory often enough
    try:
        return open_onnxruntime(kept, threads=threads, arena=keep_memory, on_gpu=True)
    except Exception as exc:  # ONNX Runtime's own classes are private
        raise GraphError(f"ONNX Runtime cannot run the graph: {first_line(exc)}") from exc


def _keep_only(graph: onnx.GraphProto, needed: set[str]) -> None:
    """Drop the nodes and weights that nothing in `needed` comes from: a group ends at its last tensor."""
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        return  # inner graphs take values from outside unsaid
    kept = []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed |= set(node.input)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    nodes = list(reversed(kept))
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)


def _bytes(value: ir.Value) -> int:
    count = elements(value)
    return UNKNOWN if count is None else 4 * count
