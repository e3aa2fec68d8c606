"""Many frames through one segmenter: `eval`, `run` and `batch` fill the batches of a GPU's engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from refinenet_edge.bundle import Bundle
from refinenet_edge.cli import main
from refinenet_edge.cluster.batch import label
from refinenet_edge.errors import CudaError, InputError, RefineNetEdgeError
from refinenet_edge.evaluation import evaluate, open_dataset
from refinenet_edge.evaluation.masks import read_mask
from refinenet_edge.frames.images import read_image, write_image
from refinenet_edge.records import WHOLE, Batch, Cubic, Inference, Mask, MultiScale, Tiles
from refinenet_edge.runtime import Segmenter, backends, many
from refinenet_edge.runtime.in_flight import AHEAD, most_requests
from refinenet_edge.runtime.many import Many
from refinenet_edge.runtime.tensorrt.session import TrtSession
from tests.evaluation import data
from tests.runtime.gpu import Gpu
from tests.runtime.test_in_flight import ours
from tests.runtime.tinynet import CLASSES

COUNT, BAD = 11, 5
OnGpu = tuple[Gpu, Bundle]


@pytest.fixture
def on_gpu(
    make_gpu: Callable[..., Gpu], make_plan: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], OnGpu]:
    """A GPU, and a bundle of that batch on it."""
    monkeypatch.setattr(backends, "_problem", lambda backend: None)  # there is no driver
    gpu = make_gpu("cuda-bindings")

    def make(batch: str) -> OnGpu:
        wanted = Batch.parse(batch)
        return gpu, make_plan(gpu, size=(32, 32), batch=[wanted.least, wanted.best, wanted.most])

    return make


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Of two sizes; one of them is none."""
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(COUNT):
        shape = (40 + index % 2, 60, 3)
        write_image(folder / f"{index:02}.png", np.random.default_rng(index).integers(0, 256, shape, np.uint8))
    (folder / f"{BAD:02}.png").write_bytes(b"none")
    return folder


def runs(gpu: Gpu, act: Callable[[], Any]) -> int:
    """How often the engine ran meanwhile."""
    before = len(gpu.calls)
    act()
    asked = gpu.calls[before:]
    return asked.count("execute_async_v3") + asked.count("cuGraphLaunch") - asked.count("cuStreamEndCapture")


@pytest.mark.parametrize(("batch", "times"), [("1", (10, 9)), ("1:4", (3, 3)), ("4", (3, 3))])
class TestCommands:
    """How often the engine runs for ten frames, and for nine."""

    def test_masks_are_those_of_each_alone(
        self, on_gpu: Callable[[str], OnGpu], pictures: Path, tmp_path: Path, batch: str, times: tuple[int, int]
    ) -> None:
        gpu, bundle = on_gpu(batch)

        def run() -> None:
            done = CliRunner().invoke(main, ["run", str(bundle.path), str(pictures), "--out", str(tmp_path / "run")])
            assert done.exit_code == 4, done.output
            assert f"{COUNT - 1} of {COUNT} images segmented" in done.output

        def batched() -> None:
            done = label(bundle, str(pictures), str(tmp_path / "batch"), backend="tensorrt")
            assert [problem.id for problem in done.problems] == [f"{BAD:02}.png"]

        assert runs(gpu, run) == times[0]
        assert runs(gpu, batched) == times[0]
        with Segmenter(bundle, "tensorrt") as segmenter:
            for index in set(range(COUNT)) - {BAD}:
                known = segmenter.segment(read_image(pictures / f"{index:02}.png")).labels
                assert np.array_equal(read_mask(tmp_path / "batch" / f"{index:02}.png.png"), known)
                assert np.array_equal(read_mask(tmp_path / "run" / f"{index:02}_labels.png"), known)

    def test_scores_are_those_of_each_alone(
        self, on_gpu: Callable[[str], OnGpu], tmp_path: Path, batch: str, times: tuple[int, int]
    ) -> None:
        gpu, bundle = on_gpu(batch)
        dataset = open_dataset(str(data.plain(tmp_path / "d", CLASSES, COUNT)))
        (tmp_path / "d" / "masks" / "s2.png").write_bytes(b"none")
        write_image(tmp_path / "d" / "images" / "s4.png", np.zeros((41, 60, 3), np.uint8))
        with Segmenter(bundle, "tensorrt") as single:
            known = replace(evaluate(single, dataset), seconds=0.0)
        assert {problem.sample: problem.kind for problem in known.problems} == {"s2": "unreadable", "s4": "size"}
        with Segmenter(bundle, "tensorrt", throughput=True) as segmenter:
            found = []
            assert runs(gpu, lambda: found.append(evaluate(segmenter, dataset))) == times[1]
        assert replace(found[0], seconds=0.0) == known


@pytest.mark.parametrize("batch", ["1", "1:4"])
def test_a_bad_frame_is_an_error_for_itself_only(on_gpu: Callable[[str], OnGpu], batch: str) -> None:
    _, bundle = on_gpu(batch)
    good = np.full((40, 60, 3), 7, np.uint8)
    given: list[Any] = [InputError("was not read"), good, good[0], good, "no frame", *([good] * 4), InputError("last")]
    with Segmenter(bundle, "tensorrt", throughput=True) as segmenter, Many(segmenter) as many:
        known = segmenter.segment(good).labels
        found = list(many.each(range(10), lambda index: (given[index], index), lambda *found: found[:2]))
    assert [index for index, _ in found] == list(range(10))
    said = {index: str(answer) for index, answer in found if isinstance(answer, RefineNetEdgeError)}
    assert said.keys() == {0, 2, 4, 9}
    assert (said[0], said[9]) == ("was not read", "last")
    assert "a frame is a HxWx3" in said[2] and "a frame is a HxWx3" in said[4]
    for index, answer in found:
        assert index in said or (isinstance(answer, Mask) and np.array_equal(answer.labels, known))


@pytest.mark.parametrize(("batch", "frames_of_a_run"), [("1", 1), ("1:4", 4)])
def test_memory_is_bounded(on_gpu: Callable[[str], OnGpu], batch: str, frames_of_a_run: int) -> None:
    """Of those that were taken and whose masks were not used yet."""
    _, bundle = on_gpu(batch)
    taken, most, lock = 0, 0, threading.Lock()

    def items() -> Iterator[int]:
        nonlocal taken
        for index in range(200):
            with lock:
                taken += 1
            yield index

    def use(index: int, answer: object, ms: float) -> int:
        nonlocal most
        with lock:
            most = max(most, taken - index)
        return index

    frame = np.zeros((40, 60, 3), np.uint8)
    with Segmenter(bundle, "tensorrt", throughput=True) as segmenter, Many(segmenter) as many:
        for number, index in enumerate(many.each(items(), lambda index: (frame, index), use)):
            assert number == index
    assert most <= 2 * frames_of_a_run + 2 * AHEAD * most_requests()


@pytest.mark.parametrize("fields", [{}, {"inference": MultiScale(flip=True)}], ids=["whole", "mirrored"])
@pytest.mark.parametrize("throughput", [True, False])
def test_an_engine_of_one_frame_goes_on_beside_reading_and_use(
    on_gpu: Callable[[str], OnGpu], monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], throughput: bool
) -> None:
    """The first mask is not done with before the third frame was read."""
    monkeypatch.setattr(many, "most_requests", lambda: 2)
    _, bundle = on_gpu("1")
    frame, third = np.zeros((40, 60, 3), np.uint8), threading.Event()

    def read(index: int) -> tuple[np.ndarray, int]:
        if index == 2:
            third.set()
        return frame, index

    def use(index: int, answer: object, ms: float) -> tuple[bool, object]:
        return third.wait(60), answer

    with Segmenter(bundle, "tensorrt", throughput=throughput, **fields) as segmenter, Many(segmenter) as each:
        known = segmenter.segment(frame).labels
        found = list(each.each(range(5), read, use))
    assert [came for came, _ in found] == [True] * 5
    assert all(isinstance(answer, Mask) and np.array_equal(answer.labels, known) for _, answer in found)


def test_tiles_are_of_one_frame_at_a_time(on_gpu: Callable[[str], OnGpu]) -> None:
    _, bundle = on_gpu("1:4")
    done: list[str] = []

    def read(index: int) -> tuple[np.ndarray, int]:
        done.append(f"read {index}")
        return np.zeros((40, 60, 3), np.uint8), index

    with (
        Segmenter(bundle, "tensorrt", throughput=True, inference=Tiles((32, 32), 0)) as segmenter,
        Many(segmenter) as many,
    ):
        list(many.each(range(2), read, lambda index, answer, ms: done.append(f"used {index}")))
    assert done == ["read 0", "used 0", "read 1", "used 1"]


def test_what_use_raises_ends_it_when_what_was_begun_has_ended(on_gpu: Callable[[str], OnGpu]) -> None:
    gpu, bundle = on_gpu("1:4")
    frame, begun = np.zeros((40, 60, 3), np.uint8), list[int]()

    def read(index: int) -> tuple[np.ndarray, int]:
        begun.append(index)
        return frame, index

    def use(index: int, answer: object, ms: float) -> int:
        if index == 5:
            raise ValueError("no room")
        return index

    found: list[int] = []
    with Segmenter(bundle, "tensorrt", throughput=True) as segmenter, Many(segmenter) as many:
        with pytest.raises(ValueError, match="no room"):
            found.extend(number for number in many.each(range(200), read, use))
        count = len(begun)
        assert count < 100
        assert not any(gpu.streams.values())
        assert isinstance(segmenter.segment(frame), Mask)
    assert found == [0, 1, 2, 3, 4]
    assert len(begun) == count and not ours()


def test_a_gpu_that_fails_fails_for_all(on_gpu: Callable[[str], OnGpu]) -> None:
    gpu, bundle = on_gpu("1:4")
    frame = np.zeros((40, 60, 3), np.uint8)
    with Segmenter(bundle, "tensorrt", throughput=True) as segmenter, Many(segmenter) as many:
        gpu.fail("cuLaunchKernel")
        with pytest.raises(CudaError, match="cuLaunchKernel"):
            list(many.each(range(9), lambda index: (frame, index), lambda index, answer, _: answer))
        gpu.fail_at(-1)
        again = list(many.each(range(9), lambda index: (frame, index), lambda index, answer, _: answer))
        assert all(isinstance(answer, Mask) for answer in again)


def test_scales_are_no_batch(on_gpu: Callable[[str], OnGpu]) -> None:
    """With several views of each frame, of a network of exactly four, too."""
    _, bundle = on_gpu("4")
    shot = [np.random.default_rng(index).integers(0, 256, (40, 60, 3), np.uint8) for index in range(3)]
    with Segmenter(bundle, "tensorrt", throughput=True, inference=MultiScale(flip=True)) as segmenter:
        alone = [segmenter.segment(frame).labels for frame in shot]
        for answers in (segmenter.segment_batch(shot), list(segmenter.segment_each(shot))):
            for answer, known in zip(answers, alone, strict=True):
                assert isinstance(answer, Mask) and np.array_equal(answer.labels, known)


@pytest.mark.parametrize(
    ("inference", "together", "alone"),
    [(MultiScale(flip=True), 1, 2), (Tiles((32, 32), 0), 3, 12), (WHOLE, 1, 1)],
    ids=["mirrored", "tiles", "cubic"],
)
@pytest.mark.parametrize("throughput", [True, False])
def test_what_is_prepared_on_the_host_goes_into_a_gpus_engine_together(
    on_gpu: Callable[[str], OnGpu],
    monkeypatch: pytest.MonkeyPatch,
    inference: Inference,
    together: int,
    alone: int,
    throughput: bool,
) -> None:
    """Views of a frame, tiles of a row, and frames whose labels are interpolated where there is no kernel for it."""
    gpu, bundle = on_gpu("1:4")
    shot = [np.random.default_rng(index).integers(0, 256, (96, 128, 3), np.uint8) for index in range(5)]

    def masks() -> tuple[list[Any], int]:
        found: list[Any] = []
        with (
            Segmenter(bundle, "tensorrt", throughput=throughput, inference=inference) as segmenter,
            segmenter.with_upsample(Cubic()) as cubic,
            Many(cubic) as each,
        ):
            single = runs(gpu, lambda: found.append(cubic.segment(shot[0])))
            found.extend(cubic.segment_batch(shot))
            found.extend(each.each(shot, lambda frame: (frame, None), lambda _, answer, ms: answer))
        return [answer.labels for answer in found], single

    (found, few), before = masks(), len(gpu.calls)
    monkeypatch.setattr(TrtSession, "on_gpu", False)
    known, many_runs = masks()
    assert (few, many_runs) == (together, alone)
    assert len(found) == 11
    for labels, expected in zip(found, known, strict=True):
        assert np.array_equal(labels, expected)
    assert gpu.calls[:before].count("execute_async_v3") < gpu.calls[before:].count("execute_async_v3")
