"""All the stages in a row: a recipe becomes a bundle.

    load -> trace -> fuse -> prove -> (calibrate -> judge) -> type -> build the engine -> (time) -> write the bundle

Nothing is written before everything has succeeded.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from refinenet_edge import __version__, bench, calibration, precision
from refinenet_edge import labels as label_sets
from refinenet_edge.build.budget import Candidates, Judge, LostLabels, MiouDrop, spend
from refinenet_edge.build.resolve import refuse, refuse_graph
from refinenet_edge.bundle import MODEL, PLAN, open_bundle, write_bundle
from refinenet_edge.errors import CheckpointError, GraphError, InputError, MissingExtra
from refinenet_edge.evaluation import open_dataset
from refinenet_edge.files import sha256
from refinenet_edge.frames.images import read_image
from refinenet_edge.fusion import REWRITES, Firing, Rewrite, fuse, parity
from refinenet_edge.labels import LABEL_SETS
from refinenet_edge.model import SHIPPED, create, load_checkpoint, locate
from refinenet_edge.records import (
    Backend,
    Bilinear,
    Budget,
    Cubic,
    EngineInfo,
    FrameSpec,
    Labels,
    Manifest,
    Parity,
    Ranges,
    Recipe,
    Speed,
    TensorSpec,
)
from refinenet_edge.runtime import available, open_session
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.tensorrt.builder import EngineOptions, Progress, build_plan, profile_for
from refinenet_edge.trace import copy_of, num_classes, read_onnx, to_bytes, trace

logger = logging.getLogger(__name__)

RANDOM = "random"
PHOTO = "astronaut.jpg"  # the real frame of the proof
DEFAULT_CLASSES = 21  # of random weights: VOC's
PREFERRED: tuple[Backend, ...] = ("tensorrt", "openvino", "onnxruntime")  # what `auto` takes, first that works
SPEED_SECONDS = 3.0  # of each of the two whose speeds are compared

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
    """Build the bundle of `recipe` at `recipe.output`. `step` hears what is done, `progress` the engine builder.

    Raises the `RefineNetEdgeError` of the stage that refuses; a bundle that is there stays as it was.
    """
    backend = recipe.backend if recipe.backend != "auto" else _preferred()
    refuse(recipe, backend)
    rewrites = _rewrites(recipe)

    step("load and trace the model")
    source = _from_onnx(recipe, Path(recipe.onnx)) if recipe.onnx else _from_module(recipe)
    model = source.model
    # shipped weights are named after the labels they were trained on
    own = recipe.checkpoint if recipe.checkpoint in SHIPPED else None
    labels = label_sets.resolve(recipe.labels or own, num_classes(model))
    upsample = Cubic() if recipe.upsample == "cubic" else Bilinear(source.align_corners)
    frame = FrameSpec(size=None if recipe.dynamic else recipe.size, upsample=upsample)

    step("fuse the graph")
    traced = to_bytes(model)
    firings = fuse(model, rewrites)

    step("hold the fused graph to the traced one")
    inputs = _proof_inputs(recipe)
    expected = parity.logits(traced, inputs)
    proof = parity.prove(traced, expected, model, rewrites, inputs)

    refuse_graph(recipe, backend, model)
    ranges = _ranges(recipe, model, frame, step) if recipe.calib else None
    budget = _budget(recipe, backend, model, ranges, frame, labels, step) if ranges and recipe.budgeted else None

    step(f"put {recipe.precision} into the graph")
    exact = copy_of(model)
    kept = [name for harm in budget.harms if harm.kept for name in harm.layers] if budget else []
    typed = _typed(recipe.precision, backend, model, ranges, kept)
    if recipe.precision != "fp32":
        found = {name: logits[:, : len(labels.names)] for name, logits in parity.logits(typed, inputs).items()}
        proof += _typed_parity(recipe.precision, expected, found)

    files, engine = _files(recipe, backend, typed, step, progress)
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
        budget=budget,
    )
    if recipe.precision in precision.QUANTISED and not precision.is_quantised(exact):
        manifest = dataclasses.replace(manifest, speed=_speed(recipe, manifest, files, exact, step, progress))
    step("write the bundle")
    path = Path(recipe.output)
    return Built(path, write_bundle(path, manifest, files), tuple(firings))


def _rewrites(recipe: Recipe) -> list[Rewrite]:
    if unknown := set(recipe.without) - {rewrite.name for rewrite in REWRITES}:
        raise InputError(f"no rewrite {', '.join(sorted(unknown))}; there are {', '.join(r.name for r in REWRITES)}")
    return [rewrite for rewrite in REWRITES if rewrite.name not in recipe.without]


def _files(
    recipe: Recipe, backend: Backend, typed: bytes, step: Step, progress: Progress | None
) -> tuple[dict[str, bytes], EngineInfo | None]:
    """What the bundle holds beside its manifest, and how its plan was built."""
    if backend != "tensorrt" and backend != "tensorrt-rtx":
        return {MODEL: typed}, None
    step(f"build the {backend} engine")
    plan, engine = build_plan(typed, backend, _engine_options(recipe), progress)
    return {MODEL: typed, PLAN: plan}, engine


def _ranges(recipe: Recipe, model: ir.Model, frame: FrameSpec, step: Step) -> Ranges:
    """The ranges in a file, if they are of this graph, or new ones from frames."""
    assert recipe.calib is not None
    if recipe.calib.endswith(".json"):
        ranges = calibration.read_ranges(Path(recipe.calib))
        calibration.require(ranges, model, frame)
        return ranges
    frames = calibration.open_frames(recipe.calib)
    said = f"calibrate on {frames.source}"
    return calibration.calibrate(
        model, frame, frames, progress=lambda done, count: step(f"{said}: {done} of {count} frames")
    )


def _budget(
    recipe: Recipe, backend: Backend, model: ir.Model, ranges: Ranges, frame: FrameSpec, labels: Labels, step: Step
) -> Budget:
    """Which layers go back to float so that the recipe's budget holds."""
    placement = precision.placement_of(recipe.precision, backend)
    own = backend == "openvino" and not available()["openvino"]
    candidates = Candidates(model, ranges, placement, frame, labels, backend="openvino" if own else "onnxruntime")
    source = str(recipe.judge or recipe.calib)
    judge: Judge
    if recipe.max_miou_drop is not None:
        judge, allowed = MiouDrop(open_dataset(source)), recipe.max_miou_drop
    else:
        assert recipe.min_agreement is not None
        judge, allowed = LostLabels(calibration.open_frames(source)), 100 - recipe.min_agreement
    return spend(candidates, judge, allowed, step)


def _speed(
    recipe: Recipe,
    manifest: Manifest,
    files: Mapping[str, bytes],
    exact: ir.Model,
    step: Step,
    progress: Progress | None,
) -> Speed | None:
    """How much faster quantising made the network here; None where its backend does not run here.

    `exact` is the fused float32 model: it is typed as it would be without INT8, float16 for TensorRT.
    """
    backend = manifest.backend
    if available()[backend] or recipe.dynamic:
        return None
    than = "fp16" if backend in precision.ON_GPU else "fp32"
    reference, engine = _files(recipe, backend, _typed(than, backend, exact, None), step, progress)
    step(f"time it against {than}")
    image = np.random.default_rng(0).standard_normal((1, 3, *recipe.size)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:

        def network(name: str, manifest: Manifest, files: Mapping[str, bytes]) -> bench.Contender:
            path = Path(folder) / name
            write_bundle(path, manifest, files)
            session = stack.enter_context(open_session(open_bundle(path), backend, allow_host_code=True))
            (source,) = session.inputs
            feed = np.zeros((1, *(int(side) for side in source.shape[1:])), source.dtype)
            feed[:, :3] = image

            def run() -> bench.Stages:
                stages: bench.Stages = {}
                bench.timed(stages, "network", session.run, {source.name: feed})
                return stages

            return run

        takes, gives = _specs(exact.graph.inputs), _specs(exact.graph.outputs)
        other = dataclasses.replace(manifest, precision=than, engine=engine, inputs=takes, outputs=gives)
        contenders = {"quantised": network("quantised", manifest, files), than: network(than, other, reference)}
        ratio = bench.take_turns(contenders, seconds=SPEED_SECONDS).ratio(than, "quantised")
    if ratio.high < 1.05:
        logger.warning(
            "%s is not faster than %s with %s on this machine: %s times as fast; build with --precision %s",
            *(recipe.precision, than, backend, ratio, than),
        )
    return Speed(than, ratio.value, ratio.low, ratio.high)


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


def _typed(name: str, backend: Backend, model: ir.Model, ranges: Ranges | None, keep: Sequence[str] = ()) -> bytes:
    """The serialised graph in precision `name`, its ends as the backend's engines want them."""
    model = precision.apply(model, name, backend, ranges, keep)
    if backend in precision.ON_GPU and not precision.pad_channels(model):
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
