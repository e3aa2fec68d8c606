"""Folders behind URLs: fsspec's memory filesystem, and S3 from a local server."""

from __future__ import annotations

import io
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refinenet_edge.bundle import open_bundle
from refinenet_edge.cluster.batch import PROBLEMS, label
from refinenet_edge.cluster.storage import Remote, locate, open_storage
from refinenet_edge.errors import InputError
from refinenet_edge.urls import shown
from tests.cluster.inputs import contents, pictures, tiny_bundle
from tests.videos import written

# what moto and botocore warn of is theirs
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("default")]
COUNT = 5


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of a bucket, with a place for a folder's name."""
    from moto.server import ThreadedMotoServer

    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ACCESS_KEY_ID", "testing")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    request = urllib.request.Request(f"http://{host}:{port}/frames", method="PUT")
    urllib.request.urlopen(request).close()
    yield f"s3://frames/{{}}?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    server.stop()
    patch.undo()


@pytest.fixture(params=["s3", "memory"])
def folder(request: pytest.FixtureRequest) -> str:
    """The URL of a folder that is not there yet."""
    name = f"folder{time.monotonic_ns()}"
    return str(request.getfixturevalue("s3")).format(name) if request.param == "s3" else f"memory://{name}"


def test_files_come_back_as_they_were_written(folder: str) -> None:
    storage = open_storage(folder)
    assert isinstance(storage, Remote)
    assert storage.names() == []
    for name in ("a.png", "sub/b.png", "sub/.hidden"):
        storage.write(name, name.encode())
    storage.write("a.png", b"again")
    assert storage.names() == ["a.png", "sub/b.png"]
    assert storage.read("a.png") == b"again"
    with storage.path("sub/b.png") as path:
        assert (path.name, path.read_bytes()) == ("b.png", b"sub/b.png")
    with pytest.raises(InputError, match="none"):
        storage.read("none")
    storage.remove("a.png")
    storage.remove("a.png")
    assert open_storage(folder).names() == ["sub/b.png"]


class Full:
    """A filesystem on which nothing can be renamed any more."""

    def __init__(self, files: Any) -> None:
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def move(self, *_: str) -> None:
        raise OSError("no space")


def test_a_write_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    storage = open_storage("memory://full")
    assert isinstance(storage, Remote)
    monkeypatch.setattr(storage, "_files", Full(storage._files))
    with pytest.raises(InputError, match=r"sub/a\.png cannot be written: no space"):
        storage.write("sub/a.png", b"a")
    assert fsspec.filesystem("memory").find("/full") == []


def test_a_file_behind_a_url() -> None:
    open_storage("memory://one").write("sub/a.png", b"a")
    storage, name = locate("memory://one/sub/a.png")
    assert name == "a.png"
    assert storage.read("a.png") == b"a"


def test_secrets_are_not_shown() -> None:
    assert shown("s3://key:secret@bucket/a?region=x") == "s3://bucket/a"
    assert shown("s3://bucket/a@b.png") == "s3://bucket/a@b.png"
    assert shown("./a?b") == "./a?b"


def test_a_scheme_that_nobody_has() -> None:
    with pytest.raises(InputError, match="cannot be opened"):
        open_storage("nothing://a/b")


@pytest.mark.parametrize("form", ["png", "parquet", "coco", "csv"])
def test_labels_there_are_those_here(tmp_path: Path, s3: str, form: str) -> None:
    bundle = open_bundle(tiny_bundle(tmp_path / "b"))
    here = pictures(tmp_path / "in", COUNT)
    written(here / "drive.avi", 3)
    (here / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    source, out = s3.format(f"in-{form}"), s3.format(f"out-{form}")
    for name, data in contents(here).items():
        open_storage(source).write(name, data)
    local = label(bundle, str(here), str(tmp_path / "out"), form=form)  # type: ignore[arg-type]
    there = label(bundle, source, out, form=form)  # type: ignore[arg-type]
    assert (there.labelled, len(there.problems)) == (local.labelled, 1) == (COUNT + 3, 1)
    found = {name: open_storage(out).read(name) for name in open_storage(out).names()}
    expected = contents(tmp_path / "out")
    assert found.keys() == expected.keys()
    assert json.loads(found.pop(PROBLEMS)) == json.loads(expected.pop(PROBLEMS))
    ending = {"png": ".png", "parquet": "none", "coco": "coco.json", "csv": "shares.csv"}[form]
    there_is, here_is = ({n: data for n, data in files.items() if n.endswith(ending)} for files in (found, expected))
    assert there_is == here_is
    assert len(here_is) == {"png": COUNT + 3, "parquet": 0}.get(form, COUNT + 4)  # one has all frames
    assert label(bundle, source, out, form=form).labelled == 0  # type: ignore[arg-type]


def test_a_table_says_what_there_is_to_know(tmp_path: Path) -> None:
    import cv2
    import pyarrow.parquet as pq

    from refinenet_edge.bundle import MANIFEST
    from refinenet_edge.errors import BundleError
    from refinenet_edge.files import sha256
    from refinenet_edge.frames.images import digest_of, read_image
    from refinenet_edge.runtime import Segmenter

    path = tiny_bundle(tmp_path / "b")
    source = pictures(tmp_path / "in", COUNT)
    label(open_bundle(path), str(source), str(tmp_path / "out"), form="parquet")
    (part,) = (data for name, data in contents(tmp_path / "out").items() if name.endswith(".parquet"))
    table = pq.read_table(io.BytesIO(part))
    assert json.loads(table.schema.metadata[b"classes"]) == [f"class {i}" for i in range(5)]
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == ["0.png", "2.png", "4.png", "street/1.png", "street/3.png"]
    with Segmenter(path, "openvino") as segmenter:
        for row in rows:
            frame = read_image(source / row["id"])
            labels = cv2.imdecode(np.frombuffer(row["labels"], np.uint8), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(labels, segmenter.segment(frame).labels)
            assert (row["height"], row["width"]) == labels.shape
            assert row["shares"] == [float((labels == index).mean()) for index in range(5)]
            assert row["frame_sha256"] == digest_of(frame)
            assert row["bundle_sha256"] == sha256(path / MANIFEST, BundleError)
    (source / "0.png").rename(source / "9.png")
    again = label(open_bundle(path), str(source), str(tmp_path / "out"), form="parquet")
    assert (again.before, again.labelled) == (COUNT - 1, 1)
