"""Second stage: a checkpoint, random weights or somebody's ONNX file becomes a traced graph."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnx_ir as ir

from refinenet_edge import precision
from refinenet_edge.build import parity
from refinenet_edge.build.given import given_logits
from refinenet_edge.errors import CheckpointError, GraphError, InputError
from refinenet_edge.files import sha256
from refinenet_edge.graph import num_classes, sides
from refinenet_edge.labels import fitting
from refinenet_edge.model import SHIPPED, open_network
from refinenet_edge.onnx_import import ENDS, Ends, Said, read_onnx
from refinenet_edge.records import (
    DEFAULT_SIZE,
    ONE,
    PREPROCESSINGS,
    Batch,
    Bilinear,
    Cubic,
    FrameSpec,
    Interpolation,
    Labels,
    Nearest,
    Recipe,
    Size,
)
from refinenet_edge.runtime.first_run import require_runs
from refinenet_edge.trace import torch_logits, trace

logger = logging.getLogger(__name__)

Step = Callable[[str], None]  # hears what a build does
RANDOM = "random"
DEFAULT_CLASSES = 21  # of random weights: VOC's
STEP = 32  # pixels, the deepest stride: what the shipped networks learned of borders holds at sides that it divides


@dataclass(frozen=True)
class NetworkSource:
    """Which network `recipe` is of: its weights in `checkpoint` (None: the ONNX file's, or random), its `labels`.

    None: they are numbered.
    """

    recipe: Recipe
    checkpoint: Path | None
    labels: Labels | None


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


def load(network: NetworkSource, step: Step) -> LoadedModel:
    """The traced graph. Raises `CheckpointError`, `GraphError`, or `InputError` where the recipe does not fit it."""
    step("load and trace the model")
    return _from_module(network) if network.recipe.onnx is None else _from_onnx(network, Path(network.recipe.onnx))


def _described(
    network: NetworkSource,
    name: str,
    path: Path | None,
    model: ir.Model,
    preprocessing: FrameSpec,
    upsample: Interpolation,
    reference: parity.Reference,
    last_bit: float | None = parity.LAST_BIT,
    batch: Batch = ONE,
) -> LoadedModel:
    recipe = network.recipe
    fixed = sides(model.graph.inputs[0])
    size = (fixed[2], fixed[3]) if fixed else recipe.size or DEFAULT_SIZE
    return LoadedModel(
        name,
        path.name if path else RANDOM,
        sha256(path, CheckpointError) if path else None,
        model,
        replace(preprocessing, size=None if recipe.dynamic else size, upsample=upsample),
        fitting(network.labels, num_classes(model)),
        reference,
        size,
        last_bit,
        recipe.batch or batch,
    )


def _upsampling(recipe: Recipe, align_corners: bool) -> Interpolation:
    return Cubic() if recipe.upsample == "cubic" else Bilinear(align_corners)


def _from_module(network: NetworkSource) -> LoadedModel:
    recipe, path = network.recipe, network.checkpoint
    module = open_network(recipe, path, len(network.labels.names) if network.labels else DEFAULT_CLASSES)
    if path is None:
        logger.warning("%s has random weights (no --checkpoint was given): its masks mean nothing", recipe.model)
    size = recipe.size or DEFAULT_SIZE
    if path in SHIPPED.values() and any(side % STEP for side in size) and not recipe.dynamic:
        better = "x".join(str(-(-side // STEP) * STEP) for side in size)
        logger.warning(
            "the weights that ship were trained at sides that are multiples of %d, and label worse at %dx%d: "
            "--size %s is next to it",
            STEP,
            *size,
            better,
        )
    spec, traced = module.spec, trace(module, size, recipe.dynamic)
    trained_on = replace(spec.preprocessing, fit=recipe.resize)
    preprocessing = recipe.preprocessing if recipe.says_preprocessing else trained_on
    upsample = _upsampling(recipe, spec.align_corners)
    return _described(network, spec.name, path, traced, preprocessing, upsample, partial(torch_logits, module))


def _from_onnx(network: NetworkSource, path: Path) -> LoadedModel:
    recipe, usual = network.recipe, None if network.recipe.dynamic else DEFAULT_SIZE
    said = Said(recipe.output_name, recipe.layout, len(network.labels.names) if network.labels else None)
    model = read_onnx(path, None if recipe.dynamic else recipe.size, said=said, otherwise=usual)
    weights = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    require_runs(path, sha256(path, GraphError), "onnxruntime", GraphError, str(path), weights=weights)
    shape = model.graph.inputs[0].shape
    if recipe.dynamic and shape is not None and any(isinstance(side, int) for side in shape[2:]):
        raise GraphError(f"{path} is fixed to {shape[2]}x{shape[3]}: leave --dynamic out, or export it with free sides")
    _require_quantised_once(recipe, path, model)
    ends: Ends = model.meta[ENDS]
    spec = _preprocessing(recipe, path, ends)
    if not recipe.says_preprocessing:
        logger.warning("%s", _assumed(path, ends, spec))
    labels = ends.made.kind in ("labels", "ones")
    return _described(
        network,
        path.stem,
        path,
        model,
        spec,
        Nearest() if labels else _upsampling(recipe, recipe.align_corners is True),
        partial(given_logits, path, ends),
        None if labels else parity.LAST_BIT_OF_HALF if ends.half else parity.LAST_BIT,
        Batch(ends.taken.frames, ends.taken.frames, ends.taken.frames),
    )


def _require_quantised_once(recipe: Recipe, path: Path, model: ir.Model) -> None:
    """Raise `InputError` unless a quantised precision comes of the file's Q/DQ or of calibration, of one of the two."""
    needs_ranges = recipe.precision in precision.QUANTISED
    if precision.is_quantised(model):
        if not needs_ranges:
            raise InputError(f"{path} is quantised (it has Q/DQ): build it with --precision int8")
        if recipe.calib is not None:
            raise InputError(f"{path} is quantised already (it has Q/DQ): leave --calib and budgets out")
    elif needs_ranges and recipe.calib is None:
        raise InputError(f"{path} has no Q/DQ, and {precision.uncalibrated(recipe.precision)}")


def _preprocessing(recipe: Recipe, path: Path, ends: Ends) -> FrameSpec:
    """How frames become the input of somebody's network. Raises `InputError` where that cannot be as it was said."""
    spec = recipe.preprocessing
    if ends.taken.dtype != "uint8":
        return spec
    unsaid, plain = (replace(PREPROCESSINGS[name], order=spec.order, fit=spec.fit) for name in ("imagenet", "none"))
    if spec not in (unsaid, plain):
        raise InputError(
            f"{path} takes uint8, which is scaled in the graph: only --order can be said; leave --preprocess, --mean, "
            "--std and --scale out"
        )
    return plain


def _assumed(path: Path, ends: Ends, spec: FrameSpec) -> str:
    """What is assumed of the frames that somebody's network takes, and what speaks against it."""
    assumed = f"how {path.name} takes its frames was not said: assumed is {spec.preprocessing}"
    if ends.taken.dtype == "uint8":
        return f"{assumed}, as it takes uint8; if it was trained on the other order, give --order bgr"
    if not (first := ends.scaled_by):
        return f"{assumed}; if it was trained otherwise, give --preprocess, or --mean, --std, --scale and --order"
    return (
        f"{assumed}, but it begins with {', '.join(first)}, which may normalise what it takes: "
        "then give --preprocess none for bytes as they are, or --preprocess 0-1"
    )
