"""Network cameras of different rates and sizes for benchmarks: Motion JPEG over HTTP, each in a process of its own.

Each picture has its number in black and white along its top, and when it was sent is known: so is how long it took to
be read. A camera is unplugged by closing its port and its connections.
"""

from __future__ import annotations

import http.server
import multiprocessing
import threading
import time
from typing import Any

import cv2
import numpy as np

from refinenet_edge.demo import LiveSource, open_source
from refinenet_edge.frames import CapturedFrames
from refinenet_edge.records import Frame
from refinenet_edge.scenes import VALIDATION, World, render

KINDS = ((30, (480, 640)), (15, (720, 1280)), (10, (360, 640)), (5, (1080, 1920)))  # frames per second, and their size
BITS = 6  # of a picture's number
DRAWN = 8  # scenes, of which the pictures are
BOUNDARY = b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"


class HttpCamera:
    """Camera `number`: `rate` frames a second of `size`, until `close`. `read` are those that were taken from it."""

    def __init__(self, number: int) -> None:
        self.rate, self.size = KINDS[number % len(KINDS)]
        self.read = 0
        self.lags_ms: list[float] = []  # from sent to read, since `lag_ms` was asked
        context = multiprocessing.get_context("spawn")
        self._sent = context.Array("d", 2**BITS)  # when, of the newest picture of each number
        self._plugged = context.Event()
        self._port = context.Value("i", 0)
        given = (number, self.rate, self.size, self._port, self._plugged, self._sent)
        self._process = context.Process(target=serve, args=given, daemon=True)
        self._process.start()

    def source(self) -> LiveSource:
        """It as the demo opens it; begins to give frames."""
        self.plug()
        while not self._port.value:
            time.sleep(0.05)
        opened = open_source(f"http://127.0.0.1:{self._port.value}/video")

        def frames() -> CapturedFrames:
            for captured in opened.frames():
                self.read += 1
                self.lags_ms.append(1000 * (captured.at - self._sent[number_of(captured.frame)]))
                yield captured

        return LiveSource(opened.name, frames, opened.live, opened.lasting)

    def lag_ms(self) -> float:
        """The median time from sent to read, since it was asked before."""
        lags, self.lags_ms = self.lags_ms, []
        return float(np.median(lags)) if lags else 0.0

    def plug(self) -> None:
        self._plugged.set()

    def unplug(self) -> None:
        self._plugged.clear()

    def close(self) -> None:
        self._process.kill()


def serve(camera: int, rate: float, size: tuple[int, int], port: Any, plugged: Any, sent: Any) -> None:
    """What the camera's process does: listen while it is plugged in."""
    pictures = numbered(camera, size)

    class Stream(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=b")
            self.end_headers()
            due, number = time.monotonic(), 0
            while plugged.is_set():
                sent[number] = time.monotonic()
                self.wfile.write(BOUNDARY % len(pictures[number]) + pictures[number] + b"\r\n")
                number = (number + 1) % len(pictures)
                due = max(due + 1 / rate, time.monotonic() - 1 / rate)
                time.sleep(max(due - time.monotonic(), 0))

        def log_message(self, *_: object) -> None: ...

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: object, client_address: object) -> None:
            """The other side has gone."""

    while plugged.wait():
        with Server(("127.0.0.1", port.value), Stream) as server:
            port.value = server.server_address[1]
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            while plugged.is_set():
                time.sleep(0.02)
            server.shutdown()


def numbered(camera: int, size: tuple[int, int]) -> list[bytes]:
    """JPEGs of scenes, with their numbers in them."""
    drive = World.draw((VALIDATION,))
    scenes = [render(drive, (DRAWN * camera + number) / 30, size)[0] for number in range(DRAWN)]
    pictures = []
    for number in range(2**BITS):
        picture = scenes[number % DRAWN].copy()
        for bit in range(BITS):
            block(picture, bit)[:] = 255 * (number >> bit & 1)
        pictures.append(cv2.imencode(".jpg", picture)[1].tobytes())
    return pictures


def number_of(frame: Frame) -> int:
    return sum(int(block(frame, bit)[4:-4, 4:-4].mean() > 128) << bit for bit in range(BITS))


def block(frame: Frame, bit: int) -> Any:
    """The part of a frame that is black or white."""
    height, width = frame.shape[0] // 20, frame.shape[1] // 16
    return frame[:height, bit * width : (bit + 1) * width]
