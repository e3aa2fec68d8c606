"""The exported model without a server: called as Triton calls it."""

from __future__ import annotations

import importlib
import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from refinenet_edge.bundle import open_bundle
from refinenet_edge.errors import CudaError
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.in_flight import Workers
from refinenet_edge.scenes import scene
from tests.cluster.inputs import tiny_bundle

FINAL = 1


class Request:
    """With tensors by name; `answers` are those of all requests, in the order they were sent in."""

    def __init__(self, answers: list[Any], **tensors: np.ndarray) -> None:
        self.answers, self.tensors = answers, tensors

    def get_response_sender(self) -> Any:
        return SimpleNamespace(send=lambda answer, flags: self.answers.append((answer, flags)))


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model, and its bundle's own runtime."""
    triton = SimpleNamespace(
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=FINAL,
        Tensor=SimpleNamespace(from_dlpack=lambda name, array: (name, array)),
        InferenceResponse=lambda tensors=(), error=None: SimpleNamespace(tensors=dict(tensors), error=error),
        TritonError=str,
        get_input_tensor_by_name=lambda request, name: request.tensors.get(name),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    monkeypatch.delitem(sys.modules, "refinenet_edge.cluster.triton_model", raising=False)
    module = importlib.import_module("refinenet_edge.cluster.triton_model")
    monkeypatch.delitem(sys.modules, "refinenet_edge.cluster.triton_model")
    made = module.TritonPythonModel()
    tiny_bundle(tmp_path / "1" / "bundle")
    config = {"parameters": {"backend": {"string_value": "openvino"}}}
    made.initialize({"model_config": json.dumps(config), "model_repository": str(tmp_path), "model_version": "1"})
    yield made
    made.finalize()


def in_flight(model: Any, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let so many requests run at once, whatever this machine has; 1: as on a GPU."""
    monkeypatch.setattr(type(model._segmenter), "in_flight", count)
    monkeypatch.setattr(model, "_workers", Workers(count))


@pytest.mark.parametrize("count", [1, 2], ids=["together", "side by side"])
def test_a_batch_is_answered_in_order_and_right(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    in_flight(model, count, monkeypatch)
    frames = [scene(3, index, (50, 70))[0] for index in range(5)]
    answers: list[Any] = []
    requests = [Request(answers, frame=np.stack(frames[:2])), *(Request(answers, frame=f[None]) for f in frames[2:])]
    assert model.execute(requests) is None
    assert [flags for _, flags in answers] == [FINAL] * 4
    found = np.concatenate([answer.tensors["labels"] for answer, _ in answers])
    with Segmenter(open_bundle(tmp_path / "1" / "bundle")) as local:
        assert np.array_equal(found, [local.segment(frame).labels for frame in frames])


def test_requests_run_at_once_and_the_first_answer_does_not_wait_for_the_last(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_flight(model, 2, monkeypatch)
    frames = [np.full((50, 70, 3), number, np.uint8) for number in range(6)]
    answers: list[Any] = []
    segment, together = model._segmenter.segment, threading.Barrier(2)

    def segmented(frame: np.ndarray) -> Any:
        if frame[0, 0, 0] < 4:
            together.wait(60)  # none gets on alone
        elif frame[0, 0, 0] == 5:
            assert first.wait(60)
        return segment(frame)

    first = threading.Event()
    requests = [Request(answers, frame=frame[None]) for frame in frames]
    requests[0].get_response_sender = lambda: SimpleNamespace(  # type: ignore[method-assign]
        send=lambda answer, flags: (answers.append((answer, flags)), first.set())
    )
    monkeypatch.setattr(model._segmenter, "segment", segmented)
    model.execute(requests)
    assert [answer.error for answer, _ in answers] == [None] * 6


def test_what_concerns_all_frames_together_is_the_error_of_each(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    in_flight(model, 1, monkeypatch)

    def lost(frames: list[Any]) -> list[Any]:
        raise CudaError("the GPU is lost", "")

    monkeypatch.setattr(model._segmenter, "segment_batch", lost)
    answers: list[Any] = []
    frame = scene(3, 0, (50, 70))[0]
    model.execute([Request(answers, frame=frame[None]), Request(answers), Request(answers, frame=frame[None])])
    assert [answer.error for answer, _ in answers][::2] == ["the GPU is lost"] * 2
    assert "one of them" in answers[1][0].error


@pytest.mark.parametrize("count", [1, 2], ids=["together", "side by side"])
def test_a_bad_request_in_a_batch_gets_its_error_and_the_others_their_labels(
    model: Any, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    in_flight(model, count, monkeypatch)
    frame = scene(3, 0, (50, 70))[0]
    answers: list[Any] = []
    model.execute([Request(answers), Request(answers, frame=frame[None]), Request(answers, image=frame[:1, :, 0])])
    (nothing, _), (right, _), (broken, _) = answers
    assert "one of them" in nothing.error and "whole PNG" in broken.error
    assert right.error is None and right.tensors["labels"].shape == (1, 50, 70)
