"""A bundle, frames in folders, a pool that stands for many workers, and a folder's bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from refinenet_edge.bundle import MODEL, write_bundle
from refinenet_edge.frames.images import write_image
from refinenet_edge.labels import numbered
from refinenet_edge.records import FrameSpec, Manifest, Mask, Recipe, TensorSpec
from refinenet_edge.runtime import Segmenter
from refinenet_edge.scenes import scene
from tests.runtime.tinynet import CLASSES, tiny

SIZE = (40, 56)


def pictures(folder: Path, count: int = 3) -> Path:
    """`count` images, every other one in a folder of its own."""
    for index in range(count):
        path = folder / (f"street/{index}.png" if index % 2 else f"{index}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, scene(5, index, SIZE)[0])
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tiny_bundle(path: Path, size: tuple[int, int] = (32, 48)) -> Path:
    """A bundle of the tiny network for OpenVINO, without its bias: scenes then have pixels of several classes."""
    model = tiny("float32", size)
    _, bias = model.graph.initializer
    bias.CopyFrom(numpy_helper.from_array(np.zeros(CLASSES, np.float32), bias.name))
    inputs = (TensorSpec("image", "float32", (1, 3, *size)),)
    outputs = (TensorSpec("logits", "float32", (1, CLASSES, "h", "w")),)
    manifest = Manifest(
        "tiny", "random", None, "fp32", "openvino", inputs, outputs, FrameSpec(size), numbered(CLASSES),
        {}, (), Recipe("tiny", onnx="tiny.onnx"), "0",
    )  # fmt: skip
    write_bundle(path, manifest, {MODEL: model.SerializeToString()})
    return path


class Many:
    """`workers` that take the pieces from the last to the first; of the pieces in `deadly` they die."""

    threads, remote = 1, True

    def __init__(self, workers: int, deadly: Callable[[Any], bool] = lambda piece: False) -> None:
        self.workers, self.deadly = workers, deadly

    def run(self, make: Callable[[], Any], pieces: Sequence[Any]) -> Iterator[Any]:
        workers = [make() for _ in range(self.workers)]
        found = {
            index: None if self.deadly(pieces[index]) else next(workers[index % self.workers].each([pieces[index]]))
            for index in reversed(range(len(pieces)))
        }
        for worker in workers:
            worker.close()
        yield from (found[index] for index in range(len(pieces)))


def in_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No frame gets on alone from now on: each waits in the segmenter for another."""
    segment, together = Segmenter.segment, threading.Barrier(2)

    def both(self: Segmenter, frame: np.ndarray) -> Mask:
        together.wait(60)
        return segment(self, frame)

    monkeypatch.setattr(Segmenter, "in_flight", 2)
    monkeypatch.setattr(Segmenter, "segment", both)
