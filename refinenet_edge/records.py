"""What travels between the stages: frozen records that write themselves to JSON and read themselves back.

FrameSpec   how a frame becomes the network's input and logits become a label map
Labels      class names and palette
TensorSpec  name, dtype and shape of a network input or output
Profile     the range of frame sizes an engine accepts
EngineInfo  what built the plan, for which device, and what it reported
Ranges      what calibration saw of every tensor that may be quantised
Parity      how far one graph's logits are from another's on one frame
Manifest    all of it, beside the engine in a bundle
Mask        the result: a label map at the frame's size

numpy only: this module is on the device.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal, TypeVar, Union

import numpy as np
import numpy.typing as npt

from refinenet_edge.errors import BundleError

SCHEMA = 1
MAX_SIDE = 16_384  # pixels: larger frames are refused before anything is allocated for them
SMALLEST_SIDE = 32  # pixels: below, a network's coarsest tap has no pixel left to interpolate

RGB = tuple[int, int, int]
Size = tuple[int, int]  # (height, width) in pixels, everywhere
Frame = npt.NDArray[np.uint8]  # HxWx3, BGR, as OpenCV reads it
INPUT, OUTPUT = "image", "logits"  # the names of every graph's input and output
Backend = Literal["tensorrt", "tensorrt-rtx", "openvino", "onnxruntime"]  # what a bundle is built for
LabelMap = npt.NDArray[np.uint8]  # HxW, class indices


@dataclass(frozen=True)
class Bilinear:
    """Bilinear interpolation; `align_corners` as torch defines it, half-pixel centres otherwise."""

    align_corners: bool = False
    kind: Literal["bilinear"] = "bilinear"


@dataclass(frozen=True)
class Cubic:
    """Bicubic interpolation, a = -0.75, half-pixel centres: OpenCV's INTER_CUBIC, the ports' published evaluation."""

    kind: Literal["cubic"] = "cubic"


Interpolation = Bilinear | Cubic


@dataclass(frozen=True)
class FrameSpec:
    """Frame (HxWx3 BGR uint8) -> input (1x3xhxw, RGB, (x / 255 - mean) / std); logits -> labels by `upsample`, argmax.

    `size` is the (height, width) the network takes; None: every frame at its own size (a dynamic engine).
    `resize` brings the frame to `size`, `upsample` brings logits to the frame's size.
    """

    size: Size | None
    resize: Interpolation = Bilinear(align_corners=False)
    upsample: Interpolation = Bilinear(align_corners=True)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.resize == Bilinear(align_corners=True):
            raise BundleError("frame.resize: frames are resized with half-pixel centres only")
        if self.size is not None and not all(1 <= side <= MAX_SIDE for side in self.size):
            raise BundleError(f"frame.size: {self.size} is outside 1..{MAX_SIDE} pixels a side")
        if not all(s > 0 and math.isfinite(s) for s in self.std) or not all(map(math.isfinite, self.mean)):
            raise BundleError(f"frame: mean {self.mean} must be finite and std {self.std} positive and finite")


@dataclass(frozen=True)
class Labels:
    """Class names and RGB palette, index = class; label `ignore` is never counted."""

    name: str
    names: tuple[str, ...]
    palette: tuple[RGB, ...]
    ignore: int = 255

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= 255 or len(self.names) != len(self.palette):
            counts = f"{len(self.names)} names and {len(self.palette)} colours"
            raise BundleError(f"labels {self.name!r}: {counts}, 1 to 255 of each are meant")
        if not all(0 <= channel <= 255 for colour in self.palette for channel in colour):
            raise BundleError(f"labels {self.name!r}: a palette colour is outside 0..255")

    def bgr(self) -> npt.NDArray[np.uint8]:
        """The palette as a 256x3 BGR lookup table; entries beyond the classes are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self.palette)] = np.array(self.palette, np.uint8)[:, ::-1]
        return table


@dataclass(frozen=True)
class TensorSpec:
    """A network input or output; a dimension that varies is a name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


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


INT8_LEVELS = 127  # the largest |q| of symmetric INT8


@dataclass(frozen=True)
class Range:
    """One tensor over all calibration frames: symmetric INT8 covers [-amax, amax], values from `low` to `high` came."""

    amax: float
    low: float
    high: float
    method: str  # how amax was chosen: "entropy", "percentile 99.99" ...

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.amax, self.low, self.high))) or self.amax < 0 or self.low > self.high:
            raise BundleError(f"range {self.low}..{self.high} with amax {self.amax} is not a range of finite numbers")


@dataclass(frozen=True)
class RangesKey:
    """What the ranges hold for: sha256 of the fused graph without its weights, of the weights, of the FrameSpec, and of
    the frames in order; and the method asked for.
    """

    graph: str
    weights: str
    frame: str
    frames: str
    method: str


@dataclass(frozen=True)
class Ranges:
    """What calibration saw: tensor name -> range. `source` is where the `count` frames came from."""

    key: RangesKey
    source: str
    count: int
    tensors: Mapping[str, Range]
    toolkit: str
    warnings: tuple[str, ...] = ()
    schema: int = 1

    def __post_init__(self) -> None:
        if self.schema != 1:
            raise BundleError(f"ranges schema {self.schema}, this toolkit reads 1: calibrate again")


@dataclass(frozen=True)
class Harm:
    """What rounding `layers` alone does to the logits: the error's power over their variance.

    One layer, or several that it was not worth telling apart. `kept`: they went back to float.
    """

    layers: tuple[str, ...]
    harm: float
    kept: bool


@dataclass(frozen=True)
class Budget:
    """What quantising was allowed to cost, and what it costs.

    `loss` is in points of mIoU, or in percent of the pixels whose label is not float's: with every layer quantised at
    `full`, with those in `harms` kept that are marked so at `reached`. `judged` candidates ran on `judge` by `backend`;
    the harms took `runs` runs of the network.
    """

    loss: Literal["miou", "labels"]
    allowed: float
    full: float
    reached: float
    judge: str
    backend: str
    judged: int
    runs: int
    harms: tuple[Harm, ...]  # the greatest first


@dataclass(frozen=True)
class Speed:
    """How many times as fast as the same network in precision `than` it ran, with a 95 % interval, both in turn."""

    than: str
    times: float
    low: float
    high: float


@dataclass(frozen=True)
class GraphCost:
    """What a graph costs per frame: multiply-accumulates, bytes read and written, nodes (see fusion/cost.py)."""

    macs: int
    bytes: int
    nodes: int


@dataclass(frozen=True)
class Parity:
    """max |b - a| / max |a| of the logits on one frame, and the share of pixels with the same label."""

    stage: str
    frame: str
    relative_error: float
    label_agreement: float


@dataclass(frozen=True)
class FileDigest:
    """What a bundle file must look like."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """Everything needed to run a bundle, judge it and build it again."""

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
    command: str
    toolkit: str
    traced_cost: GraphCost | None = None  # None: sizes are free
    fused_cost: GraphCost | None = None
    engine: EngineInfo | None = None
    calibration: RangesKey | None = None  # of int8 and fp8
    budget: Budget | None = None
    speed: Speed | None = None  # None: it was not asked, or cannot run where it was built
    files: Mapping[str, FileDigest] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise BundleError(f"manifest schema {self.schema}, this toolkit reads {SCHEMA}: build the bundle again")
        for name in self.files:
            # printable: a NUL or a lone surrogate is no file name, and makes every path function raise ValueError
            if name in ("", ".", "..") or PurePath(name).name != name or "\\" in name or not name.isprintable():
                raise BundleError(f"manifest names the file {name!r}: files of a bundle lie directly in it")
        if len(self.inputs) != 1 or len(self.outputs) != 1:
            counts = f"{len(self.inputs)} inputs and {len(self.outputs)} outputs"
            raise BundleError(f"manifest has {counts}, one of each is meant")


@dataclass(frozen=True)
class Mask:
    """A frame's segmentation: `labels` is HxW uint8 at the frame's size."""

    labels: LabelMap
    classes: Labels

    def colours(self) -> Frame:
        """The label map in its palette, HxWx3 BGR uint8."""
        return self.classes.bgr()[self.labels]

    def overlay(self, frame: Frame, opacity: float = 0.5) -> Frame:
        """`frame` (HxWx3 BGR uint8, the segmented one) with the palette blended over it; opacity in [0, 1]."""
        if frame.shape != (*self.labels.shape, 3):
            raise ValueError(f"frame {frame.shape} is not the segmented frame {(*self.labels.shape, 3)}")
        weight = round(opacity * 256)
        blend = frame.astype(np.uint16) * (256 - weight) + self.colours().astype(np.uint16) * weight
        return (blend >> 8).astype(np.uint8)

    def shares(self) -> dict[str, float]:
        """Share of the frame's pixels that each class covers, classes that appear only, largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes.names))[: len(self.classes.names)]
        order = np.argsort(-counts, kind="stable")
        return {self.classes.names[i]: float(counts[i] / self.labels.size) for i in order if counts[i]}


Record = TypeVar("Record")


def to_json(record: Any) -> str:
    """A record as indented JSON with a closing newline; fields in the order of the class."""
    return json.dumps(dataclasses.asdict(record), indent=2, ensure_ascii=False) + "\n"


def from_json(kind: type[Record], text: str) -> Record:
    """The `kind` that `text` holds. `text` is untrusted: `BundleError` names the first field that does not fit."""
    try:
        return typing.cast(Record, _read(kind, json.loads(text), kind.__name__))
    except (ValueError, RecursionError, OverflowError) as exc:  # overflow: an integer too large for a float
        raise BundleError(f"not JSON of a {kind.__name__}: {exc}") from exc


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_union(args, value, where)
    if origin is Literal:
        if value in args:
            return value
    elif origin is tuple:
        if isinstance(value, list) and (args[-1] is Ellipsis or len(value) == len(args)):
            kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
            return tuple(_read(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    elif origin is Mapping or (isinstance(origin, type) and issubclass(origin, Mapping)):
        if isinstance(value, dict):
            return {key: _read(args[1], item, f"{where}[{key!r}]") for key, item in value.items()}
    elif dataclasses.is_dataclass(kind):
        return _read_record(kind, value, where)
    elif kind is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise BundleError(f"{where}: {kind} expected, found {str(value)[:60]!r}")


def _read_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    failure = BundleError(f"{where}: nothing fits {str(value)[:60]!r}")
    for kind in kinds:
        if kind is not type(None):
            try:
                return _read(kind, value, where)
            except BundleError as exc:
                failure = exc
    raise failure


def _read_record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise BundleError(f"{where}: an object expected, found {str(value)[:60]!r}")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for name in value:
        if name not in fields:
            raise BundleError(f"{where}.{name}: unknown field")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise BundleError(f"{where}.{name}: missing")
    return kind(**{name: _read(hints[name], item, f"{where}.{name}") for name, item in value.items()})
