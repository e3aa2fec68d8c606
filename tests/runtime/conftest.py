"""Bundles of the tiny network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refinenet_edge.bundle import MODEL, Bundle, open_bundle, write_bundle
from refinenet_edge.labels import numbered
from refinenet_edge.records import FrameSpec, Manifest, TensorSpec
from tests.runtime.tinynet import CLASSES, tiny

MakeBundle = Callable[..., Bundle]


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Writes and opens a bundle of `tiny`: make_bundle(dtype, size, more files, fields of the manifest)."""

    def make(
        dtype: str = "float32",
        size: tuple[int, int] | None = (32, 48),
        files: dict[str, bytes] | None = None,
        **fields: Any,
    ) -> Bundle:
        height, width = size or ("height", "width")
        standard: dict[str, Any] = {
            "model": "tiny",
            "checkpoint": "random",
            "checkpoint_sha256": None,
            "precision": dtype,
            "backend": "openvino",
            "inputs": (TensorSpec("image", dtype, (1, 3, height, width)),),
            "outputs": (TensorSpec("logits", dtype, (1, CLASSES, "h", "w")),),
            "frame": FrameSpec(size),
            "labels": numbered(CLASSES),
            "rewrites": {},
            "parity": (),
            "command": "refinenet-edge build tiny",
            "toolkit": "0",
        }
        folder = tmp_path / "tiny"
        write_bundle(
            folder, Manifest(**(standard | fields)), {MODEL: tiny(dtype, size).SerializeToString(), **(files or {})}
        )
        return open_bundle(folder)

    return make
