"""Made-up benchmarks: figures that can be worked out in the head."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import numpy as np

from refinenet_edge.bench.record import (
    BenchmarkRun,
    Case,
    Example,
    Layer,
    LiveRun,
    Machine,
    Measurement,
    Power,
    Start,
    Subject,
)
from refinenet_edge.frames.images import encode_image
from refinenet_edge.records import Identity, Labels

CLASSES = Labels("pets", ("nothing", "cat", "dog"), ((0, 0, 0), (255, 0, 0), (0, 0, 255)))
SMALL, LARGE = Case((512, 512)), Case((1024, 2048), batch=4)
HASH = "5f" * 32
MS = tuple(20.0 + run % 5 for run in range(20))  # min 20, p50 22, p90, p99 and max 24
MACHINE = Machine(
    device="Some board",
    cpu="Some CPU",
    cores=6,
    memory_bytes=8 << 30,
    system="Linux 6.1",
    python="3.11.7",
    power_mode="15W",
    versions={"refinenet_edge": "0.1", "numpy": "2.4"},
)


def subject(name: str, precision: str, miou: float | None = None, **changes: Any) -> Subject:
    identity = Identity(changes.pop("model", "rf_lw_mbv2"), "scenes", precision, "openvino", HASH)
    given = Subject(name, "bundle", identity, "openvino", miou)
    return replace(given, judge=None if miou is None else "scenes:1:20", **changes)


def measured(name: str, times: float, case: Case = SMALL, **changes: Any) -> Measurement:
    """`MS` times `times`, two thirds of it in the engine and a third in the head."""
    ms = tuple(times * value for value in MS)
    stages = {"head": tuple(value / 3 for value in ms), "engine": tuple(2 * value / 3 for value in ms)}
    return replace(Measurement(name, case, ms, stages, (90.0, 30.0), 1000 / ms[2], "20 rounds"), **changes)


def run(**changes: Any) -> BenchmarkRun:
    """Two subjects, the second twice as fast and 0.3 points of mIoU worse; nothing else was asked."""
    given = BenchmarkRun(
        started="2026-11-24T10:00:00+00:00",
        command="refinenet-edge bench engines/fp32 engines/int8 -o result.json",
        commit="c0ffee",
        machine=MACHINE,
        rule="20 rounds",
        frames="scenes:1:20",
        subjects=(subject("fp32", "fp32", 0.615), subject("int8", "int8", 0.612)),
        measurements=(measured("fp32", 1.0), measured("int8", 0.5)),
    )
    return replace(given, **changes)


def picture(image: Any, suffix: str = ".png") -> str:
    return base64.b64encode(encode_image(np.asarray(image, np.uint8), "made up", suffix)).decode()


def example(**changes: Any) -> Example:
    """A frame of 40x50; fp32 is wrong in 5 of its columns, 20 are void, and int8 differs from it in 10."""
    truth, fp32 = np.zeros((40, 50)), np.zeros((40, 50))
    truth[:, :20], truth[:, 20:30] = 255, 1
    fp32[:, 25:30] = 1
    int8 = fp32.copy()
    int8[:, :10] = 2
    frame = np.full((40, 50, 3), 150)
    labels = {"fp32": picture(fp32), "int8": picture(int8)}
    return replace(Example(picture(frame, ".jpg"), picture(truth), labels), **changes)


def judged_run(**changes: Any) -> BenchmarkRun:
    """IoU of three classes, of which one is nowhere to be seen, and an example; a baseline that nobody judged."""
    subjects = (
        subject("fp32", "fp32", 0.615, iou=(0.73, 0.5, None)),
        subject("int8", "int8", 0.612, iou=(0.724, 0.5, None)),
        subject("peer", "fp32"),
    )
    return replace(run(subjects=subjects, classes=CLASSES, examples=(example(),)), **changes)


def full_run(**changes: Any) -> BenchmarkRun:
    """Everything that a run can hold."""
    given = run(
        measurements=(
            measured("fp32", 1.0),
            measured("int8", 0.5),
            measured("fp32", 16.0, LARGE),
            measured("int8", 8.0, LARGE),
        ),
        starts=(
            Start("fp32", 250.0, 40.0, 300 << 20, None),
            Start("int8", 300.0, 30.0, 200 << 20, 64 << 20),
        ),
        screens=(LiveRun("int8", "scenes", (512, 512), MS, 31.5, 7),),
        power=(
            Power("fp32", 10.0, 450, {"VDD_IN": 7.5}, 0.166, {"gpu": 61.4}, {"gpu": (306.0, 918.0)}, ("power cap",)),
            Power("int8", 10.0, 900, {}, None, {}, {}, None),
        ),
        layers=(
            Layer("int8", "conv1", "Convolution_I8", "encoder.layer1", 1.0),
            Layer("int8", "conv2", "Convolution_I8", "encoder.layer1", 2.0),
            Layer("int8", "pool", "MaxPool_I8", "refine1.crp", 9.0),
        ),
        notes=("fp16 was asked for and this CPU has none",),
    )
    return replace(given, **changes)
