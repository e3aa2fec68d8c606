"""nvidia-modelopt's PTQ, run by a Python that has it: quantize_modelopt.py IN.onnx FRAMES.npz OUT.onnx METHOD DTYPE.

FRAMES.npz holds one array per input, prepared frames along its first axis; METHOD is entropy (modelopt's default) or
max; DTYPE is what stays around the Q/DQ: fp16 (modelopt's default, for TensorRT) or fp32 (for the CPU).
"""

import sys

import numpy as np
from modelopt.onnx.quantization import quantize


def main(source: str, frames: str, target: str, method: str, dtype: str) -> None:
    with np.load(frames) as held:
        data = dict(held)
    quantize(
        source,
        quantize_mode="int8",
        calibration_data=data,
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype=dtype,
        output_path=target,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
