"""Builds libcuda.c into libcuda.so.1, with a stub for every other entry point of NVIDIA's public headers.

cuda.h, to which the C compiler holds libcuda.c, has the entry points; cudaTypedefs.h says since which CUDA each version
of one is there. They are the CUDA toolkit's or pip's (tests/bindings/install.py). The errors' names are the bindings',
their words those of CUDA's runtime.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
NOT_SUPPORTED = 801  # CUDA_ERROR_NOT_SUPPORTED
# the headers, and the compiler of JetPack 6's CUDA
CUDA = ("nvidia-cuda-runtime==13.0.96", "nvidia-cuda-profiler-api==13.0.85", "nvidia-cuda-nvrtc-cu12==12.6.85")
PYCUDA = "pycuda==2026.1"


def install(root: Path) -> None:
    """Put CUDA's headers, NVRTC 12.6 and pycuda, which links with the driver in software, under `root`."""
    if sys.platform != "linux":
        raise OSError("the driver in software is for Linux")
    pip = [sys.executable, "-m", "pip"]
    target = ["install", "--quiet", "--no-deps", "--target"]
    for name in ("cuda", "pycuda"):
        shutil.rmtree(root / name, ignore_errors=True)
    subprocess.run([*pip, *target, str(root / "cuda"), *CUDA], check=True)
    headers = include(root)
    assert headers is not None
    with TemporaryDirectory() as name:
        folder = Path(name)
        build(folder, headers)
        download = ["download", "--quiet", "--no-deps", "--no-binary", "pycuda", "--dest", name]
        subprocess.run([*pip, *download, PYCUDA], check=True)
        shutil.unpack_archive(next(folder.glob("*.tar.gz")), folder)
        source = next(path for path in folder.glob("pycuda-*") if path.is_dir())
        options = {"CUDA_ENABLE_CURAND": False, "CUDA_INC_DIR": [str(headers)], "CUDADRV_LIB_DIR": [name]}
        (source / "siteconf.py").write_text("".join(f"{option} = {value!r}\n" for option, value in options.items()))
        subprocess.run([*pip, *target, str(root / "pycuda"), str(source)], check=True)


def include(root: Path) -> Path | None:
    """The folder with the cuda.h of CUDA 13 or later; None where there is none."""
    for folder in (root / "cuda" / "nvidia" / "cu13" / "include", Path("/usr/local/cuda/include")):
        header = folder / "cuda.h"
        version = re.search(r"#define CUDA_VERSION (\d+)", header.read_text()) if header.is_file() else None
        if version and int(version[1]) >= 13000:
            return folder
    return None


def _table(path: Path, rows: list[tuple[int | str, ...]]) -> None:
    """Write `rows` as the lines of a table in C."""
    path.write_text("".join(f"{{{', '.join(json.dumps(cell) for cell in row)}}},\n" for row in rows))


def build(folder: Path, headers: Path) -> None:
    """Put libcuda.so.1 into `folder`, and libcuda.so for the linker."""
    from tests.runtime.gpu import WORDS, real

    errors = {int(error): error.name for error in real.CUresult}
    _table(folder / "errors.inc", [(code, name, WORDS.get(code, b"").decode()) for code, name in errors.items()])
    versions = re.findall(r"\bPFN_(cu\w+?)_v(\d+)\)", (headers / "cudaTypedefs.h").read_text())
    entries = []
    for name, group in groupby(sorted({(name, int(since)) for name, since in versions}), key=itemgetter(0)):
        for number, (_, since) in enumerate(group, 1):
            entries.append((name, since, name if number == 1 else f"{name}_v{number}"))
    _table(folder / "entries.inc", entries)
    command = ["gcc", "-E", f"-I{headers}", "-include", "cuda.h", "-include", "cudaProfiler.h", "-x", "c", "/dev/null"]
    declared = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = sorted(set(re.findall(r"\bCUresult\s+(cu\w+)\(", declared)))
    stub = "__attribute__((weak)) int {}(void) {{ return {}; }}\n"
    (folder / "stubs.c").write_text("".join(stub.format(name, NOT_SUPPORTED) for name in names))
    target = folder / "libcuda.so.1"
    flags = ["-O1", "-g", "-std=gnu11", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,libcuda.so.1"]
    sources = [str(HERE / "libcuda.c"), str(folder / "stubs.c")]
    command = ["gcc", *flags, f"-I{headers}", f"-I{folder}", *sources, "-ldl", "-lpthread", "-o", str(target)]
    subprocess.run(command, check=True)
    (folder / "libcuda.so").symlink_to(target.name)
