"""A network camera on loopback that is unplugged and comes back, sends damaged pictures, and changes its size."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import socketserver
import threading
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from refinenet_edge.demo import SegmentedFrame, live, open_source
from tests.demo.fakes import grey, segmenter
from tests.patience import promises_a_time, within


class Camera(http.server.ThreadingHTTPServer):
    """Motion JPEG over HTTP, a picture every 20 ms: `picture(number)` is the JPEG."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int, picture: Callable[[int], bytes]) -> None:
        self.picture, self.unplugged = picture, threading.Event()
        self.connections = 0
        super().__init__(("127.0.0.1", port), Stream)
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def unplug(self) -> None:
        self.unplugged.set()
        self.shutdown()
        self.server_close()
        self.thread.join(5)

    def handle_error(self, request: object, client_address: object) -> None:
        """The other side has gone: that is what is tried here."""


class Stream(http.server.BaseHTTPRequestHandler):
    server: Camera  # type: ignore[assignment]

    def do_GET(self) -> None:
        self.server.connections += 1
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=b")
        self.end_headers()
        for number in range(100_000):
            if self.server.unplugged.wait(0.02):
                return
            data = self.server.picture(number)
            head = b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
            self.wfile.write(head + data + b"\r\n")

    def log_message(self, *_: object) -> None: ...


def jpeg(level: int, size: tuple[int, int] = (48, 64)) -> bytes:
    return cv2.imencode(".jpg", grey(level, size))[1].tobytes()


@contextlib.contextmanager
def camera(picture: Callable[[int], bytes], port: int = 0) -> Iterator[Camera]:
    server = Camera(port, picture)
    try:
        yield server
    finally:
        if not server.unplugged.is_set():
            server.unplug()


def address(server: socketserver.BaseServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/video"


def until(results: Iterator[SegmentedFrame], holds: Callable[[SegmentedFrame], bool]) -> SegmentedFrame:
    """The first result of which `holds` is true, within a few seconds' worth of them."""
    return next(result for result in itertools.islice(results, 500) if holds(result))


@promises_a_time
def test_a_camera_that_is_unplugged_is_back_within_five_seconds() -> None:
    with camera(lambda _: jpeg(60)) as first:
        port = first.server_address[1]
        with contextlib.closing(live(open_source(address(first)), segmenter())) as results:
            for _ in range(5):
                assert next(results).signal
            first.unplug()
            lost = until(results, lambda result: not result.signal)
            assert round(float(lost.frame.mean()), -1) == 60
            with camera(lambda _: jpeg(200), port):
                with within(5):
                    found = until(results, lambda result: result.signal and result.frame.mean() > 150)
                assert found.index > lost.index


def test_damaged_pictures_and_other_sizes_lose_nothing() -> None:
    whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))[1].tobytes()

    def picture(number: int) -> bytes:
        damaged = {4: whole[: len(whole) // 2], 7: b"no picture at all", 9: b""}
        return damaged.get(number % 10, jpeg(100) if number < 40 else jpeg(200, (96, 80)))

    with camera(picture) as server, contextlib.closing(live(open_source(address(server)), segmenter())) as results:
        seen = [next(results)]
        while seen[-1].frame.mean() < 180 and len(seen) < 200:  # until the size has changed
            seen.append(next(results))
        seen += itertools.islice(results, 20)
        assert all(result.signal for result in seen)
        # the very last may be a damaged one, of which a part can be decoded
        assert max(result.frame.mean() for result in seen[-20:]) > 180 and server.connections == 1
