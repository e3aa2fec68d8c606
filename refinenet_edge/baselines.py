"""What people run instead, with the usual code around it: torch, torch.compile, a plain ONNX export, anybody's ONNX.

    torch, compile            the bundle's own network from its checkpoint, channels_last; float32 on the CPU, float16
                              on the GPU if that is what runs the bundle
    onnxruntime, openvino     that network's plain export, on the CPU, by the library as it is
    FILE.onnx                 1x3xHxW float32 -> 1xCxhxw, by OpenVINO where it is installed, else ONNX Runtime

The usual code: cv2.resize to the network's size, normalise and transpose in numpy, cv2.resize of the logits to the
frame's size, numpy.argmax. With several frames they are one batch for the network.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from refinenet_edge.bench.entry import BundleEntry, Entry
from refinenet_edge.bench.measure import Stages, timed
from refinenet_edge.bench.record import Case, Subject
from refinenet_edge.errors import BundleError, InputError, MissingExtra
from refinenet_edge.files import sha256
from refinenet_edge.opencv import cv2
from refinenet_edge.records import Frame, FrameSpec, Identity, LabelMap, Manifest, Size, Span
from refinenet_edge.runtime.openvino import OpenVinoSession
from refinenet_edge.runtime.ort import OrtSession

Network = Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]  # Nx3xhxw -> NxCxhxw
Kind = Literal["torch", "compile", "onnxruntime", "openvino"]

NAMES: dict[str, str] = {
    "torch": "torch eager",
    "compile": "torch.compile",
    "onnxruntime": "ONNX Runtime, plain export",
    "openvino": "OpenVINO, plain export",
}


@dataclass(frozen=True)
class Baseline:
    """One of `NAMES` with the network of a bundle, made again by its recipe; `checkpoint`: None for random weights."""

    subject: Subject
    kind: Kind
    manifest: Manifest
    checkpoint: Path | None
    device: Literal["cpu", "cuda"]

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @contextmanager
    def segmenting(self) -> Iterator[Callable[[Frame], LabelMap]]:
        with self.open(Case(_size_of(self.manifest.frame))) as usual:
            yield usual.segment

    @contextmanager
    def open(self, case: Case) -> Iterator[_Usual]:
        from refinenet_edge.model import open_network

        frame = self.manifest.frame
        size = frame.size or case.size
        module = open_network(self.manifest.recipe, self.checkpoint, len(self.manifest.labels.names))
        if self.kind in ("torch", "compile"):
            yield _Usual(_torch(module, self.kind == "compile", self.device), frame, size)
        else:
            with _exported(module, size, case.batch) as path, _session(path, self.kind) as network:
                yield _Usual(network, frame, size)


@dataclass(frozen=True)
class OnnxBaseline:
    """Anybody's network, fed as `frame` says. One frame at a time: a batch runs in a row."""

    subject: Subject
    path: Path
    frame: FrameSpec
    on_gpu = False

    @contextmanager
    def segmenting(self) -> Iterator[Callable[[Frame], LabelMap]]:
        with self.open(Case(_size_of(self.frame))) as usual:
            yield usual.segment

    @contextmanager
    def open(self, case: Case) -> Iterator[_Usual]:
        with _session(self.path, self.subject.backend) as network:

            def one_by_one(images: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
                return np.concatenate([network(image[None]).copy() for image in images])

            yield _Usual(one_by_one, self.frame, self.frame.size or case.size)


def baselines_for(against: Sequence[str], entry: BundleEntry, checkpoint: Path | None = None) -> list[Entry]:
    """The baselines named in `against` for the bundle of `entry`; `checkpoint`: its weights, where they have moved.

    Raises `InputError` for a name that is none, or weights that are not the bundle's, `MissingExtra` without torch.
    """
    entries: list[Entry] = []
    for name in against:
        if name in NAMES:
            entries.append(_baseline(name, entry, checkpoint))
        elif name.endswith(".onnx"):
            entries.append(_onnx_baseline(Path(name), entry.manifest.frame))
        else:
            raise InputError(f"--against {name}: expected {', '.join(NAMES)} or FILE.onnx")
    return entries


def _baseline(kind: str, entry: BundleEntry, checkpoint: Path | None) -> Baseline:
    _require("torch")
    device: Literal["cpu", "cuda"] = "cuda" if entry.on_gpu and kind in ("torch", "compile") else "cpu"
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise InputError(f"this torch has no CUDA, and {entry.path} runs on the GPU: leave {kind} out")
    if kind in ("onnxruntime", "openvino"):
        _require(kind)
    manifest, recipe = entry.manifest, entry.manifest.recipe
    if recipe.onnx is not None:
        raise InputError(f"{entry.path} was made from an ONNX file: give that file to --against")
    if recipe.checkpoint is None and checkpoint is not None:
        raise InputError(f"{entry.path} has random weights, not those of {checkpoint}: leave --checkpoint out")
    weights = None if recipe.checkpoint is None else _weights(entry, checkpoint or Path(recipe.checkpoint))
    precision, library = "fp16" if device == "cuda" else "fp32", "torch" if kind == "compile" else kind
    identity = Identity(manifest.model, manifest.checkpoint, precision, None, None)
    subject = Subject(NAMES[kind], "peer", identity, f"{library} on {device}")
    return Baseline(subject, kind, manifest, weights, device)  # type: ignore[arg-type]


def _weights(entry: BundleEntry, named: Path) -> Path:
    """The file of the bundle's weights, compared by SHA-256."""
    from refinenet_edge.model import locate

    path = locate(named)
    if not path.exists():
        raise InputError(f"the weights of {entry.path}, {path}, are not here: give --checkpoint FILE")
    if sha256(path, InputError) != entry.manifest.checkpoint_sha256:
        raise InputError(f"{path} is not what {entry.path} was built from: give --checkpoint FILE, or build it again")
    return path


def _onnx_baseline(path: Path, frame: FrameSpec) -> OnnxBaseline:
    if not path.is_file():
        raise InputError(f"there is no {path} to compare with")
    backend = "openvino" if importlib.util.find_spec("openvino") else "onnxruntime"
    _require(backend)
    subject = Subject(path.stem, "peer", Identity(path.name, path.name, "as in the file", None, None), backend)
    return OnnxBaseline(subject, path, frame)


def _require(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        raise MissingExtra(f"{library} is not installed: pip install 'refinenet-edge[cpu,export]', or leave it out")


def _torch(module: Any, compiled: bool, device: str) -> Network:
    import torch

    dtype = torch.float16 if device == "cuda" else torch.float32
    module = module.to(device, dtype, memory_format=torch.channels_last)
    if compiled:
        module = torch.compile(module)

    @torch.inference_mode()
    def network(images: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        fed = torch.from_numpy(images).to(device, dtype, memory_format=torch.channels_last)
        logits: npt.NDArray[Any] = module(fed).float().cpu().numpy()
        return logits

    return network


@contextmanager
def _exported(module: Any, size: Size, batch: int) -> Iterator[Path]:
    import torch

    from refinenet_edge.trace import quiet

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "plain.onnx")
        with quiet():
            torch.onnx.export(module, (torch.zeros(batch, 3, *size),), path, dynamo=True, verbose=False)
        yield path


@contextmanager
def _session(path: Path, backend: str) -> Iterator[Network]:
    session = OpenVinoSession(path) if backend == "openvino" else OrtSession(path)
    with session:
        if len(session.inputs) != 1 or len(session.outputs) != 1 or session.inputs[0].dtype != "float32":
            raise BundleError(f"{path.name}: expected one float32 input and one output")
        source, target = session.inputs[0].name, session.outputs[0].name
        yield lambda images: session.run({source: images})[target]


def _size_of(frame: FrameSpec) -> Size:
    """The network's size, at which a baseline sees what the bundle sees. Raises `InputError` where it is any."""
    if frame.size is None:
        raise InputError(
            "the bundle takes frames as large as they come, this one size: build it with --size to compare"
        )
    return frame.size


class _Usual:
    """The usual code around a network of `size`."""

    def __init__(self, network: Network, spec: FrameSpec, size: Size) -> None:
        if spec.fit == "crop":
            raise InputError("nothing is timed beside a bundle that crops its frames: build it with --resize stretch")
        self._network, self._spec, self._size = network, spec, size
        self._mean, self._std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)

    def __call__(self, frames: Sequence[Frame]) -> Stages:
        """The ms of each stage."""
        stages: Stages = {}
        images = timed(stages, "prepare", self._prepare, frames)
        logits = timed(stages, "engine", self._network, images)
        timed(stages, "head", self._labels, logits, frames)
        return stages

    def segment(self, frame: Frame) -> LabelMap:
        return self._labels(self._network(self._prepare([frame])), [frame])[0]

    def _prepare(self, frames: Sequence[Frame]) -> npt.NDArray[np.float32]:
        spec, size = self._spec, self._size
        whole = Span(0, size[0], size[0]), Span(0, size[1], size[1])
        images = []
        for frame in frames:
            down, across = spec.spans(frame.shape[:2]) or whole
            if frame.shape[:2] != (down.length, across.length):
                inside = across.length, down.length
                frame = np.asarray(cv2.resize(frame, inside, interpolation=cv2.INTER_LINEAR), np.uint8)
            ordered = frame if spec.order == "bgr" else frame[:, :, ::-1]
            image = (ordered.astype(np.float32) / np.float32(spec.scale) - self._mean) / self._std
            around = [(span.start, span.total - span.start - span.length) for span in (down, across)]
            images.append(np.pad(image, [*around, (0, 0)]).transpose(2, 0, 1))
        return np.ascontiguousarray(images)

    def _labels(self, logits: npt.NDArray[Any], frames: Sequence[Frame]) -> list[LabelMap]:
        maps = []
        for scores, frame in zip(logits, frames, strict=True):
            large = scores.transpose(1, 2, 0)
            if spans := self._spec.spans(frame.shape[:2]):
                large = cv2.resize(large, self._size[::-1], interpolation=cv2.INTER_LINEAR)
                large = large[tuple(slice(span.start, span.start + span.length) for span in spans)]
            large = cv2.resize(large, frame.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            maps.append(large.argmax(2).astype(np.uint8))
        return maps
