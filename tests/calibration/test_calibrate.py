"""Frames through a small network: ranges, what is refused, and interrupts that lose nothing."""

from __future__ import annotations

import importlib
import io
import json
import shlex
import shutil
import struct
import subprocess
import sys
import warnings
import weakref
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result

from refinenet_edge import files, precision
from refinenet_edge.build import build
from refinenet_edge.bundle import MANIFEST, open_bundle
from refinenet_edge.calibration import (
    calibrate,
    calibration_frames,
    observe,
    read_ranges,
    require_measured_on,
    write_ranges,
)
from refinenet_edge.calibration.methods import Entropy, MinMax, Percentile
from refinenet_edge.calibration.ranges import graph_digests, key_of
from refinenet_edge.cli import main
from refinenet_edge.errors import CalibrationError, InputError
from refinenet_edge.frames import Frames
from refinenet_edge.fusion import fuse
from refinenet_edge.graph import to_bytes
from refinenet_edge.onnx_import import read_onnx
from refinenet_edge.records import PREPROCESSINGS, Cubic, Frame, FrameSpec, Manifest, Recipe
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.scenes import scene
from tests.conftest import SIZE, Traced, graph, weights
from tests.demo.fakes import write_video

SPEC = FrameSpec((24, 32))
calibration_stage = importlib.import_module("refinenet_edge.calibration.calibrate")  # the package has it as a function


def network(scale: float = 1.0) -> ir.Model:
    return graph(
        "a = Conv(image, v) r = Relu(a) p = MaxPool<kernel_shape = [2,2]>(r) logits = Conv(p, w)",
        "float[1,3,24,32] image",
        "float[1,5,23,31] logits",
        v=weights(8, 3, 1, 1) * np.float32(scale),
        w=weights(5, 8, 1, 1),
    )


def frames_of(*pictures: Frame) -> Frames:
    return Frames("pictures", tuple(f"picture {i}" for i in range(len(pictures))), lambda i: pictures[i])


def scenes(count: int) -> Frames:
    return frames_of(*(scene(2, i, (24, 32))[0] for i in range(count)))


def test_the_ranges_are_those_of_the_activations() -> None:
    frames = scenes(3)
    ranges = calibrate(network(), SPEC, frames, MinMax(), {"p": Percentile(50)})
    assert list(ranges.tensors) == ["image", "a", "r", "p", "logits"]
    images = np.concatenate([observe_input(frames.read(i)) for i in range(3)])
    a = np.einsum("oc,bchw->bohw", weights(8, 3, 1, 1)[:, :, 0, 0], images)
    assert ranges.tensors["image"].amax == pytest.approx(np.abs(images).max(), rel=1e-5)
    assert (ranges.tensors["a"].low, ranges.tensors["a"].high) == pytest.approx((a.min(), a.max()), rel=1e-5)
    assert (ranges.tensors["r"].low, ranges.tensors["r"].amax) == pytest.approx((0, a.max()), rel=1e-5)
    assert ranges.tensors["p"].amax < ranges.tensors["r"].amax
    assert (ranges.tensors["p"].method, ranges.tensors["a"].method) == ("percentile:50", "minmax")
    assert (ranges.count, ranges.source, ranges.key.method) == (3, "pictures", "minmax, p=percentile:50")


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_the_input_is_what_the_network_was_trained_on(name: str) -> None:
    spec = replace(PREPROCESSINGS[name], size=(24, 32))
    image = calibrate(network(), spec, scenes(1), MinMax()).tensors["image"]
    fed = prepare(scenes(1).read(0), spec)
    assert (image.low, image.high) == pytest.approx((fed.min(), fed.max()), rel=1e-5)


def observe_input(frame: Frame) -> np.ndarray:
    normalised = (frame[..., ::-1] / 255 - SPEC.mean) / SPEC.std
    return normalised.transpose(2, 0, 1)[None]


def test_groups_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = calibrate(network(), SPEC, scenes(2))
    monkeypatch.setattr(observe, "GROUP_BYTES", 1)
    assert len(observe.activation_counter(network()).groups) == 4
    assert calibrate(network(), SPEC, scenes(2)) == whole


def test_one_group_at_a_time_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the next group's activations come, but for the last one of those before, which the caller has."""
    most = max(observe._bytes(value) for node in network().graph for value in node.outputs)
    monkeypatch.setattr(observe, "GROUP_BYTES", 2 * most)
    counter = observe.activation_counter(network())
    made: list[weakref.ref[Any]] = []
    alive: list[int] = []

    class Noting:
        def __init__(self, session: Any) -> None:
            self.get_outputs, self._run = session.get_outputs, session.run

        def run(self, *given: Any) -> list[Any]:
            values: list[Any] = self._run(*given)
            alive.append(sum(each() is not None for each in made))
            made.extend(map(weakref.ref, values))
            return values

    counter = replace(counter, groups=tuple(map(Noting, counter.groups)))
    assert max(len(group.get_outputs()) for group in counter.groups) > 1
    counter.count(prepare(scenes(1).read(0), SPEC), "a frame")
    assert len(alive) == len(counter.groups) > 1
    assert max(alive) <= 1


@pytest.mark.parametrize("at", range(4))
def test_an_interrupt_loses_nothing_but_its_frame(tmp_path: Path, at: int) -> None:
    frames, state = scenes(4), tmp_path / ".x.partial.npz"
    whole = calibrate(network(), SPEC, frames)
    read: list[int] = []

    def interrupted(done: int, _: int) -> None:
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(network(), SPEC, frames, out=tmp_path / "x", progress=interrupted)
    assert state.exists() == (at > 0)
    assert calibrate(network(), SPEC, frames, out=tmp_path / "x", progress=lambda done, _: read.append(done)) == whole
    assert read[0] == at


@pytest.mark.parametrize("where", ["reading", "counting"])
@pytest.mark.parametrize("at", range(3))
def test_an_interrupt_within_a_frame_loses_only_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, where: str
) -> None:
    frames, calls = scenes(3), {"reading": 0, "counting": 0}
    whole, count, done = calibrate(network(), SPEC, frames), observe.ActivationCounter.count, []

    def interrupted(call: str, last: int) -> None:
        calls[call] += 1
        if call == where and calls[call] == last:
            raise KeyboardInterrupt

    def read(index: int) -> Frame:
        interrupted("reading", 3 + at + 1)  # three were to look
        return frames.read(index)

    def counted(self: observe.ActivationCounter, image: np.ndarray, name: str) -> object:
        found = count(self, image, name)
        interrupted("counting", at + 1)
        return found

    monkeypatch.setattr(observe.ActivationCounter, "count", counted)
    with pytest.raises(KeyboardInterrupt):
        calibrate(network(), SPEC, replace(frames, read=read), out=tmp_path / "x")
    monkeypatch.undo()
    assert calibrate(network(), SPEC, frames, out=tmp_path / "x", progress=lambda i, _: done.append(i)) == whole
    assert done[0] == at


def test_what_is_saved_on_the_way_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # as after a kill: the state is the one that was written while the run went on
    frames, state, held, done = scenes(3), tmp_path / ".x.partial.npz", [], []
    monkeypatch.setattr(files, "SAVE_SECONDS", -1)
    whole = calibrate(network(), SPEC, frames, out=tmp_path / "x", progress=lambda *_: held.append(state.read_bytes()))
    state.write_bytes(held[2])
    assert calibrate(network(), SPEC, frames, out=tmp_path / "x", progress=lambda i, _: done.append(i)) == whole
    assert done[0] == 2


def test_a_place_that_cannot_be_written_is_found_before_the_first_frame(tmp_path: Path) -> None:
    done: list[int] = []
    with pytest.raises(CalibrationError, match="cannot be written"):
        calibrate(network(), SPEC, scenes(2), out=tmp_path / "none" / "x", progress=lambda i, _: done.append(i))
    assert done == []


def test_a_header_that_does_not_end_is_damage(tmp_path: Path) -> None:
    # numpy passes on what its tokenizer raises
    frames, state = scenes(2), tmp_path / ".x.partial.npz"
    whole = calibrate(network(), SPEC, frames)
    header = b"{'descr': ("
    with zipfile.ZipFile(state, "w") as archive:
        archive.writestr("key.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    assert calibrate(network(), SPEC, frames, out=tmp_path / "x") == whole


def stopped(folder: Path, frames: Frames, at: int) -> bytes:
    """What is kept of a run to `folder`/x that was stopped."""

    def interrupted(done: int, _: int) -> None:
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(network(), SPEC, frames, out=folder / "x", progress=interrupted)
    return (folder / ".x.partial.npz").read_bytes()


def test_another_method_goes_on_from_the_same_state(tmp_path: Path) -> None:
    frames, read = scenes(3), []
    stopped(tmp_path, frames, 2)
    found = calibrate(network(), SPEC, frames, MinMax(), out=tmp_path / "x", progress=lambda done, _: read.append(done))
    assert found == calibrate(network(), SPEC, frames, MinMax())
    assert read[0] == 2


def test_a_finished_state_stays_until_the_ranges_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, read = scenes(2), []

    def full(*_: object) -> None:
        raise CalibrationError("no room")

    monkeypatch.setattr(calibration_stage, "write_ranges", full)
    with pytest.raises(CalibrationError, match="no room"):
        calibrate(network(), SPEC, frames, out=tmp_path / "x")
    monkeypatch.undo()
    whole = calibrate(network(), SPEC, frames, out=tmp_path / "x", progress=lambda done, _: read.append(done))
    assert read == [2]
    assert read_ranges(tmp_path / "x") == whole == calibrate(network(), SPEC, frames)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_no_damage_of_the_state_is_an_error(tmp_path: Path) -> None:
    frames, state = scenes(2), tmp_path / ".x.partial.npz"
    whole, good = calibrate(network(), SPEC, frames), stopped(tmp_path, frames, 1)
    for place in range(0, len(good), len(good) // 60):
        damaged = bytearray(good)
        damaged[place] ^= 0xFF
        state.write_bytes(damaged)
        assert calibrate(network(), SPEC, frames, out=tmp_path / "x") == whole


def test_every_frame_is_read_once_to_look_and_once_to_count() -> None:
    pictures, read = scenes(3), []
    counting = replace(pictures, read=lambda index: (read.append(index), pictures.read(index))[1])
    calibrate(network(), SPEC, counting)
    assert read == [0, 1, 2, 0, 1, 2]


def test_an_override_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"no tensor fits 'classifier\*'; there are image, a, r"):
        calibrate(network(), SPEC, scenes(1), overrides={"classifier*": MinMax()})


def test_constants_are_no_activations() -> None:
    model = graph(
        "a = Conv(image, v) k = Constant<value = float[1] {3.0}>() s = Add(a, k) "
        "lo = Constant<value_float = 0.0>() hi = Constant<value_float = 6.0>() logits = Clip(s, lo, hi)",
        "float[1,3,24,32] image",
        "float[1,8,24,32] logits",
        v=weights(8, 3, 1, 1),
    )
    assert observe.observable(model) == ("image", "a", "s", "logits")


def test_a_state_of_other_frames_or_damaged_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = tmp_path / ".x.partial.npz"

    def interrupted(done: int, _: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(network(), SPEC, scenes(2), out=tmp_path / "x", progress=interrupted)
    whole = calibrate(network(), SPEC, scenes(3))
    assert calibrate(network(), SPEC, scenes(3), out=tmp_path / "x") == whole
    assert "of another calibration" in caplog.text
    state.write_bytes(b"damaged")
    assert calibrate(network(), SPEC, scenes(3), out=tmp_path / "x") == whole
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize("name", ["key", "names", "done", "histograms"])
def test_a_state_with_something_else_than_arrays_is_damaged(name: str, tmp_path: Path) -> None:
    state, frames, made = tmp_path / ".x.partial.npz", scenes(2), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(stopped(tmp_path, frames, 1))) as archive, zipfile.ZipFile(made, "w") as changed:
        for file in archive.namelist():
            changed.writestr(file, b"text" if file == f"{name}.npy" else archive.read(file))
    state.write_bytes(made.getvalue())
    assert calibrate(network(), SPEC, frames, out=tmp_path / "x") == calibrate(network(), SPEC, frames)


@pytest.mark.parametrize("name", ["key", "names"])
def test_a_state_whose_text_is_no_unicode_is_damaged(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state, frames = tmp_path / ".x.partial.npz", scenes(2)
    with np.load(io.BytesIO(stopped(tmp_path, frames, 1))) as held:
        arrays = dict(held)
    none = np.full(arrays[name].shape, 0x110000, np.uint32)  # one more than there are
    arrays[name] = np.ndarray(none.shape, "U1", none)
    np.savez_compressed(state, **arrays)
    assert calibrate(network(), SPEC, frames, out=tmp_path / "x") == calibrate(network(), SPEC, frames)
    assert "cannot be read" in caplog.text


def test_a_state_whose_numbers_lie_as_python_2_wrote_them_is_no_warning(tmp_path: Path) -> None:
    state, frames = tmp_path / ".x.partial.npz", scenes(2)
    good, made = stopped(tmp_path, frames, 1), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as archive, zipfile.ZipFile(made, "w") as changed:
        for name in archive.namelist():
            changed.writestr(name, archive.read(name).replace(b"'shape': (), } ", b"'shape':(1L,),}"))
    state.write_bytes(made.getvalue())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert calibrate(network(), SPEC, frames, out=tmp_path / "x") == calibrate(network(), SPEC, frames)


def test_what_is_wrong_with_the_frames_is_said() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    picture = scene(2, 0, (64, 64))[0]
    ranges = calibrate(network(), SPEC, frames_of(noise, np.full((9, 9, 3), 7, np.uint8), picture, picture))
    assert ranges.warnings == (
        "4 frames are few: give 16 or more",
        "picture 0 looks like noise, not like a picture",
        "picture 1 is blank",
        "picture 3 is the same picture as picture 2",
    )


def test_a_tensor_that_is_always_zero_is_said() -> None:
    assert "r was always zero" in calibrate(network(0.0), SPEC, scenes(1)).warnings


def test_activations_that_are_not_finite_name_tensor_and_frame() -> None:
    with pytest.raises(CalibrationError, match=r"^a holds \d+ NaN or infinite values on picture 0: .*checkpoint"):
        calibrate(network(float("inf")), SPEC, scenes(1))


class TestTheKey:
    def key(self, **other: object) -> object:
        arguments = {"model": network(), "spec": SPEC, "digests": ["1", "2"], "method": Entropy(), "overrides": {}}
        return key_of(**{**arguments, **other})  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("field", "other"),
        [
            ("weights", {"model": network(2.0)}),
            ("frame", {"spec": replace(SPEC, mean=(0, 0, 0))}),
            ("frames", {"digests": ["2", "1"]}),
            ("method", {"overrides": {"a*": MinMax()}}),
        ],
    )
    def test_each_part_changes_its_own_field(self, field: str, other: dict[str, object]) -> None:
        one, two = self.key(), self.key(**other)
        assert [name for name in vars(one) if getattr(one, name) != getattr(two, name)] == [field]

    def test_notes_node_names_and_upsampling_do_not_count(self) -> None:
        noted = network()
        for node in noted.graph:
            node.name, node.doc_string = f"other {node.name}", "a note"
            node.metadata_props["rewrite"] = "merge_pointwise"
        other = {"model": noted, "spec": replace(SPEC, upsample=Cubic())}
        assert self.key(**other) == self.key()

    def test_a_graph_in_memory_and_in_a_bundle_have_one_key(self, traced: Traced, tmp_path: Path) -> None:
        model = traced("rf_lw_mbv2", SIZE)
        fuse(model)
        path = tmp_path / "model.onnx"
        path.write_bytes(to_bytes(model))
        assert graph_digests(model, SPEC) == graph_digests(read_onnx(path), SPEC)

    def test_ranges_of_another_network_are_refused(self) -> None:
        ranges = calibrate(network(), SPEC, scenes(1))
        require_measured_on(ranges, network(), SPEC)
        with pytest.raises(CalibrationError, match=r"not the same: weights\); .*refinenet-edge calibrate"):
            require_measured_on(ranges, network(2.0), SPEC)
        with pytest.raises(CalibrationError, match="not the same: preprocessing"):
            require_measured_on(ranges, network(), replace(SPEC, std=(1, 1, 1)))

    def test_the_command_repeats_the_methods(self) -> None:
        ranges = calibrate(network(), SPEC, scenes(1), MinMax(), {"a*": Percentile(99)})
        command = r"--frames pictures --method minmax --method-for 'a\*=percentile:99' --out FILE$"
        with pytest.raises(CalibrationError, match=command):
            require_measured_on(ranges, network(2.0), SPEC)


class TestFiles:
    def test_ranges_are_read_back(self, tmp_path: Path) -> None:
        ranges, path = calibrate(network(), SPEC, scenes(2)), tmp_path / "x.ranges.json"
        write_ranges(path, ranges)
        assert read_ranges(path) == ranges
        lines = path.read_text().splitlines()
        assert sum('"amax"' in line for line in lines) == len(ranges.tensors)
        assert isinstance(json.loads(path.read_text()), dict)

    @pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schema": 2}'])
    def test_what_holds_no_ranges(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "x.json"
        path.write_text(text)
        with pytest.raises(CalibrationError, match=r"x\.json cannot be used: .*refinenet-edge calibrate"):
            read_ranges(path)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(CalibrationError, match="cannot be used"):
            read_ranges(tmp_path / "none.json")


class TestFrames:
    def test_scenes_are_of_a_stream_of_their_own(self) -> None:
        frames = calibration_frames("scenes:5:3")
        assert (frames.source, len(frames), frames.names[2]) == ("scenes:5:3", 3, "scene_0002")
        assert np.array_equal(frames.read(1), scene(5, 1)[0])
        sources = [calibration_frames(text).source for text in ("scenes", "scenes:9")]
        assert sources == ["scenes:2:64", "scenes:9:64"]

    def test_of_a_video_as_many(self, tmp_path: Path) -> None:
        frames = calibration_frames(str(write_video(tmp_path / "v.avi", range(0, 200, 2))))
        assert len(frames) == 64
        assert (frames.names[0], frames.names[-1]) == ("frame_000000", "frame_000099")
        assert abs(float(frames.read(63).mean()) - 198) < 4
        assert abs(float(frames.read(0).mean())) < 4

    @pytest.mark.parametrize("source", ["scenes:1000003", "scenes:1000003:4"])
    def test_not_what_models_are_judged_on(self, source: str) -> None:
        with pytest.raises(InputError, match="judged on these scenes; calibrate on others: scenes:2:"):
            calibration_frames(source)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("bundles")

    def built(precision: str) -> Path:
        path = folder / precision
        if not path.exists():
            build(Recipe(str(path), "rf_lw_mbv2", size=SIZE, precision=precision, backend="openvino"))
        return path

    return built


class TestTheCommand:
    def test_a_bundle_is_calibrated(self, bundle: Callable[[str], Path], tmp_path: Path) -> None:
        out = tmp_path / "m.ranges.json"
        arguments = ["calibrate", str(bundle("fp32")), "--frames", "scenes:2:2", "--out", str(out)]
        arguments += ["--method", "minmax", "--method-for", "logits=mse"]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
        assert done.output.count("2 frames are few") == 1
        ranges = read_ranges(out)
        assert ranges.key.method == "minmax, logits=mse"
        assert f"{len(ranges.tensors)} tensors over 2 frames" in done.output
        assert "cut most" in done.output
        assert (
            f"--out {bundle('fp32')}_int8 --model rf_lw_mbv2 --size 64x96 --precision int8 --calib {out}" in done.output
        )
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

    def test_the_folder_is_made(self, bundle: Callable[[str], Path], tmp_path: Path) -> None:
        out = tmp_path / "calib" / "x.ranges.json"
        done = CliRunner().invoke(main, ["calibrate", str(bundle("fp32")), "--frames", "scenes:2:1", "-o", str(out)])
        assert done.exit_code == 0, done.output
        assert [path.name for path in out.parent.iterdir()] == ["x.ranges.json"]

    def test_a_method_for_nothing_is_refused(self, bundle: Callable[[str], Path], tmp_path: Path) -> None:
        words = ["--frames", "scenes:2:1", "-o", str(tmp_path / "x.json"), "--method-for", "entropy"]
        done = CliRunner().invoke(main, ["calibrate", str(bundle("fp32")), *words])
        assert done.exit_code == 2
        assert "expected GLOB=METHOD" in done.output

    def test_the_help_names_the_default(self) -> None:
        assert f"[default: {calibration_stage.DEFAULT}]" in CliRunner().invoke(main, ["calibrate", "--help"]).output

    def test_another_precision_is_refused(self, bundle: Callable[[str], Path], tmp_path: Path) -> None:
        out = tmp_path / "x.json"
        done = CliRunner().invoke(main, ["calibrate", str(bundle("fp16")), "--frames", "scenes", "--out", str(out)])
        assert done.exit_code == 2
        words = f"refinenet-edge build --out {bundle('fp16')}_fp32 --model rf_lw_mbv2 --size 64x96 --backend openvino"
        assert f"ranges are measured on a fp32 bundle of the same network; build it: {words}\n" in done.output
        assert not out.exists()

    def test_the_commands_it_prints_are_run(self, tmp_path: Path) -> None:
        # of a bundle with everything that float32 has not, in a folder that a shell would take for two
        recipe = Recipe(str(tmp_path / "my int8"), "rf_lw_mbv2", size=SIZE, precision="int8", calib="scenes:1:4")
        recipe = replace(
            recipe, min_agreement=50.0, judge="scenes:2:2", backend="openvino", crp="conv_pool", force=True
        )
        quantised = build(recipe).path
        ranges = tmp_path / "my.ranges.json"

        def calibrated(bundle: Path) -> Result:
            words = ["calibrate", str(bundle), "--frames", "scenes:2:1", "-o", str(ranges)]
            return CliRunner().invoke(main, words)

        def run(command: str) -> Manifest:
            program, *words = shlex.split(command)
            assert program == "refinenet-edge"
            done = CliRunner().invoke(main, words)
            assert done.exit_code == 0, done.output
            return open_bundle(Path(words[words.index("--out") + 1])).manifest

        said = calibrated(quantised).output
        exact = run(said.rpartition("build it: ")[2])
        assert exact.recipe == Recipe(f"{quantised}_fp32", "rf_lw_mbv2", size=SIZE, backend="openvino", crp="conv_pool")
        said = calibrated(Path(f"{quantised}_fp32")).output
        again = run(said.rpartition("next: ")[2])
        assert (again.precision, again.calibration) == ("int8", read_ranges(ranges).key)

    def test_what_a_manifest_says_is_spelt_out(self, bundle: Callable[[str], Path], tmp_path: Path) -> None:
        copied = shutil.copytree(bundle("fp16"), tmp_path / "copied")
        value = json.loads((copied / MANIFEST).read_text("utf-8"))
        value["recipe"]["labels"] = "\x1b[2J"
        (copied / MANIFEST).write_text(json.dumps(value))
        shown = CliRunner().invoke(main, ["inspect", str(copied)]).output
        assert "\\x1b[2J" in shown and "\x1b[2J" not in shown

    def test_what_was_quantised_elsewhere_is_not_calibrated(self, tmp_path: Path) -> None:
        exact, ranges = network(), tmp_path / "x.json"
        quantised = precision.apply(exact, "int8", "onnxruntime", calibrate(exact, SPEC, scenes(2)))
        (tmp_path / "q.onnx").write_bytes(to_bytes(quantised))
        recipe = Recipe(str(tmp_path / "q"), onnx=str(tmp_path / "q.onnx"), size=(24, 32), precision="int8")
        path = build(replace(recipe, backend="onnxruntime")).path
        done = CliRunner().invoke(main, ["calibrate", str(path), "--frames", "scenes:2:1", "-o", str(ranges)])
        assert done.exit_code == 2
        assert "has the Q/DQ of the ONNX file it is of: there is nothing to calibrate" in done.output


def test_the_command_needs_no_torch(mobile_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.ranges.json"
    block = "import sys; sys.modules['torch'] = None; from refinenet_edge.cli import main; main()"
    command = ["calibrate", str(mobile_bundle), "--frames", "scenes:2:1", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", block, *command], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert read_ranges(out).count == 1


class TestAnInt8Build:
    def test_ranges_of_the_fp32_bundle_fit_the_build(self, bundle: Callable[[str], Path], tmp_path: Path) -> None:
        ranges = tmp_path / "m.ranges.json"
        arguments = ["calibrate", str(bundle("fp32")), "--frames", "scenes:2:2", "--out", str(ranges)]
        assert CliRunner().invoke(main, arguments).exit_code == 0
        recipe = Recipe(str(tmp_path / "b"), "rf_lw_mbv2", size=SIZE, precision="int8", backend="openvino")
        first = build(replace(recipe, calib=str(ranges)))
        second = build(replace(recipe, calib="scenes:2:2", output=str(tmp_path / "c")))
        assert first.manifest.files == second.manifest.files
        assert first.manifest.calibration == read_ranges(ranges).key
        assert {parity.stage for parity in first.manifest.parity} == {"fused", "int8"}
        with Segmenter(first.path) as segmenter:
            assert segmenter.segment(scene(2, 0, SIZE)[0]).labels.shape == SIZE

    def test_ranges_of_another_network_are_refused(self, tmp_path: Path) -> None:
        ranges = tmp_path / "x.ranges.json"
        write_ranges(ranges, calibrate(network(), SPEC, scenes(1)))
        recipe = Recipe(str(tmp_path / "b"), "rf_lw_mbv2", size=SIZE, precision="int8", calib=str(ranges))
        with pytest.raises(CalibrationError, match=r"not the same: graph, weights, preprocessing"):
            build(replace(recipe, backend="openvino"))
        assert not (tmp_path / "b").exists()

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"precision": "int8"}, "give --calib"),
            ({"precision": "fp16", "calib": "scenes"}, "--calib is for --precision int8"),
            ({"precision": "int8", "calib": "scenes", "backend": "tensorrt-rtx"}, "or with --force"),
        ],
    )
    def test_what_would_only_disappoint_is_refused_at_once(
        self, tmp_path: Path, options: dict[str, str], said: str
    ) -> None:
        recipe = Recipe(str(tmp_path / "b"), "rf_lw_mbv2", size=SIZE, backend="openvino")
        with pytest.raises(InputError, match=said):
            build(replace(recipe, **options))  # type: ignore[arg-type]
