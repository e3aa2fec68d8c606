"""Plans by the real TensorRT-RTX, and the same code path on a TensorRT that has only what release 10.3 had."""

from __future__ import annotations

import _thread
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from refinenet_edge import precision
from refinenet_edge.build import build, parity
from refinenet_edge.bundle import MODEL, PLAN, open_bundle
from refinenet_edge.errors import BuildError, InputError, MissingExtra
from refinenet_edge.graph import to_bytes
from refinenet_edge.graph.batch import set_batch
from refinenet_edge.model import MODELS
from refinenet_edge.precision.fp16 import to_fp16
from refinenet_edge.records import Batch, EngineInfo, Profile, Recipe
from refinenet_edge.runtime import libraries
from refinenet_edge.runtime.libraries import load_library
from refinenet_edge.runtime.tensorrt import builder, library
from refinenet_edge.runtime.tensorrt.builder import EngineOptions, add_plan, build_plan, profile_for
from refinenet_edge.runtime.tensorrt.engine import read_header
from tests.conftest import onnx_model, weights
from tests.runtime.gpu import Gpu

Phases = list[tuple[str, int, int]]


def small(dtype: str = "float", size: str = "32,48", body: str = "") -> bytes:
    """Two convolutions as serialised ONNX."""
    kernels = {"w": weights(4, 3, 3, 3), "u": weights(5, 4, 1, 1), "b": weights(5)}
    if dtype == "float16":
        kernels = {name: kernel.astype(np.float16) for name, kernel in kernels.items()}
    body = body or "[one] a = Conv <pads = [1,1,1,1]> (image, w) [relu] r = Relu(a) [two] logits = Conv(r, u, b)"
    return onnx_model(body, f"{dtype}[1,3,{size}] image", f"{dtype}[1,5,{size}] logits", **kernels).SerializeToString()


def rtx(model: bytes, progress: builder.Progress | None = None, **options: Any) -> tuple[bytes, EngineInfo]:
    return build_plan(model, "tensorrt-rtx", EngineOptions(**options), progress)


@pytest.fixture
def ctrl_c(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Presses Ctrl-C on the main thread as it waits for a build, and returns when the build was told to stop.

    Both are waited for, not slept for: a busy machine may take its time.
    """
    waits, told = threading.Event(), []
    monitor = builder._monitor

    def watched_monitor(trt: Any, cancelled: threading.Event, progress: builder.Progress | None) -> Any:
        told.append(cancelled)
        return monitor(trt, cancelled, progress)

    class WatchedQueue(builder.SimpleQueue):  # type: ignore[type-arg]
        def get(self, *given: Any, **options: Any) -> Any:
            waits.set()
            return super().get(*given, **options)

    def press() -> None:
        assert waits.wait(60), "the main thread does not wait"
        _thread.interrupt_main()
        assert told[0].wait(60), "the main thread did not see Ctrl-C"

    monkeypatch.setattr(builder, "_monitor", watched_monitor)
    monkeypatch.setattr(builder, "SimpleQueue", WatchedQueue)
    return press


class TestRtx:
    @pytest.mark.parametrize("dtype", ["float", "float16"])
    def test_a_plan_comes_with_what_the_builder_says(self, tmp_path: Path, dtype: str) -> None:
        plan, info = rtx(small(dtype))
        (tmp_path / "model.plan").write_bytes(plan)
        header = read_header(tmp_path / "model.plan")
        assert (header.flavour, header.version) == (info.flavour, info.version)
        assert info.flavour == "tensorrt-rtx"
        assert info.targets == ("default",)
        assert info.layers is not None
        assert info.layers >= 2
        assert info.activation_bytes is not None
        bytes_of_weights = (3 * 4 * 9 + 4 * 5 + 5) * (2 if dtype == "float16" else 4)
        assert info.weight_bytes is not None
        assert info.weight_bytes >= bytes_of_weights
        assert info.build_seconds is not None
        assert 0 < info.build_seconds < 600
        assert info.workspace_bytes == 1 << 30

    @pytest.mark.parametrize("dtype", ["float", "float16"])
    def test_two_builds_give_the_same_plan(self, dtype: str) -> None:
        assert rtx(small(dtype))[0] == rtx(small(dtype))[0]

    def test_free_sides_need_a_range(self) -> None:
        profile = Profile((32, 32), (32, 48), (64, 96))
        plan, info = rtx(small(size="h,w"), profile=profile)
        assert info.profile == profile
        assert rtx(small(size="h,w"), profile=profile)[0] == plan
        with pytest.raises(BuildError, match=r"could not build the engine: .*no optimization profile"):
            rtx(small(size="h,w"))

    def test_a_padded_network_with_free_sides(self) -> None:
        """The profile has the channels of the network, which are 8 where it was padded for HWC8."""
        model = ir.from_proto(onnx.load_model_from_string(small("float16", size="h,w")))
        assert precision.pad_channels(model)
        profile = Profile((32, 32), (32, 48), (64, 96))
        assert rtx(to_bytes(model), profile=profile)[1].profile == profile

    @pytest.mark.parametrize("free_sides", [False, True])
    def test_a_free_batch_needs_a_range_too(self, free_sides: bool) -> None:
        size = "h,w" if free_sides else "32,48"
        graph = onnx.load_model_from_string(small("float16", size=size))
        profile = Profile((32, 32), (32, 48), (64, 96)) if free_sides else None
        model = set_batch(ir.from_proto(graph), batch := Batch(1, 4, 8))
        assert rtx(to_bytes(model), profile=profile, batch=batch)[1].profile == profile
        with pytest.raises(BuildError, match=r"could not build the engine"):
            rtx(to_bytes(model))

    def test_a_session_that_was_opened_before_leaves_the_builder_its_words(self) -> None:
        """In a process of its own: the first logger of a process stays."""
        code = (
            "import sys, tensorrt_rtx as trt\n"
            "from refinenet_edge.runtime.tensorrt import builder, library\n"
            "runtime = trt.Runtime(library.logger_of(trt))\n"
            "plan, info = builder.build_plan(sys.stdin.buffer.read(), 'tensorrt-rtx', builder.EngineOptions())\n"
            "print(info.layers, info.weight_bytes)"
        )
        done = subprocess.run([sys.executable, "-c", code], input=small(), capture_output=True, check=True)
        layers, weight_bytes = done.stdout.decode().split()
        assert int(layers) >= 2
        assert int(weight_bytes) > 0

    def test_float32_is_not_rounded_to_tf32(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module, flags = load_library("tensorrt-rtx"), []
        build = module.Builder.build_serialized_network

        def look(self: Any, network: Any, config: Any) -> Any:
            flags.append(config.get_flag(module.BuilderFlag.TF32))
            return build(self, network, config)

        assert module.Builder(library.logger_of(module)).create_builder_config().get_flag(module.BuilderFlag.TF32)
        monkeypatch.setattr(module.Builder, "build_serialized_network", look)
        rtx(small())
        assert flags == [False]

    def test_a_range_that_does_not_fit_is_refused(self) -> None:
        with pytest.raises(BuildError, match="could not build the engine"):
            rtx(small(), profile=Profile((64, 64), (64, 64), (64, 64)))

    def test_a_plan_for_several_gpus(self) -> None:
        both, info = rtx(small(), targets=("sm_89", "sm_120"))
        assert info.targets == ("sm_89", "sm_120")
        assert both != rtx(small(), targets=("sm_89",))[0]

    @pytest.mark.parametrize("target", ["sm_12", "sm_999", "SM89", "89", "sm_8_9", ""])
    def test_an_unknown_target_is_refused_with_those_there_are(self, target: str) -> None:
        with pytest.raises(BuildError, match=rf"no target '{target}'; tensorrt_rtx \S+ has .*sm_120.*sm_89"):
            rtx(small(), targets=("sm_89", target))

    def test_every_listed_target_is_taken(self) -> None:
        with pytest.raises(BuildError) as caught:
            rtx(small(), targets=("none",))
        targets = tuple(str(caught.value).partition(" has ")[2].split(", "))
        assert {"sm_75", "sm_80", "sm_86", "sm_89", "sm_120"} <= set(targets)
        assert rtx(small(), targets=targets)[1].targets == targets

    @pytest.mark.parametrize("data", [b"garbage" * 20, small()[:150]], ids=["garbage", "cut"])
    def test_bytes_that_are_no_onnx_are_refused_with_the_reason(self, data: bytes) -> None:
        with pytest.raises(BuildError, match=r"tensorrt_rtx \S+ cannot read the graph: .*[Ff]ailed to parse"):
            rtx(data)

    def test_no_bytes_are_refused(self) -> None:
        with pytest.raises(BuildError, match="tensorrt_rtx"):
            rtx(b"")

    def test_an_unsupported_operator_is_refused_by_its_node(self) -> None:
        model = onnx.load_model_from_string(small())
        model.graph.node[1].op_type, model.graph.node[1].name = "Unheard", "refine4.crp/Unheard"
        with pytest.raises(BuildError, match=r"cannot read the graph: refine4\.crp/Unheard: "):
            rtx(model.SerializeToString())

    def test_a_small_workspace_is_refused(self) -> None:
        with pytest.raises(BuildError, match="a workspace of 16777215 bytes is too small: at least 16 MiB"):
            rtx(small(), workspace_bytes=(16 << 20) - 1)
        assert rtx(small(), workspace_bytes=16 << 20)[1].workspace_bytes == 16 << 20

    @pytest.mark.parametrize(
        ("option", "what"),
        [
            ({"version_compatible": True}, "version-compatible plans"),
            ({"hardware_compatible": True}, r"hardware-compatible plans \(give several --target instead\)"),
            ({"timing_cache": Path("cache")}, "a timing cache"),
        ],
    )
    def test_what_it_does_not_have_is_refused(self, option: Any, what: str) -> None:
        with pytest.raises(BuildError, match=f"TensorRT-RTX has no {what}"):
            rtx(small(), **option)

    def test_progress_is_told(self) -> None:
        phases: Phases = []
        rtx(small(), lambda *step: phases.append(step))
        assert len({name for name, _, _ in phases}) > 1
        assert all(done >= 0 for _, done, _ in phases)
        assert any(done and done <= steps for _, done, steps in phases)

    def test_one_failure_is_not_told_of_the_next_build(self) -> None:
        with pytest.raises(BuildError):
            rtx(small(size="h,w"))
        with pytest.raises(BuildError, match="cannot read the graph") as caught:
            rtx(b"garbage" * 20)
        assert "profile" not in str(caught.value)
        assert rtx(small())[1].layers == rtx(small())[1].layers

    def test_ctrl_c_cancels_the_build(self, ctrl_c: Callable[[], None]) -> None:
        phases: Phases = []

        def interrupt(*step: Any) -> None:
            phases.append(step)
            if len(phases) == 1:
                ctrl_c()

        threads = threading.active_count()
        with pytest.raises(KeyboardInterrupt):
            rtx(small(), interrupt)
        assert threading.active_count() == threads
        complete: Phases = []
        rtx(small(), lambda *step: complete.append(step))
        assert len(phases) < len(complete) / 2


def deep(layers: int) -> bytes:
    """A network that takes its builder a while."""
    body = " ".join(f"v{n + 1} = Conv <pads = [1,1,1,1]> (v{n}, w{n})" for n in range(layers))
    kernels = {f"w{n}": weights(96, 96, 3, 3, seed=n) / 30 for n in range(layers)}
    return onnx_model(
        f"v0 = Conv(image, stem) {body} logits = Relu(v{layers})",
        "float[1,3,8,8] image",
        "float[1,96,8,8] logits",
        stem=weights(96, 3, 1, 1),
        **kernels,
    ).SerializeToString()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_on_the_command_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "deep.onnx").write_bytes(deep(250))
    command = ["build", "--debug", "--onnx", "deep.onnx", "--size", "8x8", "--backend", "tensorrt-rtx"]
    process = subprocess.Popen(
        [sys.executable, "-m", "refinenet_edge.cli", *command, "--out", "made/bundle"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(Path(builder.__file__).parents[3])},
    )
    with process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "tensorrt_rtx: " in line:
                break
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        said += process.communicate(timeout=60)[1].splitlines()
    assert time.monotonic() - sent < 30, "the builder did not stop"
    assert process.returncode == 130, "".join(said[-20:])
    assert said[-1] == "interrupted; nothing was left half-written"
    assert [path.name for path in tmp_path.rglob("*")] == ["deep.onnx"]


@pytest.mark.parametrize("name", MODELS)
def test_every_network_becomes_plans_in_both_precisions(tmp_path: Path, name: str) -> None:
    """fp32 by the whole pipeline; fp16 from the graph in its bundle, as `plan` would on a device."""
    folder = tmp_path / name
    built = build(Recipe(str(folder), name, size=(64, 64), backend="tensorrt-rtx", labels="voc"))
    try:
        assert [(p.stage, p.relative_error < parity.BOUND) for p in built.manifest.parity] == [("fused", True)] * 2
        assert read_header(folder / PLAN).flavour == "tensorrt-rtx"
        info, size = built.manifest.engine, (folder / PLAN).stat().st_size
        graph = (folder / MODEL).read_bytes()
    finally:
        for path in folder.iterdir():  # a gigabyte for the deep ones
            path.unlink()
    frames = {"random": weights(1, 3, 64, 64)}
    expected = parity.logits(graph, frames)
    typed = to_bytes(to_fp16(ir.from_proto(onnx.load_model_from_string(graph))))
    half, half_info = rtx(typed)
    (measured,) = parity.compare("fp16", expected, parity.logits(typed, frames))
    assert measured.relative_error < 0.02
    for stated in (info, half_info):
        assert stated is not None
        assert None not in (stated.layers, stated.activation_bytes, stated.weight_bytes)
    assert info is not None
    assert info.layers == half_info.layers
    assert len(half) < 0.6 * size


def test_a_plan_is_added_to_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "theirs.onnx").write_bytes(small())
    recipe = Recipe(str(tmp_path / "bundle"), onnx=str(tmp_path / "theirs.onnx"), size=(32, 48), backend="onnxruntime")
    built = build(recipe)
    manifest = add_plan(open_bundle(built.path), "tensorrt-rtx", EngineOptions(("sm_89",)))
    bundle = open_bundle(built.path)
    assert bundle.manifest == manifest
    assert (manifest.backend, manifest.parity) == ("tensorrt-rtx", built.manifest.parity)
    assert manifest.recipe == replace(recipe, backend="tensorrt-rtx", target=("sm_89",))
    assert manifest.engine is not None
    assert manifest.engine.targets == ("sm_89",)
    assert manifest.files[MODEL] == built.manifest.files[MODEL]
    before = bundle.read(PLAN)
    with pytest.raises(BuildError, match="no target"):
        add_plan(bundle, "tensorrt-rtx", EngineOptions(("sm_1",)))
    assert open_bundle(built.path).read(PLAN) == before


@pytest.mark.parametrize("batch", ["4", "1:4:8"])
def test_a_plan_takes_as_many_frames_as_its_bundle(tmp_path: Path, batch: str) -> None:
    (tmp_path / "theirs.onnx").write_bytes(small())
    recipe = Recipe(str(tmp_path / "bundle"), onnx=str(tmp_path / "theirs.onnx"), size=(32, 48), backend="onnxruntime")
    built = build(replace(recipe, batch=Batch.parse(batch)))
    assert add_plan(open_bundle(built.path), "tensorrt-rtx", EngineOptions()).batch == Batch.parse(batch)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_int8_that_was_placed_for_a_cpu_gets_no_plan(make_bundle: Any, backend: str) -> None:
    bundle = make_bundle(precision="int8", backend=backend)
    with pytest.raises(InputError, match=f"INT8 as {backend} takes it.*build it with --backend tensorrt"):
        add_plan(bundle, "tensorrt-rtx", EngineOptions())


def test_what_a_plan_was_built_with_is_in_the_recipe_that_builds_it_again() -> None:
    recipe = Recipe("engines/x", "rf50", size=(512, 512), dynamic=True, precision="int8", calib="x.json", force=False)
    options = EngineOptions((), 256 << 20, profile_for((384, 640)), Path("timings"))
    planned = builder._planned(recipe, "tensorrt", options)
    assert planned == replace(recipe, backend="tensorrt", size=(384, 640), workspace_mib=256, timing_cache="timings")
    # in TensorRT-RTX quantising is built only by force
    assert builder._planned(recipe, "tensorrt-rtx", EngineOptions(("sm_89",))) == replace(
        recipe, backend="tensorrt-rtx", target=("sm_89",), force=True
    )


def test_a_range_is_a_quarter_to_twice_the_usual_size() -> None:
    assert profile_for((512, 640)) == Profile((128, 160), (512, 640), (1024, 1280))
    assert profile_for((64, 33)) == Profile((32, 32), (64, 33), (128, 66))


# TensorRT as it is on a device: what every release has, and an AttributeError for all else


@pytest.fixture
def fake(make_tensorrt: Callable[..., Any]) -> Callable[..., Any]:
    """Puts a fake TensorRT in the place of the real one."""

    def install(fails: str = "") -> Any:
        module = make_tensorrt(Gpu())
        module.fails = fails
        module.messages = MESSAGES if fails == "build" else ()
        return module

    return install


Install = Callable[..., Any]
MESSAGES = (
    ("WARNING", "Tactic requires more memory than available"),
    ("INTERNAL_ERROR", "first of three"),
    ("ERROR", "Could not find any implementation for node classifier/Conv"),
    ("ERROR", "Error Code 10: Internal Error"),
)


class TestTensorRt:
    def test_a_plan_is_built(self, fake: Install) -> None:
        trt = fake()
        phases: Phases = []
        options = EngineOptions(workspace_bytes=64 << 20)
        plan, info = build_plan(b"model", "tensorrt", options, lambda *step: phases.append(step))
        assert (plan, trt.seen["model"]) == (b"ftrt plan", b"model")
        assert trt.seen["pool"] == (trt.MemoryPoolType.WORKSPACE, 64 << 20)
        assert trt.seen["config"].profiling_verbosity is trt.ProfilingVerbosity.DETAILED
        assert trt.seen["config"].hardware_compatibility_level is None
        assert (trt.seen["flags"], trt.seen["shapes"]) == (set(), [])  # TF32, which is on by default, too
        assert (info.flavour, info.version, info.targets) == ("tensorrt", "10.3.0.30", ("default",))
        assert (info.layers, info.activation_bytes, info.weight_bytes) == (2, 1024, 512)
        assert phases == [
            ("Building Engine", 0, 3),
            ("Tactic selection", 0, 2),
            ("Tactic selection", 0, 2),
            ("Tactic selection", 1, 2),
            ("Tactic selection", 2, 2),
            ("Building Engine", 3, 3),
        ]

    @pytest.mark.parametrize(
        ("dtype", "channels", "formats"), [("half", 8, "HWC8"), ("half", 3, None), ("float", 8, None)]
    )
    def test_padded_half_precision_ends_lie_channel_last(
        self, fake: Install, dtype: str, channels: int, formats: str | None
    ) -> None:
        trt = fake()
        trt.ends = ((dtype, (1, channels, -1, -1)), ("float", (1, 21, -1, -1)))
        build_plan(b"model", "tensorrt", EngineOptions())
        wanted = 1 << trt.TensorFormat[formats] if formats else None
        assert [end.allowed_formats for end in trt.seen["ends"]] == [wanted, None]

    def test_the_gpu_it_was_built_on_is_noted(self, fake: Install, monkeypatch: pytest.MonkeyPatch) -> None:
        fake()
        monkeypatch.setattr(builder, "gpu_capability", lambda: "sm_87")
        assert build_plan(b"model", "tensorrt", EngineOptions())[1].targets == ("sm_87",)

    def test_the_compatibilities_are_asked_for(self, fake: Install, monkeypatch: pytest.MonkeyPatch) -> None:
        trt = fake()
        monkeypatch.setattr(builder, "gpu_capability", lambda: "sm_87")
        options = EngineOptions(version_compatible=True, hardware_compatible=True)
        _, info = build_plan(b"model", "tensorrt", options)
        assert trt.seen["flags"] == {"VERSION_COMPATIBLE"}
        assert trt.seen["config"].hardware_compatibility_level is trt.HardwareCompatibilityLevel.AMPERE_PLUS
        assert (info.version_compatible, info.hardware_compatible, info.targets) == (True, True, ("default",))

    def test_a_range_of_sizes_is_set(self, fake: Install) -> None:
        trt = fake()
        profile = Profile((32, 32), (64, 96), (128, 192))
        for channels in (8, 3):  # of a padded network, and of any other
            trt.ends = (("half", (1, channels, -1, -1)), ("half", (1, 24, -1, -1)))
            assert build_plan(b"model", "tensorrt", EngineOptions(profile=profile))[1].profile == profile
            sizes = ((1, channels, *size) for size in ((32, 32), (64, 96), (128, 192)))
            assert trt.seen["shapes"] == [("image", *sizes)]

    @pytest.mark.parametrize("sides", [(-1, -1), (64, 96)])
    def test_so_is_one_of_frames_at_once(self, fake: Install, sides: tuple[int, int]) -> None:
        trt = fake()
        trt.ends = (("half", (-1, 8, *sides)), ("half", (-1, 24, 16, 24)))
        profile = Profile((32, 32), (64, 96), (128, 192)) if sides == (-1, -1) else None
        build_plan(b"model", "tensorrt", EngineOptions(profile=profile, batch=Batch(1, 4, 8)))
        sizes = ((32, 32), (64, 96), (128, 192)) if profile else 3 * ((64, 96),)
        shapes = ((frames, 8, *size) for frames, size in zip((1, 4, 8), sizes, strict=True))
        assert trt.seen["shapes"] == [("image", *shapes)]

    @pytest.mark.parametrize("free_sides", [False, True])
    def test_a_fixed_number_of_frames_is_in_the_range_of_sizes_alone(self, fake: Install, free_sides: bool) -> None:
        trt = fake()
        sides = (-1, -1) if free_sides else (64, 96)
        trt.ends = (("half", (4, 8, *sides)), ("half", (4, 24, 16, 24)))
        profile = Profile((32, 32), (64, 96), (128, 192)) if free_sides else None
        build_plan(b"model", "tensorrt", EngineOptions(profile=profile, batch=Batch(4, 4, 4)))
        ranges = [("image", (4, 8, 32, 32), (4, 8, 64, 96), (4, 8, 128, 192))]
        assert trt.seen["shapes"] == (ranges if free_sides else [])

    def test_timings_are_kept(self, fake: Install, tmp_path: Path) -> None:
        trt = fake()
        options = EngineOptions(timing_cache=tmp_path / "timings")
        build_plan(b"model", "tensorrt", options)
        assert trt.seen["timings"] == b""
        assert (tmp_path / "timings").read_bytes() == b" and this build"
        build_plan(b"model", "tensorrt", options)
        assert trt.seen["timings"] == b" and this build"
        assert [path.name for path in tmp_path.iterdir()] == ["timings"]

    @pytest.mark.parametrize("timings", [b"damaged", b"of another GPU"])
    def test_timings_that_do_not_fit_are_refused_and_kept(self, fake: Install, tmp_path: Path, timings: bytes) -> None:
        fake()
        path = tmp_path / "timings"
        path.write_bytes(timings)
        with pytest.raises(BuildError, match="timings is damaged, or of another TensorRT or GPU: delete it"):
            build_plan(b"model", "tensorrt", EngineOptions(timing_cache=path))
        assert path.read_bytes() == timings

    def test_timings_that_cannot_be_read_or_written_are_refused(self, fake: Install, tmp_path: Path) -> None:
        fake()
        with pytest.raises(BuildError, match="cannot be read"):
            build_plan(b"model", "tensorrt", EngineOptions(timing_cache=tmp_path))
        with pytest.raises(BuildError, match="cannot be written"):
            build_plan(b"model", "tensorrt", EngineOptions(timing_cache=tmp_path / "no" / "timings"))

    def test_a_failing_build_keeps_the_timings(self, fake: Install, tmp_path: Path) -> None:
        fake("build")
        with pytest.raises(BuildError):
            build_plan(b"model", "tensorrt", EngineOptions(timing_cache=tmp_path / "timings"))
        assert not list(tmp_path.iterdir())

    def test_what_the_parser_says_is_told_with_its_nodes(self, fake: Install) -> None:
        fake("parse")
        said = "refine4.crp/Unheard: no importer registered for op: Unheard"
        all_of_it = rf"^tensorrt 10\.3\.0\.30 cannot read the graph: {said}; {said}; {said}; export it"
        with pytest.raises(BuildError, match=all_of_it):
            build_plan(b"model", "tensorrt", EngineOptions())

    def test_a_failing_build_tells_its_last_errors(self, fake: Install) -> None:
        fake("build")
        said = "Could not find any implementation for node classifier/Conv / Error Code 10: Internal Error"
        with pytest.raises(BuildError, match=rf"^tensorrt 10\.3\.0\.30 could not build the engine: {said}$"):
            build_plan(b"model", "tensorrt", EngineOptions())

    def test_a_build_that_fails_without_a_word_is_told_too(self, fake: Install) -> None:
        fake("build without a word")
        with pytest.raises(BuildError, match="it gave no reason"):
            build_plan(b"model", "tensorrt", EngineOptions())

    def test_ctrl_c_cancels_the_build(
        self, fake: Install, caplog: pytest.LogCaptureFixture, ctrl_c: Callable[[], None]
    ) -> None:
        caplog.set_level("INFO")
        fake()
        steps: Phases = []

        def interrupt(*step: Any) -> None:
            steps.append(step)
            if len(steps) == 2:
                ctrl_c()

        with pytest.raises(KeyboardInterrupt):
            build_plan(b"model", "tensorrt", EngineOptions(), interrupt)
        assert "Building Engine" not in [phase for phase, *_ in steps[1:]]
        assert "Build canceled by user" in caplog.text

    def test_int8_that_this_gpu_cannot_have_says_what_to_build(self, fake: Install) -> None:
        trt = fake("build of INT8")
        trt.messages = (
            # as NVIDIA/TensorRT issue 4832 has it, of 10.16.2 on Orin
            (
                "ERROR",
                "Error Code: 9: Skipping tactic 0x0000000000000000 due to exception [type.cpp:186: infer_type] Could "
                "not infer output types for operation:\n291: dequantize: Dequantized input0-(f32[1,16,512,512]) | "
                "input0 reshape out_transpose_out\nreshape out slice_U28 out-(i8[]), MyelinPW(42188) - Input "
                "Dequantization 0 scale\nweightsHalf-0.35498H:(f16[]), stream = 0, "
                "No matching rules found for input operand types",
            ),
            *MESSAGES[2:],
        )
        with pytest.raises(BuildError, match=r"Internal Error; this TensorRT cannot build INT8 .*--precision fp16$"):
            build_plan(b"model", "tensorrt", EngineOptions())
        trt.messages = MESSAGES  # any other failure
        with pytest.raises(BuildError, match=r"Internal Error$"):
            build_plan(b"model", "tensorrt", EngineOptions())

    def test_timings_that_tensorrt_does_not_give_cost_no_plan(self, fake: Install, tmp_path: Path) -> None:
        fake("serialize")
        assert build_plan(b"model", "tensorrt", EngineOptions(timing_cache=tmp_path / "timings"))[0] == b"ftrt plan"
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("made", ["Runtime", "Builder"])
    def test_the_first_logger_of_the_process_gets_what_a_build_says(
        self, fake: Install, made: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        trt = fake("build")
        getattr(trt, made)(library.logger_of(trt))  # by a session that is opened before, say
        with pytest.raises(BuildError, match="could not build the engine: Could not find any implementation"):
            build_plan(b"model", "tensorrt", EngineOptions())
        assert not [record for record in caplog.records if record.levelno > logging.INFO]  # the exception says it
        trt.fails = ""
        assert build_plan(b"model", "tensorrt", EngineOptions())[1].weight_bytes == 512
        trt.say("ERROR", "not of a build")
        assert [record.message for record in caplog.records if record.levelno > logging.INFO] == [
            "tensorrt: not of a build"
        ]

    def test_targets_are_refused(self, fake: Install) -> None:
        fake()
        with pytest.raises(BuildError, match="TensorRT builds for the GPU it runs on: leave --target out"):
            build_plan(b"model", "tensorrt", EngineOptions(targets=("sm_87",)))


@pytest.mark.parametrize(
    ("flavour", "module", "fix"),
    [("tensorrt", "tensorrt", "JetPack"), ("tensorrt-rtx", "tensorrt_rtx", r"pip install 'refinenet-edge\[rtx\]'")],
)
def test_a_library_that_is_not_there_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, flavour: Any, module: str, fix: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=f"{module} (is not installed|does not import).*{fix}"):
        build_plan(small(), flavour, EngineOptions())


def test_a_library_that_does_not_load_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise OSError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(libraries.importlib, "import_module", fail)
    with pytest.raises(MissingExtra, match=r"tensorrt does not import \(OSError: libnvinfer\.so\.10"):
        build_plan(small(), "tensorrt", EngineOptions())
