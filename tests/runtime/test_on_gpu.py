"""What `make gpu` measures and writes, on a GPU in software."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import make_gpu
import numpy as np
import on_gpu
import pytest
from click.testing import CliRunner

from refinenet_edge.bench import measure
from refinenet_edge.bundle import Bundle
from refinenet_edge.errors import BuildError
from refinenet_edge.runtime import Segmenter, backends
from refinenet_edge.runtime.cuda import Cuda
from tests.runtime.gpu import Gpu
from tests.runtime.hardware import need


def test_a_record(
    make_gpu: Callable[..., Gpu], make_plan: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "gpu_problem", lambda: "")
    monkeypatch.setattr(measure, "MAX_SECONDS", 0.1)
    monkeypatch.setattr(on_gpu, "STREAM", 5)
    bundle = make_plan(make_gpu(), "10.3")
    frames = [np.full((40, 48, 3), value, np.uint8) for value in (10, 200)]
    record = on_gpu.measured(bundle.path, "auto", frames)
    assert record["layers_ms"] == [("mix", 0.5), ("reformat", 0.25)]
    assert (record["backend"], record["provider"], record["engine"]) == ("tensorrt", "cuda-bindings", "10.3.0.30")
    assert (record["frame"], record["ended"]) == ("40x48", "0.1 s a contender")
    assert 0 < record["ms"]["p50"] <= record["ms"]["p90"] <= record["ms"]["p99"]
    assert record["samples"] > 0 < record["stream_ms"]
    assert record["memory"] is None  # there are two


@pytest.mark.parametrize("faster", ["mapped", "copied"])
def test_on_an_integrated_gpu_the_faster_memory_is_kept(
    make_gpu: Callable[..., Gpu],
    make_plan: Callable[..., Bundle],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    faster: str,
) -> None:
    """Each contender runs as what it is called, and the next session as the one that took less time."""
    monkeypatch.setattr(backends, "gpu_problem", lambda: "")
    monkeypatch.setattr(measure, "MAX_SECONDS", 0.1)
    monkeypatch.setattr(on_gpu, "STREAM", 5)
    gpu = make_gpu(integrated=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle = make_plan(gpu, "10.3")

    def single(segmenter: Segmenter, frame: np.ndarray) -> dict[str, float]:
        gpu.moved.clear()
        segmenter.segment(frame)
        return {"frame": 1.0 if ("up" in gpu.moved) == (faster == "copied") else 2.0}

    monkeypatch.setattr(on_gpu, "single", single)
    record = on_gpu.measured(bundle.path, "auto", [np.full((40, 48, 3), 10, np.uint8)])
    slower = {"mapped": "copied", "copied": "mapped"}[faster]
    memory = record["memory"]
    assert (memory["picked"], memory[f"{faster}_ms"], memory[f"{slower}_ms"]) == (faster, 1.0, 2.0)
    cuda = Cuda()
    assert (cuda.integrated, cuda.mapped) == (True, faster == "mapped")
    cuda.close()


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "gpu_problem", lambda: "no NVIDIA driver")
    result = CliRunner().invoke(on_gpu.main, [])
    assert result.exit_code == 1
    assert "tensorrt needs an NVIDIA GPU: no NVIDIA driver" in result.output


def test_one_backend_that_fails_does_not_cost_the_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both are tried, what each gave is saved as it comes, and the end is red."""
    monkeypatch.setattr(backends, "gpu_problem", lambda: "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    saved = []

    def measured(backend: str, frames: object) -> dict[str, Any]:
        saved.append(json.loads(path.read_text("utf-8"))["runs"] if path.exists() else [])
        if backend == "tensorrt":
            raise BuildError("no kernel")
        return {"backend": backend}

    monkeypatch.setattr(on_gpu, "built_and_measured", measured)
    path = tmp_path / "times.json"
    result = CliRunner().invoke(on_gpu.main, ["--out", str(path)])
    assert result.exit_code == 1
    broken = {"backend": "tensorrt", "error": "BuildError: no kernel"}
    assert saved == [[], [broken]]
    assert json.loads(path.read_text("utf-8"))["runs"] == [broken, {"backend": "tensorrt-rtx"}]


OUTCOMES = """
import pytest
def test_good(): pass
def test_bad(): assert 1 == 2
def test_skipped(): pytest.skip("tensorrt is not installed")
@pytest.fixture
def broken(): raise OSError("libnvinfer.so.10")
def test_broken(broken): pass
"""


def test_the_list_says_how_each_test_ended(tmp_path: Path) -> None:
    (tmp_path / "test_outcomes.py").write_text(OUTCOMES)
    results = tmp_path / "tests.xml"
    pytest_command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={results}", "-c", os.devnull, tmp_path]
    assert subprocess.run(pytest_command, stdout=subprocess.DEVNULL).returncode == 1
    assert [*make_gpu.tested(results)] == [
        ("passed", "1 of 4 tests"),
        ("failed", "test_outcomes::test_bad: assert 1 == 2"),
        ("failed", 'test_outcomes::test_broken: failed on setup with "OSError: libnvinfer.so.10"'),
        ("skipped", "1 tests: tensorrt is not installed"),
    ]
    (tmp_path / "test_outcomes.py").write_text(OUTCOMES[:15] + "def test_all(): pytest.skip('no GPU')")
    subprocess.run(pytest_command, stdout=subprocess.DEVNULL, check=True)
    assert next(make_gpu.tested(results)) == ("failed", "0 of 1 tests")
    assert next(make_gpu.tested(tmp_path / "none.xml"))[0] == "failed"


def test_both_halves_run_though_the_first_is_red(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    monkeypatch.setattr(machine, "_said", lambda *_: "")
    called: list[str] = []

    def run(command: list[Any], **_: Any) -> None:
        called.append(" ".join(map(str, command[1:])))
        if "gpu_kernels.py" in called[-1]:
            case = {
                "kernel": "frame to input",
                "input": "64x64",
                "frame": "8x8",
                "contenders": {"ours": {"us": [1, 2, 3]}},
            }
            Path(command[-1]).write_text(json.dumps({"cases": [case]}))
        elif "--out" in command:
            good = {"backend": "tensorrt", "engine": "10.3.0", "frame": "512x512", "ms": {"p50": 3.21}}
            bad = {"backend": "tensorrt-rtx", "error": "CudaError: no"}
            Path(command[-1]).write_text(json.dumps({"runs": [good, bad]}))

    monkeypatch.setattr(make_gpu.subprocess, "run", run)
    with pytest.raises(SystemExit) as ended:
        make_gpu.main()
    assert ended.value.code == 1
    assert [("doctor" in c, "pytest -m gpu" in c, "on_gpu.py" in c, "gpu_kernels.py" in c) for c in called] == [
        (True, False, False, False),
        (False, True, False, False),
        (False, False, True, False),
        (False, False, False, True),
    ]
    text = capsys.readouterr().out
    assert "failed  the tests did not run to their end" in text
    assert "passed  tensorrt 10.3.0: 3.21 ms a frame of 512x512" in text
    assert "failed  tensorrt-rtx: CudaError: no" in text
    assert "passed  frame to input, 64x64, 8x8: 2.0 us" in text
    assert re.search(r"Send us .*unknown-gpu: doctor.txt, frame_to_labels.json, gpu_kernels.json", text)


def test_an_installed_tensorrt_that_does_not_work_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs an NVIDIA GPU"):
        need("tensorrt")
    monkeypatch.setattr(backends, "gpu_problem", lambda: "")
    with pytest.raises(pytest.fail.Exception, match=r"tensorrt does not import .*libnvinfer\.so\.10"):
        need("tensorrt")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(pytest.skip.Exception, match="tensorrt is not installed"):
        need("tensorrt")


@pytest.mark.parametrize("said", ["NVIDIA H100, 580.65.06, 700.00 W, 1980 MHz", ""])
def test_the_device_is_named(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setattr(machine, "_said", lambda *_: said)
    assert machine.gpu()["name"] == ("NVIDIA H100" if said else "unknown GPU")
