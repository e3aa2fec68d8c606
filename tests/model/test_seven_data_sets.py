"""`make authors`: each of the authors' fourteen models, as a fixture: load, logits, and a TensorRT-RTX plan in fp16."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from refinenet_edge.build import build
from refinenet_edge.bundle import PLAN, open_bundle
from refinenet_edge.labels import LABEL_SETS
from refinenet_edge.model import load_checkpoint
from refinenet_edge.records import Recipe
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.frame import prepare
from tests import authors

SIZE = (64, 96)
# channels of the classifier, those of them that are classes, and whether a convolution comes before each pooling
DATA_SETS = {
    "voc": (22, slice(0, 21), False),
    "cityscapes": (20, slice(0, 19), False),
    "nyu40": (41, slice(0, 40), True),
    "person": (7, slice(0, 7), True),
    "context": (60, slice(0, 60), True),
    "sun37": (38, slice(1, 38), True),
    "ade150": (151, slice(1, 151), True),
}


@pytest.mark.authors
@pytest.mark.parametrize("depth", [101, 152])
@pytest.mark.parametrize("labels", DATA_SETS)
def test_a_model_of_theirs(labels: str, depth: int, tmp_path: Path) -> None:
    channels, kept, improved = DATA_SETS[labels]
    saved = authors.network(depth, channels, improved=improved, seed=depth)
    for name, mult in saved.encoder.params.items():
        if name.endswith("branch2c_mult"):
            mult *= np.float32(0.3)  # as training leaves it: what 50 blocks add up to stays within float16
    saved.config = authors.config(saved)
    write = authors.write_73 if depth == 101 else authors.write_5
    path = write(saved, tmp_path / f"refinenet_res{depth}_{labels}.mat")
    image = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)
    frame = np.ascontiguousarray(image[:, :, ::-1])
    with torch.no_grad():
        expected = authors.logits(saved, image)[:, kept]
        module = load_checkpoint(path)
        assert module.spec.num_classes == len(LABEL_SETS[labels].names) == expected.shape[1]
        found = module(torch.from_numpy(prepare(frame, module.spec.preprocessing)))
    largest = float(expected.abs().max())
    assert float((found - expected).abs().max()) < 1e-4 * largest
    del module, saved, found
    gc.collect()
    recipe = Recipe(
        str(tmp_path / "bundle"),
        checkpoint=str(path),
        labels=labels,
        size=SIZE,
        precision="fp16",
        backend="tensorrt-rtx",
        upsample="cubic",
    )
    bundle = open_bundle(build(recipe).path)
    path.unlink()  # half a gigabyte
    manifest = bundle.manifest
    assert manifest.labels == LABEL_SETS[labels]
    assert manifest.engine is not None
    assert manifest.engine.flavour == "tensorrt-rtx"
    assert len(bundle.read(PLAN)) == manifest.files[PLAN].size > 50e6
    fused = [parity for parity in manifest.parity if parity.stage == "fused"]
    assert fused
    assert all(parity.relative_error < 1e-4 for parity in fused)
    # the plan's graph, on the CPU, where float16 is what it stores
    with Segmenter(bundle, "onnxruntime") as segmenter:
        logits = segmenter.logits(frame).astype(np.float32)
    assert np.abs(logits - expected.numpy()).max() < 0.02 * largest
    shutil.rmtree(bundle.path)
