"""What `make gpu` measures and writes, on a GPU in software."""

from __future__ import annotations

from collections.abc import Callable

import machine
import numpy as np
import on_gpu
import pytest
from click.testing import CliRunner

from refinenet_edge.bench import measure
from refinenet_edge.bundle import Bundle
from refinenet_edge.runtime import backends
from tests.runtime.gpu import Gpu


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


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "gpu_problem", lambda: "no NVIDIA driver")
    result = CliRunner().invoke(on_gpu.main, [])
    assert result.exit_code == 1
    assert "tensorrt needs an NVIDIA GPU: no NVIDIA driver" in result.output


@pytest.mark.parametrize("said", ["NVIDIA H100, 580.65.06, 700.00 W, 1980 MHz", ""])
def test_the_device_is_named(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setattr(machine, "_said", lambda *_: said)
    assert machine.gpu()["name"] == ("NVIDIA H100" if said else "unknown GPU")
