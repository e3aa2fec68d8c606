"""The model repository, served by a real tritonserver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("tritonclient", reason="tritonclient is in the environment of `make triton`")

from triton_server import Server, binaries, serve

from refinenet_edge.bundle import Bundle, open_bundle
from refinenet_edge.cluster.triton import export
from refinenet_edge.records import Frame
from refinenet_edge.runtime import Segmenter
from refinenet_edge.scenes import scene
from tests.cluster.inputs import tiny_bundle

pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture(scope="module")
def server(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if binaries() is None:
        pytest.skip("nvidia-pytriton, which carries tritonserver, is not installed: make triton")
    folder = tmp_path_factory.mktemp("triton")
    export(bundle, folder / "repository")
    with serve(folder / "repository", ("tiny",), folder) as started:
        yield started


@pytest.fixture(params=["http", "grpc"])
def asking(request: pytest.FixtureRequest, server: Server) -> Iterator[tuple[Any, Any]]:
    """A client and its module."""
    import tritonclient.grpc
    import tritonclient.http

    module = tritonclient.http if request.param == "http" else tritonclient.grpc
    with module.InferenceServerClient(getattr(server, request.param)) as client:
        yield client, module


def ask(asking: tuple[Any, Any], **tensors: np.ndarray) -> np.ndarray:
    client, module = asking
    inputs = [module.InferInput(name, array.shape, "UINT8") for name, array in tensors.items()]
    for tensor, array in zip(inputs, tensors.values(), strict=True):
        tensor.set_data_from_numpy(array)
    return np.asarray(client.infer("tiny", inputs).as_numpy("labels"))


def encoded(frame: Frame) -> np.ndarray:
    return np.asarray(cv2.imencode(".png", frame)[1])[None]


def as_file(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)[None]


def frames_of(count: int, size: tuple[int, int] = (50, 70)) -> list[Frame]:
    return [scene(3, index, size)[0] for index in range(count)]


@pytest.fixture(scope="module")
def local(bundle: Bundle) -> Iterator[Segmenter]:
    with Segmenter(bundle) as segmenter:
        yield segmenter


def test_answers_are_the_local_runtimes(asking: tuple[Any, Any], local: Segmenter) -> None:
    for size in ((50, 70), (512, 512), (33, 47)):
        (frame,) = frames_of(1, size)
        expected = local.segment(frame).labels[None]
        assert len(np.unique(expected)) > 1
        assert np.array_equal(ask(asking, frame=frame[None]), expected)
        assert np.array_equal(ask(asking, image=encoded(frame)), expected)
    frames = frames_of(3)
    expected = np.stack([local.segment(frame).labels for frame in frames])
    assert np.array_equal(ask(asking, frame=np.stack(frames)), expected)


def test_what_the_server_says_of_the_model(server: Server) -> None:
    import tritonclient.http as http

    with http.InferenceServerClient(server.http) as client:
        metadata = client.get_model_metadata("tiny")
    assert metadata["versions"] == ["1"]
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["image", "frame"]
    assert json.dumps(metadata["outputs"][0]["shape"]) == "[-1, -1, -1]"


MALFORMED = {
    "no image": ({"image": as_file(b"GIF89a")}, "is not a whole PNG"),
    "cut short": ({"image": encoded(*frames_of(1))[:, :200]}, "it is damaged"),
    "a bomb": (
        {"image": as_file(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\0\0\0\1\0\0")},
        "65536x65536 pixels, the limit",
    ),
    "two files": ({"image": np.repeat(encoded(*frames_of(1)), 2, axis=0)}, "a request has one image, this has 2"),
    "both": ({"image": encoded(*frames_of(1)), "frame": np.stack(frames_of(1))}, "one of them"),
    "four channels": ({"frame": np.zeros((1, 20, 20, 4), np.uint8)}, "shape"),
    "no pixel": ({"frame": np.zeros((1, 0, 20, 3), np.uint8)}, "pixels a side"),
    "too many": ({"frame": np.zeros((9, 20, 20, 3), np.uint8)}, "batch"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_request_gets_an_error_and_harms_nobody(
    asking: tuple[Any, Any], local: Segmenter, what: str
) -> None:
    from tritonclient.utils import InferenceServerException

    tensors, said = MALFORMED[what]
    (frame,) = frames_of(1)
    expected = local.segment(frame).labels[None]
    with ThreadPoolExecutor(1) as pool:
        beside = [pool.submit(ask, asking, frame=frame[None]) for _ in range(3)] if "grpc" in str(asking[1]) else []
        with pytest.raises(InferenceServerException, match=said):
            ask(asking, **tensors)
        assert all(np.array_equal(one.result(), expected) for one in beside)
    assert np.array_equal(ask(asking, frame=frame[None]), expected)


def test_a_thousand_requests_of_many_clients(server: Server, local: Segmenter) -> None:
    import tritonclient.grpc as grpc
    import tritonclient.http as http

    frames = [*frames_of(3), *frames_of(2, (41, 33))]
    expected = [local.segment(frame).labels[None] for frame in frames]

    def client(number: int) -> int:
        module, address = ((http, server.http), (grpc, server.grpc))[number % 2]
        right = 0
        with module.InferenceServerClient(address) as asking:
            for turn in range(50):
                index = (number + turn) % len(frames)
                tensors = {"image": encoded(frames[index])} if turn % 3 else {"frame": frames[index][None]}
                right += np.array_equal(ask((asking, module), **tensors), expected[index])
        return right

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(client, range(20))) == 1000
