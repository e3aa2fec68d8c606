"""The tritonserver that nvidia-pytriton carries, started on a model repository."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
STARTS_IN = 60.0  # seconds
WITHOUT = ("--allow-metrics=false", "--allow-cpu-metrics=false", "--allow-gpu-metrics=false")


@dataclass(frozen=True)
class Server:
    """Its addresses, host:port."""

    http: str
    grpc: str
    pid: int


def binaries() -> Path | None:
    """Pytriton's folder with bin/ and backends/, None where it is not installed."""
    found = importlib.util.find_spec("pytriton")
    return Path(found.origin).parent / "tritonserver" if found and found.origin else None


@contextlib.contextmanager
def serve(repository: Path, models: tuple[str, ...], work: Path) -> Iterator[Server]:
    """A server with `models` loaded; files of its own and its log go into `work`."""
    there = binaries()
    assert there is not None
    backends = work / "backends" / "python"
    shutil.copytree(there / "backends" / "python", backends, dirs_exist_ok=True)
    # the stub is the Python of the models: there is one for each version
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(there / "python_backend_stubs" / version / "triton_python_backend_stub", backends)
    http, grpc = _free_ports(2)
    command = [
        str(there / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={backends.parent}",
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in models),
        f"--http-port={http}",
        f"--grpc-port={grpc}",
        *("--http-address=127.0.0.1", "--grpc-address=127.0.0.1", *WITHOUT),
    ]
    # the copied stub no longer finds these by itself
    libraries = [str(there.parent.with_name("nvidia_pytriton.libs")), str(sysconfig.get_config_var("LIBDIR"))]
    # models see the packages of the python3 that is first in PATH, and the working folder; PYTHONPATH is not looked at
    search = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    paths = {"PATH": os.pathsep.join(search), "LD_LIBRARY_PATH": os.pathsep.join(libraries)}
    log = work / "server.log"
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **paths}, cwd=ROOT)
        try:
            _wait(server, f"127.0.0.1:{http}", log)
            yield Server(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", server.pid)
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    import tritonclient.http as client

    end = time.monotonic() + STARTS_IN
    with client.InferenceServerClient(address) as asking:
        while time.monotonic() < end and server.poll() is None:
            with contextlib.suppress(Exception):
                if asking.is_server_ready():
                    return
            time.sleep(0.2)
    raise RuntimeError(f"tritonserver did not start:\n{log.read_text()[-4000:]}")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
