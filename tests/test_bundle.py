import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from refinenet_edge import bundle as bundle_module
from refinenet_edge import files
from refinenet_edge.bundle import MANIFEST, MAX_MANIFEST, MODEL, PLAN, open_bundle, write_bundle
from refinenet_edge.errors import BuildError, BundleError
from refinenet_edge.labels import numbered
from refinenet_edge.records import FrameSpec, Identity, Manifest, Recipe, TensorSpec, to_json

MANIFEST_RECORD = Manifest(
    model="rf_lw50",
    checkpoint="random",
    checkpoint_sha256=None,
    precision="fp32",
    backend="openvino",
    inputs=(TensorSpec("image", "float32", (1, 3, 32, 32)),),
    outputs=(TensorSpec("logits", "float32", (1, 2, 8, 8)),),
    frame=FrameSpec((32, 32)),
    labels=numbered(2),
    rewrites={},
    parity=(),
    recipe=Recipe("engines/pets", "rf_lw50"),
    toolkit="0.1.0",
)
AGAIN = "build it again: refinenet-edge build --out engines/pets --model rf_lw50"
OLD = {MODEL: b"old graph", PLAN: b"old plan" * 1000}
NEW = {MODEL: b"new graph", PLAN: b"new plan" * 1000}
LAST = {MODEL: b"last graph"}


def write(folder: Path, files: dict[str, bytes]) -> Manifest:
    return write_bundle(folder, MANIFEST_RECORD, files)


def contents(folder: Path) -> dict[str, bytes]:
    bundle = open_bundle(folder)
    return {name: bundle.read(name) for name in bundle.manifest.files}


def test_a_bundle_comes_back(tmp_path: Path) -> None:
    written = write(tmp_path / "new" / "pets", OLD)
    bundle = open_bundle(tmp_path / "new" / "pets")
    assert bundle.manifest == written
    assert dataclasses.replace(written, files={}) == MANIFEST_RECORD
    assert contents(bundle.path) == OLD
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["pets"]


def test_a_bundle_says_which_it_is(tmp_path: Path) -> None:
    write(tmp_path / "pets", OLD)
    digest = hashlib.sha256((tmp_path / "pets" / MANIFEST).read_bytes()).hexdigest()
    assert open_bundle(tmp_path / "pets").identity == Identity("rf_lw50", "random", "fp32", "openvino", digest)


def test_a_bundle_is_replaced_whole(tmp_path: Path) -> None:
    write(tmp_path / "pets", OLD)
    write(tmp_path / "pets", {MODEL: NEW[MODEL]})
    assert contents(tmp_path / "pets") == {MODEL: NEW[MODEL]}
    assert [p.name for p in tmp_path.iterdir()] == ["pets"]


def test_unknown_files_are_ignored(tmp_path: Path) -> None:
    write(tmp_path / "pets", OLD)
    (tmp_path / "pets" / "notes.txt").write_text("mine")
    assert contents(tmp_path / "pets") == OLD


def test_a_file_the_manifest_does_not_list(tmp_path: Path) -> None:
    write(tmp_path / "pets", {MODEL: b"graph"})
    with pytest.raises(
        BundleError,
        match=rf"has no model\.plan; {AGAIN}",
    ):
        open_bundle(tmp_path / "pets").read(PLAN)


@pytest.mark.parametrize("other", ["folder", "empty folder", "file", "link"])
def test_what_is_not_a_bundle_is_not_replaced(tmp_path: Path, other: str) -> None:
    target = tmp_path / "photos"
    if other == "file":
        target.write_text("mine")
    elif other == "link":
        write(tmp_path / "elsewhere", OLD)
        target.symlink_to(tmp_path / "elsewhere")
    else:
        target.mkdir()
        if other == "folder":
            (target / "summer.jpg").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BuildError, match=r"photos is not a bundle .* name another folder"):
        write(target, NEW)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_manifest_is_not_a_file_to_write(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=MANIFEST):
        write(tmp_path / "pets", {MANIFEST: b"{}"})


def test_a_file_name_that_leaves_the_bundle_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="directly"):
        write(tmp_path / "pets", {"../outside": b""})
    assert not list(tmp_path.iterdir())


def test_a_manifest_too_large_to_read_back_is_not_written(tmp_path: Path) -> None:
    manifest = dataclasses.replace(MANIFEST_RECORD, recipe=Recipe("x" * MAX_MANIFEST, "rf50"))
    with pytest.raises(BuildError, match=str(MAX_MANIFEST)):
        write_bundle(tmp_path / "pets", manifest, OLD)
    assert not list(tmp_path.iterdir())


@pytest.fixture(params=[True, False], ids=["exchange", "two renames"])
def exchanges(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the file system exchanges two names in one step."""
    if not request.param:
        monkeypatch.setattr(files, "exchange", lambda *_: False)
    return bool(request.param)


@pytest.mark.parametrize("there", [True, False], ids=["replacing", "new"])
@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, there: bool
) -> None:
    monkeypatch.setattr(files, "exchange", lambda *_: False)
    if there:
        write(tmp_path / "pets", OLD)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(BuildError, match=r"pets cannot be written.*No space left"):
        write(tmp_path / "pets", NEW)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == (["pets"] if there else [])
    assert not there or contents(tmp_path / "pets") == OLD


def test_a_failed_swap_puts_the_old_bundle_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "pets", OLD)
    monkeypatch.setattr(files, "exchange", lambda *_: False)
    rename = os.rename

    def refuse_new(source: Path, target: Path) -> None:
        if source.suffix == ".refinenet-edge":
            raise PermissionError(13, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse_new)
    with pytest.raises(BuildError, match="Permission denied"):
        write(tmp_path / "pets", NEW)
    assert [p.name for p in tmp_path.iterdir()] == ["pets"]
    assert contents(tmp_path / "pets") == OLD


def test_an_old_bundle_that_cannot_be_removed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "pets", OLD)
    rmtree = shutil.rmtree

    def refuse_old(path: Path) -> None:
        if path.exists():
            raise PermissionError(13, "Permission denied")
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", refuse_old)
    write(tmp_path / "pets", NEW)
    assert contents(tmp_path / "pets") == NEW
    assert "remove" in caplog.text
    assert ".pets.refinenet-edge " in caplog.text


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from refinenet_edge import files
from tests import test_bundle
left = int(sys.argv[1])
exchange = files.exchange
if sys.argv[4] == "False":
    exchange = lambda *_: False
def killing(call):
    def counted(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return call(*args, **kwargs)
    return counted
os.fsync, os.rename, os.rmdir, files.exchange = map(killing, (os.fsync, os.rename, os.rmdir, exchange))
test_bundle.write(Path(sys.argv[2]), test_bundle.NEW)
"""


def test_a_kill_leaves_a_whole_bundle_under_the_name_or_beside_it(tmp_path: Path, exchanges: bool) -> None:
    seen = set()
    for calls in range(20):
        folder = tmp_path / str(calls) / "pets"
        write(folder, OLD)
        root = str(Path(__file__).parents[1])
        arguments = [sys.executable, "-c", KILLED, str(calls), str(folder), root, str(exchanges)]
        ended = subprocess.run(arguments, check=False).returncode
        if folder.exists():
            found = contents(folder)
            seen.add("old" if found == OLD else "new")
            assert found in (OLD, NEW)
        else:
            seen.add("beside")
            beside = {path.suffix: contents(path) for path in folder.parent.iterdir()}
            assert beside == {".old": OLD, ".refinenet-edge": NEW}
            with pytest.raises(BundleError, match=r"cut short.*\.pets\.refinenet-edge or .*\.old"):
                open_bundle(folder)
        write(folder, LAST)
        assert contents(folder) == LAST
        assert [path.name for path in folder.parent.iterdir()] == ["pets"], "what the kill left is still there"
        if ended == 0:
            break
        assert ended == 9
    assert ended == 0
    assert seen == {"old", "new"} | (set() if exchanges else {"beside"})


def test_what_a_kill_left_is_kept_by_a_write_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = files.replaced_of(tmp_path / "pets")
    write(tmp_path / "pets", OLD)
    (tmp_path / "pets").rename(old)  # as it is between two renames

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BuildError, match="No space left"):
        write(tmp_path / "pets", NEW)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == [old.name]
    assert contents(old) == OLD


def test_the_root_is_no_bundle() -> None:
    with pytest.raises(BundleError, match="/ is not a bundle"):
        open_bundle("/")


def test_an_opened_bundle_stays_what_it_was(tmp_path: Path, exchanges: bool) -> None:
    write(tmp_path / "pets", OLD)
    bundle = open_bundle(tmp_path / "pets")
    manifest = (tmp_path / "pets" / MANIFEST).read_bytes()
    write(tmp_path / "pets", NEW)
    assert {name: bundle.read(name) for name in OLD} == OLD
    assert bundle.read(MANIFEST) == manifest
    assert contents(tmp_path / "pets") == NEW


def test_a_file_changed_where_it_lies_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "pets", OLD)
    bundle = open_bundle(tmp_path / "pets")
    (tmp_path / "pets" / MODEL).write_bytes(b"bad graph")
    (tmp_path / "pets" / PLAN).write_bytes(OLD[PLAN] + b"more")
    with pytest.raises(BundleError, match=rf"pets: model\.onnx is damaged .*; {AGAIN}"):
        bundle.read(MODEL)
    with pytest.raises(BundleError, match=r"pets: model\.plan has 8004 bytes, 8000 were written"):
        bundle.read(PLAN)


def test_while_it_is_rebuilt_a_bundle_opens_as_the_old_or_the_new(tmp_path: Path, exchanges: bool) -> None:
    write(tmp_path / "pets", OLD)
    opened = []

    def rebuild() -> None:
        for times in range(30):
            write(tmp_path / "pets", (NEW, OLD)[times % 2])

    with ThreadPoolExecutor(1) as pool:
        rebuilt = pool.submit(rebuild)
        while not rebuilt.done():
            opened.append(contents(tmp_path / "pets"))
        rebuilt.result()
    assert len(opened) > 10
    assert all(found in (OLD, NEW) for found in opened)


def test_of_two_that_write_one_bundle_one_waits(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for written in [pool.submit(write, tmp_path / "pets", files) for files in [OLD, NEW] * 10]:
            written.result()
    assert contents(tmp_path / "pets") in (OLD, NEW)
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]


def test_what_the_next_writer_has_begun_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, put = files.beside_of(tmp_path / "pets"), files.put_folder

    def put_and_begin(new: Path, folder: Path, replace: bool) -> None:
        put(new, folder, replace)  # there was no bundle to exchange with: the name is free again
        begun.mkdir()
        (begun / MODEL).write_bytes(b"the next writer's")

    monkeypatch.setattr(bundle_module, "put_folder", put_and_begin)
    write(tmp_path / "pets", NEW)
    assert contents(tmp_path / "pets") == NEW
    assert (begun / MODEL).read_bytes() == b"the next writer's"


@pytest.mark.parametrize("name", [MODEL, PLAN])
def test_a_damaged_byte_is_found(tmp_path: Path, name: str) -> None:
    write(tmp_path / "pets", OLD)
    data = bytearray(OLD[name])
    data[-1] ^= 1
    (tmp_path / "pets" / name).write_bytes(data)
    with pytest.raises(BundleError, match=rf"pets: {name} is damaged .*; {AGAIN}"):
        open_bundle(tmp_path / "pets")


def test_a_short_file_is_found(tmp_path: Path) -> None:
    write(tmp_path / "pets", OLD)
    (tmp_path / "pets" / PLAN).write_bytes(b"old")
    with pytest.raises(BundleError, match=r"model\.plan has 3 bytes, 8000 were written; build it again"):
        open_bundle(tmp_path / "pets")


def test_a_missing_file_is_found(tmp_path: Path) -> None:
    write(tmp_path / "pets", OLD)
    (tmp_path / "pets" / PLAN).unlink()
    with pytest.raises(BundleError, match=r"model\.plan is missing; build it again"):
        open_bundle(tmp_path / "pets")


@pytest.mark.parametrize("name", [MODEL, MANIFEST])
def test_a_link_is_not_followed(tmp_path: Path, name: str) -> None:
    write(tmp_path / "pets", OLD)
    (tmp_path / "pets" / name).rename(tmp_path / "outside")
    (tmp_path / "pets" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match=f"{name} is not a regular file"):
        open_bundle(tmp_path / "pets")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    write(tmp_path / "pets", OLD)
    (tmp_path / "pets" / MODEL).unlink()
    os.mkfifo(tmp_path / "pets" / MODEL)
    with pytest.raises(BundleError, match="not a regular file"):
        open_bundle(tmp_path / "pets")


def test_a_path_in_the_manifest_does_not_leave_the_bundle(tmp_path: Path) -> None:
    write(tmp_path / "pets", OLD)
    path = tmp_path / "pets" / MANIFEST
    path.write_text(path.read_text().replace(f'"{MODEL}"', '"../outside"'))
    with pytest.raises(BundleError, match=r"pets: manifest\.json: .*outside"):
        open_bundle(tmp_path / "pets")


def test_a_cut_manifest(tmp_path: Path) -> None:
    write(tmp_path / "pets", OLD)
    path = tmp_path / "pets" / MANIFEST
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BundleError, match=r"pets: manifest\.json: not JSON .*build it again with refinenet-edge build"):
        open_bundle(tmp_path / "pets")


@pytest.mark.parametrize(
    ("data", "named"),
    [(b"\xff", "cannot be read"), (b" " * (MAX_MANIFEST + 1), "larger than")],
    ids=["binary", "large"],
)
def test_a_manifest_that_is_none(tmp_path: Path, data: bytes, named: str) -> None:
    write(tmp_path / "pets", OLD)
    (tmp_path / "pets" / MANIFEST).write_bytes(data)
    with pytest.raises(BundleError, match=named):
        open_bundle(tmp_path / "pets")


def test_a_manifest_of_a_newer_toolkit_still_tells_its_command(tmp_path: Path) -> None:
    write(tmp_path / "pets", OLD)
    value = json.loads(to_json(MANIFEST_RECORD)) | {"schema": 3, "colour": "red"}
    (tmp_path / "pets" / MANIFEST).write_text(json.dumps(value))
    with pytest.raises(BundleError, match=rf"schema 3.*{AGAIN}"):
        open_bundle(tmp_path / "pets")


@pytest.mark.parametrize("held", [{"command": "refinenet-edge build tiny"}, {"recipe": {"output": "\x1b[2J"}}, {}, []])
def test_a_manifest_that_cannot_be_read_tells_what_it_can(tmp_path: Path, held: object) -> None:
    write(tmp_path / "pets", OLD)
    (tmp_path / "pets" / MANIFEST).write_text(json.dumps(held))
    told = "build it again: refinenet-edge build tiny" if "command" in held else "build it again with refinenet-edge"
    with pytest.raises(BundleError, match=told) as caught:
        open_bundle(tmp_path / "pets")
    assert "\x1b" not in str(caught.value)


def test_a_bundle_of_schema_1_tells_its_command(tmp_path: Path) -> None:
    write(tmp_path / "pets", OLD)
    path = tmp_path / "pets" / MANIFEST
    value = {name: item for name, item in json.loads(path.read_text()).items() if name != "recipe"}
    command = "refinenet-edge build --out 'my pets' --onnx pets.onnx"
    path.write_text(json.dumps({**value, "schema": 1, "command": command}))
    with pytest.raises(BundleError, match=f"schema 1, this toolkit reads 2.*; build it again: {command}"):
        open_bundle(tmp_path / "pets")


def test_a_command_with_control_characters_is_not_shown(tmp_path: Path) -> None:
    controls = dataclasses.replace(MANIFEST_RECORD, recipe=Recipe("\x1b[2J rm", "rf50"))
    write_bundle(tmp_path / "pets", controls, {MODEL: b"x"})
    (tmp_path / "pets" / MODEL).unlink()
    with pytest.raises(BundleError, match="build it again with refinenet-edge build") as caught:
        open_bundle(tmp_path / "pets")
    assert "\x1b" not in str(caught.value)


def test_no_folder_and_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle at .*pets; build it again"):
        open_bundle(tmp_path / "pets")
    with pytest.raises(BundleError, match=r"is not a bundle: it has no manifest\.json"):
        open_bundle(tmp_path)
