"""Plans by the real TensorRT-RTX, and the same code path on a TensorRT that has only what release 10.3 had."""

from __future__ import annotations

import _thread
import enum
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from refinenet_edge.build import build
from refinenet_edge.bundle import MODEL, PLAN, open_bundle
from refinenet_edge.errors import BuildError, MissingExtra
from refinenet_edge.fusion import parity
from refinenet_edge.model import MODELS
from refinenet_edge.precision import to_fp16
from refinenet_edge.records import EngineInfo, Profile, Recipe
from refinenet_edge.runtime.tensorrt import builder
from refinenet_edge.runtime.tensorrt.builder import EngineOptions, add_plan, build_plan, profile_for
from refinenet_edge.runtime.tensorrt.plan_header import read_header
from refinenet_edge.trace import to_bytes
from tests.conftest import onnx_model, weights
from tests.runtime.fake_tensorrt import RELEASES, surface

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

    def test_ctrl_c_cancels_the_build(self) -> None:
        phases: Phases = []

        def interrupt(*step: Any) -> None:
            phases.append(step)
            if len(phases) == 1:
                time.sleep(builder.POLL)  # the main thread waits
                _thread.interrupt_main()
                time.sleep(3 * builder.POLL)  # the main thread looks

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
        [sys.executable, "-m", "refinenet_edge.cli", *command, "--output", "made/bundle"],
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
    assert (manifest.backend, manifest.parity, manifest.command) == (
        "tensorrt-rtx",
        built.manifest.parity,
        recipe.command,
    )
    assert manifest.engine is not None
    assert manifest.engine.targets == ("sm_89",)
    assert manifest.files[MODEL] == built.manifest.files[MODEL]
    before = bundle.path_of(PLAN).read_bytes()
    with pytest.raises(BuildError, match="no target"):
        add_plan(bundle, "tensorrt-rtx", EngineOptions(("sm_1",)))
    assert open_bundle(built.path).path_of(PLAN).read_bytes() == before


def test_a_range_is_a_quarter_to_twice_the_usual_size() -> None:
    assert profile_for((512, 640)) == Profile((128, 160), (512, 640), (1024, 1280))
    assert profile_for((64, 33)) == Profile((32, 32), (64, 33), (128, 66))


# TensorRT 10.3, as JetPack 6.2 has it: its names, and an AttributeError for every other


class Strict:
    """An object whose attributes are those of its class, as the bindings' are."""

    def __setattr__(self, name: str, value: Any) -> None:
        assert hasattr(type(self), name), f"TensorRT 10.3 has no {type(self).__name__}.{name}"
        object.__setattr__(self, name, value)


class FakeMemory:
    """IHostMemory: a buffer."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bytes__(self) -> bytes:
        return self._data


class FakeTensorRt(types.ModuleType):
    """`fails`: what goes wrong; `seen`: what was asked of the builder."""

    __version__ = "10.3.0.30"
    NetworkDefinitionCreationFlag = enum.IntEnum(
        "NetworkDefinitionCreationFlag", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
    )
    MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE", "DLA_MANAGED_SRAM", "TACTIC_SHARED_MEMORY"])
    ProfilingVerbosity = enum.Enum("ProfilingVerbosity", ["LAYER_NAMES_ONLY", "NONE", "DETAILED"])
    BuilderFlag = enum.Enum("BuilderFlag", ["FP16", "INT8", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "REFIT"])
    HardwareCompatibilityLevel = enum.Enum("HardwareCompatibilityLevel", ["NONE", "AMPERE_PLUS"])
    TensorFormat = enum.IntEnum("TensorFormat", {"LINEAR": 0, "HWC8": 2})
    float16, float32 = "half", "float"

    def __init__(self, fails: str = "") -> None:
        super().__init__("tensorrt")
        self.fails = fails
        self.ends: tuple[tuple[str, tuple[int, ...]], ...] = (("half", (1, 8, 64, 96)), ("half", (1, 24, 16, 24)))
        self.seen: dict[str, Any] = {"flags": set(), "shapes": []}
        module = self

        class ILogger:
            Severity = enum.Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])

            def __init__(self) -> None:
                module.seen["logger"] = self

        class IProgressMonitor:
            def __init__(self) -> None:
                pass

        class Config(Strict):
            progress_monitor: Any = None
            profiling_verbosity: Any = None
            hardware_compatibility_level: Any = None

            def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
                module.seen["pool"] = (pool, pool_size)

            def add_optimization_profile(self, profile: Any) -> int:
                module.seen["profile"] = profile
                return 0

            def set_flag(self, flag: Any) -> None:
                module.seen["flags"].add(flag)

            def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
                module.seen["timings"] = serialized_timing_cache
                return None if serialized_timing_cache == b"damaged" else Cache()

            def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
                assert isinstance(cache, Cache)
                assert not ignore_mismatch
                return module.seen["timings"] != b"of another GPU"

        class Cache(Strict):
            def serialize(self) -> FakeMemory:
                return FakeMemory(module.seen["timings"] + b" and this build")

        class OptimizationProfile(Strict):
            def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
                module.seen["shapes"].append((input, min, opt, max))

        class Tensor(Strict):
            allowed_formats: Any = None
            dtype: Any = None
            shape: tuple[int, ...] = ()

            def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
                self.dtype, self.shape = dtype, shape

        class Network(Strict):
            num_inputs = num_outputs = 1

            def __init__(self) -> None:
                module.seen["ends"] = [Tensor(*end) for end in module.ends]

            def get_input(self, index: int) -> Tensor:
                tensor: Tensor = module.seen["ends"][index]
                return tensor

            def get_output(self, index: int) -> Tensor:
                tensor: Tensor = module.seen["ends"][1 + index]
                return tensor

        class Builder(Strict):
            def __init__(self, logger: ILogger) -> None:
                assert isinstance(logger, ILogger)

            def create_network(self, flags: int) -> Network:
                assert flags == 1 << module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
                return Network()

            def create_builder_config(self) -> Config:
                module.seen["config"] = Config()
                return module.seen["config"]

            def create_optimization_profile(self) -> OptimizationProfile:
                return OptimizationProfile()

            def build_serialized_network(self, network: Network, config: Config) -> FakeMemory | None:
                return module.run(config)

        class Error(Strict):
            def desc(self) -> str:
                return "no importer registered for op: Unheard"

            def node_name(self) -> str:
                return "refine4.crp/Unheard"

        class OnnxParser(Strict):
            num_errors = 5

            def __init__(self, network: Network, logger: ILogger) -> None:
                assert (isinstance(network, Network), isinstance(logger, ILogger)) == (True, True)

            def parse(self, model: bytes) -> bool:
                module.seen["model"] = model
                return module.fails != "parse"

            def get_error(self, index: int) -> Error:
                assert 0 <= index < 5
                return Error()

        self.ILogger, self.IProgressMonitor, self.Builder, self.OnnxParser = (
            ILogger,
            IProgressMonitor,
            Builder,
            OnnxParser,
        )
        self.kinds: dict[str, type] = {
            "IBuilderConfig": Config,
            "ITimingCache": Cache,
            "IOptimizationProfile": OptimizationProfile,
            "ITensor": Tensor,
            "INetworkDefinition": Network,
            "Builder": Builder,
            "ParserError": Error,
            "OnnxParser": OnnxParser,
        }

    def run(self, config: Any) -> FakeMemory | None:
        """The build, as its monitor and its logger see it."""
        log, severity, monitor = self.seen["logger"].log, self.ILogger.Severity, config.progress_monitor
        monitor.phase_start("Building Engine", None, 3)
        monitor.phase_start("Tactic selection", "Building Engine", 2)
        for step in range(2):
            if not monitor.step_complete("Tactic selection", step):
                log(severity.ERROR, "Build canceled by user")
                return None
        monitor.phase_finish("Tactic selection")
        monitor.phase_finish("Building Engine")
        if self.fails == "build":
            log(severity.WARNING, "Tactic requires more memory than available")
            log(severity.INTERNAL_ERROR, "first of three")
            log(severity.ERROR, "Could not find any implementation for node classifier/Conv")
            log(severity.ERROR, "Error Code 10: Internal Error")
            return None
        if self.fails == "build silently":
            return None
        log(severity.VERBOSE, "Name: one, LayerType: CaskConvolution\nName: two, LayerType: CaskConvolution")
        log(severity.INFO, "Total Activation Memory: 1024 bytes")
        log(severity.INFO, "Total Weights Memory: 512 bytes")
        return FakeMemory(b"ftrt plan")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeTensorRt]]:
    """Puts a fake TensorRT in the place of the real one."""
    before = dict(builder._loggers)

    def install(fails: str = "") -> FakeTensorRt:
        builder._loggers.pop("tensorrt", None)
        module = FakeTensorRt(fails)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        return module

    yield install
    builder._loggers.clear()
    builder._loggers.update(before)


Install = Callable[..., FakeTensorRt]


class TestTensorRt:
    @pytest.mark.parametrize("release", RELEASES)
    def test_the_fake_has_nothing_that_a_release_lacks(self, fake: Install, release: str) -> None:
        has, looked = surface(release), 0
        for name, kind in fake().kinds.items():
            for member, value in vars(kind).items():
                if member[0] == "_":
                    continue
                assert member in has[name], f"{name}.{member}"
                if inspect.isfunction(value):
                    ours = [*inspect.signature(value).parameters][1:]
                    assert any(theirs[: len(ours)] == ours for theirs in has[name][member]), f"{name}.{member}"
                looked += 1
        assert looked > 20
        trt = fake()
        for name, member in {
            "NetworkDefinitionCreationFlag": "STRONGLY_TYPED",
            "MemoryPoolType": "WORKSPACE",
            "ProfilingVerbosity": "DETAILED",
            "TensorFormat": "HWC8",
            "BuilderFlag": "VERSION_COMPATIBLE",
            "HardwareCompatibilityLevel": "AMPERE_PLUS",
        }.items():
            assert hasattr(getattr(trt, name), member)
            assert member in has[name]

    def test_a_plan_is_built(self, fake: Install) -> None:
        trt = fake()
        phases: Phases = []
        options = EngineOptions(workspace_bytes=64 << 20)
        plan, info = build_plan(b"model", "tensorrt", options, lambda *step: phases.append(step))
        assert (plan, trt.seen["model"]) == (b"ftrt plan", b"model")
        assert trt.seen["pool"] == (trt.MemoryPoolType.WORKSPACE, 64 << 20)
        assert trt.seen["config"].profiling_verbosity is trt.ProfilingVerbosity.DETAILED
        assert trt.seen["config"].hardware_compatibility_level is None
        assert (trt.seen["flags"], trt.seen["shapes"]) == (set(), [])
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
        ("dtype", "channels", "formats"), [("half", 8, 1 << 2), ("half", 3, None), ("float", 8, None)]
    )
    def test_padded_half_precision_ends_lie_channel_last(
        self, fake: Install, dtype: str, channels: int, formats: int | None
    ) -> None:
        trt = fake()
        trt.ends = ((dtype, (1, channels, -1, -1)), ("float", (1, 21, -1, -1)))
        build_plan(b"model", "tensorrt", EngineOptions())
        assert [end.allowed_formats for end in trt.seen["ends"]] == [formats, None]

    def test_the_gpu_it_was_built_on_is_noted(self, fake: Install, monkeypatch: pytest.MonkeyPatch) -> None:
        fake()
        monkeypatch.setattr(builder, "gpu_capability", lambda: "sm_87")
        assert build_plan(b"model", "tensorrt", EngineOptions())[1].targets == ("sm_87",)

    def test_the_compatibilities_are_asked_for(self, fake: Install, monkeypatch: pytest.MonkeyPatch) -> None:
        trt = fake()
        monkeypatch.setattr(builder, "gpu_capability", lambda: "sm_87")
        options = EngineOptions(version_compatible=True, hardware_compatible=True)
        _, info = build_plan(b"model", "tensorrt", options)
        assert trt.seen["flags"] == {trt.BuilderFlag.VERSION_COMPATIBLE}
        assert trt.seen["config"].hardware_compatibility_level is trt.HardwareCompatibilityLevel.AMPERE_PLUS
        assert (info.version_compatible, info.hardware_compatible, info.targets) == (True, True, ("default",))

    def test_a_plan_that_takes_other_weights(self, fake: Install) -> None:
        trt = fake()
        build_plan(b"model", "tensorrt", EngineOptions(refittable=True))
        assert trt.seen["flags"] == {trt.BuilderFlag.REFIT}

    def test_a_range_of_sizes_is_set(self, fake: Install) -> None:
        trt = fake()
        profile = Profile((32, 32), (64, 96), (128, 192))
        assert build_plan(b"model", "tensorrt", EngineOptions(profile=profile))[1].profile == profile
        assert trt.seen["shapes"] == [("image", (1, 3, 32, 32), (1, 3, 64, 96), (1, 3, 128, 192))]

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
        with pytest.raises(BuildError, match=rf"^tensorrt 10\.3\.0\.30 cannot read the graph: {said}; {said}; {said}$"):
            build_plan(b"model", "tensorrt", EngineOptions())

    def test_a_failing_build_tells_its_last_errors(self, fake: Install) -> None:
        fake("build")
        said = "Could not find any implementation for node classifier/Conv / Error Code 10: Internal Error"
        with pytest.raises(BuildError, match=rf"^tensorrt 10\.3\.0\.30 could not build the engine: {said}$"):
            build_plan(b"model", "tensorrt", EngineOptions())

    def test_a_build_that_fails_without_a_word_is_told_too(self, fake: Install) -> None:
        fake("build silently")
        with pytest.raises(BuildError, match="it gave no reason"):
            build_plan(b"model", "tensorrt", EngineOptions())

    def test_ctrl_c_cancels_the_build(self, fake: Install) -> None:
        trt = fake()
        steps: Phases = []

        def interrupt(*step: Any) -> None:
            steps.append(step)
            if len(steps) == 2:
                time.sleep(builder.POLL)  # the main thread waits
                _thread.interrupt_main()
                time.sleep(3 * builder.POLL)  # the main thread looks

        with pytest.raises(KeyboardInterrupt):
            build_plan(b"model", "tensorrt", EngineOptions(), interrupt)
        assert "Building Engine" not in [phase for phase, *_ in steps[1:]]
        assert trt.seen["logger"].errors == ["Build canceled by user"]

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
    with pytest.raises(MissingExtra, match=f"{module} cannot be imported here .*{fix}"):
        build_plan(small(), flavour, EngineOptions())


def test_a_library_that_does_not_load_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise OSError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(builder.importlib, "import_module", fail)
    with pytest.raises(MissingExtra, match=r"tensorrt cannot be imported here \(libnvinfer\.so\.10"):
        build_plan(small(), "tensorrt", EngineOptions())
