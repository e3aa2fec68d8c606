"""The parsers of files from outside, and a process of their own in which they read: what crashes it ends that process.

`python -m tests.fuzz_targets` is that process: it takes a line of JSON each, a target, the numbers of the first of its
inputs and of the one after the last, and the seconds for each, and answers what each raised, or "".
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import math
import os
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import cv2
import h5py
import numpy as np
import safetensors.torch
import scipy.io
import torch
from PIL import Image

from refinenet_edge import dla
from refinenet_edge.bench import read_suite
from refinenet_edge.bench.record import read_run
from refinenet_edge.bundle import MANIFEST, MODEL, open_bundle, write_bundle
from refinenet_edge.calibration.histogram import Histogram
from refinenet_edge.calibration.partial import partial_bytes, read_partial
from refinenet_edge.calibration.ranges import read_ranges
from refinenet_edge.cli.screen import Screen, harms_table, manifest_table
from refinenet_edge.cluster.batch import InputFiles, LabellingRecord
from refinenet_edge.cluster.work import InputFile
from refinenet_edge.errors import RefineNetEdgeError
from refinenet_edge.estimate import estimate
from refinenet_edge.estimate.devices import read_devices
from refinenet_edge.evaluation import open_dataset
from refinenet_edge.evaluation.masks import read_mask
from refinenet_edge.frames.images import read_image, turn_of
from refinenet_edge.labels import numbered, read_label_file
from refinenet_edge.model.checkpoint import load_checkpoint
from refinenet_edge.model.matlab import find_structs
from refinenet_edge.onnx_import.bundled import read_graph
from refinenet_edge.recipe import read_recipe
from refinenet_edge.records import (
    Budget,
    FrameSpec,
    GraphCost,
    Harm,
    Identity,
    Manifest,
    RangesKey,
    Recipe,
    TensorSpec,
    from_json,
    to_json,
)
from refinenet_edge.report import markdown
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.tensorrt.engine import read_header
from tests.evaluation.data import palette, png
from tests.fuzz_changes import (
    Change,
    changed_bytes,
    changed_json,
    changed_lines,
    changed_mat5,
    changed_onnx,
    changed_pickle,
    changed_png,
    changed_safetensors,
    changed_zip,
    either,
)
from tests.report.made_up import run as made_up_run
from tests.runtime.tinynet import CLASSES, tiny

ROOT = Path(__file__).parents[1]
SECONDS, PATIENCE = 10, 120  # of computing that one file may take; of waiting, on a machine that does other things
MEMORY, MOST = 1 << 20, 4 << 20  # KiB that one file may take; that it cannot take, whatever it asks for


@cache
def manifest() -> Manifest:
    harm = Harm(("layer [/]",), 0.5, True)
    budget = Budget("labels", 1.0, 2.0, 0.5, "scenes", "openvino", 3, 4, (harm,))
    return Manifest(
        *("tiny", "random", None, "fp32", "onnxruntime"),
        *((TensorSpec("image", "float32", (1, 3, 32, 48)),), (TensorSpec("logits", "float32", (1, CLASSES, 8, 12)),)),
        *(FrameSpec((32, 48)), numbered(CLASSES), {"fold": 1}, (), Recipe("engines/tiny", onnx="tiny.onnx"), "0"),
        traced_cost=GraphCost(10, 20, 3),
        budget=budget,
    )


def shown(path: Path) -> None:
    """A manifest, and everything that is printed of it."""
    folder = path.with_name("bundle")
    write_bundle(folder, manifest(), {MODEL: tiny("float32", (32, 48)).SerializeToString()})
    text = path.read_bytes()
    (folder / MANIFEST).write_bytes(text)
    found = open_bundle(folder).manifest
    screen = Screen()
    screen.file = io.StringIO()
    screen.print(manifest_table(found, str(path)))
    if found.budget:
        screen.print(harms_table(found.budget))


def judged(path: Path) -> None:
    """A graph, as dla-check and estimate see it."""
    folder = path.with_name("bundle")
    write_bundle(folder, manifest(), {MODEL: path.read_bytes()})
    dla.check(read_graph(open_bundle(folder)))
    estimate(str(folder), "orin-nano")


def opened(path: Path) -> None:
    """A graph, as ONNX Runtime and OpenVINO open it."""
    folder = path.with_name("bundle")
    write_bundle(folder, manifest(), {MODEL: path.read_bytes()})
    for backend in ("onnxruntime", "openvino"):
        with contextlib.suppress(RefineNetEdgeError):
            Segmenter(folder, backend, threads=1).close()


def reported(path: Path) -> None:
    markdown([(str(path), read_run(path))])


def image(suffix: str) -> bytes:
    picture = np.random.default_rng(0).integers(0, 255, (9, 14, 3), dtype=np.uint8)
    if suffix in (".tif", ".avif"):
        made = io.BytesIO()
        Image.fromarray(picture).save(made, {".tif": "TIFF", ".avif": "AVIF"}[suffix])
        return made.getvalue()
    return cv2.imencode(suffix, picture)[1].tobytes()


def turned_jpeg() -> bytes:
    made, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.open(io.BytesIO(image(".jpg"))).save(made, "JPEG", exif=exif)
    return made.getvalue()


def looked_at(path: Path) -> None:
    read_image(path)
    turn_of(path)


CHECKPOINT = {
    "state_dict": {"conv.weight": torch.arange(8.0), "b": torch.ones(2), "h": torch.ones(2, dtype=torch.half)[::2]},
    "best": np.float64(1),
    "n": [1, (2, None)],
    "epoch": True,
    "by": bytearray(b"me"),
    "p": torch.nn.Parameter(torch.ones(1)),
}


def torch_file(**options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(CHECKPOINT, file, **options)
    return file.getvalue()


def matlab_files() -> list[bytes]:
    """Structs of cells, texts and numbers: by scipy, packed and not, and one that MATLAB wrote, of functions."""
    made = []
    for packed in (True, False):
        file = io.BytesIO()
        layer = np.empty((1, 2), object)
        layer[0, :] = [{"name": "conv", "weights": np.ones((2, 3))}, "text"]
        scipy.io.savemat(file, {"net": {"layers": layer, "size": np.arange(3)}}, do_compression=packed)
        made.append(file.getvalue())
    own = Path(scipy.io.__file__).parent / "matlab" / "tests" / "data"
    return [*made, *((own / name).read_bytes() for name in ("parabola.mat", "teststructarr_6.1_SOL2.mat"))]


def hdf5_files() -> list[bytes]:
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        layers = content.create_dataset("layers", (2,), h5py.ref_dtype)
        layers.attrs["MATLAB_class"] = np.bytes_("cell")
        for index in range(2):
            group = content.create_group(f"#refs#/{index}")
            group.attrs["MATLAB_class"] = np.bytes_("struct")
            group["weights"] = np.arange(6.0).reshape(2, 3)
            group["name"] = np.frombuffer("conv".encode("utf-16-le"), np.uint16)
            group["name"].attrs["MATLAB_class"] = np.bytes_("char")
            layers[index] = group.ref
    return [file.getvalue()]


def structs(path: Path) -> None:
    find_structs(path, ("layers",), ("name", "weights"))


KEY = RangesKey(*"gwfsm")


def going_on(path: Path) -> None:
    """A calibration that was ended, and goes on."""
    place = path.with_name(".out.partial.npz")
    place.write_bytes(path.read_bytes())
    read_partial(place, KEY, ("a", "b"), 9)


def partial_files() -> list[bytes]:
    return [partial_bytes(KEY, 3, {"a": Histogram(), "b": Histogram(exponent=2, zeros=1, low=-1, high=2)})]


def listed(path: Path) -> None:
    """A list of a data set: two names of images and masks, read as three layouts do."""
    root = path.with_name("set")
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation", "images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in ("a", "b"):
        for file in (
            f"JPEGImages/{name}.jpg",
            f"SegmentationClass/{name}.png",
            f"images/{name}.png",
            f"masks/{name}.png",
        ):
            if not (root / file).exists():
                (root / file).write_bytes(image(Path(file).suffix))
    for layout, listing in (("voc", "ImageSets/Segmentation/val.txt"), ("sun37", "val.nyu"), ("plain", "labels.txt")):
        (root / listing).write_bytes(path.read_bytes())
        with contextlib.suppress(RefineNetEdgeError):
            for sample in open_dataset(f"{layout}:{root}").samples[:3]:
                sample.read()


RANGES = {
    "key": dict.fromkeys(("graph", "weights", "frame", "frames", "method"), "x"),
    "source": "scenes",
    "count": 3,
    "tensors": {"a": {"amax": 1.5, "low": -1.0, "high": 2.0, "method": "minmax"}},
    "toolkit": "0",
}


def masks() -> list[bytes]:
    numbers = np.arange(24, dtype=np.uint8).reshape(4, 6) % 4
    return [
        png(numbers),
        png(numbers, 3, 2, palette()),
        png(numbers.astype(np.uint16), 0, 16),
        png(np.dstack([numbers] * 3), 2),
    ]


def labelling() -> list[bytes]:
    files = InputFiles({"a.png": InputFile("1.2.3"), "b.mp4": InputFile("1.2.3", 7)})
    run = LabellingRecord(Identity("m", "c", "fp32", "openvino", "d"), "openvino", "png", numbered(3), "in")
    return [to_json(files).encode(), to_json(run).encode()]


def noted(path: Path) -> None:
    """What `batch` keeps in its folder."""
    text = path.read_bytes().decode(errors="replace")
    for kind in (InputFiles, LabellingRecord):
        with contextlib.suppress(RefineNetEdgeError):
            from_json(kind, text)


@dataclass(frozen=True)
class Target:
    """A parser, files that it takes, how they are changed, and how many inputs it costs another target: more where it
    starts a process for each.
    """

    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]
    suffix: str = ""
    cost: int = 1
    change: Change = changed_bytes


BY_VALUE = either(changed_bytes, changed_json)
BY_LINE = either(changed_bytes, changed_lines)
BY_FIELD = either(changed_bytes, changed_onnx, changed_onnx)
BY_PART = either(changed_bytes, changed_png, changed_png)
TARGETS = {
    "recipe": Target(read_recipe, lambda: [(ROOT / "engines/scenes.toml").read_bytes()], ".toml", change=BY_LINE),
    "suite": Target(
        lambda path: read_suite(path, path.parent),
        lambda: [(ROOT / "benchmarks/suites/scenes.toml").read_bytes()],
        change=BY_LINE,
    ),
    "device": Target(
        read_devices, lambda: [(ROOT / "refinenet_edge/estimate/devices.toml").read_bytes()], ".toml", change=BY_LINE
    ),
    "labels": Target(read_label_file, lambda: [b"road\ncar #ff0000\n"]),
    "ranges": Target(read_ranges, lambda: [json.dumps(RANGES).encode()], change=BY_VALUE),
    "result": Target(reported, lambda: [to_json(made_up_run()).encode()], change=BY_VALUE),
    "manifest": Target(shown, lambda: [to_json(with_files()).encode()], change=BY_VALUE),
    "batch": Target(noted, labelling, change=BY_VALUE),
    "graph": Target(judged, lambda: [tiny("float32", (32, 48)).SerializeToString()], change=BY_FIELD),
    "graph to run": Target(opened, lambda: [tiny("float32", (32, 48)).SerializeToString()], cost=10, change=BY_FIELD),
    "checkpoint": Target(
        load_checkpoint,
        lambda: [torch_file(), torch_file(_use_new_zipfile_serialization=False)],
        change=changed_bytes,
    ),
    "zipped checkpoint": Target(
        load_checkpoint, lambda: [torch_file()], change=changed_zip(either(changed_pickle, changed_bytes))
    ),
    "old checkpoint": Target(
        load_checkpoint, lambda: [torch_file(_use_new_zipfile_serialization=False)], change=changed_pickle
    ),
    "safetensors": Target(
        load_checkpoint,
        lambda: [safetensors.torch.save({"a": torch.ones(3)}, {"format": "pt", "refinenet_edge": "{}"})],
        change=either(changed_bytes, changed_safetensors, changed_safetensors),
    ),
    "matlab": Target(structs, matlab_files, ".mat", change=either(changed_bytes, changed_mat5, changed_mat5)),
    "hdf5": Target(structs, hdf5_files, ".mat"),
    "calibration": Target(going_on, partial_files, change=either(changed_bytes, changed_zip(changed_bytes))),
    "image": Target(looked_at, lambda: [*(image(suffix) for suffix in (".bmp", ".jpg", ".webp")), turned_jpeg()]),
    "png": Target(looked_at, lambda: [image(".png")], change=BY_PART),
    "pillow": Target(looked_at, lambda: [image(".tif"), image(".avif")]),
    "mask": Target(read_mask, masks, change=BY_PART),
    "list": Target(listed, lambda: [b"a\nb\n", b"images/a.png\tmasks/a.png\nimages/b.png masks/b.png\n"]),
    "plan": Target(read_header, lambda: [b"ftrt" + bytes(20) + bytes([10, 3, 0, 1])]),
}


def changed(name: str, number: int) -> bytes:
    """Input `number` of a target: always the same."""
    draw = Random(f"{name} {number}")
    seeds = _seeds(name)
    return TARGETS[name].change(seeds[draw.randrange(len(seeds))], draw)


@cache
def _seeds(name: str) -> list[bytes]:
    return TARGETS[name].seeds()


def _loop(path: Path) -> None:
    while True:
        pass


# what no file may do, to see that it is found
BROKEN: dict[str, Callable[[Path], object]] = {
    "crash": lambda path: os.kill(os.getpid(), signal.SIGSEGV),
    "loop": _loop,
    "loop in C": lambda path: sum(range(10**12)),
    "memory": lambda path: b"x" * (2048 * MEMORY),
    "all memory": lambda path: b"x" * (2048 * MOST),
    "error": lambda path: {}["missing"],
}


def with_files() -> Manifest:
    data = tiny("float32", (32, 48)).SerializeToString()
    return replace(manifest(), files={MODEL: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}})  # type: ignore[dict-item]


class Reader:
    """A process that reads files as targets do. It is started again where a file ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, target: str, first: int, end: int, seconds: float = SECONDS) -> Iterator[tuple[int, str]]:
        """The inputs from `first` to before `end` that are neither read nor refused by an error of ours, in time and
        in memory; and what happened.
        """
        while first < end:
            process = self._process or self._start()
            assert process.stdin
            process.stdin.write(f"{json.dumps([target, first, end, seconds])}\n".encode())
            while first < end and self._process:
                if said := self._answer():
                    yield first, said
                first += 1

    def _answer(self) -> str:
        """What the next input raised, or how it ended its process."""
        process = self._process
        assert process and process.stdout
        while b"\n" not in self._heard:
            if not select.select([process.stdout], [], [], PATIENCE)[0]:
                return f"nothing was heard of its process for {PATIENCE} s: {self.close()}"
            if not (heard := os.read(process.stdout.fileno(), 1 << 16)):
                said = self.close()
                return f"its process ended with {process.returncode}: {said}"
            self._heard += heard
        line, _, self._heard = self._heard.partition(b"\n")
        return str(json.loads(line))

    def close(self) -> str:
        """End the process; the end of what it wrote to stderr."""
        if not self._process:
            return ""
        self._process.kill()
        self._process.communicate()
        self._process = None
        with self._errors:
            self._errors.seek(0)
            return self._errors.read()[-5000:]

    def _start(self) -> subprocess.Popen[bytes]:
        self._heard = b""
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz_targets"],
            cwd=ROOT,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        assert self._answer() == "", self.close()  # its libraries are loaded
        return self._process


def status(name: str) -> int:
    """What /proc says of this process in KiB: VmHWM, the most memory since it was asked to forget; VmData."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


def read_within_limits(read: Callable[[Path], object], path: Path, seconds: float) -> None:
    """Raise whatever is no error of ours, and where it took too long or too much."""

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    signal.signal(signal.SIGVTALRM, late)
    used = resource.getrusage(resource.RUSAGE_SELF)
    # a library that never comes back from C++ is ended by the system
    most = math.ceil(used.ru_utime + used.ru_stime + 2 * seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmHWM")
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        read(path)
    except RefineNetEdgeError:
        pass
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    grown = status("VmHWM") - before
    assert grown < MEMORY, f"it took {grown} KiB"


def answers(folder: Path) -> Iterator[str]:
    """What the files raised that stdin asks for, or ""."""
    for line in sys.stdin:
        name, first, end, seconds = json.loads(line)
        for number in range(first, end):
            path = folder / f"file{TARGETS[name].suffix if name in TARGETS else ''}"
            path.write_bytes(b"" if name in BROKEN else changed(name, number))
            try:
                read_within_limits(BROKEN[name] if name in BROKEN else TARGETS[name].read, path, seconds)
            except BaseException:
                yield traceback.format_exc()
            else:
                yield ""


def main() -> None:
    out, sys.stdout = os.fdopen(os.dup(1), "w", buffering=1), sys.stderr  # whatever a library prints
    most = 1024 * (status("VmData") + MOST)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    warnings.simplefilter("error")
    logging.disable()
    out.write(json.dumps("") + "\n")
    shared = Path("/dev/shm")  # in memory: what is synced there costs no time
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        for said in answers(Path(folder)):
            out.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
