"""The TensorRT bindings that PyPI has, without TensorRT: for their names and signatures, not to run anything.

    python -m tests.bindings.install        -> build/bindings/<release>

The bindings are real; the libraries they load are empty ones with the symbols that they look for, made by the C
compiler. Beside the lean runtime's lies its real library (tensorrt_lean_libs), to be read and not to be loaded: it ends
a process that has no GPU. CUDA's headers and pycuda, built from its sources, are for the driver in software
(tests/runtime/driver). Where there is no network or compiler it says so, and the tests that compare are skipped.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.runtime.driver import build

ROOT = Path(__file__).parents[2] / "build" / "bindings"
FULL = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
# release -> distributions, version, module, the libraries that it loads and their suffix
RELEASES = {
    "10.16": (("tensorrt-cu12-bindings",), "10.16.1.11", "tensorrt_bindings", FULL, "10"),
    "11.4": (("tensorrt-cu13-bindings",), "11.4.0.106", "tensorrt_bindings", FULL, "11"),
    "lean": (
        ("tensorrt-lean-cu12-bindings", "tensorrt-lean-cu12-libs"),
        "10.16.1.11",
        "tensorrt_lean_bindings",
        ("nvinfer_lean",),
        "10",
    ),
}
SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)


def install(release: str) -> None:
    """Put one release under `ROOT`, whole or not at all."""
    distributions, version, _, names, suffix = RELEASES[release]
    folder, beside = ROOT / release, ROOT / f"{release}.new"
    shutil.rmtree(beside, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(beside)]
    subprocess.run([*pip, *(f"{distribution}=={version}" for distribution in distributions)], check=True)
    libraries = beside / "libs"
    libraries.mkdir()
    source = "\n".join(f"void *{symbol}(void) {{ return 0; }}" for symbol in SYMBOLS)
    for library in names:
        target = libraries / f"lib{library}.so.{suffix}"
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(target)], input=source, text=True, check=True
        )
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)


def main() -> None:
    ROOT.mkdir(parents=True, exist_ok=True)
    for release in RELEASES:
        try:
            install(release)
        except (OSError, subprocess.CalledProcessError) as exc:
            print(f"TensorRT {release} is not compared with its bindings, they cannot be installed: {exc}")
    try:
        build.install(ROOT)
    except (OSError, subprocess.CalledProcessError) as exc:
        print(f"pycuda does not run on the driver in software, it cannot be built: {exc}")


if __name__ == "__main__":
    main()
