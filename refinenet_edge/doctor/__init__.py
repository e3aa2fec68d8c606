"""What works on this machine, what does not fit together, and the fix for each."""

import importlib
import importlib.util
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from refinenet_edge.doctor.board import Finding, Python, examine_board
from refinenet_edge.errors import InputError, MissingExtra, RefineNetEdgeError
from refinenet_edge.jetson import LIBRARIES, builder_gpus, read_board, version_numbers
from refinenet_edge.runtime import available
from refinenet_edge.runtime.cuda import driver_cuda, gpu_capability, gpu_problem
from refinenet_edge.runtime.first_run import ON_CPU
from refinenet_edge.runtime.head import implementation
from refinenet_edge.runtime.kernels.device import try_kernels
from refinenet_edge.runtime.libraries import DISTRIBUTIONS, INSTALL, MODULES, load_library, version_of
from refinenet_edge.runtime.processor import processor, saturates
from refinenet_edge.runtime.tensorrt.builder import FLAVOURS

# package -> the oldest release that was seen to work, and what it is for
EXPORT = {
    "torch": ("2.9", "load checkpoints, trace"),
    "onnx": ("1.18", "trace"),
    "onnx-ir": ("0.1.12", "rewrite graphs"),
    "onnxscript": ("0.5", "trace, rewrite graphs"),
    "onnxruntime": ("1.18", "prove rewrites"),
    "safetensors": ("0.5", "load checkpoints"),
}
RIVALS = DISTRIBUTIONS["cv2"], DISTRIBUTIONS["onnxruntime"]  # they overwrite each other's files
HEAD = "sudo apt install python3-dev g++; pip install --force-reinstall --no-deps --no-cache-dir refinenet-edge"


def examine(root: Path = Path("/")) -> Iterator[Finding]:
    """Everything `refinenet-edge doctor` knows to look at; nothing is changed. A Jetson's files are below `root`."""
    yield Finding("machine", "ok", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}")
    board = read_board(root)
    if board is not None:
        yield from examine_board(board, _python(root))
    yield _opencv()
    yield from _runs_here()
    yield from _builds_here()
    yield from _exports_here()
    yield from _rivals()


def _python(root: Path) -> Python:
    """What this Python has of what must fit a Jetson."""
    try:
        version = str(importlib.import_module("tensorrt").__version__)
    except Exception:  # a broken install raises anything, and has its own finding
        version = None
    wheel = importlib.util.find_spec("tensorrt_libs")  # where pip's TensorRT has its libraries
    folders = [Path(folder) for folder in (wheel.submodule_search_locations or ())] if wheel else [root / LIBRARIES]
    gpus = frozenset().union(*map(builder_gpus, folders))
    return Python(version, wheel is not None, gpus, version_of("cuda-bindings"))


def _opencv() -> Finding:
    try:
        from refinenet_edge.opencv import cv2
    except MissingExtra as exc:
        return _said("OpenCV", "wrong", str(exc))
    return Finding("OpenCV", "ok", f"cv2 {cv2.__version__}")


def _said(subject: str, state: Literal["absent", "limited", "wrong"], problem: str) -> Finding:
    """What an error says, which ends with the fix."""
    detail, _, fix = problem.rpartition(": ")
    return Finding(subject, state, detail, fix)


def _runs_here() -> Iterator[Finding]:
    gpu = gpu_problem()
    if gpu:
        yield Finding("NVIDIA GPU", "absent", gpu)
    else:
        driver = ".".join(map(str, driver_cuda() or ()))
        yield Finding("NVIDIA GPU", "ok", f"{gpu_capability()}, driver for CUDA {driver}")
        yield _kernels()
    if implementation() == "c++":
        yield Finding("labels from logits", "ok", "by C++")
    else:
        yield Finding("labels from logits", "limited", "by numpy, slower: the C++ head was not built", HEAD)
    reasons = available()
    for backend, reason in reasons.items():
        if gpu and backend not in ON_CPU:
            yield Finding(f"run on {backend}", "absent", "needs an NVIDIA GPU")
        elif reason:
            yield _said(f"run on {backend}", "absent", reason)
        else:
            yield Finding(f"run on {backend}", "ok", "works")
    if not all(reasons[backend] for backend in ON_CPU):
        yield _int8()
    if all(reasons.values()):
        yield Finding("run a bundle", "wrong", "no backend works", "pip install 'refinenet-edge[cpu]'")


def _int8() -> Finding:
    """Whether this processor adds what INT8 multiplies as bundles with 8-bit weights need it."""
    if saturates():
        problem = f"{processor()}, no VNNI: sums of 8-bit weights saturate"
        return Finding("INT8 on the CPU", "limited", problem, "build on this machine, or with --cpu any: 7-bit weights")
    return Finding("INT8 on the CPU", "ok", processor())


def _kernels() -> Finding:
    """Whether what the compiler here makes loads into the driver here."""
    subject = "kernels on the GPU"
    try:
        return Finding(subject, "ok", f"{try_kernels()} compiles them and they load")
    except (MissingExtra, InputError) as exc:
        return _said(subject, "limited", f"frames and labels are prepared on the CPU: {exc}")
    except RefineNetEdgeError as exc:
        return Finding(subject, "wrong", str(exc), "update the NVIDIA driver, or install the NVRTC of its CUDA")


def _builds_here() -> Iterator[Finding]:
    for flavour in FLAVOURS:
        try:
            module = load_library(flavour)
        except MissingExtra as exc:
            problem, fix = str(exc).removesuffix(f": {INSTALL[flavour]}"), INSTALL[flavour]
            yield Finding(f"build for {flavour}", "wrong" if "does not import" in problem else "absent", problem, fix)
        else:
            yield Finding(f"build for {flavour}", "ok", f"{MODULES[flavour]} {module.__version__}")


def _exports_here() -> Iterator[Finding]:
    for package, (oldest, purpose) in EXPORT.items():
        version = version_of(package)
        if version is None:
            yield Finding(purpose, "absent", f"{package} is not installed", "pip install 'refinenet-edge[export]'")
        elif version_numbers(version) < version_numbers(oldest):
            problem = f"{package} {version} is older than {oldest}"
            yield Finding(purpose, "wrong", problem, f"pip install '{package}>={oldest}'")
        else:
            yield Finding(purpose, "ok", f"{package} {version}")


def _rivals() -> Iterator[Finding]:
    for group in RIVALS:
        present = [name for name in group if version_of(name)]
        if len(present) > 1:
            fix = f"pip uninstall {' '.join(present)}, then pip install {present[-1]}"
            yield Finding(present[0], "wrong", f"{' and '.join(present)} overwrite each other", fix)
