"""A camera that says nothing: the demo ends when it is told to, and ends well."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import pytest

from refinenet_edge.demo import live, open_source
from tests.cluster.inputs import tiny_bundle
from tests.demo.fakes import grey, segmenter
from tests.patience import promises_a_time, within


@pytest.fixture
def silent() -> object:
    """The address of a server that takes connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def end(command: list[str], server: socket.socket, number: int, seconds: float = 30) -> tuple[int, str]:
    """Exit status and stderr of a command that is sent a signal while it waits for `server`, and ends in `seconds`."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    server.settimeout(60)
    connection, _ = server.accept()
    with connection:
        time.sleep(0.5)
        with within(seconds):
            process.send_signal(number)
            said = process.communicate(timeout=60)[1]
    return process.returncode, said


@promises_a_time
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_demo_while_its_reader_waits(tmp_path: Path, silent: socket.socket, number: int) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    source = f"http://127.0.0.1:{silent.getsockname()[1]}/"
    command = [sys.executable, "-m", "refinenet_edge.cli", "demo", str(bundle), "--source", source, "--view", "none"]
    assert end(command, silent, number, seconds=2) == (0, "")


# what comes back from OpenCV to an interpreter that is ending aborts the process
LAST = """
import os, sys, time
class Last:
    def __del__(self, write=os.write, sleep=time.sleep):
        write(1, b"the interpreter ends")
        sleep(5)
last = Last()
from refinenet_edge.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("wait", [0, 1])  # seconds: while its threads begin, and when they have
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_reader_comes_back_to_an_interpreter_that_has_ended(
    tmp_path: Path, silent: socket.socket, number: int, wait: float
) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    source = f"http://127.0.0.1:{silent.getsockname()[1]}/"
    command = [sys.executable, "-c", LAST, "demo", str(bundle), "--source", source, "--view", "none"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        silent.settimeout(60)
        connection, _ = silent.accept()
        time.sleep(wait)
        process.send_signal(number)
        assert process.stdout
        said = b""
        while b"ends" not in said and (more := process.stdout.read(1)):
            said += more
        connection.close()  # the reader comes back
        assert process.wait(60) == 0


def test_a_program_of_ones_own_waits_for_the_reader(silent: socket.socket) -> None:
    code = f"""
from refinenet_edge.demo import live, open_source
from tests.demo.fakes import segmenter
try:
    next(live(open_source("http://127.0.0.1:{silent.getsockname()[1]}/"), segmenter()))
except KeyboardInterrupt:
    raise SystemExit(7)
"""
    found, said = end([sys.executable, "-c", code], silent, signal.SIGINT)
    assert found == 7, said


def test_a_url_of_one_picture_is_asked_again_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    asked = []

    class Snapshot(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            data = cv2.imencode(".jpg", grey(10 * len(asked) % 250, (64, 64)))[1].tobytes()
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Snapshot) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        results = live(open_source(f"http://127.0.0.1:{server.server_port}/snapshot.jpg"), segmenter())
        found = [next(results) for _ in range(4)]
        results.close()
        server.shutdown()
    assert all(result.signal for result in found)
    assert len({float(result.frame.mean()) for result in found}) == 4
    assert len(asked) >= 4
    assert caplog.text == ""
