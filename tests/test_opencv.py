"""An OpenCV that is not there or does not import: every command says which fix, and none shows a trace."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import platform
import re
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from refinenet_edge import opencv
from refinenet_edge.cli import main
from refinenet_edge.demo import record
from refinenet_edge.frames.images import decode_image

COMMANDS = {
    "batch": ("{bundle}", "{photos}", "--out", "labels"),
    "bench": ("run", "{bundle}", "-o", "bench.json"),
    "build": ("--model", "rf_lw_mbv2", "--size", "64x96", "--backend", "openvino", "-o", "built"),
    "calibrate": ("{bundle}", "--frames", "{photos}", "--out", "ranges.json"),
    "compare": ("{bundle}", "{bundle}", "{photos}"),
    "demo": ("{bundle}", "--view", "none"),
    "dla-check": ("{bundle}",),
    "doctor": (),
    "estimate": ("rf_lw50", "--device", "orin-nano"),
    "eval": ("{bundle}", "scenes:1:1"),
    "export-deepstream": ("{bundle}", "-o", "deepstream"),
    "export-triton": ("{bundle}", "--repository", "models"),
    "inspect": ("{bundle}",),
    "models": (),
    "plan": ("{bundle}",),
    "report": ("bench.json", "-o", "page.html"),
    "run": ("{bundle}", "{photos}", "--out", "overlays"),
}
WITHOUT_FRAMES = {"dla-check", "export-deepstream", "export-triton", "estimate", "inspect", "models"}
MAY_STOP_BEFORE = {"plan", "report"}  # for want of TensorRT, a result
CALL_ALL = """
import json, sys
from click.testing import CliRunner
from refinenet_edge.cli import main

said = {}
for name, words in json.loads(sys.argv[1]).items():
    done = CliRunner().invoke(main, [name, *words])
    said[name] = [done.exit_code, done.output, repr(done.exception)]
print(json.dumps(said))
"""


def glibc_misses(library: str) -> str:
    """What the loader says, and an extension module's ImportError with it."""
    with pytest.raises(OSError, match=library) as caught:
        ctypes.CDLL(library)
    return str(caught.value)


BROKEN = {
    "not installed": (
        "raise ModuleNotFoundError(\"No module named 'cv2'\", name='cv2')",
        "pip install opencv-python-headless",
    ),
    "no desktop": (f"raise ImportError({glibc_misses('libGL-none.so.1')!r})", "sudo apt install libgl1 libglib2.0-0"),
    "other numpy": ("raise ImportError('numpy.core.multiarray failed to import')", "pip install 'numpy<2'"),
    "two at once": (
        "raise AttributeError(\"partially initialized module 'cv2' has no attribute 'gapi'\")",
        "pip uninstall -y opencv-python opencv-contrib-python; "
        "pip install --force-reinstall --no-deps opencv-python-headless",
    ),
}


def called(folder: Path, cv2: str, commands: dict[str, list[str]]) -> dict[str, tuple[int, str, str]]:
    """Exit code, output and exception of each command, all in one Python whose OpenCV is `cv2`."""
    (folder / "cv2").mkdir()
    (folder / "cv2/__init__.py").write_text(f"import sys\nprint('Traceback of numpy', file=sys.stderr)\n{cv2}\n")
    env = {**os.environ, "COLUMNS": "400", "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    command = [sys.executable, "-c", CALL_ALL, json.dumps(commands)]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


def test_every_command_is_called_here() -> None:
    assert set(COMMANDS) == set(main.commands)


def test_every_command_survives(mobile_bundle: Path, photos: Path, tmp_path: Path) -> None:
    cv2, fix = BROKEN["not installed"]
    words = {name: [word.format(bundle=mobile_bundle, photos=photos) for word in c] for name, c in COMMANDS.items()}
    for name, (code, output, raised) in called(tmp_path, cv2, words).items():
        assert "Traceback" not in output
        if name in WITHOUT_FRAMES:
            assert (code, raised) == (0, "None"), f"{name}: {output}"
        else:
            assert raised.startswith("SystemExit"), f"{name}: {raised}"
            assert fix in output or name in MAY_STOP_BEFORE, f"{name}: {output}"


@pytest.mark.parametrize(("cv2", "fix"), BROKEN.values(), ids=BROKEN)
def test_the_fix_is_said(mobile_bundle: Path, photos: Path, tmp_path: Path, cv2: str, fix: str) -> None:
    words = {"doctor": [], "run": [str(mobile_bundle), str(photos), "--out", "overlays"]}
    said = called(tmp_path, cv2, words)
    run, doctor = said["run"], said["doctor"]
    assert run[0] == 3
    assert run[1].startswith("error: OpenCV ")
    assert run[1].count("\n") == 1
    assert run[1].endswith(f": {fix}\n")
    assert doctor[0] == 1
    assert "Traceback" not in doctor[1]
    line = next(line for line in doctor[1].splitlines() if "OpenCV" in line)
    assert "wrong" in line
    assert fix in line


def test_a_jetson_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    module = importlib.reload(opencv)
    try:
        assert module.INSTALL.startswith("on a Jetson sudo apt install nvidia-opencv")
    finally:
        monkeypatch.undo()
        importlib.reload(opencv)


def test_it_is_imported_in_one_place() -> None:
    package = Path(opencv.__file__).parent
    found = re.compile(r"^\s*(import|from) cv2\b", re.MULTILINE)
    bare = [path for path in package.rglob("*.py") if found.search(path.read_text("utf-8"))]
    assert bare == [Path(opencv.__file__)]


def test_a_thread_at_a_time_has_stderr_elsewhere() -> None:
    """Two at once would each put back what the other had put there, and nothing would be seen any more."""
    before, data = os.fstat(2), cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    decoding = threading.Thread(target=decode_image, args=(data, "a.jpg"))
    with record._quiet():
        decoding.start()
        decoding.join(0.5)
        waits = decoding.is_alive()
    decoding.join(60)
    assert waits and not decoding.is_alive()
    assert os.path.samestat(os.fstat(2), before)
