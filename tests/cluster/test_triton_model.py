"""The exported model without a server: called as Triton calls it."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from refinenet_edge.bundle import open_bundle
from refinenet_edge.runtime import Segmenter
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


def test_a_batch_is_answered_one_by_one_and_right(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [scene(3, index, (50, 70))[0] for index in range(3)]
    answers: list[Any] = []
    sent_before: list[int] = []
    segment = model._segmenter.segment
    monkeypatch.setattr(model._segmenter, "segment", lambda f: (sent_before.append(len(answers)), segment(f))[1])
    assert model.execute([Request(answers, frame=frame[None]) for frame in frames]) is None
    assert sent_before == [0, 1, 2]
    assert [flags for _, flags in answers] == [FINAL] * 3
    with Segmenter(open_bundle(tmp_path / "1" / "bundle")) as local:
        for frame, (answer, _) in zip(frames, answers, strict=True):
            assert np.array_equal(answer.tensors["labels"], local.segment(frame).labels[None])


def test_a_bad_request_in_a_batch_gets_its_error_and_the_others_their_labels(model: Any) -> None:
    frame = scene(3, 0, (50, 70))[0]
    answers: list[Any] = []
    model.execute([Request(answers), Request(answers, frame=frame[None]), Request(answers, image=frame[:1, :, 0])])
    (nothing, _), (right, _), (broken, _) = answers
    assert "one of them" in nothing.error and "whole PNG" in broken.error
    assert right.error is None and right.tensors["labels"].shape == (1, 50, 70)
