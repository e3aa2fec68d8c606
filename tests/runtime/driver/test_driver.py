"""The real bindings, the real pycuda and the real compilers on a CUDA driver in software (libcuda.c)."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bindings.install import ROOT
from tests.runtime import fake_pycuda
from tests.runtime.driver.build import build, include
from tests.runtime.gpu import Gpu, library

HERE = Path(__file__).parent
KERNELS = (("frame.cu", ("ELEMENT=unsigned", "CHANNELS=3", "BGR=0")), ("head.cu", ("LOGIT=Float",)))


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory, host_kernels: Path) -> dict[str, str]:
    """The environment of a process that has the driver in software."""
    headers = include(ROOT)
    if headers is None or shutil.which("gcc") is None:
        pytest.skip("needs gcc and the cuda.h of CUDA 13: make bindings")
    folder = tmp_path_factory.mktemp("driver")
    build(folder, headers)
    libraries = [library(host_kernels, file, defines)._name for file, defines in KERNELS]
    paths = (str(HERE.parents[2]), str(ROOT / "pycuda"))
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(folder),
        "PYTHONPATH": os.pathsep.join(paths),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "SOFTWARE_CUDA_KERNELS": ":".join(libraries),
    }


needs_pycuda = pytest.mark.skipif(not (ROOT / "pycuda").is_dir(), reason="needs pycuda: make bindings")
NAMES = """
import json, pycuda.driver as real
flags = (real.host_alloc_flags.PORTABLE, real.host_alloc_flags.DEVICEMAP, real.event_flags.DISABLE_TIMING)
print(json.dumps([{name: dir(value) for name, value in vars(real).items()}, [*map(int, flags)]]))
"""


def run(environment: dict[str, str], *args: str) -> str:
    """What Python prints; it must end well."""
    done = subprocess.run([sys.executable, *args], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("provider", ["cuda-bindings", pytest.param("pycuda", marks=needs_pycuda)])
def test_on_the_driver(environment: dict[str, str], provider: str) -> None:
    tests = ("-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", str(HERE / "on_driver.py"))
    said = run({**environment, "REFINENET_EDGE_CUDA": provider}, *tests)
    assert re.search(r"\d\d passed", said), said


@needs_pycuda
def test_pycuda_has_the_fakes_names(environment: dict[str, str], tmp_path: Path) -> None:
    real, flags = json.loads(run(environment, "-c", NAMES))
    fake = fake_pycuda.driver(Gpu(), tmp_path)
    for key, value in vars(fake).items():
        if key[0] == "_":
            continue
        assert key in real, key
        for member in () if inspect.isfunction(value) else vars(value):
            assert member[0] == "_" or member in real[key], f"{key}.{member}"
    assert flags == [fake.host_alloc_flags.PORTABLE, fake.host_alloc_flags.DEVICEMAP, fake.event_flags.DISABLE_TIMING]
