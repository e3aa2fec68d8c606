"""Labels, network inputs and counts by C++, numpy and the CUDA kernels (on the CPU): the same bits on every processor.

python -m tests.arm.exact FILE       makes FILE, of what this processor gives; where it is, compares with it
"""

from __future__ import annotations

import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refinenet_edge.records import Bilinear, FrameSpec
from refinenet_edge.runtime import head
from refinenet_edge.runtime.cuda import Cuda, Scope
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.kernels import _histogram, device
from tests.runtime.gpu import Gpu

SIZES = [((7, 9), (29, 33)), ((29, 33), (7, 9)), ((5, 6), (17, 4)), ((1, 5), (6, 1)), ((34, 60), (135, 241))]
CLASSES = 21
FRAME, RESIZED = (61, 83), (47, 95)


def inputs() -> dict[str, np.ndarray]:
    """Logits that are spread, tied and nearly tied, and a frame."""
    rng = np.random.default_rng(7)
    made = {"frame": rng.integers(0, 256, (*FRAME, 3), np.uint8)}
    for number, (small, _) in enumerate(SIZES):
        spread = rng.standard_normal((CLASSES, *small)).astype(np.float32)
        near = rng.standard_normal(small).astype(np.float32).view(np.int32) + rng.integers(-9, 9, spread.shape)
        made[f"spread {number}"] = spread
        made[f"tied {number}"] = np.round(spread)
        made[f"nearly {number}"] = near.astype(np.int32).view(np.float32)
    return made


@contextmanager
def kernels() -> Iterator[tuple[Gpu, Scope]]:
    """A GPU in software, whose kernels are ours, compiled for this processor."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        gpu = Gpu()
        gpu.install(patch, "cuda-bindings", Path(folder))
        cuda = Cuda()
        with cuda.use():
            yield gpu, cuda.scope()
        cuda.close()


def outputs(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What everything that must be exact makes of `given`."""
    made: dict[str, np.ndarray] = {}
    assert head.implementation() == "c++"
    built: Any = head._head
    with kernels() as (gpu, scope):

        def read(address: int, shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
            scope.cuda.provider.synchronize(scope.cuda.stream)
            return gpu.view(address, shape, np.dtype(dtype)).copy()

        for name in (name for name in given if name != "frame"):
            logits, size = given[name], SIZES[int(name[-1])][1]
            counts = np.zeros(64, np.int64)
            _histogram.count(logits, 16.0, counts)
            made[f"counts {name}"] = np.array([*_histogram.extent(logits), *counts])
            for how in (Bilinear(False), Bilinear(True)):
                key = f"{name} {how.align_corners}"
                made[f"c++ {key}"] = head.upsample_argmax(logits, size, how)
                head._head = None  # type: ignore[assignment]
                made[f"numpy {key}"] = head.upsample_argmax(logits, size, how)
                head._head = built
                labels = scope.memory(size[0] * size[1])
                device.DeviceHead(scope, "float32", logits.shape, size, how).label(scope.put(logits), labels)
                made[f"kernel {key}"] = read(labels, size)
        frame = given["frame"]
        for dtype in ("float32", "float16"):
            made[f"tables {dtype}"] = prepare(frame, FrameSpec(None), dtype)
            for size in (FRAME, RESIZED):
                step = device.DeviceFrame(scope, FrameSpec(size), FRAME, dtype, None)
                step.prepare(scope.put(frame), frame.shape[1] * 3)
                made[f"kernel frame {size} {dtype}"] = read(step.address, (1, 3, *size), dtype)
    return made


def main(path: Path) -> None:
    if not path.exists():
        given = inputs()
        np.savez(path, **{f"in {name}": array for name, array in given.items()}, **outputs(given))
        return
    with np.load(path) as kept:
        arrays = dict(kept)
    expected = {name: array for name, array in arrays.items() if not name.startswith("in ")}
    made = outputs({name[3:]: array for name, array in arrays.items() if name.startswith("in ")})
    assert made.keys() == expected.keys()
    differ = [name for name, array in made.items() if array.tobytes() != expected[name].tobytes()]
    print(f"{len(made) - len(differ)} of {len(made)} results are the same bits on {platform.machine()}; not: {differ}")
    sys.exit(bool(differ))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
