"""What an error says of a graph that OpenVINO cannot load: the operator and why, of all that OpenVINO says."""

import numpy as np
import pytest

from refinenet_edge.errors import BundleError
from refinenet_edge.runtime.openvino import OpenVinoSession
from tests.conftest import onnx_model, weights


def test_an_operator_that_it_does_not_know_is_named() -> None:
    model = onnx_model(
        "p, i = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x) u = MaxUnpool <kernel_shape = [2,2], "
        "strides = [2,2]> (p, i) y = Conv(u, w)",
        "float[1,8,4,6] x",
        "float[1,5,4,6] y",
        w=weights(5, 8, 1, 1),
    )
    with pytest.raises(BundleError, match=r"cannot load the model: No conversion rule found for .*MaxUnpool-20$"):
        OpenVinoSession(model.SerializeToString())


def test_a_mode_that_it_does_not_know_is_named_not_what_fails_after_it() -> None:
    model = onnx_model(
        'u = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel_symmetric"> (x, , s) y = Conv(u, w)',
        "float[1,8,4,6] x",
        "float[1,5,8,12] y",
        w=weights(5, 8, 1, 1),
        s=np.array([1, 1, 2, 2], np.float32),
    )
    with pytest.raises(BundleError, match=r"cannot load the model: Resize-20: half_pixel_symmetric .*not supported"):
        OpenVinoSession(model.SerializeToString())
