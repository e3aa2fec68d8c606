"""A Ray cluster of two nodes in this machine: the results of one process, whatever happens on the way."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from refinenet_edge import calibration, evaluation
from refinenet_edge.bundle import MODEL, open_bundle
from refinenet_edge.calibration import calibration_frames
from refinenet_edge.cluster import calibrate, evaluate, work
from refinenet_edge.cluster.batch import label
from refinenet_edge.cluster.pool import RayPool, Worker, open_pool
from refinenet_edge.errors import InputError, RefineNetEdgeError
from refinenet_edge.onnx_import import read_onnx
from refinenet_edge.runtime import Segmenter
from tests.cluster.inputs import contents, pictures, tiny_bundle
from tests.evaluation import data
from tests.runtime.tinynet import CLASSES

# Ray leaves sockets and processes to the interpreter's end, and calls what it has itself deprecated
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parents[2]
COUNT = 160  # scenes: seconds of work, so that a node can be lost within
NODE = 2  # logical CPUs each, whatever the machine has


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes; this process is connected."""
    import ray
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", str(ROOT))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": NODE})
    cluster.add_node(num_cpus=NODE)
    ray.init(cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    patch.undo()


@pytest.fixture
def second(cluster: Any) -> Any:
    """A node that is there to be lost."""
    node = cluster.add_node(num_cpus=NODE)
    cluster.wait_for_nodes()
    return node


class Doubler(Worker[int, int]):
    """Twice the number; it dies of 13, and raises for 7."""

    def __call__(self, piece: int) -> int:
        if piece == 13:
            os._exit(1)
        if piece == 7:
            raise RefineNetEdgeError("seven")
        return 2 * piece


def noted(path: Path) -> Path:
    path.touch()
    return path


@dataclass(frozen=True)
class Noted:
    """A piece that leaves a file where it is unpickled."""

    path: Path

    def __reduce__(self) -> tuple[Callable[[Path], Path], tuple[Path]]:
        return noted, (self.path,)


class AtOnce(Worker[Path, bool]):
    """Whether the piece after the first is there before the first is done with."""

    def __call__(self, piece: Path) -> bool:
        until = time.monotonic() + 60
        while piece.name == "0" and not (piece.parent / "1").exists() and time.monotonic() < until:
            time.sleep(0.01)
        return piece.name != "0" or (piece.parent / "1").exists()


@pytest.fixture
def gpu(cluster: Any) -> Iterator[None]:
    """A node that says that it has one."""
    node = cluster.add_node(num_cpus=NODE, num_gpus=1)
    cluster.wait_for_nodes()
    yield
    cluster.remove_node(node)


def test_a_dead_worker_costs_one_piece_and_results_come_in_order(cluster: Any) -> None:
    pieces = [20, 13, *range(6), 13]
    assert list(RayPool(size=2).run(Doubler, pieces)) == [40, None, 0, 2, 4, 6, 8, 10, None]


def test_what_a_worker_raises_is_raised_here(cluster: Any) -> None:
    with pytest.raises(RefineNetEdgeError, match="seven"):
        list(RayPool(size=2).run(Doubler, [1, 7, 2]))


def test_a_gpu_that_is_not_there(cluster: Any) -> None:
    with pytest.raises(InputError, match="the Ray cluster has none"), open_pool("auto", gpus=1):
        pass


def test_a_worker_with_a_gpu_has_the_next_piece_when_it_is_at_the_last_frames_of_one(
    cluster: Any, gpu: None, tmp_path: Path
) -> None:
    assert list(RayPool(gpus=1, size=1).run(AtOnce, [Noted(tmp_path / str(index)) for index in range(4)])) == [True] * 4
    assert list(RayPool(gpus=1, size=1).run(Doubler, [20, 13, 0, 1])) == [40, None, 0, 2]


def test_a_node_that_is_lost_costs_nothing(
    cluster: Any, second: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "PIECE", 4)
    bundle, source, out = open_bundle(tiny_bundle(tmp_path / "b")), f"scenes:7:{COUNT}", tmp_path / "out"
    label(bundle, source, str(tmp_path / "alone"))

    def lose() -> None:
        while len(contents(out)) < COUNT // 8:
            time.sleep(0.05)
        cluster.remove_node(second, allow_graceful=False)

    losing = threading.Thread(target=lose)
    losing.start()
    done = label(bundle, source, str(out), ray="auto")
    losing.join()
    assert (done.labelled, done.problems) == (COUNT, ())
    assert contents(out) == contents(tmp_path / "alone")


@pytest.mark.parametrize("form", ["png", "parquet", "coco", "csv"])
def test_labels_and_problems_are_those_of_one_process(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any
) -> None:
    monkeypatch.setattr(work, "PIECE", 4)
    bundle = open_bundle(tiny_bundle(tmp_path / "b"))
    source = pictures(tmp_path / "in", 21)
    (source / "4.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for ray in ("off", "auto"):
        done = label(bundle, str(source), str(tmp_path / ray), form=form, ray=ray)
        assert (done.labelled, len(done.problems)) == (20, 1)
    assert contents(tmp_path / "auto") == contents(tmp_path / "off")


@pytest.mark.parametrize("workers", [1, 3])
def test_evaluation_and_calibration_are_those_of_one_process(cluster: Any, tmp_path: Path, workers: int) -> None:
    bundle = open_bundle(tiny_bundle(tmp_path / "b"))
    dataset = evaluation.open_dataset(str(data.plain(tmp_path / "d", CLASSES, 40)))
    with Segmenter(bundle, "openvino") as segmenter:
        alone = evaluation.evaluate(segmenter, dataset)
    spread = evaluation.evaluate(evaluate.distributed(bundle, "openvino", RayPool(size=workers)), dataset)
    assert replace(spread, seconds=0) == replace(alone, seconds=0)
    model, spec = read_onnx(bundle.path / MODEL, None), bundle.manifest.frame
    frames = calibration_frames("scenes:2:20")
    by = calibrate.distributed(model, spec, "scenes:2:20", len(frames), RayPool(size=workers))
    assert calibration.calibrate(model, spec, frames, observer=by) == calibration.calibrate(model, spec, frames)
