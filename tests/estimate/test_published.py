"""The bound against published measurements: none is below it, and what was fitted to them is what the package holds."""

from __future__ import annotations

import json

import estimate_check
import pytest
from machine import RESULTS

from refinenet_edge.estimate import forecast


@pytest.fixture(scope="module")
def cases() -> list[estimate_check.Case]:
    return estimate_check.cases()


@pytest.mark.parametrize(
    ("name", "size", "gmac", "parameters"),
    [
        ("resnet18", (224, 224), 1.81, 11.69),
        ("resnet50", (224, 224), 4.09, 25.56),
        ("mobilenet_v2", (224, 224), 0.301, 3.50),
        ("vgg16_bn", (224, 224), 15.36, 14.72),
        ("yolov8n", (640, 640), 8.7 / 2, 3.16),
        ("yolov8s", (640, 640), 28.6 / 2, 11.17),
        ("yolov8m", (640, 640), 78.9 / 2, 25.90),
    ],
)
def test_the_networks_are_the_known_ones(name: str, size: tuple[int, int], gmac: float, parameters: float) -> None:
    kernels = estimate_check.kernels_of(name, "fp16", *size)
    assert sum(kernel.macs for kernel in kernels) / 1e9 == pytest.approx(gmac, rel=0.01)
    # biases and batch norms are in the published counts only
    assert sum(kernel.weights for kernel in kernels) / 2e6 == pytest.approx(parameters, rel=0.01)


def test_no_measurement_is_below_the_bound(cases: list[estimate_check.Case]) -> None:
    assert len(cases) > 100
    assert [case for case in cases if case.measured_ms < case.bound_ms] == []


def test_without_a_cache_it_were_no_bound(cases: list[estimate_check.Case]) -> None:
    (case,) = [case for case in cases if case.device == "l4" and case.precision == "fp16"]
    assert case.bound_ms < case.measured_ms < case.cacheless_ms


def test_the_package_holds_what_was_fitted(cases: list[estimate_check.Case]) -> None:
    fitted = estimate_check.fit(cases)
    assert fitted == (forecast.BOUND_FACTOR, forecast.KERNEL_CYCLES)
    assert estimate_check.spread(cases) == forecast.SPREAD
    written = json.loads((RESULTS / "estimate" / "published.json").read_text())
    assert (written["bound_factor"], written["kernel_cycles"]) == fitted
    assert tuple(written["spread"]) == forecast.SPREAD
    assert [case["measured_ms"] for case in written["cases"]] == [case.measured_ms for case in cases]
    assert [case["bound_ms"] for case in written["cases"]] == pytest.approx([case.bound_ms for case in cases])
