"""Build somebody's file in a process of its own, and hold what its bundle makes of a frame to ONNX Runtime on the file.

    python -m tests.build.attempt FD      takes `Job`s from a pipe and answers each with an `Outcome`

A build first tries somebody's graph in a process of its own, which takes longer than all else. Here it is left out,
as this is one. A file at which it ends, or which has no end, is built once more with it, and then has to be refused.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

COMPUTING, LIMIT = 60, 600.0  # seconds for one file: of computing, and of a clock, as other work goes on here
TEMPORARY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a bundle is synced to its disk
EXECUTABLE = sys.executable
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Job:
    """A file, how it is built, and the size of the frame that it is tried on."""

    data: bytes | str  # a name of `foreign.NAMES`
    size: tuple[int, int]
    options: dict[str, Any] = field(default_factory=dict)
    others: tuple[tuple[int, int], ...] = ()  # sizes that are tried, too, where the file itself takes them
    labels_only: bool = False  # the file ends with what the bundle leaves out, as a Softmax
    as_usual: bool = False  # with a first run in a process of its own


@dataclass(frozen=True)
class Outcome:
    """What became of a `Job`: refused with a sentence, or how far its bundle is from the file, or broken."""

    refused: str = ""
    broken: str = ""
    relative_error: float = 0.0
    labels: float = 1.0  # share of the pixels of the mask that are the file's, of those that are no near-ties
    ended: bool = False  # its process

    @property
    def exact(self) -> bool:
        # a build allows 1e-3 on its own frames; what is computed otherwise is off by percents
        return not self.refused and not self.broken and self.relative_error < 3e-3 and self.labels >= 0.999


class Attempts:
    """A child process that attempts jobs, started again where one has ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._said: Any = None
        self._pipe: Any = None

    def __call__(self, job: Job) -> Outcome:
        outcome = self._attempt(job)
        if not outcome.ended:
            return outcome
        again = self._attempt(dataclasses.replace(job, as_usual=True))
        return again if again.refused else outcome

    def _attempt(self, job: Job) -> Outcome:
        if self._process is None:
            self._start()
        assert self._process is not None
        try:
            self._pipe.send(job)
            if self._pipe.poll(LIMIT):
                return self._pipe.recv()  # type: ignore[no-any-return]
            reason = f"no end after {LIMIT:.0f} s"
        except (EOFError, BrokenPipeError, ConnectionResetError):
            reason = f"the process ended with {self._process.wait()}"
        self._said.seek(0)
        said = self._said.read()[-3000:].decode(errors="replace")
        self.close()
        return Outcome(broken=f"{reason}: {said}", ended=True)

    def _start(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        self._pipe, self._said = ours, tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.build.attempt", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stderr=self._said,
            cwd=ROOT,
            env=environment,
        )
        theirs.close()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._pipe.close()
            self._said.close()


def attempt(job: Job) -> Outcome:
    """What becomes of `job` in this process."""
    from refinenet_edge.build import build
    from refinenet_edge.bundle import open_bundle
    from refinenet_edge.errors import RefineNetEdgeError
    from refinenet_edge.records import Recipe
    from refinenet_edge.runtime import Segmenter
    from tests.build.foreign import file_of

    sys.executable = EXECUTABLE if job.as_usual else ""  # without one there is no first run
    with tempfile.TemporaryDirectory(dir=TEMPORARY) as name:
        path, folder = Path(name, "given.onnx"), Path(name, "bundle")
        data = file_of(job.data) if isinstance(job.data, str) else job.data
        path.write_bytes(data)
        try:
            build(Recipe(str(folder), onnx=str(path), **job.options))
        except RefineNetEdgeError as exc:
            return Outcome(refused=str(exc) or "nothing")
        outcomes = []
        with Segmenter(open_bundle(folder)) as segmenter:
            for size in (job.size, *job.others):
                frame = np.random.default_rng(5).integers(0, 256, (*size, 3), np.uint8)
                try:
                    expected = _logits(data, prepared(frame, job.options))
                except Exception:
                    if size == job.size:
                        raise
                    continue
                labels = np.array(segmenter.segment(frame).labels)
                found = _session_logits(segmenter, prepared(frame, job.options))
                outcomes.append(_compared(expected, found, None if job.labels_only else labels))
        return next((outcome for outcome in outcomes if not outcome.exact), outcomes[0])


def prepared(frame: npt.NDArray[np.uint8], options: dict[str, Any]) -> npt.NDArray[np.float32]:
    """A BGR frame as training pipelines make an input of it, at its own size."""
    presets = {
        None: (255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "rgb"),
        "imagenet": (255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "rgb"),
        "caffe": (1.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0), "bgr"),
        "tf": (127.5, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), "rgb"),
        "0-1": (255.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "rgb"),
        "none": (1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "rgb"),
    }
    scale, mean, std, order = presets[options.get("preprocess")]
    order = options.get("order") or order
    pixels = frame[..., ::-1] if order == "rgb" else frame
    normal = (pixels.astype(np.float64) / scale - mean) / std
    return np.ascontiguousarray(normal.transpose(2, 0, 1)[None], np.float32)


def _logits(model: bytes, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """ONNX Runtime's, of the file as it is, nothing optimised."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    return np.asarray(session.run(None, {taken.name: image})[0], np.float32)


def _session_logits(segmenter: Any, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    session = segmenter.session
    (given,) = session.run({session.inputs[0].name: image}).values()
    return np.array(given, np.float32)


def _compared(
    expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8] | None
) -> Outcome:
    """Logits and the mask's labels; without a mask the labels of the logits alone."""
    import torch
    import torch.nn.functional as F

    if expected.shape != found.shape:
        return Outcome(broken=f"logits of {found.shape}, the file's are {expected.shape}")
    largest = float(np.abs(expected).max()) or 1.0
    error = float(np.abs(found - expected).max()) / largest
    full = torch.from_numpy(expected)
    if labels is None:
        error, labels = 0.0, found.argmax(1)[0]
    full = F.interpolate(full, labels.shape, mode="bilinear", align_corners=False)[0]
    best = full.topk(2, dim=0).values
    clear = ((best[0] - best[1]) > 1e-3 * largest).numpy()
    same = full.argmax(0).numpy() == labels
    return Outcome(relative_error=error, labels=float(same[clear].mean()) if clear.any() else 1.0)


def _compile_once() -> None:
    """Let what a bundle's session compiles be what the proof of its build has compiled, where it is the same bytes."""
    from refinenet_edge.runtime import openvino

    compiled, last = openvino._compiled, ((b"", {}), None)

    def once(model: Any, config: dict[str, Any]) -> Any:
        nonlocal last
        data = model.read_bytes() if isinstance(model, Path) else model if isinstance(model, bytes) else model()
        if last[0] != (data, config):
            last = (data, config), compiled(data, config)
        return last[1]

    openvino._compiled = once


def serve(pipe: Connection) -> None:
    import gc
    import logging

    logging.disable(logging.CRITICAL)
    _compile_once()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)  # a build makes many small objects, and few cycles
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        used = sum(os.times()[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + COMPUTING, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        try:
            pipe.send(attempt(job))
        except Exception:  # whatever is not an error of ours is what we look for
            pipe.send(Outcome(broken=traceback.format_exc()[-3000:]))


if __name__ == "__main__":
    from tests.build import attempt as named  # what is sent is of a module that both sides know

    faulthandler.enable()
    named.serve(Connection(int(sys.argv[1])))
