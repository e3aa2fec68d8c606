"""What the builder makes of the rewritten networks: the kernels in TensorRT-RTX's plans.

The program text inside a plan is undocumented; where a release no longer has it, these tests skip.
"""

from __future__ import annotations

import re

import pytest
import rtx_batch
from rtx_plans import statements

from refinenet_edge import precision
from refinenet_edge.fusion import fuse
from refinenet_edge.graph import to_bytes
from refinenet_edge.runtime.tensorrt.builder import EngineOptions, build_plan
from tests.conftest import Traced

SIZE = (64, 96)


def kernels(plan: bytes) -> list[list[str]]:
    """The ONNX nodes of each kernel of a plan's main program."""
    program = statements(plan)
    if program is None:
        pytest.skip("this TensorRT-RTX keeps no program text in its plans")
    layers = [re.search(r'(?s)layers="(.*?)"', body) for body in program]
    return [re.sub(r"\[ONNX Layer: |\]|\n", " ", found[1]).split() if found else [] for found in layers]


@pytest.mark.parametrize("name", ["rf_lw_mbv2", "rf_lw_effnet_lite0", "rf_lw50", "rf50"])
@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_no_sum_of_a_multi_resolution_fusion_has_a_kernel_of_its_own(traced: Traced, name: str, kind: str) -> None:
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    model = traced(name, SIZE)
    fuse(model)
    precision.apply(model, kind)
    plan, _ = build_plan(to_bytes(model), "tensorrt-rtx", EngineOptions())
    # the sum, and the activation (a Max, or a Max and a Min) that follows it
    own = re.compile(r"mrf/Add|crp\.activation/")
    sums = [nodes for nodes in kernels(plan) if any(own.search(node) for node in nodes)]
    assert sum("mrf" in node and "/Add" in node for nodes in sums for node in nodes) >= 3
    assert any("activation" in node for nodes in sums for node in nodes)
    assert [nodes for nodes in sums if not any("Conv" in node for node in nodes)] == []


@pytest.mark.parametrize("name", ["rf_lw_mbv2", "rf_lw_effnet_lite0", "rf_lw50", "rf50"])
def test_the_ends_of_a_padded_plan_are_convolutions(traced: Traced, name: str) -> None:
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    model = traced(name, SIZE)
    fuse(model)
    precision.apply(model, "fp16")

    def ends() -> list[bool]:
        found = kernels(build_plan(to_bytes(model), "tensorrt-rtx", EngineOptions())[0])
        return [any("Conv" in node for node in found[end]) for end in (0, -1)]

    assert ends() != [True, True]
    assert precision.pad_channels(model)
    assert ends() == [True, True]


def test_a_batch_has_the_kernels_of_one_frame() -> None:
    """Launched once for all frames; each moves its own maps, and the weights are read once."""
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    one, four, free = rtx_batch.plans("rf_lw_mbv2", 21, SIZE)
    if one["kernels"] is None:
        pytest.skip("this TensorRT-RTX keeps no program text in its plans")
    assert [row["kernels"] - one["kernels"] for row in (four, free)] == pytest.approx([0, 0], abs=2)
    assert one["weight_bytes"] == four["weight_bytes"] == free["weight_bytes"]
    assert one["bytes_moved_per_frame"] > four["bytes_moved_per_frame"] > free["bytes_moved_per_frame"]
    maps = [row["bytes_moved"] - one["weight_bytes"] for row in (one, four, free)]
    assert maps == pytest.approx([maps[0], 4 * maps[0], 8 * maps[0]], rel=0.02)
