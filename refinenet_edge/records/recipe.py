"""What to build, and the command that builds it: a manifest holds the recipe, advice is a recipe with other fields."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from typing import Literal

from refinenet_edge.errors import BundleError, InputError, require_local
from refinenet_edge.records.batch import Batch
from refinenet_edge.records.frame import MAX_SIDE, PREPROCESSINGS, FrameSpec, Size

Backend = Literal["tensorrt", "tensorrt-rtx", "openvino", "onnxruntime"]  # what a bundle is built for
DEFAULT_SIZE: Size = (512, 512)  # (height, width) of networks that take any
Gives = Literal["logits", "labels", "full-logits"]  # what a graph ends with
OPTIONS = {"output": "out"}  # of fields that are called otherwise
PRECISIONS = ("fp32", "fp16", "int8", "fp8")


@dataclass(frozen=True)
class Recipe:
    """One bundle to build. Either `onnx`, or `model` and/or `checkpoint`; no checkpoint means random weights.

    Raises `InputError` for options that contradict each other.
    """

    output: str
    model: str | None = None
    checkpoint: str | None = None
    onnx: str | None = None
    size: Size | None = None  # None: as the file is fixed, else DEFAULT_SIZE
    dynamic: bool = False
    precision: str = "fp32"
    calib: str | None = None  # of int8 and fp8: a ranges file, or the frames to calibrate on
    max_miou_drop: float | None = None  # points that quantising may cost on `judge`, a labelled data set
    min_agreement: float | None = None  # percent of the pixels of `judge`, any frames, that keep float's label
    judge: str | None = None  # None: the frames of `calib`
    cpu: Literal["this", "any"] = "this"  # of int8 on the CPU: which processors it is right on
    backend: Backend | Literal["auto"] = "auto"
    labels: str | None = None
    upsample: Literal["bilinear", "cubic"] = "bilinear"
    # what the keys of a published checkpoint cannot tell; None: as the checkpoint says, or the ports' convention
    align_corners: bool | None = None
    crp: Literal["pool_conv", "conv_pool"] | None = None
    without: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    workspace_mib: int = 1024
    timing_cache: str | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    force: bool = False
    # what the network was trained on: of PREPROCESSINGS, and what is otherwise, in the order of its channels
    preprocess: Literal["imagenet", "caffe", "tf", "0-1", "none"] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    scale: float | None = None  # what a byte is divided by, before mean and std
    order: Literal["rgb", "bgr"] | None = None
    resize: Literal["stretch", "letterbox", "crop"] = "stretch"  # of frames of another shape than the network's
    state_key: str | None = None  # of a checkpoint that holds several weights; None: the average, or the only ones
    collapse_ind: str | None = None  # of DenseTorch's checkpoints, JSON
    io: Literal["padded", "plain"] = "padded"  # of TensorRT in float16: channels last, in eights; or as in the ONNX
    gives: Gives = "logits"
    plan: bool = True  # False: of TensorRT, the board makes it
    output_name: str | None = None  # of the ONNX file's, where it has several
    layout: Literal["nchw", "nhwc"] | None = None  # of its input, where the file does not say
    batch: Batch | None = None  # frames at once; None: as the ONNX file is fixed, else one

    def __post_init__(self) -> None:
        for value in vars(self).values():  # manifests hold them
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str):
                    require_local(text)
        if self.onnx is not None and (self.model or self.checkpoint):
            raise InputError("--onnx takes the model from the file: leave --model and --checkpoint out")
        if self.checkpoint is None and (self.state_key is not None or self.collapse_ind is not None):
            raise InputError("--state-key and --collapse-ind are for --checkpoint: leave them out")
        if self.onnx is None and self.model is None and self.checkpoint is None:
            raise InputError("nothing to build: give --model, --checkpoint or --onnx")
        if self.precision not in PRECISIONS:
            raise InputError(f"no precision {self.precision!r}; there are {', '.join(PRECISIONS)}")
        if self.max_miou_drop is not None and self.min_agreement is not None:
            raise InputError("expected one budget: --max-miou-drop or --min-agreement")
        if self.max_miou_drop is not None and not self.max_miou_drop > 0:
            raise InputError(f"--max-miou-drop {self.max_miou_drop}: expected more than 0 points of mIoU")
        if self.min_agreement is not None and not 0 < self.min_agreement < 100:
            raise InputError(f"--min-agreement {self.min_agreement}: expected between 0 and 100 percent")
        if self.judge is not None and not self.budgeted:
            raise InputError("--judge is for a budget: give --max-miou-drop or --min-agreement too")
        for said, option in ((self.output_name, "--output-name"), (self.layout, "--layout")):
            if said is not None and self.onnx is None:
                raise InputError(f"{option} is of an ONNX file: give --onnx, or leave it out")
        if self.size is not None and not all(1 <= side <= MAX_SIDE for side in self.size):
            raise InputError(f"size {self.size[0]}x{self.size[1]} is outside 1..{MAX_SIDE} pixels a side")
        if self.gives != "logits" and self.dynamic:
            raise InputError(f"--gives {self.gives} is for networks of one size: leave --dynamic out")
        if self.resize != "stretch" and self.dynamic:
            raise InputError(f"--resize {self.resize} is for networks of one size: with --dynamic no frame is resized")
        if self.preprocess is not None and self.preprocess not in PREPROCESSINGS:
            raise InputError(f"no --preprocess {self.preprocess!r}; there are {', '.join(PREPROCESSINGS)}")
        if self.scale is not None and not self.scale >= 1:
            raise InputError(f"--scale {self.scale:g}: a byte is divided by it: for x * 0.00392 give --scale 255")
        try:
            self.preprocessing  # noqa: B018 - it says what is wrong
        except BundleError as exc:
            raise InputError(
                f"--mean, --std, --scale, --order and --resize: {str(exc).removeprefix('frame: ')}"
            ) from exc

    @property
    def says_preprocessing(self) -> bool:
        """Whether anything was said of how frames become the network's input."""
        return any(value is not None for value in (self.preprocess, self.mean, self.std, self.scale, self.order))

    @property
    def preprocessing(self) -> FrameSpec:
        """How frames become the network's input, at any size; imagenet where nothing was said."""
        preset = PREPROCESSINGS[self.preprocess or "imagenet"]
        (m0, m1, m2), (s0, s1, s2) = self.mean or preset.mean, self.std or preset.std
        scale = preset.scale if self.scale is None else self.scale
        # floats: a digest of what is read back from a manifest is the same
        mean, std = (float(m0), float(m1), float(m2)), (float(s0), float(s1), float(s2))
        return FrameSpec(
            None, mean=mean, std=std, scale=float(scale), order=self.order or preset.order, fit=self.resize
        )

    @property
    def budgeted(self) -> bool:
        """Whether accuracy has a budget."""
        return self.max_miou_drop is not None or self.min_agreement is not None

    def in_precision(self, precision: str, output: str, calib: str | None = None) -> Recipe:
        """The same network in another precision; without `calib` nothing that is for quantising only goes with it."""
        # in TensorRT-RTX quantising is known to be slower, and built only by force
        force = self.force or self.backend == "tensorrt-rtx"
        other = dataclasses.replace(self, precision=precision, output=output, calib=calib, force=force)
        unbudgeted = {"max_miou_drop": None, "min_agreement": None, "judge": None, "cpu": "this", "force": False}
        return other if calib else dataclasses.replace(other, **unbudgeted)  # type: ignore[arg-type]

    @property
    def command(self) -> str:
        """The command line that builds this again: every option that is not at its default."""
        words = ["refinenet-edge", "build"]
        for field in dataclasses.fields(self):
            value, option = getattr(self, field.name), f"--{OPTIONS.get(field.name, field.name).replace('_', '-')}"
            if value == field.default:
                continue
            if isinstance(value, bool):
                words.append(option if value else option.replace("--", "--no-", 1))
            elif field.name == "size":
                words += [option, f"{value[0]}x{value[1]}"]
            elif field.name in ("mean", "std"):
                words += [option, ",".join(map(repr, value))]
            else:
                for item in value if isinstance(value, tuple) else (value,):
                    words += [option, str(item)]
        return shlex.join(words)
