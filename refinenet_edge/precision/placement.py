"""Where INT8 pays, per target: the rules as data.

OpenVINO, measured on two cores of an AMD EPYC with the shipped model at 512x512 (ms for the network, mIoU on 40 unseen
scenes): float32 51.6 and .802; everything 18.6 and .800; all but what has fewer than 16 channels or not a multiple of 8
24.3 and .800; that without depthwise 26.0 and .801, without sums 28.3, convolutions only 33.7. So everything pays.

TensorRT on Orin: not measured here. The rules are NVIDIA's (tensor cores want 8 channels; depthwise stays float16).

TensorRT-RTX 1.7 plans of the same model (fp16: 440 MB moved, 53.2 MB activations, 6.1 MB weights): this placement 584,
46.1 and 3.2, without sums 612, convolutions only 595; per-channel weights cost nothing here. INT8 moves more than fp16
there whatever the placement, because a kernel of its own quantises; so `build` wants --force for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from refinenet_edge.records import Backend


@dataclass(frozen=True)
class Placement:
    """Which inputs are quantised. A convolution's weights are, where its input is."""

    name: str
    per_channel: bool = True  # weights: a scale for each output channel
    depthwise: bool = False
    sums: bool = True  # the skip side of an Add
    pools: bool = True
    resizes: bool = True
    multiple: int = 8  # a convolution with other channel counts has no INT8 kernel worth having
    fewest: int = 16  # channels in or out

    def quantises(self, node: ir.Node) -> bool:
        """Whether this Conv is computed in INT8."""
        weight = node.inputs[1]
        if node.op_type != "Conv" or weight is None or weight.const_value is None or weight.shape is None:
            return False
        groups = node.attributes.get_int("group", 1)
        out, inside = weight.const_value.shape.numpy()[:2]
        if groups > 1:
            return self.depthwise and inside == 1
        return min(out, inside) >= self.fewest and not out % self.multiple and not inside % self.multiple

    def inputs_of(self, node: ir.Node) -> tuple[int, ...]:
        """The inputs of `node` that are quantised."""
        if node.op_type == "Conv":
            return (0,) if self.quantises(node) else ()
        if node.op_type == "Add" and self.sums:
            return tuple(index for index, value in enumerate(node.inputs) if value is not None and self._is_skip(value))
        if (node.op_type == "MaxPool" and self.pools) or (node.op_type == "Resize" and self.resizes):
            return (0,)
        return ()

    def _is_skip(self, value: ir.Value) -> bool:
        """Not what a convolution or an earlier sum gives to this sum alone: that is never rounded in between."""
        producer = value.producer()
        if producer is None:
            return value.const_value is None
        return not (producer.op_type in ("Conv", "Add") and len(value.uses()) == 1)


TENSORRT = Placement("tensorrt")
RTX = Placement("tensorrt-rtx", per_channel=False)
OPENVINO = Placement("openvino", depthwise=True, multiple=1, fewest=1)
PLACEMENTS: dict[Backend, Placement] = {
    "tensorrt": TENSORRT,
    "tensorrt-rtx": RTX,
    "openvino": OPENVINO,
    "onnxruntime": OPENVINO,  # the reference runs what OpenVINO runs
}
