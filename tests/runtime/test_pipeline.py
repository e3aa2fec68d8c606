"""Frame -> labels on the device, over host memory: a fake engine between the real kernels, compiled for the CPU."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from refinenet_edge.errors import RefineNetEdgeError
from refinenet_edge.labels import numbered
from refinenet_edge.records import Bilinear, Cubic, FrameSpec, TensorSpec
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.head import upsample_argmax
from refinenet_edge.runtime.pipeline import DeviceSegmenter, fits_device
from refinenet_edge.runtime.segmenter import Segmenter
from refinenet_edge.runtime.session import CheckedSession
from tests.runtime.test_kernels import HostCuda, host_module, read

__all__ = ["host_module"]  # a fixture
CLASSES = 5
FRAME = np.random.default_rng(4).integers(0, 256, (61, 47, 3), np.uint8)


class HostCudaBothWays(HostCuda):
    def __init__(self) -> None:
        super().__init__()
        self.graphs: list[Any] = []
        self.launches = 0
        self.refuses = False

    def capture(self, queue: Any) -> Any:
        if self.refuses:
            raise RefineNetEdgeError("cudaStreamEndCapture failed: cudaErrorStreamCaptureInvalidated")
        self.graphs.append(queue)
        return queue

    def launch(self, graph: Any) -> None:
        self.launches += 1
        graph()

    def drop(self, graph: Any) -> None:
        self.graphs.remove(graph)

    def to_host(self, array: np.ndarray, address: int) -> None:
        array[...] = read(address, array.shape, array.dtype)


class HostEngine:
    """What `DeviceSegmenter` asks of a session: mixes the channels of every fourth pixel, in the layout it is given."""

    def __init__(self, dtype: str, channel_last: bool) -> None:
        channels, padded = (8, 8) if channel_last else (3, CLASSES)
        self.inputs = (TensorSpec("image", dtype, (1, channels, "height", "width")),)
        self.outputs = (TensorSpec("logits", dtype, (1, padded, "h", "w")),)
        self.channel_last = {"image", "logits"} if channel_last else set()
        self.cuda = HostCudaBothWays()
        self.weight = np.random.default_rng(5).standard_normal((padded, channels)).astype(np.float32)
        self.weight[CLASSES:] = 1000  # must not be looked at
        self.runs = 0
        self.shapes: dict[str, tuple[int, ...]] = {}

    def capturable(self) -> bool:
        return True

    def set_shapes(self, inputs: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        self.shapes = inputs
        batch, channels, height, width = self.shape = inputs["image"]
        assert channels == self.inputs[0].shape[1]
        logits = (batch, len(self.weight), -(-height // 4), -(-width // 4))
        return {"image": self.shape, "logits": logits}

    def logits(self, image: np.ndarray) -> np.ndarray:
        """1x3..xHxW -> 1xCxhxw, in the engine's dtype."""
        mixed = np.einsum("oc,bchw->bohw", self.weight, image[:, :, ::4, ::4].astype(np.float32))
        return mixed.astype(self.outputs[0].dtype)

    def queue(self, addresses: dict[str, int]) -> None:
        self.runs += 1
        _, channels, height, width = self.shape
        dtype = np.dtype(self.inputs[0].dtype)
        if self.channel_last:
            image = read(addresses["image"], (1, height, width, channels), dtype).transpose(0, 3, 1, 2)
            result = np.ascontiguousarray(self.logits(image).transpose(0, 2, 3, 1))
        else:
            image = read(addresses["image"], (1, channels, height, width), dtype)
            result = self.logits(image)
        self.cuda.to_device(addresses["logits"], result)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.usefixtures("host_module")
class TestOnTheHost:
    @pytest.mark.parametrize(("dtype", "channel_last"), [("float16", True), ("float16", False), ("float32", False)])
    @pytest.mark.parametrize("size", [(61, 47), None], ids=["static", "dynamic"])
    def test_labels_are_those_of_the_cpu(self, dtype: str, channel_last: bool, size: tuple[int, int] | None) -> None:
        engine: Any = HostEngine(dtype, channel_last)
        spec = FrameSpec(size)
        device = DeviceSegmenter(engine, spec, CLASSES)
        for frame in (FRAME, FRAME[::-1], FRAME[:, ::-1]):
            image = prepare(np.ascontiguousarray(frame), spec, dtype, engine.inputs[0].shape[1])
            expected = upsample_argmax(engine.logits(image)[0, :CLASSES], (61, 47), spec.upsample)
            assert np.array_equal(device.labels(frame), expected)
        assert engine.cuda.launches == 2
        device.close()
        device.close()
        assert not engine.cuda.held
        assert not engine.cuda.graphs

    def test_a_graph_is_for_one_size_and_for_the_shapes_it_saw(self) -> None:
        engine: Any = HostEngine("float16", True)
        device = DeviceSegmenter(engine, FrameSpec(None), CLASSES)
        first = device.labels(FRAME)
        device.labels(FRAME[:40])
        assert len(engine.cuda.graphs) == 1
        engine.set_shapes({"image": (1, 8, 16, 16)})  # somebody runs the session itself
        device.labels(FRAME[:40])
        assert (engine.cuda.launches, len(engine.cuda.graphs)) == (0, 1)
        device.labels(FRAME[:40])
        assert engine.cuda.launches == 1
        assert np.array_equal(device.labels(FRAME), first)
        device.close()

    @pytest.mark.parametrize("refuses", ["the driver", "the engine"])
    def test_without_a_graph_each_step_is_launched(self, refuses: str, caplog: pytest.LogCaptureFixture) -> None:
        engine: Any = HostEngine("float16", True)
        if refuses == "the engine":
            engine.capturable = lambda: False
        engine.cuda.refuses = True
        device = DeviceSegmenter(engine, FrameSpec((32, 32)), CLASSES)
        with caplog.at_level("INFO"):
            frames = [device.labels(FRAME) for _ in range(3)]
        assert np.array_equal(frames[0], frames[2])
        assert (engine.runs, engine.cuda.launches) == (3, 0)
        assert len(caplog.records) == (refuses == "the driver")
        device.close()

    def test_memory_is_kept_for_one_size(self) -> None:
        engine: Any = HostEngine("float16", True)
        device = DeviceSegmenter(engine, FrameSpec((32, 32)), CLASSES)
        device.labels(FRAME)
        held = set(engine.cuda.held)
        assert device.labels(FRAME).shape == (61, 47)
        assert set(engine.cuda.held) == held
        assert device.labels(FRAME[:40]).shape == (40, 47)
        assert len(engine.cuda.held) == len(held)
        device.close()
        assert not engine.cuda.held

    def test_labels_are_the_callers(self) -> None:
        engine: Any = HostEngine("float16", True)
        device = DeviceSegmenter(engine, FrameSpec((32, 32)), CLASSES)
        first = device.labels(FRAME)
        kept = first.copy()
        device.labels(255 - FRAME)
        assert np.array_equal(first, kept)

    def test_what_fails_on_the_way_gives_everything_back(self) -> None:
        engine: Any = HostEngine("float16", True)
        engine.set_shapes = lambda inputs: 1 / 0
        with pytest.raises(ZeroDivisionError):
            DeviceSegmenter(engine, FrameSpec((32, 32)), CLASSES).labels(FRAME)
        assert not engine.cuda.held


def test_cubic_interpolation_stays_on_the_cpu() -> None:
    assert fits_device(FrameSpec((8, 8)))
    assert not fits_device(FrameSpec((8, 8), resize=Cubic()))
    assert not fits_device(FrameSpec((8, 8), upsample=Cubic()))


class PaddedSession(CheckedSession):
    """8 channels in, 8 logits out; the added logits are the largest."""

    def __init__(self) -> None:
        image = TensorSpec("image", "float32", (1, 8, 8, 8))
        super().__init__("padded", (image,), (TensorSpec("logits", "float32", (1, 8, 8, 8)),))

    def _run(self, feeds: Any) -> Any:
        assert not feeds["image"][:, 3:].any()
        logits = np.full((1, 8, 8, 8), 1e6, np.float32)
        logits[:, :3] = feeds["image"][:, :3]
        return {"logits": logits}


def test_a_padded_network_runs_on_any_backend() -> None:
    frame = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    spec = FrameSpec((8, 8), upsample=Bilinear(), mean=(0, 0, 0), std=(1, 1, 1))
    with Segmenter.from_session(PaddedSession(), spec, numbered(3)) as segmenter:
        assert segmenter.logits(frame).shape == (1, 3, 8, 8)
        assert np.array_equal(segmenter.segment(frame).labels, frame[..., ::-1].argmax(2))
