"""Choose what runs a bundle here.

    tensorrt, tensorrt-rtx             model.plan on the GPU, by the library it was built with
    tensorrt-lean, tensorrt-dispatch   model.plan, built version-compatible, by TensorRT's small runtimes
    openvino, onnxruntime              model.onnx on the CPU; INT8 that was built for a GPU by onnxruntime alone
    auto                               the bundle's own backend; without an NVIDIA GPU, model.onnx on the CPU

A replacement is always logged as a warning. On a GPU machine "auto" never falls back to the CPU silently: it raises.
"""

import logging
import shlex

from refinenet_edge.bundle import MODEL, Bundle
from refinenet_edge.errors import BundleError, InputError, MissingExtra, RefineNetEdgeError, require
from refinenet_edge.runtime.cuda import gpu_capability, gpu_problem, load_cuda
from refinenet_edge.runtime.first_run import ON_CPU, require_runs
from refinenet_edge.runtime.libraries import BACKENDS, INSTALL, MODULES, load_library
from refinenet_edge.runtime.processor import saturates
from refinenet_edge.runtime.session import Session
from refinenet_edge.runtime.tensorrt.rtx import wrong_gpu
from refinenet_edge.runtime.tensorrt.session import TrtSession

LEAST = 0.5  # of the labels: what keeps fewer is not run

logger = logging.getLogger(__name__)


def available() -> dict[str, str]:
    """Each backend, and why it does not work on this machine; "" when it does. Imports those that are installed."""
    return {backend: str(_problem(backend) or "") for backend in BACKENDS}


def open_session(
    bundle: Bundle,
    backend: str = "auto",
    *,
    allow_host_code: bool = False,
    threads: int = 0,
    throughput: bool = False,
) -> Session:
    """A session that runs `bundle`, by "auto" or one of `BACKENDS` (see the module).

    `allow_host_code` lets the runtime in a version-compatible plan run as a program: for bundles that you trust.
    For the backends on the CPU are `threads`, 0: as many as there are cores, and `throughput`: so many requests as
    make most frames per second, where one is soonest done. Raises
    `MissingExtra` when the backend is not installed, `InputError` when it cannot run here, `EngineMismatch` when the
    plan was made for another TensorRT or GPU, `BundleError` when the bundle lacks what the backend needs, `CudaError`
    when the GPU refuses.
    """
    require(bundle, Bundle, "bundle")
    require(allow_host_code, bool, "allow_host_code")
    require(threads, int, "threads")
    require(throughput, bool, "throughput")
    backend = choose(bundle, backend)
    if bundle.manifest.needs_vnni and backend in ON_CPU and saturates():
        _warn_of_saturation(bundle)
    if backend in ON_CPU:
        name, (other,) = str(bundle.path / MODEL), [other for other in ON_CPU if other != backend]
        if graph := bundle.manifest.files.get(MODEL):
            advice = f", or run it with --backend {other}"
            require_runs(bundle.read_graph, graph.sha256, backend, BundleError, name, advice)
        return ON_CPU[backend](bundle.read_graph, threads=threads, name=name, throughput=throughput)
    if bundle.manifest.engine is None:
        raise BundleError(
            f"{bundle.path} has no plan yet: on the machine that runs it, refinenet-edge plan "
            f"{shlex.quote(str(bundle.path))} --backend {bundle.manifest.backend}"
        )
    return TrtSession.open(bundle, backend, allow_host_code=allow_host_code)


def _warn_of_saturation(bundle: Bundle) -> None:
    """Say, on a processor without VNNI, what a bundle that needs it keeps; raise `InputError` if that is little."""
    left = bundle.manifest.left_without_vnni
    kept = "" if left is None else f", {100 * left:.1f} % of the labels are left"
    said = (
        f"{bundle.path} is for processors with VNNI: on this one its INT8 sums saturate{kept}; build it here, or with "
        "--cpu any"
    )
    if left is not None and left < LEAST:
        raise InputError(said)
    logger.warning("%s", said)


def choose(bundle: Bundle, backend: str = "auto") -> str:
    """Which of `BACKENDS` runs `bundle` here; what is asked for, if it can. Raises as `open_session`."""
    if backend == "auto":
        return _preferred(bundle)
    require(backend, str, "backend")
    if backend not in BACKENDS:
        raise InputError(f"no backend {backend!r}; known: auto, {', '.join(BACKENDS)}")
    problem = _problem(backend)
    if problem:
        raise problem
    if backend == "openvino" and _is_signed(bundle):
        raise InputError(
            f"{bundle.path} has INT8 as {bundle.manifest.backend} takes it, signed, which OpenVINO computes otherwise "
            "than is written: use --backend onnxruntime, or build it for openvino"
        )
    return backend


def _is_signed(bundle: Bundle) -> bool:
    """Whether activations are INT8, as TensorRT has them, not UINT8 as on the CPU (precision/placement.py)."""
    return bundle.manifest.precision == "int8" and bundle.manifest.backend in MODULES


def _preferred(bundle: Bundle) -> str:
    manifest = bundle.manifest
    own = manifest.backend
    problem = _problem(own)
    if not problem:
        return own
    replacements = ["onnxruntime"] if _is_signed(bundle) else list(ON_CPU)
    if own in MODULES and not gpu_problem():
        small = manifest.engine is not None and manifest.engine.version_compatible and own == "tensorrt"
        replacements = ["tensorrt-lean", "tensorrt-dispatch"] if small else []
    for backend in replacements:
        if not _problem(backend):
            logger.warning("%s is for %s (%s): %s runs it instead", bundle.path, own, problem, backend)
            return backend
    if own in MODULES and gpu_problem():
        raise MissingExtra(
            f"nothing here runs {bundle.path}: {problem}; to run it on the CPU: {INSTALL[replacements[0]]}"
        )
    raise problem


def _problem(backend: str) -> RefineNetEdgeError | None:
    """The error that says why `backend` cannot run here, and how to change that; None when it can."""
    on_gpu = backend in MODULES
    if on_gpu and (gpu := gpu_problem()):
        return InputError(f"{backend} needs an NVIDIA GPU: {gpu}; use --backend openvino or run it on the device")
    try:
        module = load_library(backend)
        if on_gpu:
            load_cuda()
    except (MissingExtra, InputError) as exc:
        return exc
    capability = gpu_capability() if backend == "tensorrt-rtx" else None
    wrong = wrong_gpu(module, capability) if capability else ""
    return InputError(wrong) if wrong else None
