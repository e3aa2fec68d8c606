"""What goes wrong around a command, its names, its streams, its folders: one clear line, before the work."""

from __future__ import annotations

import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result

from refinenet_edge import files
from refinenet_edge.cli import build_engine, main
from refinenet_edge.cli.command import Command
from refinenet_edge.errors import BundleError
from refinenet_edge.frames.images import write_image
from refinenet_edge.records import Range, Recipe
from refinenet_edge.runtime import Segmenter
from tests.cluster.inputs import pictures, tiny_bundle
from tests.runtime.tinynet import CLASSES, tiny

LATIN = os.fsdecode(b"stra\xdfe")  # as older systems write it


def refused(result: Result, code: int = 2) -> str:
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    return " ".join(result.stderr.split())


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def process(*words: object, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **options.pop("env", {})}
    command = [sys.executable, "-m", "refinenet_edge.cli", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=env, stderr=subprocess.PIPE, text=True, check=False, **options)


@pytest.mark.parametrize("recipe", [".", "", "/"])
def test_a_folder_is_no_recipe(recipe: str) -> None:
    said = refused(CliRunner().invoke(build_engine, [recipe]))
    assert "cannot be read: it is a folder; give --out and options" in said


@pytest.mark.parametrize("output", [".", "", "/"])
def test_a_folder_that_is_no_bundle_is_no_output(output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "name another folder" in refused(run("build", "--out", output, "--model", "rf_lw_mbv2"))


@pytest.mark.parametrize(
    "words", [("inspect", LATIN), ("run", "bundle", "photos", "--out", LATIN), ("models", "--debug")]
)
def test_names_that_are_not_utf_8_are_refused_before_the_work(words: tuple[str, ...]) -> None:
    if LATIN in words:
        assert "is not UTF-8, as results are: rename it, or link to it" in refused(run(*words))
    else:
        assert run(*words).exit_code == 0


def test_an_image_whose_name_is_not_utf_8_is_refused_before_the_work(tmp_path: Path) -> None:
    bundle, photos = tiny_bundle(tmp_path / "tiny"), tmp_path / "photos"
    write_image(photos.parent / "a.png", np.zeros((20, 20, 3), np.uint8))
    photos.mkdir()
    for name in ("a.png", f"{LATIN}.png"):
        shutil.copy(tmp_path / "a.png", photos / name)
    for words in (("run", bundle, photos, "--out", tmp_path / "out"), ("compare", bundle, bundle, photos)):
        assert "which is not UTF-8, as results are: rename it" in refused(run(*words))
    assert not (tmp_path / "out").exists()


def test_a_working_folder_that_is_not_utf_8_is_one_line(tmp_path: Path) -> None:
    (tmp_path / LATIN).mkdir()
    pictures(tmp_path / LATIN / "in", 1)
    bundle = tiny_bundle(tmp_path / "tiny")
    done = process("batch", bundle, "in", "--out", "out", cwd=tmp_path / LATIN)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "is not UTF-8" in done.stderr


def test_labels_of_a_name_that_no_file_has(tmp_path: Path) -> None:
    onnx.save(tiny("float32", (32, 48)), tmp_path / "tiny.onnx")
    said = refused(run("build", "--onnx", tmp_path / "tiny.onnx", "--out", tmp_path / "b", "--labels", 300 * "a"))
    assert "File name too long" in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("word", ["models", "--help", "--version"])
def test_what_cannot_be_printed_is_an_error(tmp_path: Path, word: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = process(word, cwd=tmp_path, stdout=full)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: what is printed cannot be written: No space left on device"]


def test_a_terminal_of_ascii_is_enough(tmp_path: Path) -> None:
    onnx.save(tiny("float32", (32, 48)), tmp_path / "tiny.onnx")
    (tmp_path / "labels.txt").write_text("\n".join(f"straße ± {number}" for number in range(CLASSES)))
    words = ("build", "--onnx", "tiny.onnx", "--labels", "labels.txt", "--backend", "onnxruntime", "--out", "net")
    assert process(*words, cwd=tmp_path, stdout=subprocess.PIPE).returncode == 0
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = process("run", "net", "scenes:1:1", "--out", "out", cwd=tmp_path, stdout=subprocess.PIPE, env=ascii_only)
    assert done.returncode == 0, done.stderr
    assert r"stra\xdfe \xb1" in done.stdout


# no rights but those of a file's owner, for root, too
WITHOUT_RIGHTS = """
import ctypes, sys
assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()) == 0
from refinenet_edge.cli import main
for line in sys.argv[1:]:
    try:
        main(line.split())
    except SystemExit as exc:
        print(exc.code, line, flush=True)
"""
CLOSED = (
    "inspect closed/tiny",
    "build closed/net.toml",
    "build --onnx tiny/model.onnx --out closed/new",
    "build --onnx tiny/model.onnx --labels closed/labels.txt --out new",
    "run tiny closed --out out",
    "run tiny closed/a.png --out out",
    "run tiny closed/a.mp4 --out out",
    "run tiny scenes:1:1 --out closed/out",
    "batch tiny half --out out",
    "batch tiny closed/a.png --out out",
    "batch tiny scenes:1:1 --out closed/out",
    "eval tiny data",
    "calibrate tiny --frames closed --out r.ranges.json",
    "calibrate tiny --frames scenes:1:1 --out closed/r.ranges.json",
    "bench tiny --brief --rounds 2 --frames scenes:1:1 --out closed/r.json",
    "bench compare closed/a.json closed/b.json",
    "report closed/r.json --out r.html",
    "compare tiny closed/tiny scenes:1:1",
    "estimate tiny --device closed/d.toml",
    "dla-check closed/tiny",
    "demo tiny --view none --frames 1 --source closed/a.png",
    "demo tiny --view none --frames 1 --source closed/a.mp4",
    "demo tiny --view none --frames 1 --source scenes:1:1 --record closed/a.mp4",
    "export-deepstream tiny --out closed/out",
    "plan closed/tiny",
)


@pytest.mark.skipif(sys.platform != "linux", reason="rights as Linux has them")
def test_a_folder_that_may_not_be_entered_is_one_line(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    for folder in ("closed", "half/closed", "data/images", "data/masks"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copytree(bundle, tmp_path / "closed" / "tiny")
    write_image(tmp_path / "half" / "a.png", np.zeros((20, 20, 3), np.uint8))
    closed = [tmp_path / "closed", tmp_path / "half" / "closed", tmp_path / "data" / "images"]
    for folder in closed:
        folder.chmod(0)
    try:
        command = [sys.executable, "-c", WITHOUT_RIGHTS, *CLOSED]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    finally:
        for folder in closed:
            folder.chmod(0o755)
    assert done.stdout.splitlines() == [f"2 {line}" for line in CLOSED], done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(CLOSED) and all("ermission denied" in line for line in errors), done.stderr


def test_without_a_temporary_folder_one_is_made_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(files.tempfile, "gettempdir", none)
    with files.scratch_folder(tmp_path) as folder:
        assert Path(folder).parent == tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_int8_is_built_without_a_temporary_folder(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    onnx.save(tiny("float32", (32, 48)), "tiny.onnx")
    words = ("--precision", "int8", "--calib", "scenes:1:2", "--backend", backend, "--out", "net", "--force")
    done = run("build", "--onnx", "tiny.onnx", *words)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net", "tiny.onnx"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('backend = "tensorRT"', "backend: one of tensorrt, tensorrt-rtx, openvino, onnxruntime, auto expected, found"),
        ('upsample = "nearest"', "upsample: one of bilinear, cubic expected, found 'nearest'"),
        ("dynamic = 3", "dynamic: bool expected, found '3'"),
    ],
)
def test_a_recipe_says_what_there_is_to_choose(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbf" + line.encode())  # as Windows' editors begin a file
    assert said in refused(run("build", tmp_path / "a.toml"))


def test_ranges_are_written_where_build_takes_them(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    said = refused(run("calibrate", bundle, "--frames", "scenes:1:2", "--out", tmp_path / "my.ranges"))
    assert "my.ranges: ranges are written as .json" in said
    assert not (tmp_path / "my.ranges").exists()


def test_a_range_of_nothing_is_no_range_of_something() -> None:
    assert Range(0, 0, 0, "minmax").amax == 0
    for low, high in ((0, 1.5), (-1, 0)):
        with pytest.raises(BundleError, match=r"amax 0 would make zeros of all of"):
            Range(0, low, high, "minmax")


def test_the_next_command_works_whatever_the_bundle_is_called(tmp_path: Path) -> None:
    onnx.save(tiny("float32", (32, 48)), tmp_path / "tiny.onnx")
    pictures(tmp_path / "in", 1)
    done = process(
        *("build", "--onnx", "tiny.onnx", "--size", "32x48", "--backend", "onnxruntime", "--out", "a b; $(c)"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
    )
    assert done.returncode == 0, done.stderr
    command = shlex.split(done.stdout.splitlines()[-1].removeprefix("next: "))
    words = [word.replace("IMAGE", "in/0.png").replace("DIR", "out") for word in command[1:]]
    assert process(*words, cwd=tmp_path, stdout=subprocess.PIPE).returncode == 0
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_frame_that_the_network_fails_on_is_that_frames_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, photos = tiny_bundle(tmp_path / "tiny"), tmp_path / "photos"
    for number in range(3):
        photos.mkdir(exist_ok=True)
        write_image(photos / f"{number}.png", np.full((20, 20 + number, 3), 9, np.uint8))
    segment = Segmenter.segment

    def failing(self: Segmenter, frame: np.ndarray) -> object:
        if frame.shape[1] == 21:
            raise BundleError("a pyramid of levels needs more pixels")
        return segment(self, frame)

    monkeypatch.setattr(Segmenter, "segment", failing)
    done = run("run", bundle, photos, "--out", tmp_path / "out")
    assert "1 images could not be used: a pyramid of levels" in refused(done, 4)
    assert "2 of 3 images segmented" in done.stdout


def as_opencv() -> None:
    """Its functions set an exception and give a value, which Python says so."""
    raise SystemError("<built-in function addWeighted> returned a result with an exception set") from MemoryError()


MEMORY: dict[str, Callable[[], object]] = {
    "OpenCV": as_opencv,
    "numpy": lambda: np.empty(1 << 60, np.uint8),
    "torch": lambda: torch.empty(1 << 60, dtype=torch.uint8),
    "Python": lambda: bytes(1 << 62),
}


@pytest.mark.parametrize("library", MEMORY)
def test_without_memory_it_is_one_line_whichever_library_says_so(library: str) -> None:
    command = Command("take", callback=MEMORY[library])
    assert "error: there is not enough memory (" in refused(CliRunner().invoke(command))
    assert not isinstance(CliRunner().invoke(command, ["--debug"]).exception, SystemExit)  # that one has its trace


@pytest.mark.parametrize(
    ("command", "megabytes"),
    [
        *(("run BUNDLE PHOTOS --out out", megabytes) for megabytes in (300, 500, 700)),
        *(
            ("build --model rf_lw_mbv2 --size 64x64 --backend openvino --out out", megabytes)
            for megabytes in (300, 700)
        ),
        *(("batch BUNDLE PHOTOS --out out", megabytes) for megabytes in (300, 500)),
        *(("calibrate BUNDLE --frames PHOTOS --out out.json", megabytes) for megabytes in (300, 600)),
        ("bench BUNDLE --brief --rounds 2 --frames scenes:1:1 --out r.json", 300),
        ("demo BUNDLE --source scenes:1:2 --frames 1 --view none", 300),
    ],
)
def test_an_address_space_that_is_too_small_is_one_line(
    command: str, megabytes: int, mobile_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # one thread each: their stacks are address space, too

    env = {"OPENBLAS_NUM_THREADS": "1"}  # its threads take what they like, and end the process where they get nothing
    places = {"BUNDLE": mobile_bundle, "PHOTOS": photos}
    words = [places.get(word, word) for word in command.split()]
    done = process(*words, cwd=tmp_path, env=env, preexec_fn=limit)
    assert "Traceback" not in done.stderr
    # glibc ends a process that has no memory for the thread-local data of a library; nothing can hinder it
    told = {2: "error: there is not enough memory (", 127: "cannot allocate memory for thread-local data: ABORT"}
    assert done.returncode == 0 or told[done.returncode] in done.stderr, done.stderr
    assert not (tmp_path / "out").exists() or done.returncode == 0 or command.startswith(("run", "batch"))
    assert done.returncode == 0 or not any((tmp_path / name).exists() for name in ("out.json", "r.json"))
    assert done.returncode == 2 or megabytes > 300


SECRET = "s3://AKIA:wJalr/K7MD@bucket/a?region=eu"


@pytest.mark.parametrize(
    "line",
    [
        "batch tiny URL --out out",
        "batch tiny scenes:1:1 --out URL",
        "bench URL --out r.json",
        "bench tiny --out URL",
        "bench tiny --out r.json --frames URL",
        "build URL",
        "build --onnx URL --out out",
        "build --onnx tiny/model.onnx --out URL",
        "build --onnx tiny/model.onnx --out out --labels URL",
        "build --onnx tiny/model.onnx --out out --precision int8 --calib URL",
        "build --onnx tiny/model.onnx --out out --precision int8 --calib scenes:1:1 --judge URL --min-agreement 99",
        "calibrate tiny --frames URL --out r.json",
        "calibrate tiny --frames scenes:1:1 --out URL",
        "compare tiny tiny URL",
        "demo tiny --view none --frames 1 --source URL",
        "demo tiny --view none --frames 1 --source scenes:1:1 --record URL",
        "dla-check URL",
        "estimate URL --device orin-nano",
        "eval tiny URL",
        "eval tiny scenes:1:1 --out URL",
        "export-deepstream tiny --out URL",
        "export-triton tiny --out URL",
        "inspect URL",
        "plan URL",
        "report URL --out out.html",
        "run tiny URL --out out",
        "run tiny scenes:1:1 --out URL",
    ],
)
def test_a_secret_is_neither_printed_nor_kept(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_bundle(tmp_path / "tiny")
    before = sorted(tmp_path.rglob("*"))
    done = run(*line.replace("URL", SECRET).split())
    assert done.exit_code in (2, 3), done.output
    assert isinstance(done.exception, SystemExit)
    assert "s3://bucket/a" in done.stderr
    assert not [part for part in ("AKIA", "wJalr", "K7MD") if part.lower() in done.output.lower()], done.output
    assert sorted(tmp_path.rglob("*")) == before


PATHS = ("output", "checkpoint", "onnx", "calib", "judge", "labels", "timing_cache")
TEXTS = tuple(field.name for field in fields(Recipe) if field.name not in ("model", "onnx", "checkpoint", "output"))


def no_secret(result: Result) -> str:
    assert isinstance(result.exception, SystemExit), result.exception
    assert not [part for part in ("AKIA", "wJalr", "K7MD", "eu") if part.lower() in result.output.lower()], (
        result.output
    )
    return refused(result)


@pytest.mark.parametrize("value", ["'{}'", "['{}']", "{{ '{}' = '{}' }}", "[['{}']]"])
@pytest.mark.parametrize("name", ["model", "onnx", "checkpoint", "output", *TEXTS, SECRET])
def test_no_field_of_a_recipe_shows_a_secret(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_bundle(tmp_path / "tiny")
    text = f"'{name}' = {value.format(SECRET, SECRET)}\n"
    text += "" if name in ("model", "onnx", "checkpoint") else "onnx = 'tiny/model.onnx'\n"
    text += "precision = 'int8'\nmin_agreement = 99\n" if name in ("calib", "judge") else ""
    text += "calib = 'scenes:1:1'\n" if name == "judge" else ""
    (tmp_path / "net.toml").write_text(text)
    suite = "\n".join(["[bundles.a]", *(line for line in text.splitlines())])
    (tmp_path / "suite.toml").write_text(suite)
    before = sorted(tmp_path.rglob("*"))
    said = no_secret(run("build", "net.toml"))
    if name in PATHS and value == "'{}'":
        assert "s3://bucket/a is a URL: expected a file or folder of this machine" in said
    no_secret(run("bench", "suite.toml", "--out", "r.json"))
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before] in ([], [tmp_path / "bench-out"])


@pytest.mark.parametrize("line", ["judge = '{}'", "source = ['{}']", "sizes = ['{}']", "against = ['{}']", "'{}' = 1"])
def test_no_field_of_a_suite_shows_a_secret(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_bundle(tmp_path / "tiny")
    (tmp_path / "suite.toml").write_text(line.format(SECRET) + "\n[bundles.a]\nonnx = 'tiny/model.onnx'\n")
    no_secret(run("bench", "suite.toml", "--out", "r.json"))
    (tmp_path / "suite.toml").write_text(f"[bundles.'{SECRET}']\nonnx = 'tiny/model.onnx'\n")
    no_secret(run("bench", "suite.toml", "--out", "r.json"))


@pytest.mark.parametrize("field", ["title", "mode", "sm", "gpu_mhz", "tensor_tflops", "source", SECRET])
def test_no_field_of_a_device_shows_a_secret(field: str, tmp_path: Path) -> None:
    path = tmp_path / "d.toml"
    path.write_text(f"[orin]\n'{field}' = '{SECRET}'\n")
    no_secret(run("estimate", "rf_lw_mbv2", "--device", path))
    path.write_text(f"['{SECRET}']\n'{field}' = '{SECRET}'\n['b']\n")
    no_secret(run("estimate", "rf_lw_mbv2", "--device", path))


def leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each text in a JSON value: what holds it, and its key there."""
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        if isinstance(item, str):
            yield value, key
        elif isinstance(item, (dict, list)):
            yield from leaves(item)


def test_no_text_of_a_manifest_shows_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_bundle(tmp_path / "tiny")
    manifest = tmp_path / "tiny" / "manifest.json"
    table = json.loads(manifest.read_text())
    kept = 0
    for holder, key in leaves(table):
        before, holder[key] = holder[key], SECRET
        manifest.write_text(json.dumps(table))
        for words in (["inspect", "tiny"], ["inspect", "tiny", "--json"], ["inspect", "tiny", "--debug"]):
            done = run(*words)
            assert "AKIA" not in done.output and "wJalr" not in done.output and "region" not in done.output, done.output
            kept += done.exit_code == 0 and "s3://bucket/a" in done.output
        holder[key] = before
    assert kept > 5  # such as the names of labels, which nothing refuses


def test_no_text_of_ranges_shows_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_bundle(tmp_path / "tiny")
    assert run("calibrate", "tiny", "--frames", "scenes:1:1", "--out", "r.ranges.json").exit_code == 0
    table = json.loads(Path("r.ranges.json").read_text())
    table["key"]["graph"] = "0" * 64  # then it is said where they are from
    for holder, key in leaves(table):
        before, holder[key] = holder[key], SECRET
        Path("r.ranges.json").write_text(json.dumps(table))
        words = ("--precision", "int8", "--calib", "r.ranges.json", "--out", "out")
        no_secret(run("build", "--onnx", "tiny/model.onnx", *words))
        holder[key] = before
