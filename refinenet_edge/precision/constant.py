"""A new constant of a graph, as the passes of this stage make them."""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


def constant(name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """A value that holds `array`, not yet among a graph's initializers."""
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
