"""Second stage: a checkpoint, random weights or somebody's ONNX file becomes a traced graph."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import onnx_ir as ir

from refinenet_edge import precision
from refinenet_edge.build.given import given_logits
from refinenet_edge.errors import CheckpointError, GraphError, InputError
from refinenet_edge.files import sha256
from refinenet_edge.fusion import parity
from refinenet_edge.fusion.rewrite import constant
from refinenet_edge.labels import fitting
from refinenet_edge.model import SHIPPED, open_network
from refinenet_edge.model.blocks import CrpOrder
from refinenet_edge.onnx_ends import Ends, Said
from refinenet_edge.records import (
    DEFAULT_SIZE,
    ONE,
    PREPROCESSINGS,
    Batch,
    Bilinear,
    Cubic,
    FrameSpec,
    Labels,
    Nearest,
    Size,
)
from refinenet_edge.runtime.first_run import require_runs
from refinenet_edge.trace import ENDS, num_classes, read_onnx, torch_logits, trace

logger = logging.getLogger(__name__)

RANDOM = "random"
DEFAULT_CLASSES = 21  # of random weights: VOC's
AFFINE = ("BatchNormalization", "Div", "Mul", "Sub", "Add")  # by constants, what normalises an input in the graph
STEP = 32  # pixels, the deepest stride: what the shipped networks learned of borders holds at sides that it divides
NEUTRAL = ("Cast", "Identity", "Transpose")  # what may lie between them


@dataclass(frozen=True)
class Network:
    """Which network: the graph in `onnx`, the weights in `checkpoint`, or else `model` with random weights."""

    onnx: Path | None
    checkpoint: Path | None
    model: str | None  # what a checkpoint must be of; None where the file may say
    crp: CrpOrder | None  # None: as the checkpoint says
    align_corners: bool | None  # None: as the checkpoint says
    size: Size | None  # the usual one of a dynamic network; None: the file's own, else DEFAULT_SIZE
    dynamic: bool
    labels: Labels | None  # None: numbered
    ends: Said  # what an ONNX file does not say itself
    preprocessing: FrameSpec  # how frames become its input, at any size
    preprocessing_said: bool  # by the user; else it is an assumption
    cubic: bool  # how logits reach the frame's size
    precision: str
    calibrated: bool  # we quantise it: then it has no Q/DQ yet
    state_key: str | None = None  # which weights of a checkpoint that holds several
    collapse_ind: str | None = None  # of DenseTorch's checkpoints
    batch: Batch | None = None  # frames at once; None: as an ONNX file is fixed, else one


@dataclass(frozen=True)
class LoadedModel:
    """A traced float32 graph and where it came from, how frames go in and logits come out, and its classes.

    `reference` is what was handed in, as it is: torch's module, or the ONNX file before anything was done to it.
    It takes one frame; `batch` is how many its bundle is to take at once.
    `size` is the usual one, where the sides are free; `last_bit` is that of the numbers it computes in, None where the
    logits are labels, of which rounding moves one wholly.
    """

    name: str
    checkpoint: str
    sha256: str | None
    model: ir.Model
    spec: FrameSpec
    labels: Labels
    reference: parity.Reference
    size: Size
    last_bit: float | None = parity.LAST_BIT
    batch: Batch = ONE


def load(network: Network, step: Callable[[str], None]) -> LoadedModel:
    """The traced graph. Raises `CheckpointError`, `GraphError`, or `InputError` where the recipe does not fit it."""
    step("load and trace the model")
    path = network.onnx or network.checkpoint
    given = _from_module(network) if network.onnx is None else _from_onnx(network, network.onnx)
    upsample = given.upsample or (Cubic() if network.cubic else Bilinear(given.align_corners))
    size = _sides(given.model) or network.size or DEFAULT_SIZE
    return LoadedModel(
        given.name,
        path.name if path else RANDOM,
        sha256(path, CheckpointError) if path else None,
        given.model,
        replace(given.preprocessing, size=None if network.dynamic else size, upsample=upsample),
        fitting(network.labels, num_classes(given.model)),
        given.reference,
        size,
        given.last_bit,
        network.batch or given.batch,
    )


def _sides(model: ir.Model) -> Size | None:
    """Height and width of the image; None where they are free."""
    shape = model.graph.inputs[0].shape
    assert shape is not None
    height, width = shape[2:]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


class _Given(NamedTuple):
    """The network's name, its traced graph, whether its logits are upsampled with aligned corners, what it was.

    `preprocessing` is what the user says, else what it was trained on. `upsample`: the only way that its logits can be.
    `batch` is what it was made for.
    """

    name: str
    model: ir.Model
    align_corners: bool
    reference: parity.Reference
    preprocessing: FrameSpec
    upsample: Nearest | None = None
    last_bit: float | None = parity.LAST_BIT
    batch: Batch = ONE


def _from_module(network: Network) -> _Given:
    classes = len(network.labels.names) if network.labels else DEFAULT_CLASSES
    module = open_network(
        network.model,
        network.checkpoint,
        classes,
        crp=network.crp,
        align_corners=network.align_corners,
        state_key=network.state_key,
        collapse_ind=network.collapse_ind,
    )
    if network.checkpoint is None:
        logger.warning("%s has random weights (no --checkpoint was given): its masks mean nothing", network.model)
    size = network.size or DEFAULT_SIZE
    if network.checkpoint in SHIPPED.values() and any(side % STEP for side in size) and not network.dynamic:
        better = "x".join(str(-(-side // STEP) * STEP) for side in size)
        logger.warning(
            "the weights that ship were trained at sides that are multiples of %d, and label worse at %dx%d: "
            "--size %s is next to it",
            STEP,
            *size,
            better,
        )
    spec, traced = module.spec, trace(module, size, network.dynamic)
    preprocessing = network.preprocessing
    if not network.preprocessing_said:
        preprocessing = replace(spec.preprocessing, fit=preprocessing.fit)
    return _Given(spec.name, traced, spec.align_corners, partial(torch_logits, module), preprocessing)


def _from_onnx(network: Network, path: Path) -> _Given:
    model = read_onnx(
        path,
        None if network.dynamic else network.size,
        said=network.ends,
        otherwise=None if network.dynamic else DEFAULT_SIZE,
    )
    weights = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    require_runs(path, sha256(path, GraphError), "onnxruntime", GraphError, str(path), weights=weights)
    shape = model.graph.inputs[0].shape
    if network.dynamic and shape is not None and any(isinstance(side, int) for side in shape[2:]):
        raise GraphError(f"{path} is fixed to {shape[2]}x{shape[3]}: leave --dynamic out, or export it with free sides")
    needs_ranges = network.precision in precision.QUANTISED
    if precision.is_quantised(model):
        if not needs_ranges:
            raise InputError(f"{path} is quantised (it has Q/DQ): build it with --precision int8")
        if network.calibrated:
            raise InputError(f"{path} is quantised already (it has Q/DQ): leave --calib and budgets out")
    elif needs_ranges and not network.calibrated:
        raise InputError(f"{path} has no Q/DQ, and {precision.uncalibrated(network.precision)}")
    spec = _preprocessing(network, path, model)
    if not network.preprocessing_said:
        logger.warning("%s", _assumed(path, model, spec))
    ends: Ends = model.meta[ENDS]
    last_bit = parity.LAST_BIT_OF_HALF if ends.half else parity.LAST_BIT
    labels = ends.kind in ("labels", "ones")
    return _Given(
        path.stem,
        model,
        network.align_corners is True,
        partial(given_logits, path, ends),
        spec,
        Nearest() if labels else None,
        None if labels else last_bit,
        Batch(ends.frames, ends.frames, ends.frames),
    )


def _preprocessing(network: Network, path: Path, model: ir.Model) -> FrameSpec:
    """How frames become the input of somebody's `model`. Raises `InputError` where that cannot be as it was said."""
    spec = network.preprocessing
    if model.meta[ENDS].dtype != "uint8":
        return spec
    plain = replace(PREPROCESSINGS["none"], order=spec.order, fit=spec.fit)
    if spec not in (
        plain,
        replace(PREPROCESSINGS["imagenet"], order=spec.order, fit=spec.fit),
    ):  # which is what is not said
        raise InputError(
            f"{path} takes uint8, which is scaled in the graph: only --order can be said; leave --preprocess, --mean, "
            "--std and --scale out"
        )
    return plain


def _assumed(path: Path, model: ir.Model, spec: FrameSpec) -> str:
    """What is assumed of the frames that somebody's network takes, and what speaks against it."""
    assumed = f"how {path.name} takes its frames was not said: assumed is {spec.preprocessing}"
    if model.meta[ENDS].dtype == "uint8":
        return f"{assumed}, as it takes uint8; if it was trained on the other order, give --order bgr"
    if not (first := _normalisation(model)):
        return f"{assumed}; if it was trained otherwise, give --preprocess, or --mean, --std, --scale and --order"
    return (
        f"{assumed}, but it begins with {', '.join(first)}, which may normalise what it takes: "
        "then give --preprocess none for bytes as they are, or --preprocess 0-1"
    )


def _normalisation(model: ir.Model) -> list[str]:
    """The operators by which `model` scales and shifts its input before anything else, in order."""
    value, found = model.graph.inputs[0], []
    while len(consumers := value.consumers()) == 1 and (node := consumers[0]).op_type in (*AFFINE, *NEUTRAL):
        others = [other for other in node.inputs if other is not value]
        if any(constant(other) is None for other in others) or len(others) != len(node.inputs) - 1:
            break  # computed, or a square
        if node.op_type == "Div" and node.inputs[0] is not value:
            break
        if node.op_type in AFFINE:
            found.append(node.op_type)
        value = node.outputs[0]
    return found
