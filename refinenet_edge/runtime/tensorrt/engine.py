"""A plan, loaded: checked against the library and the GPU before a byte of it is parsed, then what it takes and gives.

A version-compatible plan carries TensorRT's lean runtime as host code, and loading it runs that code: it is loaded only
where `allow_host_code` says that the bundle is trusted, as a program must be.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from refinenet_edge.bundle import PLAN, Bundle
from refinenet_edge.errors import BundleError, EngineMismatch, InputError
from refinenet_edge.files import open_regular
from refinenet_edge.jetson import version_numbers
from refinenet_edge.records import CHANNEL_MULTIPLE, EngineInfo, TensorSpec
from refinenet_edge.runtime.libraries import load_library
from refinenet_edge.runtime.tensorrt.library import logger_of, make_recorder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tensorrt_stubs import TensorRt  # the bindings' types: tests/bindings

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}

TAGS = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
HEADER = 28  # bytes

Shapes = dict[str, tuple[int, ...]]


class Engine:
    """`bundle`'s plan on the current GPU, of `capability` ("sm_87"): its inputs and outputs, and which lie as HWC8.

    Made and used inside `Cuda.use()`. `errors` has what TensorRT reports of it and of its contexts. Raises
    `EngineMismatch` for a plan made for another TensorRT or GPU, or that does not load; `InputError` for one with host
    code that is not allowed; `BundleError` for inputs or outputs of a type or memory layout that is not ours to read.
    """

    def __init__(self, bundle: Bundle, backend: str, capability: str, allow_host_code: bool = False) -> None:
        module = load_library(backend)
        self.backend, self.digest = backend, bundle.manifest.files[PLAN].sha256 if PLAN in bundle.manifest.files else ""
        self.trt = cast("type[TensorRt]", module)
        info = check_engine(bundle, backend, self.trt.__version__, capability)
        self.errors = make_recorder(module)
        self.engine = self._load(bundle, info, allow_host_code)
        try:
            names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
            inputs = {name for name in names if self.engine.get_tensor_mode(name) == self.trt.TensorIOMode.INPUT}
            self.inputs = tuple(self._spec(name) for name in names if name in inputs)
            self.outputs = tuple(self._spec(name) for name in names if name not in inputs)
            self.channel_last = {spec.name for spec in (*self.inputs, *self.outputs) if self._is_channel_last(spec)}
        except BaseException:
            self.release()
            raise

    def _load(self, bundle: Bundle, info: EngineInfo, allow_host_code: bool) -> TensorRt.ICudaEngine:
        runtime = self.trt.Runtime(logger_of(self.trt))
        runtime.error_recorder = self.errors  # the engine's and the contexts' too
        if info.version_compatible:
            if not allow_host_code:
                raise InputError(
                    f"the plan of {bundle.path} carries a TensorRT runtime that loading it runs as a program; for a "
                    "bundle that you trust: --allow-host-code, or allow_host_code=True"
                )
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(bundle.read(PLAN))
        if engine is None:
            library = f"{self.trt.__name__} {self.trt.__version__}"
            raise EngineMismatch(f"{library} cannot load {bundle.path / PLAN}: {self.errors.said()}{bundle.advice}")
        return engine

    def release(self) -> None:
        """Give the engine back, after its contexts; a second call does nothing."""
        if hasattr(self, "engine"):
            del self.engine

    def _spec(self, name: str) -> TensorSpec:
        dtype = self.engine.get_tensor_dtype(name).name
        if dtype not in DTYPES:
            raise BundleError(f"the plan's {name!r} is {dtype}, which numpy does not have: build it with float inputs")
        shape = self.sides(self.engine.get_tensor_shape(name), name, free=True)
        return TensorSpec(name, DTYPES[dtype], tuple(f"dim{i}" if side < 0 else side for i, side in enumerate(shape)))

    def _is_channel_last(self, spec: TensorSpec) -> bool:
        """Whether a tensor is HWC8: with channels in multiples of eight that is NHWC without gaps. Else it is NCHW."""
        layout = self._layout(spec.name)
        if layout == "LINEAR":
            return False
        channels = spec.shape[1] if len(spec.shape) == 4 else 0
        if layout == "HWC8" and isinstance(channels, int) and channels and channels % CHANNEL_MULTIPLE == 0:
            return True
        raise BundleError(
            f"the plan's {spec.name!r}, {by(spec.shape)}, lies in memory as {layout!r}: only LINEAR, and HWC8 with "
            f"channels in multiples of {CHANNEL_MULTIPLE}, can be fed and read here; build the plan again"
        )

    def _layout(self, name: str) -> str:
        """TensorRT's name of a memory layout: "LINEAR", "HWC8" ...; its words where it gives none."""
        formats = getattr(self.trt, "TensorFormat", None)
        if formats is not None and hasattr(self.engine, "get_tensor_format"):
            return str(self.engine.get_tensor_format(name).name)
        # the lean and dispatch runtimes have words only: "Eight channel FP16 format (kHWC8) where C is padded to ..."
        words = self.engine.get_tensor_format_desc(name)
        named = re.search(r"\(k(\w+)\)", words)
        return named[1] if named else words

    def profile_for(self, shapes: Shapes) -> int:
        """The first optimisation profile that takes inputs of `shapes`. Raises `InputError` with the ranges."""
        free = [spec for spec in self.inputs if any(isinstance(side, str) for side in spec.shape)]
        ranges = []
        for profile in range(self.engine.num_optimization_profiles if free else 1):
            fits = True
            for spec in free:
                bounds = self.engine.get_tensor_profile_shape(spec.name, profile)
                low, _, high = (self.sides(bound, spec.name) for bound in bounds)
                sides = zip(low, shapes[spec.name], high, strict=True)
                fits &= all(least <= side <= most for least, side, most in sides)
                ranges.append(f"{spec.name!r} of {by(low)} to {by(high)}")
            if fits:
                return profile
        asked = ", ".join(f"{name!r} of {by(shape)}" for name, shape in shapes.items())
        raise InputError(f"{asked} is outside the engine's range: it takes {' or '.join(ranges)}")

    def sides(self, shape: Iterable[int], name: str, free: bool = False) -> tuple[int, ...]:
        """A shape that TensorRT gave for `name`: it says that it failed with no sides, or with sides of 0 or less.

        `free`: a side of -1 is one that varies.
        """
        try:
            sides = tuple(shape)
        except ValueError:  # a negative number of sides
            sides = ()
        if not sides or not all(side > 0 or (free and side == -1) for side in sides):
            raise BundleError(f"{self.backend} gives {name!r} the shape {sides}: {self.errors.said()}")
        return sides


def check_engine(bundle: Bundle, backend: str, version: str, capability: str) -> EngineInfo:
    """What built the bundle's plan. Raises `EngineMismatch` unless it is for this backend, `version` and GPU."""
    info = bundle.manifest.engine
    if info is None:
        problem = "holds no engine"
    else:
        problem = _library_problem(info, backend, version) or _gpu_problem(info, capability)
    if info is None or problem:
        # the graph is in the bundle: its plan is built anew on the device, without torch
        builder = backend if backend in ("tensorrt", "tensorrt-rtx") else "tensorrt"
        raise EngineMismatch(
            f"bundle {bundle.path} {problem}; "
            f"build its plan here: refinenet-edge plan {shlex.quote(str(bundle.path))} --backend {builder}"
        )
    return info


def _library_problem(info: EngineInfo, backend: str, version: str) -> str:
    if (info.flavour == "tensorrt-rtx") != (backend == "tensorrt-rtx"):
        return f"holds a {info.flavour} engine, {backend} cannot run it"
    if backend in ("tensorrt-lean", "tensorrt-dispatch") and not info.version_compatible:
        return f"holds an engine for TensorRT {info.version} alone, {backend} runs only version-compatible ones"
    built, here = version_numbers(info.version)[:3], version_numbers(version)[:3]  # a build changes no format
    # RTX plans hold for their release only; a version-compatible plan also runs on a newer TensorRT, never on an older
    fits = here >= built if info.version_compatible and info.flavour == "tensorrt" else here == built
    return "" if fits else f"was built with {info.flavour} {info.version}, this machine has {version}"


def _gpu_problem(info: EngineInfo, capability: str) -> str:
    if capability in info.targets or "default" in info.targets or info.hardware_compatible:
        return ""  # the last two hold for several GPUs, the library decides
    return f"was built for {', '.join(info.targets)}, this GPU is {capability}"


def by(shape: Iterable[int | str]) -> str:
    """A shape as it is written: "1x3x64x96"."""
    return "x".join(map(str, shape))


@dataclass(frozen=True)
class PlanHeader:
    """The builder of a plan."""

    flavour: str
    version: str


def read_header(path: Path) -> PlanHeader:
    """What a plan file says of itself without a GPU or TensorRT. Raises `BundleError` when it is none.

    Both flavours start with a tag and keep the four parts of the builder's version in bytes 24 to 27: TensorRT as its
    trtexec reads it (--getPlanVersionOnly), TensorRT-RTX as seen in the plans of 1.7.1.
    """
    try:
        with open_regular(path) as file:
            header = file.read(HEADER)
    except (OSError, ValueError) as exc:
        raise BundleError(f"{path} cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    flavour = TAGS.get(header[:4])
    if flavour is None or len(header) < HEADER:
        raise BundleError(f"{path} is no TensorRT plan: it starts with {header[:4]!r}, a plan with b'ftrt' or b'vtrt'")
    return PlanHeader(flavour, ".".join(str(part) for part in header[24:28]))
