"""All the stages in a row: a recipe becomes a bundle.

    load -> trace -> fuse -> prove -> (calibrate) -> type -> build the engine -> write the bundle

Nothing is written before everything has succeeded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from refinenet_edge import __version__, calibration, precision
from refinenet_edge.bundle import MODEL, PLAN, write_bundle
from refinenet_edge.engine import EngineOptions, Progress, build_plan, profile_for
from refinenet_edge.errors import CheckpointError, GraphError, InputError, MissingExtra
from refinenet_edge.files import sha256
from refinenet_edge.fusion import REWRITES, Firing, fuse, parity
from refinenet_edge.images import read_image
from refinenet_edge.labels import LABEL_SETS, resolve
from refinenet_edge.model import SHIPPED, create, load_checkpoint, locate
from refinenet_edge.recipe import Recipe
from refinenet_edge.records import (
    Backend,
    Bilinear,
    Cubic,
    EngineInfo,
    FrameSpec,
    Manifest,
    Parity,
    Ranges,
    TensorSpec,
)
from refinenet_edge.runtime import available
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.trace import num_classes, read_onnx, to_bytes, trace

logger = logging.getLogger(__name__)

RANDOM = "random"
PHOTO = "astronaut.jpg"  # the real frame of the proof
DEFAULT_CLASSES = 21  # of random weights: VOC's
PREFERRED: tuple[Backend, ...] = ("tensorrt", "openvino", "onnxruntime")  # what `auto` takes, first that works

Step = Callable[[str], None]


@dataclass(frozen=True)
class Built:
    """A finished bundle, and what `--explain` prints."""

    path: Path
    manifest: Manifest
    firings: tuple[Firing, ...]


@dataclass(frozen=True)
class Source:
    """Where the graph came from. `align_corners` is how its logits are upsampled."""

    name: str
    checkpoint: str
    sha256: str | None
    model: ir.Model
    align_corners: bool


def build(recipe: Recipe, step: Step = lambda _: None, progress: Progress | None = None) -> Built:
    """Build the bundle of `recipe` at `recipe.output`. `step` hears what is done, `progress` the engine builder."""
    backend = recipe.backend if recipe.backend != "auto" else _preferred()
    _refuse(recipe, backend)
    rewrites = [rewrite for rewrite in REWRITES if rewrite.name not in recipe.without]

    step("load and trace the model")
    source = _from_onnx(recipe, Path(recipe.onnx)) if recipe.onnx else _from_module(recipe)
    model = source.model
    # shipped weights are named after the labels they were trained on
    own = recipe.checkpoint if recipe.checkpoint in SHIPPED else None
    labels = resolve(recipe.labels or own, num_classes(model))
    upsample = Cubic() if recipe.upsample == "cubic" else Bilinear(source.align_corners)
    frame = FrameSpec(size=None if recipe.dynamic else recipe.size, upsample=upsample)

    step("fuse the graph")
    traced = to_bytes(model)
    firings = fuse(model, rewrites)

    step("hold the fused graph to the traced one")
    inputs = _proof_inputs(recipe)
    expected = parity.logits(traced, inputs)
    proof = parity.prove(traced, expected, model, rewrites, inputs)

    ranges = _ranges(recipe, model, frame, step) if recipe.precision == "int8" else None

    step(f"put {recipe.precision} into the graph")
    typed = _typed(recipe.precision, backend, model, ranges)
    if recipe.precision != "fp32":
        found = {name: logits[:, : len(labels.names)] for name, logits in parity.logits(typed, inputs).items()}
        proof += _typed_parity(recipe.precision, expected, found)

    files = {MODEL: typed}
    engine: EngineInfo | None = None
    if backend in ("tensorrt", "tensorrt-rtx"):
        step(f"build the {backend} engine")
        files[PLAN], engine = build_plan(typed, backend, _engine_options(recipe), progress)

    step("write the bundle")
    manifest = Manifest(
        model=source.name,
        checkpoint=source.checkpoint,
        checkpoint_sha256=source.sha256,
        precision=recipe.precision,
        backend=backend,
        inputs=_specs(model.graph.inputs),
        outputs=_specs(model.graph.outputs),
        frame=frame,
        labels=labels,
        rewrites={firing.name: firing.fired for firing in firings},
        traced_cost=firings[0].cost if firings else None,
        fused_cost=firings[-1].cost if firings else None,
        parity=proof,
        command=recipe.command,
        toolkit=__version__,
        engine=engine,
        calibration=ranges.key if ranges else None,
    )
    path = Path(recipe.output)
    return Built(path, write_bundle(path, manifest, files), tuple(firings))


def _refuse(recipe: Recipe, backend: Backend) -> None:
    """Raise `InputError` for what would only fail, or disappoint, after minutes."""
    if unknown := set(recipe.without) - {rewrite.name for rewrite in REWRITES}:
        raise InputError(f"no rewrite {', '.join(sorted(unknown))}; there are {', '.join(r.name for r in REWRITES)}")
    if recipe.precision == "int8" and recipe.calib is None:
        raise InputError("int8 needs calibration: give --calib scenes, a folder of images, a video or ranges")
    if recipe.precision != "int8" and recipe.calib is not None:
        raise InputError(f"--calib is for --precision int8, this is {recipe.precision}")
    if recipe.precision == "int8" and backend == "tensorrt-rtx" and not recipe.force:
        raise InputError(
            "in TensorRT-RTX's plans INT8 has more kernels than fp16 and hardly fewer bytes, or more (rf_lw_mbv2 431 "
            "against 441 MB, rf_lw50 688 against 638): build with --precision fp16, or with --force all the same"
        )


def _ranges(recipe: Recipe, model: ir.Model, frame: FrameSpec, step: Step) -> Ranges:
    """The ranges in a file, if they are of this graph, or new ones from frames."""
    assert recipe.calib is not None  # _refuse
    if recipe.calib.endswith(".json"):
        ranges = calibration.read_ranges(Path(recipe.calib))
        calibration.require(ranges, model, frame)
        return ranges
    frames = calibration.open_frames(recipe.calib)
    said = f"calibrate on {frames.source}"
    return calibration.calibrate(
        model, frame, frames, progress=lambda done, count: step(f"{said}: {done} of {count} frames")
    )


def _preferred() -> Backend:
    works = available()
    for backend in PREFERRED:
        if not works[backend]:
            return backend
    raise MissingExtra("no backend works here: pip install 'refinenet-edge[cpu]', then see refinenet-edge doctor")


def _from_module(recipe: Recipe) -> Source:
    if recipe.checkpoint is None:
        assert recipe.model is not None
        classes = len(LABEL_SETS[recipe.labels].names) if recipe.labels in LABEL_SETS else DEFAULT_CLASSES
        # forked: a build leaves the caller's generator as it was
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = create(
                recipe.model, classes, crp=recipe.crp or "pool_conv", align_corners=recipe.align_corners is not False
            )
        logger.warning("%s has random weights (no --checkpoint was given): its masks mean nothing", recipe.model)
        checkpoint, digest = RANDOM, None
    else:
        path = locate(recipe.checkpoint)
        module = load_checkpoint(path, crp=recipe.crp, align_corners=recipe.align_corners)
        if recipe.model not in (None, module.spec.name):
            raise InputError(f"{path} is a {module.spec.name}, not {recipe.model}: use --model {module.spec.name}")
        checkpoint, digest = path.name, sha256(path, CheckpointError)
    model = trace(module, recipe.size, recipe.dynamic)
    return Source(module.spec.name, checkpoint, digest, model, module.spec.align_corners)


def _from_onnx(recipe: Recipe, path: Path) -> Source:
    model = read_onnx(path, None if recipe.dynamic else recipe.size)
    shape = model.graph.inputs[0].shape
    if recipe.dynamic and shape is not None and any(isinstance(side, int) for side in shape[2:]):
        raise GraphError(f"{path} is fixed to {shape[2]}x{shape[3]}: leave --dynamic out, or export it with free sides")
    return Source(path.stem, path.name, sha256(path, GraphError), model, recipe.align_corners is True)


def _proof_inputs(recipe: Recipe) -> parity.Inputs:
    """A random frame and a real one, as the network takes them."""
    random = np.random.default_rng(0).standard_normal((1, 3, *recipe.size)).astype(np.float32)
    with resources.as_file(resources.files("refinenet_edge") / "photos" / PHOTO) as path:
        photo = prepare(read_image(path), FrameSpec(recipe.size))
    return {"random": random, PHOTO: photo}


def _typed(name: str, backend: Backend, model: ir.Model, ranges: Ranges | None) -> bytes:
    """The serialised graph in precision `name`, its ends as the backend's engines want them."""
    model = precision.apply(model, name, backend, ranges)
    if backend in ("tensorrt", "tensorrt-rtx") and not precision.pad_channels(model):
        logger.info("the channels are not padded: the engine converts the layout of its input and output itself")
    return to_bytes(model)


def _typed_parity(name: str, expected: parity.Inputs, found: parity.Inputs) -> tuple[Parity, ...]:
    parities = parity.compare(name, expected, found)
    if broken := [p.frame for p in parities if not np.isfinite(p.relative_error)]:
        raise GraphError(f"in {name} the logits overflow on the {broken[0]} frame: build with --precision fp32")
    return parities


def _engine_options(recipe: Recipe) -> EngineOptions:
    return EngineOptions(
        targets=recipe.target,
        workspace_bytes=recipe.workspace_mib << 20,
        profile=profile_for(recipe.size) if recipe.dynamic else None,
        timing_cache=Path(recipe.timing_cache) if recipe.timing_cache else None,
        version_compatible=recipe.version_compatible,
        hardware_compatible=recipe.hardware_compatible,
    )


def _specs(values: Sequence[ir.Value]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            str(value.name),
            value.dtype.numpy().name if value.dtype else "unknown",
            tuple(side if isinstance(side, int) else str(side) for side in value.shape or ()),
        )
        for value in values
    )
