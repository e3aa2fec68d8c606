"""A typed ONNX graph becomes a TensorRT plan.

One code path drives TensorRT 10.3 to 11.x (`tensorrt`) and TensorRT-RTX (`tensorrt_rtx`), by asking what the module
has, never for its version. Networks are strongly typed: precision is in the graph, no precision flag is set.
TensorRT-RTX builds without a GPU; TensorRT builds on the device that runs the plan.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from refinenet_edge.bundle import MODEL, PLAN, Bundle, write_bundle
from refinenet_edge.errors import BuildError, InputError
from refinenet_edge.files import read_bytes, write_atomically
from refinenet_edge.records import (
    CHANNEL_MULTIPLE,
    INPUT,
    ONE,
    SMALLEST_SIDE,
    Batch,
    EngineInfo,
    Manifest,
    Profile,
    Recipe,
    Size,
)
from refinenet_edge.runtime.cuda import gpu_capability
from refinenet_edge.runtime.libraries import load_library
from refinenet_edge.runtime.tensorrt.library import BuildLog, logger_of, reports

if TYPE_CHECKING:
    import tensorrt_rtx_stubs  # the bindings' types: tests/bindings
    from tensorrt_stubs import TensorRt

Flavour = Literal["tensorrt", "tensorrt-rtx"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)
MIN_WORKSPACE = 16 << 20  # bytes; every convolution of TensorRT-RTX reserves half of it as scratch
MAX_TIMINGS = 1 << 30  # bytes
POLL = 0.1  # seconds between looks for Ctrl-C

Progress = Callable[[str, int, int], None]  # phase, steps done, steps


@dataclass(frozen=True)
class EngineOptions:
    """How a plan is built. `targets`: compute capabilities such as "sm_89"; empty leaves them to the builder."""

    targets: tuple[str, ...] = ()
    workspace_bytes: int = 1 << 30
    profile: Profile | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    batch: Batch = ONE  # frames at once, as the graph has them


def profile_for(size: Size) -> Profile:
    """The default range of a dynamic engine around `size`: from a quarter of it to twice it."""
    low, high = (max(SMALLEST_SIDE, size[0] // 4), max(SMALLEST_SIDE, size[1] // 4)), (size[0] * 2, size[1] * 2)
    return Profile(low, size, high)


def profile_of(manifest: Manifest, size: Size | None) -> Profile | None:
    """The frame sizes of a plan for a bundle, around `size`; None: as those of the plan it has.

    A bundle with one size has no profile. Raises `InputError` where `size` does not fit the bundle, or is needed.
    """
    if manifest.frame.size is not None:
        if size is not None:
            raise InputError(f"the bundle is fixed to {'x'.join(map(str, manifest.frame.size))}: leave --size out")
        return None
    if size is not None:
        return profile_for(size)
    if manifest.engine is None or manifest.engine.profile is None:
        raise InputError("the bundle takes frames of any size: name the usual one with --size HEIGHTxWIDTH")
    return manifest.engine.profile


def build_plan(
    onnx: bytes, flavour: Flavour, options: EngineOptions, progress: Progress | None = None
) -> tuple[bytes, EngineInfo]:
    """The plan of a serialised, typed ONNX model, and what the builder said of it.

    Ctrl-C cancels the build at TensorRT's next step. Raises `BuildError` with what TensorRT says, `MissingExtra`.
    """
    check_options(flavour, options)
    trt = cast("type[TensorRt]", load_library(flavour))
    cancelled = threading.Event()
    started = time.perf_counter()
    with reports(trt) as report:
        monitor = _monitor(trt, cancelled, progress)
        plan = _in_thread(lambda: _build(trt, onnx, options, monitor, report), cancelled)
    info = EngineInfo(
        flavour=flavour,
        version=str(trt.__version__),
        targets=options.targets or _built_for(flavour, options),
        workspace_bytes=options.workspace_bytes,
        profile=options.profile,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        layers=report.layers or None,
        activation_bytes=report.memory.get("Total Activation Memory"),
        weight_bytes=report.memory.get("Total Weights Memory"),
        build_seconds=round(time.perf_counter() - started, 3),
    )
    return plan, info


def _in_thread(build: Callable[[], bytes], cancelled: threading.Event) -> bytes:
    """What `build` gives or raises. The main thread stays free to see Ctrl-C, which sets `cancelled`."""
    # a queue of C's: Ctrl-C within a future's wait may leave its lock behind, and the build would never end
    answers: SimpleQueue[bytes | BaseException] = SimpleQueue()

    def run() -> None:
        try:
            answers.put(build())
        except BaseException as exc:
            answers.put(exc)

    thread = threading.Thread(target=run, name="tensorrt-build")
    thread.start()
    answer: bytes | BaseException | None = None
    try:
        while answer is None:
            with contextlib.suppress(Empty):
                answer = answers.get(timeout=POLL)
    except BaseException:
        cancelled.set()
        raise
    finally:
        thread.join()
    if isinstance(answer, BaseException):
        raise answer
    return answer


def add_plan(bundle: Bundle, flavour: Flavour, options: EngineOptions, progress: Progress | None = None) -> Manifest:
    """Build the plan of `bundle` on this machine, from its typed graph, and put it in. A device needs no torch for it.

    The whole bundle is written again, or stays as it was. Raises as `build_plan`, and `InputError` for INT8 that was
    placed for a CPU.
    """
    built_for = bundle.manifest.backend
    if bundle.manifest.precision == "int8" and built_for not in FLAVOURS:
        raise InputError(
            f"{bundle.path} has INT8 as {built_for} takes it, with zero points that {flavour} has not: build it with "
            f"--backend {flavour}"
        )
    model = bundle.read_graph()
    options = dataclasses.replace(options, batch=bundle.manifest.batch)
    plan, info = build_plan(model, flavour, options, progress)
    recipe = _planned(bundle.manifest.recipe, flavour, options)
    manifest = dataclasses.replace(bundle.manifest, backend=flavour, engine=info, recipe=recipe)
    return write_bundle(bundle.path, manifest, {MODEL: model, PLAN: plan})


def _planned(recipe: Recipe, flavour: Flavour, options: EngineOptions) -> Recipe:
    """The recipe that gives such a plan again."""
    return dataclasses.replace(
        recipe,
        backend=flavour,
        plan=True,
        size=options.profile.opt if options.profile else recipe.size,
        target=options.targets,
        workspace_mib=options.workspace_bytes >> 20,
        timing_cache=str(options.timing_cache) if options.timing_cache else None,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        force=recipe.force or (flavour == "tensorrt-rtx" and recipe.precision in ("int8", "fp8")),
    )


def _built_for(flavour: Flavour, options: EngineOptions) -> tuple[str, ...]:
    """TensorRT builds for the GPU it finds; TensorRT-RTX and hardware-compatible plans serve several."""
    capability = gpu_capability() if flavour == "tensorrt" and not options.hardware_compatible else None
    return (capability or "default",)


def check_options(flavour: Flavour, options: EngineOptions) -> None:
    """Raise `BuildError` for options that `build_plan` would refuse, `MissingExtra` where it has no builder."""
    trt = cast("type[TensorRt]", load_library(flavour))
    if options.workspace_bytes < MIN_WORKSPACE:
        raise BuildError(
            f"a workspace of {options.workspace_bytes} bytes is too small: at least {MIN_WORKSPACE >> 20} MiB"
        )
    if flavour == "tensorrt-rtx":
        for asked, what in (
            (options.version_compatible, "version-compatible plans"),
            (options.hardware_compatible, "hardware-compatible plans (give several --target instead)"),
            (options.timing_cache, "a timing cache"),
        ):
            if asked:
                raise BuildError(f"TensorRT-RTX has no {what}")
    elif options.targets:
        raise BuildError("TensorRT builds for the GPU it runs on: leave --target out, and build on the device")
    enums = [name for name in dir(getattr(trt, "ComputeCapability", None)) if name.startswith("SM")]
    # one spelling: the runtime compares it with the device's
    known = [enum.lower().replace("sm", "sm_") for enum in enums]
    for target in options.targets:
        if target not in known:
            raise BuildError(f"no target {target!r}; {trt.__name__} {trt.__version__} has {', '.join(known)}")


def _build(trt: type[TensorRt], onnx: bytes, options: EngineOptions, monitor: Any, report: BuildLog) -> bytes:
    logger = logger_of(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        raise BuildError(
            f"{trt.__name__} {trt.__version__} cannot read the graph: {_parser_errors(parser) or report.said()}; "
            "export it without such operators, or build it for openvino or onnxruntime"
        )
    _channel_last(trt, network)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default: float32 would be multiplied with 10 bits of its fraction
    config.progress_monitor = monitor
    # layers keep their names and shapes in the plan: the inspector and the profiler read them
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.targets:
        _set_targets(trt, config, options.targets)
    if options.profile is not None or not options.batch.fixed:
        _add_profile(builder, network, config, options)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    cache = None
    if options.timing_cache is not None:
        cache = config.create_timing_cache(_timings(options.timing_cache))
        if cache is None or not config.set_timing_cache(cache, False):
            raise BuildError(
                f"timing cache {options.timing_cache} is damaged, or of another TensorRT or GPU: delete it"
            )
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        library = f"{trt.__name__} {trt.__version__}"
        raise BuildError(f"{library} could not build the engine: {report.said()}{_advice(report)}")
    timings = None if cache is None else cache.serialize()
    if timings is not None and options.timing_cache is not None:
        write_atomically(options.timing_cache, bytes(timings), BuildError)
    return bytes(plan)


def _add_profile(
    builder: TensorRt.Builder,
    network: TensorRt.INetworkDefinition,
    config: TensorRt.IBuilderConfig,
    options: EngineOptions,
) -> None:
    """The range of what is free: sizes, frames at once, or both."""
    _, channels, *fixed = network.get_input(0).shape  # more than 3 channels where they are padded
    sizes = [fixed] * 3 if (free := options.profile) is None else [free.min, free.opt, free.max]
    frames = options.batch.least, options.batch.best, options.batch.most
    low, best, high = ((count, channels, *size) for count, size in zip(frames, sizes, strict=True))
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, low, best, high)
    config.add_optimization_profile(profile)


def _advice(report: BuildLog) -> str:
    """What to build instead, after a failure that is known."""
    unsupported = re.compile(r"Could not infer output types for operation:\s.*dequantize", re.DOTALL)
    if not any(map(unsupported.search, report.errors)):
        return ""
    return (
        "; this TensorRT cannot build INT8 for this GPU (NVIDIA/TensorRT issue 4832, seen with 10.16.2 on Orin): "
        "build with --precision fp16"
    )


def _set_targets(module: Any, builder_config: Any, targets: tuple[str, ...]) -> None:
    """TensorRT-RTX alone builds for other GPUs."""
    trt = cast("type[tensorrt_rtx_stubs.TensorRt]", module)
    config = cast("tensorrt_rtx_stubs.TensorRt.IBuilderConfig", builder_config)
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        config.set_compute_capability(getattr(trt.ComputeCapability, target.upper().replace("_", "")), index)


def _channel_last(trt: type[TensorRt], network: TensorRt.INetworkDefinition) -> None:
    """Where input and output are padded (see precision/pad_channels.py), let them lie as convolutions want them."""
    ends = [network.get_input(i) for i in range(network.num_inputs)]
    for tensor in (*ends, *(network.get_output(i) for i in range(network.num_outputs))):
        if tensor.dtype == trt.float16 and tensor.shape[1] % CHANNEL_MULTIPLE == 0:
            tensor.allowed_formats = 1 << int(trt.TensorFormat.HWC8)


def _timings(path: Path) -> bytes:
    return read_bytes(path, MAX_TIMINGS, "timing cache", BuildError) if path.exists() else b""


def _parser_errors(parser: Any) -> str:
    errors = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        node = getattr(error, "node_name", lambda: "")()
        errors.append(f"{node + ': ' if node else ''}{error.desc()}")
    return "; ".join(errors[:3])


def _monitor(trt: Any, cancelled: threading.Event, progress: Progress | None) -> Any:
    """TensorRT's view of `progress`, called from its threads. Phase names vary by version: they are shown, not read."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            self.report(phase_name, 0)

        def phase_finish(self, phase_name: str) -> None:
            self.report(phase_name, self.steps.get(phase_name, 0))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.report(phase_name, step)
            return not cancelled.is_set()

        def report(self, phase: str, step: int) -> None:
            if progress is not None:
                progress(phase, step, self.steps.get(phase, 0))

    return Monitor()
