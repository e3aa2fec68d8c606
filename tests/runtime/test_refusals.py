"""What the runtime's public functions do with what is not theirs: they refuse it, whichever argument it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refinenet_edge import runtime
from refinenet_edge.bundle import Bundle
from refinenet_edge.errors import RefineNetEdgeError, require
from refinenet_edge.labels import numbered
from refinenet_edge.records import Bilinear, FrameSpec, TensorSpec
from refinenet_edge.runtime import FakeSession, Segmenter, open_session
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.head import one_frame, upsample_argmax, upsample_softmax
from refinenet_edge.runtime.openvino import OpenVinoSession
from refinenet_edge.runtime.ort import OrtSession
from tests.runtime.tinynet import tiny

FRAME = np.zeros((8, 9, 3), np.uint8)
LOGITS = np.zeros((3, 4, 5), np.float32)
SPEC = FrameSpec((8, 8))


def session() -> FakeSession:
    specs = (TensorSpec("image", "float32", (1, 3, 8, 8)),), (TensorSpec("logits", "float32", (1, 3, 8, 8)),)
    return FakeSession(lambda feeds: {"logits": feeds["image"]}, *specs)


def segmenter() -> Segmenter:
    return Segmenter.from_session(session(), SPEC, numbered(3))


def stream(frames: Any, depth: Any = 2) -> list[Any]:
    return list(segmenter().segment_stream(frames, depth))


def each(frames: Any, depth: Any = 2) -> list[Any]:
    return list(segmenter().segment_each(frames, depth))


def gathering(frames: Any, batch: Any, wait_ms: Any) -> list[Any]:
    return list(segmenter().segment_stream(frames, batch=batch, wait_ms=wait_ms))


def model() -> bytes:
    return tiny("float32", (8, 8)).SerializeToString()


@pytest.fixture
def calls(make_bundle: Callable[..., Bundle]) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Every public function, and arguments that it takes."""
    bundle = make_bundle(size=(8, 8))
    opens = {"backend": "onnxruntime", "allow_host_code": False, "threads": 1, "throughput": False}
    one = np.zeros((1, 3, 8, 8), np.float32)
    return {
        "Segmenter": (Segmenter, {"bundle": bundle, **opens, "confidence": False}),
        "from_session": (
            Segmenter.from_session,
            {"session": session(), "frame_spec": SPEC, "labels": numbered(3), "confidence": False},
        ),
        "with_upsample": (segmenter().with_upsample, {"upsample": Bilinear()}),
        "segment": (segmenter().segment, {"frame": FRAME, "labels": np.zeros((8, 9), np.uint8)}),
        "staged": (segmenter().staged, {"frame": FRAME}),
        "segment_batch": (segmenter().segment_batch, {"frames": [FRAME]}),
        "segment_stream": (stream, {"frames": [FRAME], "depth": 2}),
        "segment_each": (each, {"frames": [FRAME], "depth": 2}),
        "segment_stream, gathering": (gathering, {"frames": [FRAME], "batch": 2, "wait_ms": 5.0}),
        "new_frame": (segmenter().new_frame, {"height": 8, "width": 9}),
        "new_labels": (segmenter().new_labels, {"height": 8, "width": 9}),
        "image": (segmenter().image, {"frame": FRAME}),
        "logits": (segmenter().logits, {"frame": FRAME}),
        "logits_of": (segmenter().logits_of, {"frames": [FRAME]}),
        "mask": (segmenter().mask, {"logits": one, "size": (8, 9)}),
        "open_session": (open_session, {"bundle": bundle, **opens}),
        "run": (session().run, {"feeds": {"image": one}}),
        "OrtSession": (OrtSession, {"model": model()}),
        "OpenVinoSession": (OpenVinoSession, {"model": model()}),
        "upsample_argmax": (upsample_argmax, {"logits": LOGITS, "size": (8, 9), "how": Bilinear()}),
        "upsample_softmax": (upsample_softmax, {"logits": LOGITS, "size": (8, 9), "how": Bilinear()}),
        "one_frame": (one_frame, {"logits": LOGITS[None]}),
        "prepare": (prepare, {"frame": FRAME, "spec": SPEC, "dtype": "float32", "channels": 3}),
    }


def test_every_argument_of_another_type_is_refused(calls: dict[str, Any]) -> None:
    for name, (call, arguments) in calls.items():
        call(**arguments)
        for argument, good in arguments.items():
            for wrong in (object(), *(() if isinstance(good, bool) else (True,))):
                try:
                    call(**{**arguments, argument: wrong})
                except (TypeError, RefineNetEdgeError):
                    continue
                pytest.fail(f"{name} took {wrong!r} for {argument}")


def test_every_public_function_is_tried(calls: dict[str, Any]) -> None:
    untried = {
        "at_once",
        "available",
        "batch",
        "close",
        "session",
        "frame_spec",
        "inference",
        "in_flight",
        "labels",
        "FakeSession",
        "Session",
    }  # or take nothing
    methods = {name for name, value in vars(Segmenter).items() if name[0] != "_" and value is not None}
    assert set(runtime.__all__) | methods <= set(calls) | untried
    assert inspect.signature(runtime.available).parameters == {}


def test_a_bool_is_no_interpolation() -> None:
    """It was taken for the cubic one."""
    for wrong in (True, False, "cubic"):
        with pytest.raises(TypeError, match="the interpolation: expected Bilinear or Cubic or Nearest, got"):
            upsample_argmax(LOGITS, (8, 9), wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"frame\.upsample: expected Bilinear or Cubic"):
            FrameSpec((8, 8), upsample=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "kinds"), [(np.int64(3), int), (True, (int, bool)), (None, (str, type(None)))])
def test_what_is_required_is_taken(value: Any, kinds: Any) -> None:
    require(value, kinds, "it")


@pytest.mark.parametrize(
    ("value", "kinds", "names"),
    [
        (True, int, "int"),
        (1.0, int, "int"),
        (np.bool_(True), int, "int"),
        (3, (str, Path, type(None)), "str or Path or None"),
    ],
)
def test_what_is_not_is_named(value: Any, kinds: Any, names: str) -> None:
    with pytest.raises(TypeError, match=f"it: expected {names}, got "):
        require(value, kinds, "it")
