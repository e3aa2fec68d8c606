"""What to build, and the command that builds it.

A recipe names every option that is not at its default, so that a manifest can carry the command that builds it again.
"""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from typing import Literal

from refinenet_edge.errors import InputError
from refinenet_edge.records.frame import MAX_SIDE, Size

Backend = Literal["tensorrt", "tensorrt-rtx", "openvino", "onnxruntime"]  # what a bundle is built for


@dataclass(frozen=True)
class Recipe:
    """One bundle to build. Either `onnx`, or `model` and/or `checkpoint`; no checkpoint means random weights.

    Raises `InputError` for options that contradict each other.
    """

    output: str
    model: str | None = None
    checkpoint: str | None = None
    onnx: str | None = None
    size: Size = (512, 512)
    dynamic: bool = False
    precision: str = "fp32"
    calib: str | None = None  # of int8 and fp8: a ranges file, or the frames to calibrate on
    max_miou_drop: float | None = None  # points that quantising may cost on `judge`, a labelled data set
    min_agreement: float | None = None  # percent of the pixels of `judge`, any frames, that keep float's label
    judge: str | None = None  # None: the frames of `calib`
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

    def __post_init__(self) -> None:
        if self.onnx is not None and (self.model or self.checkpoint):
            raise InputError("--onnx takes the model from the file: leave --model and --checkpoint out")
        if self.onnx is None and self.model is None and self.checkpoint is None:
            raise InputError("nothing to build: give --model, --checkpoint or --onnx")
        if self.max_miou_drop is not None and self.min_agreement is not None:
            raise InputError("one budget is meant: --max-miou-drop or --min-agreement")
        if self.max_miou_drop is not None and not self.max_miou_drop > 0:
            raise InputError(f"--max-miou-drop {self.max_miou_drop}: more than 0 points of mIoU are meant")
        if self.min_agreement is not None and not 0 < self.min_agreement < 100:
            raise InputError(f"--min-agreement {self.min_agreement}: between 0 and 100 percent are meant")
        if self.judge is not None and not self.budgeted:
            raise InputError("--judge is for a budget: give --max-miou-drop or --min-agreement too")
        if not all(1 <= side <= MAX_SIDE for side in self.size):
            raise InputError(f"size {self.size[0]}x{self.size[1]} is outside 1..{MAX_SIDE} pixels a side")

    @property
    def budgeted(self) -> bool:
        """Whether accuracy has a budget."""
        return self.max_miou_drop is not None or self.min_agreement is not None

    @property
    def command(self) -> str:
        """The command line that builds this again."""
        words = ["refinenet-edge", "build"]
        for field in dataclasses.fields(self):
            value, option = getattr(self, field.name), f"--{field.name.replace('_', '-')}"
            if value == field.default:
                continue
            if isinstance(value, bool):
                words.append(option if value else option.replace("--", "--no-", 1))
            elif field.name == "size":
                words += [option, f"{value[0]}x{value[1]}"]
            else:
                for item in value if isinstance(value, tuple) else (value,):
                    words += [option, str(item)]
        return shlex.join(words)
