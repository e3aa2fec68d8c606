"""An nn.Module becomes a float32 graph with our names."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refinenet_edge.build import parity
from refinenet_edge.errors import GraphError
from refinenet_edge.graph import IR_VERSION, OPSET, to_bytes
from refinenet_edge.model.cubic import resize_cubic
from refinenet_edge.records import SMALLEST_SIDE
from refinenet_edge.trace import trace
from tests.conftest import ODD, Traced, operators, weights


class Small(nn.Module):
    """What the networks do, in little: a strided convolution, an upsampling to another map's size, a sum."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.deep = nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.classifier = nn.Conv2d(4, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.stem(image)
        deep = F.interpolate(self.deep(fine), size=fine.shape[-2:], mode="bilinear", align_corners=True)
        logits: Tensor = self.classifier(F.max_pool2d(fine + deep, 5, 1, 2))
        return logits


def small() -> Small:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Small()


@cache
def traced_small(dynamic: bool = False) -> ir.Model:
    """Shared, so not to be changed."""
    return trace(small(), (33, 47), dynamic)


def assert_computes(model: ir.Model, module: nn.Module, size: tuple[int, int]) -> None:
    image = weights(1, 3, *size)
    (found,) = parity.logits(to_bytes(model), {"image": image}).values()
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(image)).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def ends(model: ir.Model) -> list[tuple[str | None, str]]:
    return [(value.name, f"{value.dtype} {value.shape}") for value in (*model.graph.inputs, *model.graph.outputs)]


class TestTrace:
    def test_it_has_our_names_opset_and_version(self) -> None:
        model = traced_small()
        assert ends(model) == [("image", "FLOAT [1,3,33,47]"), ("logits", "FLOAT [1,5,17,24]")]
        assert model.opset_imports == {"": OPSET}
        assert model.ir_version == IR_VERSION
        assert (OPSET, IR_VERSION) == (20, 9)
        assert not model.functions

    def test_it_computes_what_torch_does(self) -> None:
        assert_computes(traced_small(), small(), (33, 47))

    @pytest.mark.parametrize("size", [(33, 47), (64, 32), (97, 130)])
    def test_free_sides_take_other_sizes(self, size: tuple[int, int]) -> None:
        model = traced_small(dynamic=True)
        assert ends(model) == [("image", "FLOAT [1,3,height,width]"), ("logits", "FLOAT [1,5,h,w]")]
        assert_computes(model, small(), size)

    def test_nodes_are_named_after_their_modules(self, traced: Traced) -> None:
        names = [node.name for node in traced("rf_lw_mbv2", ODD).graph]
        modules = ("encoder.layer1.0", "refine4.mrf.convs.1", "refine1.crp.convs.3", "classifier")
        assert {f"{module}/Conv" for module in modules} <= {*names}
        assert max(Counter(names).values()) == 1

    def test_values_are_named_after_their_nodes(self) -> None:
        for node in traced_small().graph:
            assert [output.name for output in node.outputs] in ([f"{node.name}:0"], ["logits"])

    def test_weights_keep_their_keys(self) -> None:
        kernel = traced_small().graph.initializers["classifier.weight"]
        np.testing.assert_array_equal(kernel.const_value.numpy(), small().classifier.weight.detach().numpy())

    def test_it_is_the_network_in_eval_mode(self) -> None:
        model = trace(small().train(), (33, 47))
        assert not [node for node in model.graph if node.attributes.get_int("training_mode", 0)]
        assert_computes(model, small(), (33, 47))

    def test_two_traces_give_the_same_bytes(self) -> None:
        assert to_bytes(trace(small(), (33, 47))) == to_bytes(traced_small())

    def test_nothing_of_the_exporter_or_this_machine_is_left(self) -> None:
        data = ir.to_proto(traced_small())
        for weight in data.graph.initializer:
            weight.raw_data = b""  # random bytes may spell anything
        assert not [word for word in (b"pkg.", b"/work", b".py", b"torch") if word in data.SerializeToString()]
        assert data.producer_name == "refinenet-edge"

    @pytest.mark.parametrize("size", [(SMALLEST_SIDE - 1, 64), (64, 31), (0, 64), (20_000, 64), (64, 16_385)])
    def test_a_size_that_no_network_takes_is_refused(self, size: tuple[int, int]) -> None:
        with pytest.raises(GraphError, match=rf"size {size[0]}x{size[1]}: each side must be in 32\.\.16384 pixels"):
            trace(small(), size)

    def test_the_smallest_size_is_taken(self) -> None:
        size = (SMALLEST_SIDE, SMALLEST_SIDE)
        assert_computes(trace(small(), size), small(), size)

    def test_what_cannot_be_exported_is_an_error_of_ours(self) -> None:
        class Odd(Small):
            def forward(self, image: Tensor) -> Tensor:
                return image if image.sum() > 0 else super().forward(image)

        with pytest.raises(GraphError, match="torch could not export Odd at 33x47"):
            trace(Odd(), (33, 47))


class Enlarged(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return resize_cubic(image, (2 * image.shape[2] - 1, 2 * image.shape[3]))


class TestOurOwnOperator:
    @pytest.mark.parametrize("dynamic", [False, True])
    def test_bicubic_upsampling_is_a_resize(self, dynamic: bool) -> None:
        model = trace(Enlarged(), (40, 56), dynamic)
        image = np.random.default_rng(0).standard_normal((1, 3, *((50, 64) if dynamic else (40, 56)))).astype("f4")
        expected = resize_cubic(torch.from_numpy(image), (2 * image.shape[2] - 1, 2 * image.shape[3]))
        session = onnxruntime.InferenceSession(to_bytes(model))
        (actual,) = session.run(None, {"image": image})
        assert np.allclose(actual, expected, atol=1e-5)
        assert "Resize" in operators(model)
