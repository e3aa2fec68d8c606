"""Operators that a backend does not compute, or not in a precision: said before anything is built of them."""

import onnx_ir as ir

from refinenet_edge.errors import InputError

EACH_FRAME = ("DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")  # quantised by what is in it
# by no TensorRT: neither in docs/operators.md of onnx-tensorrt 10.1 nor, as a test asks it, by TensorRT-RTX's parser
UNREAD_BY_TENSORRT = frozenset(
    (
        *EACH_FRAME,
        *("AffineGrid", "CenterCropPad", "Col2Im", "Compress", "DFT", "Det", "MaxRoiPool", "MaxUnpool", "Unique"),
        *("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "QLinearConv", "QLinearMatMul"),
        *("ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert"),
        *("Optional", "OptionalGetElement", "OptionalHasElement", "SequenceLength", "SequenceMap", "SplitToSequence"),
    )
)


def require_computed(model: ir.Model, precision: str, on_gpu: bool) -> None:
    """Raise `InputError` where `model` has an operator that no backend of such a kind computes in `precision`."""
    for node in model.graph.all_nodes():
        name = f"{node.op_type} {node.name or node.outputs[0].name}"
        if node.op_type in EACH_FRAME and (on_gpu or precision != "fp32"):
            raise InputError(
                f"the network is quantised anew for each frame ({name}), which CPUs compute as it is: build it with "
                "--precision fp32 for openvino or onnxruntime, or build the float model with --precision int8 --calib "
                "FRAMES"
            )
        if on_gpu and (node.domain not in ("", "ai.onnx") or node.op_type in UNREAD_BY_TENSORRT):
            raise InputError(
                f"TensorRT does not read {name}: export it without such operators, or build it for openvino or "
                "onnxruntime"
            )
