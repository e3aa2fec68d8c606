"""INT8 as others make it: a module and calibration frames -> Q/DQ graphs of its plain export, one per quantiser.

ort_ptq.py            ONNX Runtime's quantize_static, in this process
modelopt_ptq.py       nvidia-modelopt, in an environment of its own (requirements-modelopt.txt, made when it is missing)
quantize_modelopt.py  what that environment runs

Graphs are kept under build/int8, by the digest of all that they are made of.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch

from int8_peers.modelopt_ptq import REQUIREMENTS, modelopt
from int8_peers.ort_ptq import onnxruntime
from int8_peers.terms import Quantiser, Unavailable
from refinenet_edge.model import SegmentationNet
from refinenet_edge.records import INPUT

__all__ = ["Quantised", "Quantiser", "modelopt", "node_counts", "onnxruntime", "quantise"]

KEPT = Path(__file__).parents[2] / "build" / "int8"


@dataclass
class Quantised:
    """The plain float32 export, the graph of each quantiser, and why one is missing."""

    plain: Path
    graphs: dict[str, Path] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def quantise(module: SegmentationNet, frames: np.ndarray, quantisers: Mapping[str, Quantiser]) -> Quantised:
    """Export `module` at the size of the prepared `frames` (Nx3xHxW) and quantise it on them in every way."""
    program = torch.onnx.export(module, (torch.zeros(1, *frames.shape[1:]),), dynamo=True, verbose=False)
    assert program is not None
    plain = program.model_proto.SerializeToString(deterministic=True)
    digest = hashlib.sha256(plain + frames.tobytes() + REQUIREMENTS.read_bytes() + ort.__version__.encode())
    folder = KEPT / digest.hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    found = Quantised(folder / "plain.onnx")
    found.plain.write_bytes(plain)
    with tempfile.TemporaryDirectory() as text:
        data = Path(text) / "frames.npz"
        np.savez(data, allow_pickle=False, **{INPUT: frames})
        for name, quantiser in quantisers.items():
            graph = folder / f"{name.replace(', ', '-').replace(' ', '-')}.onnx"
            try:
                if not graph.exists():
                    quantiser(found.plain, data, graph)
                found.graphs[name] = graph
            except Unavailable as exc:
                found.missing[name] = str(exc)
    return found


def node_counts(graph: Path) -> dict[str, int]:
    """How many nodes quantise and dequantise activations, and how many dequantise weights or biases."""
    model = onnx.load(graph)
    stored = {tensor.name for tensor in model.graph.initializer}
    kinds = Counter(
        "stored" if node.op_type == "DequantizeLinear" and node.input[0] in stored else node.op_type
        for node in model.graph.node
    )
    return {kind: kinds[kind] for kind in ("QuantizeLinear", "DequantizeLinear", "stored")}
