"""Made-up runs with figures written down."""

from __future__ import annotations

from typing import Any

from refinenet_edge.bench.record import BenchmarkRun, Case, Machine, Measurement, Subject
from refinenet_edge.records import Identity

MACHINE = Machine("Board", "Board's CPU", 6, 8 << 30, "Linux", "3.10.12", "15W", {"refinenet_edge": "0.1"})
CASE = Case((512, 512))


def measurement(subject: str, *ms: float, case: Case = CASE) -> Measurement:
    return Measurement(subject, case, ms, {"engine": ms}, (1.0,), 1.0, "by hand")


def run(*measurements: Measurement, machine: Machine = MACHINE, miou: float | None = None, **more: Any) -> BenchmarkRun:
    names = dict.fromkeys(m.subject for m in measurements)
    identity = Identity("rf_lw_mbv2", "scenes", "fp32", "openvino", "0" * 64)
    whole = {
        "started": "2026-11-24T10:00:00+00:00",
        "command": "refinenet-edge bench",
        "commit": None,
        "machine": machine,
        "rule": "by hand",
        "frames": "none",
        "subjects": tuple(Subject(name, "bundle", identity, "openvino", miou, "scenes") for name in names),
        "measurements": measurements,
    }
    return BenchmarkRun(**{**whole, **more})
