"""The exported model without a server: called as Triton calls it."""

from __future__ import annotations

import importlib
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from refinenet_edge.bundle import open_bundle
from refinenet_edge.errors import CudaError
from refinenet_edge.runtime import Segmenter
from refinenet_edge.scenes import scene
from tests.cluster.inputs import tiny_bundle

FINAL = 1
Answers = SimpleQueue[tuple[int, Any, int]]


class Request:
    """With tensors by name; `answers` gets its number, its answer and the flags."""

    def __init__(self, answers: Answers, number: int = 0, **tensors: np.ndarray) -> None:
        self.answers, self.number, self.tensors = answers, number, tensors

    def get_response_sender(self) -> Any:
        return SimpleNamespace(send=lambda answer, flags: self.answers.put((self.number, answer, flags)))


def answers_of(answers: Answers, count: int) -> list[Any]:
    """The answers of so many requests, by their numbers, when all are there."""
    found = {number: (answer, flags) for number, answer, flags in (answers.get(timeout=60) for _ in range(count))}
    assert answers.empty() and sorted(found) == list(range(count))
    assert {flags for _, flags in found.values()} == {FINAL}
    return [found[number][0] for number in range(count)]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model, and its bundle's own runtime."""
    said: list[str] = []
    triton = SimpleNamespace(
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=FINAL,
        Tensor=SimpleNamespace(from_dlpack=lambda name, array: (name, array)),
        InferenceResponse=lambda tensors=(), error=None: SimpleNamespace(tensors=dict(tensors), error=error),
        TritonError=str,
        Logger=SimpleNamespace(said=said, log_error=said.append),
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
    model._at_once.shutdown()
    monkeypatch.setattr(model, "_at_once", ThreadPoolExecutor(count))
    monkeypatch.setattr(model, "_room", threading.Semaphore(2 * count))


@pytest.mark.parametrize("count", [1, 2], ids=["together", "side by side"])
def test_every_request_of_a_batch_gets_its_own_labels(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    in_flight(model, count, monkeypatch)
    frames = [scene(3, index, (50, 70))[0] for index in range(5)]
    answers: Answers = SimpleQueue()
    given = [np.stack(frames[:2]), *(frame[None].copy() for frame in frames[2:])]
    assert model.execute([Request(answers, number, frame=each) for number, each in enumerate(given)]) is None
    for each in given:
        each[:] = 0  # Triton takes the memory back
    found = np.concatenate([answer.tensors["labels"] for answer in answers_of(answers, 4)])
    with Segmenter(open_bundle(tmp_path / "1" / "bundle")) as local:
        assert np.array_equal(found, [local.segment(frame).labels for frame in frames])


def test_no_request_waits_for_the_last_of_the_batch_before_it(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    in_flight(model, 2, monkeypatch)
    frames = [np.full((50, 70, 3), number, np.uint8) for number in range(4)]
    answers: Answers = SimpleQueue()
    segment, third = model._segmenter.segment, threading.Event()

    def segmented(frame: np.ndarray) -> Any:
        if frame[0, 0, 0] == 1:
            assert third.wait(60)  # which is in another batch
        if frame[0, 0, 0] == 3:
            third.set()
        return segment(frame)

    monkeypatch.setattr(model._segmenter, "segment", segmented)
    requests = [Request(answers, number, frame=frame[None]) for number, frame in enumerate(frames)]
    model.execute(requests[:2])
    model.execute(requests[2:])
    assert [answer.error for answer in answers_of(answers, 4)] == [None] * 4


def test_no_more_is_taken_than_there_is_room_for(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    in_flight(model, 2, monkeypatch)
    answers: Answers = SimpleQueue()
    taken: list[int] = []
    most: list[int] = []

    class Counted(Request):
        def get_response_sender(self) -> Any:
            taken.append(self.number)
            return SimpleNamespace(send=self.send)

        def send(self, answer: Any, flags: int) -> None:
            most.append(len(taken) - len(most))
            self.answers.put((self.number, answer, flags))

    frame = np.zeros((1, 50, 70, 3), np.uint8)
    model.execute([Counted(answers, number, frame=frame) for number in range(12)])
    answers_of(answers, 12)
    assert taken == list(range(12))
    assert max(most) <= 4


def test_what_was_handed_over_is_answered_before_the_model_ends(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    in_flight(model, 2, monkeypatch)
    answers: Answers = SimpleQueue()
    frame = np.zeros((1, 50, 70, 3), np.uint8)
    model.execute([Request(answers, number, frame=frame) for number in range(4)])
    model.finalize()
    assert answers.qsize() == 4
    assert [answer.error for answer in answers_of(answers, 4)] == [None] * 4


def test_an_answer_that_cannot_be_sent_leaves_room_for_others(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    in_flight(model, 2, monkeypatch)
    answers: Answers = SimpleQueue()
    frame = np.zeros((1, 50, 70, 3), np.uint8)
    gone = [Request(answers, number, frame=frame) for number in range(5)]
    for request in gone:
        request.get_response_sender = lambda: SimpleNamespace(send=None)  # type: ignore[method-assign]
    model.execute([*gone, Request(answers, 0, frame=frame)])
    assert answers_of(answers, 1)[0].error is None
    model.finalize()  # the last of the others may be at its message still
    assert len(sys.modules["triton_python_backend_utils"].Logger.said) == 5


def test_what_concerns_all_frames_together_is_the_error_of_each(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    in_flight(model, 1, monkeypatch)

    def lost(frames: list[Any]) -> list[Any]:
        raise CudaError("the GPU is lost", "")

    monkeypatch.setattr(model._segmenter, "segment_batch", lost)
    answers: Answers = SimpleQueue()
    frame = scene(3, 0, (50, 70))[0][None]
    model.execute([Request(answers, 0, frame=frame), Request(answers, 1), Request(answers, 2, frame=frame)])
    first, nothing, last = answers_of(answers, 3)
    assert first.error == last.error == "the GPU is lost"
    assert "one of them" in nothing.error


@pytest.mark.parametrize("count", [1, 2], ids=["together", "side by side"])
def test_a_bad_request_in_a_batch_gets_its_error_and_the_others_their_labels(
    model: Any, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    in_flight(model, count, monkeypatch)
    frame = scene(3, 0, (50, 70))[0]
    answers: Answers = SimpleQueue()
    tensors: list[dict[str, np.ndarray]] = [{}, {"frame": frame[None]}, {"image": frame[:1, :, 0]}]
    model.execute([Request(answers, number, **each) for number, each in enumerate(tensors)])
    nothing, right, broken = answers_of(answers, 3)
    assert "one of them" in nothing.error and "whole PNG" in broken.error
    assert right.error is None and right.tensors["labels"].shape == (1, 50, 70)
