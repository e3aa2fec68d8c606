"""RefineNet as its authors publish it: MatConvNet networks in a MATLAB file -> our names, float32.

The file holds the network in pieces, each a DagNN saved as a struct or, for the classifier, the struct of one layer:

    encoder      a ResNet from image to four taps: the one with batch norms
    decoder      four cascaded RefineNet blocks, coarsest tap first
    classifier   a 3x3 convolution of the training loss

A DagNN is layers that name the variables they read and write. It is read by following those from its input, block by
block as the paper draws them: each layer has to be what RefineNet has there, with its stride and its padding, and none
may be left over. So the order of the pooling blocks (the authors' "improved" one is [conv, pool]) and their number are
seen, not assumed, and a network that only resembles RefineNet is refused with the layer's name.

Filters are HxWxCxK there, KxCxHxW here. Of the moments of a batch norm the second is sigma, sqrt(variance + epsilon),
which MatConvNet divides by as it is; so does the network here: the scale is divided by sigma and the variance is one.

Of a data set with void the authors' classifier has a channel for that, too, which training only ever pushes down. It is
left out: where it was not the largest, the labels are the same.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from refinenet_edge.errors import CheckpointError
from refinenet_edge.model.blocks import CrpOrder
from refinenet_edge.model.encoders import RESNET_STAGES
from refinenet_edge.model.matlab import Struct, Value, find_structs, rows
from refinenet_edge.model.refinenet import ModelSpec

logger = logging.getLogger(__name__)

EPSILON = 1e-5  # of torch's batch norm
CONV, BATCH_NORM, RELU, POOL = "dagnn.Conv", "dagnn.BatchNorm", "dagnn.ReLU", "dagnn.Pooling"
SUM, RESIZED_SUM = "dagnn.Sum", "My_sum_layer"
TAPS = ("dagnn.DropOut", "My_copy_layer")
CLASSIFIER = "final_loss"  # the authors' name of the group it is in; the layer itself has none
# by channels of the classifier: the label set, and at which channel void is
VOID = {22: ("voc", 21), 41: ("nyu40", 40), 20: ("cityscapes", 19), 38: ("sun37", 0), 151: ("ade150", 0)}


class MatlabNetwork(NamedTuple):
    """Weights by the names of the authors' layers, what these are here (layer -> module), and of which network."""

    state: dict[str, Tensor]
    modules: dict[str, str]
    spec: ModelSpec


def read_network(path: Path, num_classes: int | None) -> MatlabNetwork:
    """The RefineNet in a MATLAB file, weights not yet compared with the network's shapes.

    `num_classes`: as many as the classifier has channels keeps them all; otherwise void is left out. Raises
    `CheckpointError` for what is no RefineNet of four cascaded blocks on one image scale.
    """
    dags, classifiers = find_structs(path, ("layers", "params"), ("type", "filters", "biases", "stride", "pad"))
    graphs = [_Graph(dag, path) for dag in dags]
    encoders = [graph for graph in graphs if graph.count(BATCH_NORM)]
    decoders = [graph for graph in graphs if graph not in encoders]
    counts = f"{len(encoders)} encoders, {len(decoders)} decoders and {len(classifiers)} classifiers"
    if len(encoders) == len(decoders) == len(classifiers) == 1:
        depth = _encoder(encoders[0])
        crp, crp_blocks = _decoder(decoders[0])
    elif len(encoders) > 1:
        raise CheckpointError(f"{path} is a RefineNet on {len(encoders)} image scales, which is not supported")
    else:
        raise CheckpointError(
            f"{path} has {counts}, where a trained RefineNet has one of each: the authors save it as net-config*.mat"
        )
    weight, bias = _classifier(classifiers[0], path, num_classes)
    state = encoders[0].state | decoders[0].state | {f"{CLASSIFIER}.weight": weight, f"{CLASSIFIER}.bias": bias}
    modules = encoders[0].modules | decoders[0].modules | {CLASSIFIER: "classifier"}
    spec = ModelSpec(
        f"rf{depth}", len(bias), crp=crp, crp_blocks=crp_blocks, align_corners=False, framework="matconvnet"
    )
    return MatlabNetwork(state, modules, spec)


@dataclass(frozen=True)
class _Layer:
    name: str
    type: str
    inputs: tuple[str, ...]
    output: str
    params: tuple[str, ...]
    block: Mapping[str, Value]

    def number(self, field: str, default: int) -> float | None:
        """A number of the block that may be written once or for each side; None where the sides differ."""
        value = self.block.get(field, default)
        values = np.unique(value) if isinstance(value, (np.ndarray, int)) else np.zeros(0)
        return float(values[0]) if len(values) == 1 else None


class _Graph:
    """A DagNN that is taken apart from its inputs; what was taken is in `state` and `modules`."""

    def __init__(self, dag: Struct, path: Path) -> None:
        self.path = path
        self.left = {layer.name: layer for layer in map(self._layer, rows(dag["layers"]))}
        self.params = {str(row.get("name")): row.get("value") for row in rows(dag["params"])}
        if not self.left:
            raise CheckpointError(f"{path} has a network without layers")
        written = {layer.output for layer in self.left.values()}
        self.inputs = {name for layer in self.left.values() for name in layer.inputs if name not in written}
        self.readers: dict[str, list[_Layer]] = {}
        for layer in self.left.values():
            for name in layer.inputs:
                self.readers.setdefault(name, []).append(layer)
        self.state: dict[str, Tensor] = {}
        self.modules: dict[str, str] = {}

    def _layer(self, row: Struct) -> _Layer:
        texts = [row.get(field) for field in ("inputs", "outputs", "params")]
        inputs, outputs, params = (tuple(t if isinstance(t, list) else [t] if t else []) for t in texts)
        name, block = row.get("name"), row.get("block")
        if (
            not isinstance(name, str)
            or not all(isinstance(t, str) for t in (*inputs, *outputs, *params))
            or not outputs
        ):
            raise CheckpointError(f"{self.path}: layer {name!r:.80} does not say what it reads and writes")
        return _Layer(name, str(row.get("type")), inputs, outputs[0], params, block if isinstance(block, dict) else {})

    def count(self, kind: str) -> int:
        return sum(layer.type == kind for layer in self.left.values())

    def next(self, variable: str, *kinds: str) -> list[_Layer]:
        """The layers of these types that read `variable` and were not taken yet."""
        return [r for r in self.readers.get(variable, ()) if r.type in kinds and r.name in self.left]

    def take(self, variable: str, *kinds: str) -> _Layer:
        """The first of `next`, which is there only once. Raises `CheckpointError` where there is none."""
        found = self.next(variable, *kinds)
        if not found:
            others = ", ".join(
                f"{r.name} ({r.type})" for r in self.next(variable, *{x.type for x in self.left.values()})
            )
            raise CheckpointError(
                f"{self.path} is another network than RefineNet: {variable} should go into {' or '.join(kinds)}, "
                f"it goes into {others or 'nothing'}"
            )
        return self.left.pop(found[0].name)

    def require(self, layer: _Layer, **expected: int | str) -> None:
        for field, value in expected.items():
            got = layer.block.get(field) if isinstance(value, str) else layer.number(field, value)
            if got != value:
                raise CheckpointError(
                    f"{self.path} is another network than RefineNet: layer {layer.name} has {field} "
                    f"{layer.block.get(field)!r:.40}, expected {value}"
                )

    def finish(self) -> None:
        if self.left:
            names = ", ".join(f"{layer.name} ({layer.type})" for layer in list(self.left.values())[:4])
            raise CheckpointError(f"{self.path} is another network than RefineNet: it also has {names}")

    # --- layers

    def relu(self, variable: str) -> str:
        layer = self.take(variable, RELU)
        self.require(layer, leak=0)
        return layer.output

    def pool(self, variable: str, size: int, stride: int) -> str:
        layer = self.take(variable, POOL)
        self.require(layer, method="max", poolSize=size, stride=stride, pad=size // 2)
        return layer.output

    def conv(self, variable: str, module: str, *, bias: bool = False) -> str:
        return self._conv(self.take(variable, CONV), module, bias, 1).output

    def _conv(self, layer: _Layer, module: str, bias: bool, stride: int) -> _Layer:
        filters = self.param(layer, 0)
        if bool(layer.params[1:]) != bias:
            raise CheckpointError(f"{self.path}: layer {layer.name} should have {'a' if bias else 'no'} bias")
        weight = _filters(filters, f"{self.path}: {layer.name}")
        self.require(layer, stride=stride, pad=weight.shape[2] // 2, dilate=1)
        self.keep(layer, module, weight=weight)
        if bias:
            self.keep(layer, module, bias=_tensor(self.param(layer, 1).ravel()))
        return layer

    def conv_bn(self, layer: _Layer, conv: str, norm: str, stride: int = 1) -> str:
        """A convolution that was taken, and its batch norm: a bias of the former is part of the latter's mean."""
        bias = self.param(layer, 1).ravel() if layer.params[1:] else None
        unbiased = replace(layer, params=layer.params[:1])
        normed = self.take(self._conv(unbiased, conv, False, stride).output, BATCH_NORM)
        mult, shift, moments = (self.param(normed, index) for index in range(3))
        if moments.ndim != 2 or moments.shape[1] != 2 or mult.size != len(moments):
            raise CheckpointError(f"{self.path}: layer {normed.name} has no mean and sigma for each channel")
        mean, sigma = moments.T
        if bias is not None:
            mean = mean - bias
        with np.errstate(all="ignore"):  # what is not finite is refused with all that is
            scale = mult.ravel() / sigma
        self.keep(normed, norm, weight=_tensor(scale), bias=_tensor(shift.ravel()), running_mean=_tensor(mean))
        self.keep(normed, norm, running_var=torch.full((len(sigma),), 1 - EPSILON))
        return normed.output

    def sum(self, variables: list[str], kind: str) -> str:
        layer = self.take(variables[0], kind)
        if sorted(layer.inputs) != sorted(variables):
            raise CheckpointError(
                f"{self.path} is another network than RefineNet: layer {layer.name} adds {', '.join(layer.inputs)}, "
                f"expected {', '.join(variables)}"
            )
        return layer.output

    def param(self, layer: _Layer, index: int) -> Any:
        value = self.params.get(layer.params[index]) if index < len(layer.params) else None
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
            raise CheckpointError(f"{self.path}: layer {layer.name} has no numbers as its parameter {index + 1}")
        return value

    def keep(self, layer: _Layer, module: str, **tensors: Tensor) -> None:
        self.modules[layer.name] = module
        self.state |= {f"{layer.name}.{leaf}": tensor for leaf, tensor in tensors.items()}


def _encoder(graph: _Graph) -> int:
    """Take a ResNet apart, its stride on the first convolution of a block. Returns its depth."""
    norms = graph.count(BATCH_NORM)
    depth = next((depth for depth, blocks in RESNET_STAGES.items() if 3 * sum(blocks) + 5 == norms), None)
    if depth is None or len(graph.inputs) != 1:
        raise CheckpointError(f"{graph.path}: its encoder has {norms} batch norms, which no ResNet-50, 101 or 152 has")
    (image,) = graph.inputs
    x = graph.relu(graph.conv_bn(graph.take(image, CONV), "encoders.0.conv1", "encoders.0.bn1", 2))
    x = graph.pool(x, 3, 2)
    for stage, blocks in enumerate(RESNET_STAGES[depth], start=1):
        for block in range(blocks):
            x = _bottleneck(
                graph, x, f"encoders.0.layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1, block == 0
            )
        graph.take(x, *TAPS)
    graph.finish()
    return depth


def _bottleneck(graph: _Graph, x: str, module: str, stride: int, projected: bool) -> str:
    branches = [graph.take(x, CONV) for _ in range(1 + projected)]
    # the shortcut's batch norm goes straight into the sum
    branches.sort(key=lambda layer: not any(graph.next(n.output, RELU) for n in graph.next(layer.output, BATCH_NORM)))
    shortcut = x
    if projected:
        shortcut = graph.conv_bn(branches[1], f"{module}.downsample.0", f"{module}.downsample.1", stride)
    out = graph.relu(graph.conv_bn(branches[0], f"{module}.conv1", f"{module}.bn1", stride))
    out = graph.relu(graph.conv_bn(graph.take(out, CONV), f"{module}.conv2", f"{module}.bn2"))
    out = graph.conv_bn(graph.take(out, CONV), f"{module}.conv3", f"{module}.bn3")
    return graph.relu(graph.sum([out, shortcut], SUM))


def _decoder(graph: _Graph) -> tuple[CrpOrder, int]:
    """Take four cascaded blocks apart. Returns the order inside their chained pooling and the length of the chain."""
    taps = sorted(graph.inputs, key=lambda tap: -_channels(graph, tap))
    if len(taps) != 4:
        raise CheckpointError(f"{graph.path} is a RefineNet with {len(taps)} paths: only four, cascaded, are supported")
    chains: set[tuple[CrpOrder, int]] = set()
    coarser = None
    for level, tap in zip((4, 3, 2, 1), taps, strict=True):
        x = graph.conv(tap, f"refine{level}.adapt.0.0")
        for i in (1, 2):
            x = _rcu(graph, x, f"refine{level}.adapt.0.{i}")
        if coarser is not None:
            paths = [graph.conv(path, f"refine{level}.mrf.convs.{i}") for i, path in enumerate((x, coarser))]
            x = graph.sum(paths, RESIZED_SUM)
        x, order, length = _chained_pooling(graph, x, f"refine{level}.crp.convs")
        chains.add((order, length))
        for i in range(3):
            x = _rcu(graph, x, f"refine{level}.rcus.{i}")
        coarser = x
    graph.finish()
    if len(chains) > 1:
        raise CheckpointError(f"{graph.path} has blocks with different chains of pooling, which is not supported")
    return order, length


def _channels(graph: _Graph, variable: str) -> int:
    readers = graph.next(variable, CONV)
    return int((*graph.param(readers[0], 0).shape, 1, 1, 1)[2]) if readers else 0


def _rcu(graph: _Graph, x: str, module: str) -> str:
    out = graph.conv(graph.relu(x), f"{module}.conv1", bias=True)
    return graph.sum([graph.conv(graph.relu(out), f"{module}.conv2"), x], SUM)


def _chained_pooling(graph: _Graph, x: str, module: str) -> tuple[str, CrpOrder, int]:
    x = graph.relu(x)
    parts = [x]
    order: CrpOrder = "pool_conv" if graph.next(x, POOL) else "conv_pool"
    while graph.next(x, POOL, CONV):
        at = f"{module}.{len(parts) - 1}"
        x = graph.conv(graph.pool(x, 5, 1), at) if order == "pool_conv" else graph.pool(graph.conv(x, at), 5, 1)
        parts.append(x)
    return graph.sum(parts, RESIZED_SUM), order, len(parts) - 1


def _classifier(layer: Struct, path: Path, num_classes: int | None) -> tuple[Tensor, Tensor]:
    sides = {field: np.unique(layer[field]).tolist() for field in ("stride", "pad")}
    if layer["type"] != "conv" or sides != {"stride": [1], "pad": [1]}:
        raise CheckpointError(
            f"{path}: its classifier is {layer['type']!r:.40} with {sides}, expected a 3x3 convolution"
        )
    weight = _filters(layer["filters"], f"{path}: its classifier")
    bias = _tensor(np.ravel(layer["biases"]))
    channels = len(weight)
    if channels not in VOID or num_classes == channels:
        return weight, bias
    labels, void = VOID[channels]
    logger.warning(
        "%s has %d channels: taken for %s and void, which is left out (load_checkpoint(..., num_classes=%d) keeps it)",
        path.name,
        channels,
        labels,
        channels,
    )
    kept = [channel for channel in range(channels) if channel != void]
    return weight[kept], bias[kept]


def _filters(value: Value, what: str) -> Tensor:
    """HxWxCxK, of which MATLAB leaves sides of one at the end out, as KxCxHxW."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf" or value.ndim > 4:
        raise CheckpointError(f"{what} has no filters")
    return _tensor(value.reshape(*value.shape, *[1] * (4 - value.ndim)).transpose(3, 2, 0, 1))


def _tensor(values: Any) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32, order="C"))  # a copy: what was read may be read-only
