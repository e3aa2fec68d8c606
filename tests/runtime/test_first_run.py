"""Graphs that crash OpenVINO or ONNX Runtime, never end or take all memory: one error, in time, and no process dies."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from refinenet_edge.build import build
from refinenet_edge.bundle import MODEL, open_bundle, write_bundle
from refinenet_edge.errors import BundleError, GraphError
from refinenet_edge.model import MODELS, create
from refinenet_edge.records import Recipe
from refinenet_edge.runtime import first_run, open_session
from tests.fuzz_targets import manifest
from tests.runtime.tinynet import tiny

Nodes = list[onnx.NodeProto]


def before(nodes: Nodes, **constants: onnx.TensorProto) -> bytes:
    """The tiny network on what the last of `nodes` makes of the image."""
    model = tiny("float32", (32, 48))
    for node in model.graph.node:
        node.input[:] = [nodes[-1].output[0] if name == "image" else name for name in node.input]
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    model.graph.initializer.extend(constants.values())
    return model.SerializeToString()


def constant(name: str, kind: int, *values: int, scalar: bool = True) -> onnx.TensorProto:
    return helper.make_tensor(name, kind, [] if scalar else [len(values)], values)


def padded_by_nothing() -> bytes:
    return before([helper.make_node("Pad", ["image"], ["padded"])])


def endless() -> bytes:
    """A Loop of 2 ** 62 turns."""
    turn = [helper.make_node("Identity", ["go"], ["gone"]), helper.make_node("Relu", ["x"], ["y"])]
    taken = [("i", TensorProto.INT64, []), ("go", TensorProto.BOOL, []), ("x", TensorProto.FLOAT, [1, 3, 32, 48])]
    given = [("gone", TensorProto.BOOL, []), ("y", TensorProto.FLOAT, [1, 3, 32, 48])]
    ends = ([helper.make_tensor_value_info(*end) for end in side] for side in (taken, given))
    body = helper.make_graph(turn, "turn", *ends)
    loop = helper.make_node("Loop", ["turns", "always", "image"], ["looped"], body=body)
    turns, always = constant("turns", TensorProto.INT64, 1 << 62), constant("always", TensorProto.BOOL, 1)
    return before([loop], turns=turns, always=always)


def huge() -> bytes:
    """Adds the maximum of twelve gigabytes of zeros."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["most"], keepdims=0),
        helper.make_node("Add", ["image", "most"], ["added"]),
    ]
    return before(nodes, shape=constant("shape", TensorProto.INT64, 3 << 30, scalar=False))


HOSTILE: list[tuple[str, Callable[[], bytes], str]] = [
    ("openvino", padded_by_nothing, r"crashes at it \(signal 11\)"),
    ("openvino", endless, "would never end"),
    ("openvino", huge, "takes far too much memory"),
    ("onnxruntime", huge, "takes far too much memory"),
]


@pytest.fixture(autouse=True)
def _nothing_was_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(("backend", "graph", "said"), HOSTILE)
def test_a_bundle_whose_graph_its_library_does_not_survive(
    backend: str, graph: Callable[[], bytes], said: str, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "b", manifest(), {MODEL: graph()})
    other = {"openvino": "onnxruntime", "onnxruntime": "openvino"}[backend]
    with pytest.raises(BundleError, match=rf"model\.onnx is not run: {backend} {said}.*--backend {other}$"):
        open_session(open_bundle(tmp_path / "b"), backend)
    assert not list((tmp_path / "cache").rglob("*.ran"))


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_graph_is_tried_once(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path / "b", manifest(), {MODEL: tiny("float32", (32, 48)).SerializeToString()})
    started = []
    run = first_run.subprocess.run
    monkeypatch.setattr(first_run.subprocess, "run", lambda *words, **how: started.append(words) or run(*words, **how))
    for _ in range(2):
        open_session(open_bundle(tmp_path / "b"), backend).close()
    assert len(started) == 1


def test_what_a_library_says_itself_is_its_own_error(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", manifest(), {MODEL: before([helper.make_node("Nonsense", ["image"], ["x"])])})
    with pytest.raises(BundleError, match="ONNX Runtime cannot load"):
        open_session(open_bundle(tmp_path / "b"), "onnxruntime")


def test_where_no_process_can_be_started_it_is_run_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(first_run.subprocess, "run", refuse)
    write_bundle(tmp_path / "b", manifest(), {MODEL: tiny("float32", (32, 48)).SerializeToString()})
    open_session(open_bundle(tmp_path / "b"), "onnxruntime").close()


def test_somebodys_file_is_tried_before_it_is_built(tmp_path: Path) -> None:
    (tmp_path / "theirs.onnx").write_bytes(endless())
    started = time.monotonic()
    with pytest.raises(GraphError, match=r"theirs\.onnx is not run: onnxruntime would never end; export it again$"):
        build(Recipe(str(tmp_path / "b"), onnx=str(tmp_path / "theirs.onnx"), backend="onnxruntime", size=(32, 48)))
    assert time.monotonic() - started < 60
    assert not (tmp_path / "b").exists()


def test_limits_grow_with_the_graph_and_its_frame() -> None:
    lightest, full = first_run._seconds(1 << 10, 32 * 48), first_run._seconds(470 << 20, 1024 * 2048)
    assert lightest <= first_run.SECONDS + 1
    assert full > 4000  # of RefineNet-152, whose two thousand GMAC a slow core does in a thousand seconds


@pytest.mark.parametrize("size", [(64, 64), (1024, 2048)])
@pytest.mark.parametrize("name", MODELS)
def test_every_network_fits_the_limits_of_its_first_run(name: str, size: tuple[int, int]) -> None:
    """By what its convolutions compute on a slow core and all that they give, none of it given back."""
    given = macs = 0

    def count(conv: torch.nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal given, macs
        assert isinstance(conv, torch.nn.Conv2d)
        given += 4 * out.numel()
        macs += out[0, 0].numel() * conv.weight.numel()

    with torch.device("meta"), torch.no_grad():
        module = create(name, 150).eval()
        for part in module.modules():
            if isinstance(part, torch.nn.Conv2d):
                part.register_forward_hook(count)
        module(torch.zeros(1, 3, *size))
    graph = sum(4 * weights.numel() for weights in module.parameters())
    assert macs / first_run.SPEED < first_run._seconds(graph, size[0] * size[1])
    # the weights in the file, as they are read, packed, and what the library keeps besides
    assert given + 4 * graph < first_run._memory(graph, 12 * size[0] * size[1])
