"""One contract for every session: what works on one backend works on all, and fails the same way."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from refinenet_edge.bundle import PLAN, Bundle
from refinenet_edge.errors import BundleError, InputError, RefineNetEdgeError
from refinenet_edge.records import EngineInfo, TensorSpec
from refinenet_edge.runtime import FakeSession, Session
from refinenet_edge.runtime.libraries import MODULES
from refinenet_edge.runtime.openvino import OpenVinoSession
from refinenet_edge.runtime.ort import OrtSession
from refinenet_edge.runtime.session import LayerTime, medians
from refinenet_edge.runtime.tensorrt.session import TrtSession
from tests.runtime.hardware import need
from tests.runtime.tinynet import CLASSES, build_plan, convolve, tiny

Open = Callable[[str, tuple[int, int] | None], Session]
GPU = ("tensorrt", "tensorrt-rtx")


def fake(dtype: str, size: tuple[int, int] | None) -> FakeSession:
    model = tiny(dtype, size)
    height, width = size or ("height", "width")
    return FakeSession(
        lambda feeds: {"logits": convolve(model, feeds["image"]).astype(dtype)},
        (TensorSpec("image", dtype, (1, 3, height, width)),),
        (TensorSpec("logits", dtype, (1, CLASSES, *((size[0] // 4, size[1] // 4) if size else ("h", "w")))),),
    )


@pytest.fixture(params=["openvino", "onnxruntime", "fake", *(pytest.param(b, marks=pytest.mark.gpu) for b in GPU)])
def opened(request: pytest.FixtureRequest, make_bundle: Callable[..., Bundle]) -> Iterator[Open]:
    backend = request.param
    sessions = []

    def make(dtype: str, size: tuple[int, int] | None) -> Session:
        session: Session
        if backend == "fake":
            session = fake(dtype, size)
        elif backend in GPU:
            trt = importlib.import_module(MODULES[backend])
            info = EngineInfo(flavour=backend, version=trt.__version__, targets=("default",), workspace_bytes=0)
            plan = build_plan(trt, tiny(dtype, size))
            session = TrtSession.open(make_bundle(dtype, size, {PLAN: plan}, backend=backend, engine=info), backend)
        else:
            kind = {"openvino": OpenVinoSession, "onnxruntime": OrtSession}[backend]
            session = kind(tiny(dtype, size).SerializeToString())
        sessions.append(session)
        return session

    if backend in GPU:
        need(backend)
    yield make
    for session in sessions:
        session.close()


def image(dtype: str = "float32", size: tuple[int, int] = (32, 48), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 3, *size)).astype(dtype)


class TestEverySession:
    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_it_says_what_it_takes(self, opened: Open, dtype: str) -> None:
        session = opened(dtype, (32, 48))
        assert session.inputs == (TensorSpec("image", dtype, (1, 3, 32, 48)),)
        assert session.outputs == (TensorSpec("logits", dtype, (1, CLASSES, 8, 12)),)

    def test_a_side_that_varies_has_a_name(self, opened: Open) -> None:
        session = opened("float32", None)
        assert session.inputs[0].shape[:2] == (1, 3)
        assert all(isinstance(side, str) for side in session.inputs[0].shape[2:])

    @pytest.mark.parametrize("size", [(32, 48), None], ids=["static", "dynamic"])
    @pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 1e-2)])
    def test_it_computes_the_network(
        self, opened: Open, dtype: str, tolerance: float, size: tuple[int, int] | None
    ) -> None:
        logits = opened(dtype, size).run({"image": image(dtype)})["logits"]
        assert logits.dtype == dtype
        np.testing.assert_allclose(logits, convolve(tiny(dtype, size), image(dtype)), rtol=tolerance, atol=tolerance)

    def test_sizes_may_change_from_run_to_run(self, opened: Open) -> None:
        session = opened("float32", None)
        for seed, size in enumerate([(32, 48), (8, 4), (63, 37), (32, 48)]):
            logits = session.run({"image": image(size=size, seed=seed)})["logits"]
            expected = convolve(tiny("float32", None), image(size=size, seed=seed))
            np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)

    def test_the_same_feed_gives_the_same_logits(self, opened: Open) -> None:
        session = opened("float32", (32, 48))
        first = session.run({"image": image()})["logits"].copy()
        session.run({"image": image(seed=1)})
        assert np.array_equal(session.run({"image": image()})["logits"], first)

    def test_any_memory_layout_is_taken_and_left_alone(self, opened: Open) -> None:
        session = opened("float32", (32, 48))
        expected = session.run({"image": image()})["logits"].copy()
        strided = np.asfortranarray(image())
        assert np.array_equal(session.run({"image": strided})["logits"], expected)
        assert np.array_equal(strided, image())

    @pytest.mark.parametrize(
        ("feeds", "named"),
        [
            ({}, "takes .'image'., it was fed"),
            ({"picture": image()}, "takes .'image'., it was fed .'picture'."),
            ({"image": image(), "more": image()}, "more"),
            ({"image": image("float64")}, "takes float32 .*, it was fed float64"),
            ({"image": image(">f4")}, "it was fed >f4"),
            ({"image": image()[0]}, "3x32x48"),
            ({"image": image(size=(32, 47))}, "1x3x32x48, it was fed float32 1x3x32x47"),
            ({"image": image().tolist()}, "numpy array, it was fed list"),
        ],
        ids=["none", "name", "more", "dtype", "byte order", "rank", "shape", "list"],
    )
    def test_a_wrong_feed_is_an_input_error(self, opened: Open, feeds: dict[str, Any], named: str) -> None:
        with pytest.raises(InputError, match=named):
            opened("float32", (32, 48)).run(feeds)

    def test_an_empty_feed_is_an_input_error(self, opened: Open) -> None:
        with pytest.raises(InputError, match="1x3x0x48"):
            opened("float32", None).run({"image": image(size=(0, 48))})

    def test_it_runs_after_a_wrong_feed(self, opened: Open) -> None:
        session = opened("float32", (32, 48))
        with pytest.raises(InputError):
            session.run({"image": image("float64")})
        session.run({"image": image()})

    def test_it_says_how_long_its_layers_take_or_that_it_does_not(self, opened: Open) -> None:
        session = opened("float32", (32, 48))
        expected = session.run({"image": image()})["logits"].copy()
        if session.name == "fake":
            with pytest.raises(InputError, match="fake does not say how long its layers take"):
                session.layer_times({"image": image()})
        else:
            layers = session.layer_times({"image": image()})
            assert all(layer.ms >= 0 for layer in layers) and any("logits" in layer.name for layer in layers)
            assert len({(layer.name, layer.kind) for layer in layers}) == len(layers)
        with pytest.raises(InputError, match="takes float32"):
            session.layer_times({"image": image("float64")})
        assert np.array_equal(session.run({"image": image()})["logits"], expected)

    def test_closing_twice_does_nothing(self, opened: Open) -> None:
        session = opened("float32", (32, 48))
        session.close()
        session.close()
        with pytest.raises(InputError, match=f"the {session.name} session is closed"):
            session.run({"image": image()})

    def test_it_closes_at_the_end_of_a_with_block(self, opened: Open) -> None:
        with opened("float32", (32, 48)) as session:
            session.run({"image": image()})
        with pytest.raises(InputError, match="closed"):
            session.run({"image": image()})


@pytest.mark.parametrize("kind", [OpenVinoSession, OrtSession])
class TestOnTheCpu:
    def test_it_reads_a_file(self, kind: type[OpenVinoSession | OrtSession], tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        onnx.save(tiny("float32", (32, 48)), path)
        with kind(path) as session:
            np.testing.assert_allclose(
                session.run({"image": image()})["logits"], convolve(tiny("float32", None), image()), atol=1e-5
            )

    def test_a_file_that_is_no_model_is_named(self, kind: type[OpenVinoSession | OrtSession], tmp_path: Path) -> None:
        path = tmp_path / "broken.onnx"
        path.write_bytes(b"\x08\xff hello")
        with pytest.raises(BundleError, match=r"cannot load .*broken\.onnx"):
            kind(path)

    def test_a_network_that_fails_is_our_error(self, kind: type[OpenVinoSession | OrtSession]) -> None:
        model = onnx.parser.parse_model("""
            <ir_version: 9, opset_import: ["": 20]>
            g (float[1,3,h,w] image) => (float[1,3,5] logits)
            <int64[3] shape = {1, 3, 5}>
            { logits = Reshape(image, shape) }
        """)
        with (
            kind(model.SerializeToString()) as session,
            pytest.raises(RefineNetEdgeError, match=r"failed on \[\(1, 3, 4, 4\)\]"),
        ):
            session.run({"image": image(size=(4, 4))})


def test_layer_times_are_medians_in_the_order_of_the_layers() -> None:
    runs = [[LayerTime("a", "Conv", ms), LayerTime("b", "Add", 1.0)] for ms in (3.0, 9.0, 4.0)]
    assert medians(runs) == [LayerTime("a", "Conv", 4.0), LayerTime("b", "Add", 1.0)]


def test_what_a_fake_raises_comes_through() -> None:
    def handler(_: object) -> dict[str, Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        FakeSession(handler, (), ()).run({})
