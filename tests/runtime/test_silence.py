"""Runtimes and commands say nothing to anybody: no connection, no name looked up, no file in the home folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.tinynet import tiny

WATCH = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

static void note(const char *what) {
    FILE *file = fopen(getenv("WATCHED"), "a");
    if (file) { fprintf(file, "%s\n", what); fclose(file); }
}
int connect(int fd, const struct sockaddr *address, socklen_t size) {
    if (address->sa_family != AF_UNIX) note("connect");
    errno = ENETUNREACH;
    return -1;
}
ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
    if (to && to->sa_family != AF_UNIX) note("sendto");
    errno = ENETUNREACH;
    return -1;
}
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    note(node ? node : "getaddrinfo");
    return EAI_AGAIN;
}
"""
RUN = """
import sys, time, numpy as np
from pathlib import Path
from refinenet_edge.runtime import available
from refinenet_edge.runtime.openvino import OpenVinoSession
from refinenet_edge.runtime.ort import OrtSession
available()
model = Path(sys.argv[1]).read_bytes()
for kind in (OpenVinoSession, OrtSession):
    with kind(model) as session:
        session.run({"image": np.zeros((1, 3, 32, 48), np.float32)})
time.sleep(float(sys.argv[2]))
"""
SECONDS = 6.0  # ONNX Runtime 1.32 calls home a few seconds after it was imported


COMMANDS = """
import sys, time
from refinenet_edge.cli import main
for line in sys.argv[2:]:
    try:
        main(line.split())
    except SystemExit as exc:
        assert exc.code == 0 or line == "doctor", line
time.sleep(float(sys.argv[1]))
"""
LINES = (
    "doctor",
    "models",
    "build --onnx tiny.onnx --size 32x48 --backend onnxruntime --out net",
    "inspect net",
    "run net scenes:1:1 --out out",
    "run net scenes:1:1 --out out --backend openvino",
    "calibrate net --frames scenes:1:1 --out r.ranges.json",
    "compare net net scenes:1:1",
    "batch net scenes:1:1 --out labels",
    "demo net --source scenes:1:2 --frames 2",
    "dla-check net",
    "estimate net --device orin-nano",
    "bench net --brief --rounds 2 --frames scenes:1:1 --out r.json",
    "report r.json --out r.html",
)


@pytest.mark.skipif(shutil.which("gcc") is None or sys.platform != "linux", reason="needs gcc and Linux")
@pytest.mark.parametrize(
    "program", [(RUN, "tiny.onnx", str(SECONDS)), (COMMANDS, str(SECONDS), *LINES)], ids=["runtimes", "commands"]
)
def test_nobody_is_called(program: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "watch.c").write_text(WATCH)
    (tmp_path / "tiny.onnx").write_bytes(tiny("float32", (32, 48)).SerializeToString())
    (tmp_path / "home").mkdir()
    library, watched = tmp_path / "watch.so", tmp_path / "watched"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "watch.c"], check=True)
    inherited = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    outside = {"HOME": str(tmp_path / "home"), "LD_PRELOAD": str(library), "WATCHED": str(watched)}
    watching = "import socket; print(socket.socket().connect_ex(('127.0.0.1', 9)))"
    subprocess.run([sys.executable, "-c", watching], env=inherited | outside, check=True, stdout=subprocess.DEVNULL)
    assert watched.read_text() == "connect\n", "the watch does not see a connection"
    watched.unlink()
    environment = {name: value for name, value in inherited.items() if not name.startswith("XDG_")} | outside
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", *program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not watched.exists(), watched.read_text()
    left = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    # graphs that were tried in a process of their own, and a list of fonts
    left = [path for path in left if path.suffix != ".ran" and path.parent.name != "matplotlib"]
    assert left == []
