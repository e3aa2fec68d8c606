"""One frame becomes several at once, and several one: what is told a shape is told it without their number."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from refinenet_edge.errors import GraphError
from refinenet_edge.graph import copy_of, to_bytes
from refinenet_edge.graph.batch import set_batch
from refinenet_edge.records import ONE, Batch
from refinenet_edge.runtime.ort import OrtSession
from tests.conftest import graph, operators, weights

RANDOM = np.random.default_rng(3)
IMAGES = RANDOM.standard_normal((3, 3, 8, 12)).astype(np.float32)
FOUR, FREE = Batch(4, 4, 4), Batch(1, 2, 8)


def ints(*sides: int) -> Any:
    return np.array(sides, np.int64)


def fixed(body: str, **constants: Any) -> ir.Model:
    return graph(body, "float[1,3,8,12] image", "float[1,5,h,w] logits", **constants)


def free(body: str, **constants: Any) -> ir.Model:
    return graph(body, "float[1,3,H,W] image", "float[1,5,h,w] logits", **constants)


def run(model: ir.Model, images: Any) -> Any:
    with OrtSession(to_bytes(model), optimised=False) as session:
        return session.run({"image": images})["logits"].copy()


def assert_frames_are_their_own(model: ir.Model, batch: Batch) -> ir.Model:
    """Every frame of a batch gives what it gives alone."""
    together = set_batch(copy_of(model), batch)
    alone = np.concatenate([run(model, image[None]) for image in IMAGES])
    for frames in {batch.least, 3 if batch.takes(3) else batch.most}:
        images = np.concatenate([IMAGES, IMAGES])[:frames]
        assert np.allclose(run(together, images), np.concatenate([alone, alone])[:frames], atol=1e-5)
    return together


CONV = "logits = Conv(image, w)"
W = {"w": weights(5, 3, 1, 1)}
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "convolution": (CONV, W),
    "resize": (
        'a = Conv <strides = [2,2]> (image, w) logits = Resize <mode = "linear"> (a, , , s)',
        {**W, "s": ints(1, 5, 8, 12)},
    ),
    "axes": (
        'a = Conv <strides = [2,2]> (image, w) logits = Resize <mode = "linear", axes = [2,3]> (a, , , s)',
        {**W, "s": ints(8, 12)},
    ),
    "scales": (
        'a = Conv(image, w) logits = Resize <mode = "nearest"> (a, , s)',
        {**W, "s": np.array([1, 1, 2, 2], np.float32)},
    ),
    "reshapes": (
        "a = Reshape(image, flat) b = Reshape(a, planes) logits = Conv(b, w)",
        {**W, "flat": ints(1, 3, 96), "planes": ints(1, 3, 8, 12)},
    ),
    "first is what is left": (
        "a = Reshape(image, flat) b = Reshape(a, planes) logits = Conv(b, w)",
        {**W, "flat": ints(-1, 3, 96), "planes": ints(1, -1, 8, 12)},
    ),
    "windows": (  # as Swin's: windows lie beside frames on the first axis
        "a = Reshape(image, s) b = Transpose <perm = [0,2,4,1,3,5]> (a) c = Reshape(b, m) d = Softmax <axis = -1> (c) "
        "e = Reshape(d, t) f = Transpose <perm = [0,3,1,4,2,5]> (e) g = Reshape(f, u) logits = Conv(g, w)",
        {**W, "s": ints(1, 3, 2, 4, 3, 4), "m": ints(6, 3, 16), "t": ints(1, 2, 3, 3, 4, 4), "u": ints(1, 3, 8, 12)},
    ),
    "without the frame": (
        "a = Reshape(image, flat) b = Softmax <axis = 0> (a) c = Reshape(b, planes) logits = Conv(c, w)",
        {**W, "flat": ints(3, 96), "planes": ints(1, 3, 8, 12)},
    ),
    "expand": (
        "a = ReduceMean <keepdims = 1> (image, axes) b = Expand(a, s) c = Add(b, image) logits = Conv(c, w)",
        {**W, "axes": ints(2, 3), "s": ints(1, 3, 8, 12)},
    ),
    "constants": (
        "a = Expand(k, s) b = Add(a, image) logits = Conv(b, w)",
        {**W, "k": weights(1, 3, 1, 1), "s": ints(1, 3, 8, 12)},
    ),
}


@pytest.mark.parametrize("batch", [FOUR, FREE], ids=str)
@pytest.mark.parametrize("kind", sorted(BODIES.keys() - {"without the frame"}))
def test_each_frame_is_its_own(kind: str, batch: Batch) -> None:
    body, constants = BODIES[kind]
    together = assert_frames_are_their_own(fixed(body, **constants), batch)
    frames = 4 if batch.fixed else "batch"
    (image,), (logits,) = together.graph.inputs, together.graph.outputs
    assert image.shape == ir.Shape([frames, 3, 8, 12])
    assert logits.shape is not None and logits.shape[0] == frames


@pytest.mark.parametrize("kind", sorted(BODIES.keys() - {"without the frame"}))
def test_and_back(kind: str) -> None:
    body, constants = BODIES[kind]
    model = fixed(body, **constants)
    back = set_batch(set_batch(copy_of(model), FOUR), ONE)
    assert back.graph.outputs[0].shape == model.graph.outputs[0].shape
    assert operators(back) == operators(model)
    assert np.array_equal(run(back, IMAGES[:1]), run(model, IMAGES[:1]))


@pytest.mark.parametrize("batch", [FOUR, FREE], ids=str)
def test_sides_may_be_free_too(batch: Batch) -> None:
    body = (
        "a = Conv <strides = [2,2]> (image, w) h = Shape <start = 2> (image) s = Concat <axis = 0> (head, h) "
        'b = Resize <mode = "linear"> (a, , , s) c = Reshape(b, flat) logits = Reshape(c, s)'
    )
    assert_frames_are_their_own(free(body, w=W["w"], head=ints(1, 5), flat=ints(1, 5, -1)), batch)


@pytest.mark.parametrize("batch", [FOUR, FREE], ids=str)
def test_what_mixes_frames_gives_others(batch: Batch) -> None:
    """It is for the build's proof to see: no shape says so."""
    body, constants = BODIES["without the frame"]
    with pytest.raises(AssertionError):
        assert_frames_are_their_own(fixed(body, **constants), batch)


def test_what_does_not_follow_is_refused() -> None:
    model = fixed("a = ReduceMax(image, zero) logits = Conv(a, w)", w=W["w"], zero=ints(0))
    with pytest.raises(
        GraphError, match=r"mine cannot take 4 frames at once instead of 1: .*without --batch, or export"
    ):
        set_batch(model, FOUR, "mine")


def test_what_has_the_batch_stays() -> None:
    model = fixed(CONV, **W)
    before = to_bytes(model)
    assert to_bytes(set_batch(model, ONE)) == before


def test_names_that_are_taken_are_left() -> None:
    """The number of frames and the shapes get names of their own."""
    body = 'a = Conv <strides = [2,2]> (image, w) b = Resize <mode = "linear"> (a, , , s) logits = Add(b, k)'
    model = fixed(body, w=W["w"], s=ints(1, 5, 8, 12), k=weights(1, 5, 1, 1))
    model.graph.initializers["k"].name = "batch/Shape:0"
    assert_frames_are_their_own(model, FREE)
