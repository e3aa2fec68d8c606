"""Whatever the bytes of a file are, the answer is a value or an error of ours: soon, and in little memory.

A target for each parser, on files that it takes and then on changed ones. `make fuzz` draws many more.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refinenet_edge import dla
from refinenet_edge.bench import read_suite
from refinenet_edge.bench.record import read_run
from refinenet_edge.bundle import MANIFEST, MODEL, open_bundle, write_bundle
from refinenet_edge.calibration.ranges import read_ranges
from refinenet_edge.cli.screen import Screen, harms_table, manifest_table
from refinenet_edge.errors import RefineNetEdgeError
from refinenet_edge.estimate import estimate
from refinenet_edge.estimate.devices import read_devices
from refinenet_edge.evaluation.masks import read_mask
from refinenet_edge.frames.images import read_image
from refinenet_edge.labels import numbered, read_label_file
from refinenet_edge.model.checkpoint import load_checkpoint
from refinenet_edge.recipe import read_recipe
from refinenet_edge.records import Budget, FrameSpec, GraphCost, Harm, Manifest, Recipe, TensorSpec, to_json
from refinenet_edge.report import markdown
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.tensorrt.engine import read_header
from tests.report.made_up import run as made_up_run
from tests.runtime.tinynet import CLASSES, tiny

ROOT = Path(__file__).parents[1]
EXAMPLES = int(os.environ.get("FUZZ", "40"))
SECONDS, MEMORY = 10, 1 << 20  # that one file may take; KiB
# what parsers stumble over, besides single bytes
TOKENS = [
    *(b"[" * 99, b"{", b"}", b"]", b'"', b"'", b"\\", b"\n", b"\0", b"\xff", b"-", b".", b"=", b"[/]", b"\x1b[2J"),
    *(b"1e999", b"9" * 400, b"NaN", b"Infinity", b"null", b"true", b"\\ud800", b"0x", b"\xef\xbb\xbf", b"#"),
    *(b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 8, b"\x80\x80\x80\x80\x08", b"\0" * 8, b"(", b"t", b"R"),
]


@cache
def manifest() -> Manifest:
    harm = Harm(("layer [/]",), 0.5, True)
    budget = Budget("labels", 1.0, 2.0, 0.5, "scenes", "openvino", 3, 4, (harm,))
    return Manifest(
        *("tiny", "random", None, "fp32", "onnxruntime"),
        *((TensorSpec("image", "float32", (1, 3, 32, 48)),), (TensorSpec("logits", "float32", (1, CLASSES, 8, 12)),)),
        *(FrameSpec((32, 48)), numbered(CLASSES), {"fold": 1}, (), Recipe("engines/tiny", onnx="tiny.onnx"), "0"),
        traced_cost=GraphCost(10, 20, 3),
        budget=budget,
    )


def shown(path: Path) -> None:
    """A manifest, and everything that is printed of it."""
    folder = path.with_name("bundle")
    write_bundle(folder, manifest(), {MODEL: tiny("float32", (32, 48)).SerializeToString()})
    text = path.read_bytes()
    (folder / MANIFEST).write_bytes(text)
    found = open_bundle(folder).manifest
    screen = Screen()
    screen.file = io.StringIO()
    screen.print(manifest_table(found, str(path)))
    if found.budget:
        screen.print(harms_table(found.budget))


def judged(path: Path) -> None:
    """A graph, as dla-check and estimate see it."""
    folder = path.with_name("bundle")
    write_bundle(folder, manifest(), {MODEL: path.read_bytes()})
    dla.check(dla.read_graph(open_bundle(folder)))
    estimate(str(folder), "orin-nano")


def opened(path: Path) -> None:
    """A graph, as ONNX Runtime opens it."""
    folder = path.with_name("bundle")
    write_bundle(folder, manifest(), {MODEL: path.read_bytes()})
    Segmenter(folder, "onnxruntime", threads=1).close()


def reported(path: Path) -> None:
    markdown([(str(path), read_run(path))])


def image(suffix: str) -> bytes:
    picture = np.random.default_rng(0).integers(0, 255, (9, 14, 3), dtype=np.uint8)
    return cv2.imencode(suffix, picture)[1].tobytes()


def torch_file(**options: Any) -> bytes:
    file = io.BytesIO()
    content = {"state_dict": {"conv.weight": torch.arange(8.0), "b": torch.ones(2)}, "best": np.float64(1), "n": [1]}
    torch.save(content, file, **options)
    return file.getvalue()


RANGES = {
    "key": dict.fromkeys(("graph", "weights", "frame", "frames", "method"), "x"),
    "source": "scenes",
    "count": 3,
    "tensors": {"a": {"amax": 1.5, "low": -1.0, "high": 2.0, "method": "minmax"}},
    "toolkit": "0",
}


@dataclass(frozen=True)
class Target:
    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]
    suffix: str = ""


TARGETS = {
    "recipe": Target(read_recipe, lambda: [(ROOT / "engines/scenes.toml").read_bytes()], ".toml"),
    "suite": Target(
        lambda path: read_suite(path, path.parent), lambda: [(ROOT / "benchmarks/suites/scenes.toml").read_bytes()]
    ),
    "device": Target(read_devices, lambda: [(ROOT / "refinenet_edge/estimate/devices.toml").read_bytes()], ".toml"),
    "labels": Target(read_label_file, lambda: [b"road\ncar #ff0000\n"]),
    "ranges": Target(read_ranges, lambda: [json.dumps(RANGES).encode()]),
    "result": Target(reported, lambda: [to_json(made_up_run()).encode()]),
    "manifest": Target(shown, lambda: [to_json(with_files()).encode()]),
    "graph": Target(judged, lambda: [tiny("float32", (32, 48)).SerializeToString()]),
    "graph to run": Target(opened, lambda: [tiny("float32", (32, 48)).SerializeToString()]),
    "checkpoint": Target(
        load_checkpoint,
        lambda: [
            torch_file(),
            torch_file(_use_new_zipfile_serialization=False),
            safetensors.torch.save({"a": torch.ones(3)}, {"format": "pt"}),
        ],
    ),
    "image": Target(read_image, lambda: [image(suffix) for suffix in (".png", ".bmp", ".jpg", ".webp")]),
    "mask": Target(read_mask, lambda: [cv2.imencode(".png", np.eye(9, dtype=np.uint8))[1].tobytes()]),
    "plan": Target(read_header, lambda: [b"ftrt" + bytes(20) + bytes([10, 3, 0, 1])]),
}


def with_files() -> Manifest:
    data = tiny("float32", (32, 48)).SerializeToString()
    return replace(manifest(), files={MODEL: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}})  # type: ignore[dict-item]


@contextmanager
def limits() -> Iterator[None]:
    """`TimeoutError` after `SECONDS` of computing; an AssertionError where it took more than `MEMORY`."""

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGVTALRM, late)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < MEMORY


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["write", "insert", "cut", "double", "end"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.sampled_from(TOKENS), st.binary(min_size=1, max_size=4)),
    ),
    max_size=6,
)


def edited(data: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    for kind, where, token in edits:
        at = int(where * len(data))
        width = len(token)
        data = {
            "write": data[:at] + token + data[at + width :],
            "insert": data[:at] + token + data[at:],
            "cut": data[:at] + data[at + width :],
            "double": data[: at + 16 * width] + data[at:],
            "end": data[: at + 1],
        }[kind]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_read(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    for seed in target.seeds():
        path = tmp_path / f"file{target.suffix}"
        path.write_bytes(seed)
        if name == "checkpoint":  # of no network that is known
            with pytest.raises(RefineNetEdgeError, match="no RefineNet"):
                target.read(path)
        else:
            target.read(path)


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_the_bytes_are(name: str, tmp_path: Path) -> None:
    target, seeds = TARGETS[name], TARGETS[name].seeds()
    path = tmp_path / f"file{target.suffix}"

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize="FUZZ" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.sampled_from(seeds), edits=EDITS)
    def draw(seed: bytes, edits: list[tuple[str, float, bytes]]) -> None:
        path.write_bytes(edited(seed, edits))
        with limits(), contextlib.suppress(RefineNetEdgeError):
            target.read(path)

    draw()


def test_the_limits_are_kept() -> None:
    def endless() -> None:
        with limits():
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.05)
            while True:
                pass

    with pytest.raises(TimeoutError):
        endless()
