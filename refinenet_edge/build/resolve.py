"""First stage: a recipe with every name looked up and every rule checked, before any work.

What only the graph can tell is checked by the stage that first has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from refinenet_edge import calibration, precision
from refinenet_edge.build.load import NetworkSource
from refinenet_edge.build.proof import Proving
from refinenet_edge.build.quantise import Bits, Quantisation
from refinenet_edge.build.typed import Typing
from refinenet_edge.bundle import require_replaceable
from refinenet_edge.errors import InputError, MissingExtra
from refinenet_edge.evaluation import DataSet, open_dataset
from refinenet_edge.frames import Frames, Scenes, open_frames, parse
from refinenet_edge.fusion import REWRITES, Rewrite
from refinenet_edge.labels import find_labels
from refinenet_edge.model import SHIPPED, locate
from refinenet_edge.records import DEFAULT_SIZE, Backend, Ranges, Recipe
from refinenet_edge.runtime import available
from refinenet_edge.runtime.cuda import gpu_capability
from refinenet_edge.runtime.processor import saturates
from refinenet_edge.runtime.tensorrt.builder import EngineOptions, check_options, profile_for

PREFERRED: tuple[Backend, ...] = ("tensorrt", "openvino", "onnxruntime")  # what `auto` takes, first that works


@dataclass(frozen=True)
class ResolvedRecipe:
    """What the stages are given: values, in place of the recipe's names."""

    network: NetworkSource
    rewrites: tuple[Rewrite, ...]
    quantisation: Quantisation | None  # None: nothing is quantised here
    typing: Typing
    proving: Proving
    engine: EngineOptions | None  # of a plan, where the backend has one; None: it is made on the device
    output: Path


def resolve(recipe: Recipe) -> ResolvedRecipe:
    """`recipe`, ready to be built.

    Raises `InputError` for one that would only fail, or disappoint, after minutes; `CalibrationError` for ranges that
    cannot be read; `BuildError` where the engine's builder or the output folder would refuse; `MissingExtra` where
    nothing here can build it.
    """
    problems = available()
    backend = _preferred(problems) if recipe.backend == "auto" else recipe.backend
    _require_consistent(recipe, backend)
    timed = recipe.calib is not None and recipe.plan and not recipe.dynamic and not problems[backend]
    resolved = ResolvedRecipe(
        rewrites=_rewrites(recipe.without),
        quantisation=_quantisation(recipe, backend, problems),
        typing=Typing(
            recipe.precision,
            backend,
            _bits(recipe, backend),
            timed_against=("fp16" if backend in precision.ON_GPU else "fp32") if timed else None,
            plain=recipe.io == "plain" or recipe.gives != "logits",
            gives=recipe.gives,
        ),
        engine=_engine_options(recipe) if recipe.plan else None,
        network=_network(recipe),
        proving=Proving(backend, not problems[backend], recipe.force, recipe.onnx is None, Path(recipe.output).parent),
        output=Path(recipe.output),
    )
    if resolved.engine is not None and (backend == "tensorrt" or backend == "tensorrt-rtx"):
        check_options(backend, resolved.engine)
    require_replaceable(resolved.output)
    return resolved


def _preferred(problems: Mapping[str, str]) -> Backend:
    for backend in PREFERRED:
        if not problems[backend]:
            return backend
    raise MissingExtra("no backend works here: pip install 'refinenet-edge[cpu]', then see refinenet-edge doctor")


def _require_consistent(recipe: Recipe, backend: Backend) -> None:
    """Raise `InputError` for options that do not go together."""
    _require_plan(recipe, backend)
    if recipe.precision not in precision.QUANTISED:
        for asked, option in ((recipe.calib is not None, "--calib"), (recipe.budgeted, "an accuracy budget")):
            if asked:
                raise InputError(f"{option} is for --precision int8 or fp8, this is {recipe.precision}")
        return
    if recipe.calib is None and recipe.onnx is None:
        raise InputError(precision.uncalibrated(recipe.precision))
    if recipe.budgeted and recipe.calib is None:
        raise InputError("a budget is for what is quantised here: give --calib, which a file quantised already has not")
    if recipe.budgeted and recipe.judge is None and str(recipe.calib).endswith(".json"):
        raise InputError("a budget is judged on frames: give --judge scenes:SEED:COUNT, a folder or a data set")
    labelled = recipe.judge is not None or isinstance(parse(recipe.calib or ""), Scenes)
    if recipe.max_miou_drop is not None and not labelled:
        raise InputError("points of mIoU need labelled samples: give --judge scenes:SEED:COUNT or a data set")
    if recipe.precision == "fp8":
        _require_fp8(recipe.target, backend)
    if backend == "tensorrt-rtx" and not recipe.force:
        raise InputError(
            f"TensorRT-RTX's plans in {recipe.precision} have more kernels than in fp16 and save few bytes or none: "
            "build with --precision fp16, or with --force all the same"
        )


def _require_plan(recipe: Recipe, backend: Backend) -> None:
    """Raise `InputError` where something is said of a plan that is not to be built."""
    options = "version_compatible", "hardware_compatible", "target", "timing_cache"
    said = ", ".join(f"--{option.replace('_', '-')}" for option in options if getattr(recipe, option))
    if backend not in precision.ON_GPU and (said or not recipe.plan):
        left_out = said or "--no-plan"
        raise InputError(f"{backend} has no plan: leave {left_out} out, or name --backend tensorrt or tensorrt-rtx")
    if said and not recipe.plan:
        raise InputError(f"{said} are of a plan: leave them out with --no-plan")


def _require_fp8(targets: tuple[str, ...], backend: Backend) -> None:
    if backend not in precision.ON_GPU:
        raise InputError(f"{backend} has no FP8: build with --precision int8, or for tensorrt or tensorrt-rtx")
    here = gpu_capability() if backend == "tensorrt" else None
    for target in (*targets, here or ""):
        number = target.partition("_")[2][:4]  # of what is no number the builder says that it is no target
        if number.isdecimal() and int(number) < 89:
            raise InputError(f"{target} has no FP8, sm_89 and later have: build with --precision int8")


def _network(recipe: Recipe) -> NetworkSource:
    # shipped weights are named after the labels they were trained on
    labels = recipe.labels or (recipe.checkpoint if recipe.checkpoint in SHIPPED else None)
    checkpoint = locate(recipe.checkpoint) if recipe.checkpoint else None
    return NetworkSource(recipe, checkpoint, find_labels(labels) if labels else None)


def _rewrites(without: tuple[str, ...]) -> tuple[Rewrite, ...]:
    if unknown := set(without) - {rewrite.name for rewrite in REWRITES}:
        raise InputError(f"no rewrite {', '.join(sorted(unknown))}; there are {', '.join(r.name for r in REWRITES)}")
    return tuple(rewrite for rewrite in REWRITES if rewrite.name not in without)


def _quantisation(recipe: Recipe, backend: Backend, problems: Mapping[str, str]) -> Quantisation | None:
    if recipe.calib is None:
        return None
    calib: Ranges | Frames
    if recipe.calib.endswith(".json"):
        calib = calibration.read_ranges(Path(recipe.calib))
    else:
        calib = calibration.calibration_frames(recipe.calib)
    judge: DataSet | Frames | None = None
    allowed = 0.0
    if recipe.max_miou_drop is not None:
        # without --judge on the scenes of --calib, as many
        judge, allowed = open_dataset(recipe.judge or calib.source), recipe.max_miou_drop
    elif recipe.min_agreement is not None:
        frames = open_frames(parse(recipe.judge), most=calibration.COUNT) if recipe.judge else calib
        assert isinstance(frames, Frames)  # ranges are not judged on: `_require_consistent`
        judge, allowed = frames, 100 - recipe.min_agreement
    return Quantisation(
        calib,
        precision.placement_of(recipe.precision, backend),
        judge,
        allowed,
        judged_by="openvino" if backend == "openvino" and not problems["openvino"] else "onnxruntime",
    )


def _bits(recipe: Recipe, backend: Backend) -> Bits:
    """Of INT8 weights: 8 where nothing saturates, 7 where it must not, and what is better where it would here."""
    if recipe.precision != "int8" or backend in precision.ON_GPU:
        if recipe.cpu != "this":
            raise InputError("--cpu any is for --precision int8 on the CPU: leave it out")
        return 8
    if recipe.cpu == "any":
        return 7
    if not saturates():
        return 8
    return "judged" if recipe.calib is not None else 7


def _engine_options(recipe: Recipe) -> EngineOptions:
    return EngineOptions(
        targets=recipe.target,
        workspace_bytes=recipe.workspace_mib << 20,
        profile=profile_for(recipe.size or DEFAULT_SIZE) if recipe.dynamic else None,
        timing_cache=Path(recipe.timing_cache) if recipe.timing_cache else None,
        version_compatible=recipe.version_compatible,
        hardware_compatible=recipe.hardware_compatible,
    )
