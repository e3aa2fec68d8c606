"""What travels between the stages: frozen records that write themselves to JSON and read themselves back.

FrameSpec   how a frame becomes the network's input and logits become a label map
Labels      class names and palette
TensorSpec  name, dtype and shape of a network input or output
Profile     the range of frame sizes an engine accepts
Batch       how many frames a network takes at once
EngineInfo  what built the plan, for which device, and what it reported
Ranges      what calibration saw of every tensor that may be quantised
Parity      how far one graph's logits are from another's on one frame
Recipe      what to build
Identity    which bundle a result is of
Manifest    all of it, beside the engine in a bundle
Mask        the result: a label map at the frame's size
Inference   how a frame goes through the network: Whole, MultiScale or Tiles

numpy only: records are on the device.
"""

from refinenet_edge.records.batch import MAX_BATCH, ONE, Batch
from refinenet_edge.records.frame import (
    MAX_SIDE,
    PREPROCESSINGS,
    RGB,
    SMALLEST_SIDE,
    Bilinear,
    Confidence,
    Cubic,
    Frame,
    FrameSpec,
    Interpolation,
    LabelMap,
    Labels,
    Mask,
    Nearest,
    Size,
    Span,
)
from refinenet_edge.records.inference import ALIGNED, WHOLE, Inference, MultiScale, Tiles, Whole
from refinenet_edge.records.json import from_json, from_plain, to_json
from refinenet_edge.records.manifest import (
    CHANNEL_MULTIPLE,
    INPUT,
    LABELS,
    LESSER,
    NOISE,
    OUTPUT,
    EngineInfo,
    FileDigest,
    GraphCost,
    Identity,
    Manifest,
    Parity,
    Profile,
    TensorSpec,
    label_agreement,
    relative_error,
)
from refinenet_edge.records.quantised import INT8_LEVELS, Budget, Harm, Range, Ranges, RangesKey, Speed
from refinenet_edge.records.recipe import DEFAULT_SIZE, PRECISIONS, Backend, Gives, Recipe

__all__ = [
    "ALIGNED", "CHANNEL_MULTIPLE", "DEFAULT_SIZE", "INPUT", "INT8_LEVELS", "LABELS", "LESSER", "MAX_BATCH", "MAX_SIDE",
    "NOISE", "ONE", "OUTPUT", "PRECISIONS", "PREPROCESSINGS", "RGB", "SMALLEST_SIDE", "WHOLE", "Backend", "Batch",
    "Bilinear", "Budget", "Confidence", "Cubic", "EngineInfo", "FileDigest", "Frame", "FrameSpec", "Gives", "GraphCost",
    "Harm", "Identity", "Inference", "Interpolation", "LabelMap", "Labels", "Manifest", "Mask", "MultiScale", "Nearest",
    "Parity", "Profile", "Range", "Ranges", "RangesKey", "Recipe", "Size", "Span", "Speed", "TensorSpec", "Tiles",
    "Whole", "from_json", "from_plain", "label_agreement", "relative_error", "to_json",
]  # fmt: skip
