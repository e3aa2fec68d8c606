"""Run an ONNX graph with OpenVINO as a processor without VNNI would: in a process of its own, which uses no more.

`python -m refinenet_edge.runtime.without_vnni FOLDER` is that process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from refinenet_edge.errors import RefineNetEdgeError
from refinenet_edge.files import scratch_folder
from refinenet_edge.runtime.openvino import OpenVinoSession
from refinenet_edge.runtime.processor import LIMIT, WITHOUT_VNNI

MODEL, FRAMES, LOGITS = "model.onnx", "frames.npz", "logits.npz"
Arrays = Mapping[str, npt.NDArray[Any]]


def run_without_vnni(model: bytes, frames: Arrays, beside: Path = Path()) -> dict[str, npt.NDArray[Any]]:
    """The logits of a serialised ONNX graph of one input and one output on `frames`, which are as it takes them.

    `beside`: a folder to write to where there is no temporary one. Raises `RefineNetEdgeError`.
    """
    with scratch_folder(beside) as name:
        folder = Path(name)
        (folder / MODEL).write_bytes(model)
        _save(folder / FRAMES, list(frames.values()))
        command = [sys.executable, "-m", __name__, name]
        path = os.pathsep.join(filter(None, sys.path))  # as this process finds the package
        environment = {**os.environ, LIMIT: WITHOUT_VNNI, "PYTHONPATH": path}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"])[-1]
            raise RefineNetEdgeError(f"OpenVINO without VNNI: {said}")
        return dict(zip(frames, _load(folder / LOGITS), strict=True))


def _save(path: Path, arrays: list[npt.NDArray[Any]]) -> None:
    np.savez(path, *arrays)


def _load(path: Path) -> list[npt.NDArray[Any]]:
    with np.load(path, allow_pickle=False) as held:
        return [held[f"arr_{index}"] for index in range(len(held.files))]


def _main(folder: Path) -> None:
    with OpenVinoSession(folder / MODEL) as session:
        (source,), (target,) = session.inputs, session.outputs
        frames = _load(folder / FRAMES)
        _save(folder / LOGITS, [session.run({source.name: frame})[target.name].copy() for frame in frames])


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
