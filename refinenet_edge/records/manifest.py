"""All of a bundle that is not its graph or plan: what is in it, how it was made, how far its logits moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from refinenet_edge.errors import BundleError
from refinenet_edge.records.batch import ONE, Batch
from refinenet_edge.records.frame import FrameSpec, Labels, Size
from refinenet_edge.records.quantised import Budget, RangesKey, Speed
from refinenet_edge.records.recipe import Backend, Recipe

INPUT, OUTPUT = "image", "logits"  # the names of every graph's input and output
LABELS = "labels"  # the output's, where it is the labels at the image's size
NOISE = "random"  # the frame of a proof that is no picture
LESSER = "openvino without VNNI"  # what else proves a bundle for OpenVINO in INT8
CHANNEL_MULTIPLE = 8  # padded channels come in multiples of it: TensorRT's HWC8 without gaps is plain NHWC


@dataclass(frozen=True)
class TensorSpec:
    """A network input or output; a dimension that varies is a name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def gives_labels(self) -> bool:
        """Whether this output is a label of each pixel (uint8, or int32 of older bundles) instead of logits."""
        return "int" in self.dtype


@dataclass(frozen=True)
class Profile:
    """The smallest, most usual and largest (height, width) that a dynamic engine accepts."""

    min: Size
    opt: Size
    max: Size


@dataclass(frozen=True)
class EngineInfo:
    """What built a plan and what the builder said of it. Bytes are as the builder reports them; None: not reported."""

    flavour: Literal["tensorrt", "tensorrt-rtx"]
    version: str
    targets: tuple[str, ...]  # compute capabilities such as "sm_87"; ("default",) leaves it to the builder
    workspace_bytes: int
    profile: Profile | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    layers: int | None = None
    activation_bytes: int | None = None
    weight_bytes: int | None = None
    build_seconds: float | None = None


@dataclass(frozen=True)
class GraphCost:
    """What a graph costs per frame: multiply-accumulates, bytes read and written, nodes (see fusion/cost.py)."""

    macs: int
    bytes: int
    nodes: int


@dataclass(frozen=True)
class Parity:
    """max |b - a| / max |a| of the logits on one frame, and the share of pixels with the same label.

    a is what the model gives that was handed in, b what `backend` computes of it at a `stage`: "fused", then the
    precision.
    """

    stage: str
    frame: str
    relative_error: float
    label_agreement: float
    backend: str = "onnxruntime"


def relative_error(expected: npt.NDArray[Any], actual: npt.NDArray[Any]) -> float:
    """Max |actual - expected| / max |expected|; inf where `actual` has another shape or is not finite."""
    expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    return float(np.abs(actual - expected).max() / max(float(np.abs(expected).max()), 1e-30))


def label_agreement(expected: npt.NDArray[Any], actual: npt.NDArray[Any]) -> float:
    """The share of places where two outputs, of logits (NxCxhxw) or of labels, have one label; 0 for other shapes."""
    if expected.shape != actual.shape:
        return 0.0
    one, other = (output.argmax(1) if output.ndim == 4 else output for output in (expected, actual))
    return float((one == other).mean())


@dataclass(frozen=True)
class FileDigest:
    """What a bundle file must look like."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Identity:
    """Which bundle a result is of: `backend` is what it was built for, `digest` the SHA-256 of its manifest.

    Of a baseline, which is no bundle, both are None; of an older result `backend` may be, where it was not kept.
    """

    model: str
    checkpoint: str
    precision: str
    backend: str | None
    digest: str | None


@dataclass(frozen=True)
class Manifest:
    """Everything needed to run a bundle, judge it and build it again. Raises `BundleError` for what no bundle has."""

    model: str
    checkpoint: str  # file name, "random" or the ONNX file's name
    checkpoint_sha256: str | None
    precision: str
    backend: Backend
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    frame: FrameSpec
    labels: Labels
    rewrites: Mapping[str, int]
    parity: tuple[Parity, ...]
    recipe: Recipe
    toolkit: str
    traced_cost: GraphCost | None = None  # None: sizes are free
    fused_cost: GraphCost | None = None
    engine: EngineInfo | None = None
    calibration: RangesKey | None = None  # of int8 and fp8
    budget: Budget | None = None
    needs_vnni: bool = False  # on a CPU: without, INT8 sums saturate at 16 bits
    speed: Speed | None = None  # None: it was not asked, or cannot run where it was built
    batch: Batch = ONE  # frames that the graph takes at once
    files: Mapping[str, FileDigest] = field(default_factory=dict)
    schema: int = 2

    def __post_init__(self) -> None:
        for name in self.files:
            # printable: a NUL or a lone surrogate is no file name, and makes every path function raise ValueError
            if name in ("", ".", "..") or PurePath(name).name != name or "\\" in name or not name.isprintable():
                raise BundleError(f"manifest names the file {name!r}: files of a bundle lie directly in it")
        if len(self.inputs) != 1 or len(self.outputs) != 1:
            counts = f"{len(self.inputs)} inputs and {len(self.outputs)} outputs"
            raise BundleError(f"manifest has {counts}, expected exactly one of each")

    @property
    def gives_labels(self) -> bool:
        """Whether the graph's output is the label of each pixel of its input, instead of logits."""
        return self.outputs[0].gives_labels

    @property
    def command(self) -> str:
        """The command that builds it again, to be shown. It comes from the bundle: not to be run unseen."""
        return self.recipe.command

    @property
    def left_without_vnni(self) -> float | None:
        """The least share of the labels of a picture that is left on a processor without VNNI; None: not measured."""
        found = [p.label_agreement for p in self.parity if p.backend == LESSER and p.frame != NOISE]
        return min(found, default=None)
