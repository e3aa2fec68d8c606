"""Bounds of kernels on a device of round figures."""

from __future__ import annotations

import dataclasses

import pytest

from refinenet_edge.errors import GraphError
from refinenet_edge.estimate.bound import Bound, bound
from refinenet_edge.estimate.devices import Device
from refinenet_edge.estimate.forecast import expected
from refinenet_edge.estimate.kernels import Kernel

MIB = 1 << 20
DEVICE = Device(
    title="round",
    mode="",
    sm="sm_87",
    gpu_mhz=1000,
    tensor_tflops={"fp16": 8.0, "int8": 16.0},
    cuda_tflops={"fp32": 1.0, "fp16": 2.0},
    bandwidth_gbs=1.0,
    cache_mib=1 / MIB,  # a byte
    memory_gb=1,
    source=("made up",),
)
GIGA = 10**9


def of(*kernels: Kernel, device: Device = DEVICE) -> Bound:
    return bound(kernels, "fp16", device)


def test_the_slower_of_arithmetic_and_memory() -> None:
    computes = Kernel("a", macs=4 * GIGA, maps=500_001)  # 1 ms and 0.5 ms
    moves = Kernel("b", macs=2 * GIGA, maps=2_000_001)  # 0.5 ms and 2 ms
    found = of(computes, moves)
    assert found.ms == pytest.approx(3.0)
    assert found.frames_per_second == pytest.approx(1000 / 3)
    assert [(block.block, block.ms, block.bound_by) for block in found.blocks] == [
        ("a", pytest.approx(1.0), "compute"),
        ("b", pytest.approx(2.0), "memory"),
    ]


def test_a_block_is_the_sum_over_its_kernels() -> None:
    computes, moves = Kernel("a", macs=4 * GIGA, maps=500_001), Kernel("a", macs=2 * GIGA, maps=2_000_001)
    (block,) = of(computes, moves).blocks
    # not max(1.5, 2.5): a kernel ends before the next begins
    assert block.ms == pytest.approx(3.0)
    assert (block.kernels, block.macs, block.bytes, block.bound_by) == (2, 6 * GIGA, 2_500_000, "memory")


@pytest.mark.parametrize(
    ("kernel", "ms"),
    [
        (Kernel("a", GIGA, "fp16"), 2 / 8),
        (Kernel("a", GIGA, "int8"), 2 / 16),
        (Kernel("a", GIGA, "fp32"), 2 / 1),  # no TF32 there
        (Kernel("a", GIGA, "fp16", tensor_cores=False), 2 / 2),
        (Kernel("a", GIGA, "int8", tensor_cores=False), 2 / 2),
        (Kernel("a", GIGA, "fp32", winograd=True), 2 / 2.25),
        (Kernel("a", GIGA, "fp16", winograd=True), 2 / 8),  # 2 · 2.25 on CUDA cores is less
    ],
)
def test_the_rate_is_that_of_the_units_that_can(kernel: Kernel, ms: float) -> None:
    assert of(kernel).ms == pytest.approx(ms)


def test_float32_may_run_as_tf32() -> None:
    device = dataclasses.replace(DEVICE, tensor_tflops={"tf32": 4.0})
    assert of(Kernel("a", GIGA, "fp32"), device=device).ms == pytest.approx(2 / 4)
    # the fewer multiplications of a 3x3 convolution are weighed against it
    slow = dataclasses.replace(DEVICE, tensor_tflops={"tf32": 2.0})
    assert of(Kernel("a", GIGA, "fp32", winograd=True), device=slow).ms == pytest.approx(2 / 2.25)


def test_the_cache_is_taken_off_maps_once_and_off_all_weights() -> None:
    device = dataclasses.replace(DEVICE, cache_mib=1)
    first = Kernel("a", maps=3 * MIB, weights=1 * MIB)
    second = Kernel("b", maps=MIB // 2, weights=3 * MIB)
    a, b = of(first, second, device=device).blocks
    assert a.bytes == 2 * MIB + 3 * MIB // 4  # 1 of 4 MiB of weights stays
    assert b.bytes == 0 + 9 * MIB // 4


def test_what_fits_costs_no_memory() -> None:
    device = dataclasses.replace(DEVICE, cache_mib=8)
    found = of(Kernel("a", macs=4 * GIGA, maps=6 * MIB, weights=MIB), device=device)
    assert found.ms == pytest.approx(1.0)
    assert found.blocks[0].bytes == 0


def test_a_link_adds_up_and_counts_only_where_there_is_one() -> None:
    upload = Kernel("frame", maps=1_000_001, link=4_000_000)
    assert of(upload).ms == pytest.approx(1.0)
    (block,) = of(upload, device=dataclasses.replace(DEVICE, link_gbs=2.0)).blocks
    assert (block.ms, block.link_bytes, block.bound_by) == (pytest.approx(3.0), 4_000_000, "link")


KERNELS = (
    Kernel("frame", maps=3 * MIB, link=MIB),
    Kernel("a", 90 * GIGA, "fp16", maps=2 * MIB, weights=2 * MIB),
    Kernel("a", GIGA, "int8", maps=MIB, weights=MIB),
    Kernel("b", 20 * GIGA, "fp16", tensor_cores=False, maps=8 * MIB, weights=64),
    Kernel("c", 5 * GIGA, "fp32", winograd=True, maps=MIB, weights=5 * MIB),
)


@pytest.mark.parametrize("field", ["tensor_tflops", "cuda_tflops", "bandwidth_gbs", "cache_mib", "link_gbs", "gpu_mhz"])
def test_a_better_device_is_never_slower(field: str) -> None:
    device = dataclasses.replace(DEVICE, link_gbs=2.0, cache_mib=1)
    value = getattr(device, field)
    better = {name: 2 * rate for name, rate in value.items()} if isinstance(value, dict) else 2 * value
    before, after = of(*KERNELS, device=device), of(*KERNELS, device=dataclasses.replace(device, **{field: better}))
    assert after.expected_ms < before.expected_ms
    assert after.ms < before.ms or field == "gpu_mhz"
    for one, other in zip(before.blocks, after.blocks, strict=True):
        assert other.ms <= one.ms


def test_expected_counts_the_kernels_and_stays_above_the_bound() -> None:
    fast, slow = DEVICE, dataclasses.replace(DEVICE, gpu_mhz=500)
    for ms in (0.001, 1.0, 100.0):
        for kernels in (0, 1, 100):
            low, middle, high = expected(ms, kernels, fast)
            assert ms <= low < middle < high
            assert expected(ms, kernels + 1, fast) > (low, middle, high)
            assert kernels == 0 or expected(ms, kernels, slow)[1] > middle


def test_nothing_has_no_bound() -> None:
    with pytest.raises(GraphError, match="nothing to bound"):
        of(Kernel("a", maps=1))


def test_frames_at_once_share_launches_and_weights() -> None:
    """Maps, multiplications and what crosses the link are each frame's own."""
    device = dataclasses.replace(DEVICE, link_gbs=1.0)
    kernels = [Kernel("a", macs=GIGA, maps=400_000, weights=2_000_000), Kernel("b", maps=1_000_000, link=500_000)]
    one, four = (bound(kernels, "fp16", device, batch) for batch in (1, 4))
    assert [block.bytes for block in four.blocks] == [400_000 + 2_000_000 // 4 - 1, 1_000_000 - 1]
    assert four.ms == pytest.approx(0.9 + 1.0 + 0.5, rel=1e-4)
    assert one.ms == pytest.approx(2.4 + 1.0 + 0.5, rel=1e-4)
    assert four.frames_per_second == pytest.approx(1000 / 2.4, rel=1e-4)
    assert expected(four.ms, 2, device, 4)[1] == four.expected_ms[1] < expected(four.ms, 2, device)[1]
